//! Kernels on the CPU, for tests and for machines without a GPU: slow, and strict.

use super::device::{ArgValue, Device, Launch, Place, REGIONS, Region, RunKey, Submission};
use super::{ExecuteError, ManifestError};
use crate::emulator::{EmulatedModule, Emulator, KernelArg, LaunchShape, Sanitizer, TensorMapArg};
use crate::memory::host;
use fusec_codegen::{KernelImage, Manifest};
use memmap2::MmapMut;
use rayon::prelude::*;

/// Every element type reads this byte, repeated, as NaN (floats) or -1 (integers).
const POISON: u8 = 0xff;
/// Blocks of a launch with barriers of the grid, or whose blocks share the work whatever their number:
/// few, so that each has to do the work of several.
const RESIDENT_BLOCKS: u32 = 5;

/// The emulator as a device.
///
/// Memory that a step has not been given to read is poisoned: scratch and outputs become NaN
/// just before the step that first writes them, so that a read before the write, or of an
/// element that the write left out, shows in the results.
#[derive(Debug)]
pub struct EmulatedDevice {
    /// One per image of the manifest: entry points of different images may be equal.
    modules: Vec<EmulatedModule>,
    /// The module and the entry of each kernel.
    entries: Vec<(usize, String)>,
    regions: [Option<MmapMut>; REGIONS],
    seed: u64,
    sanitizer: Option<Sanitizer>,
}

impl EmulatedDevice {
    /// Builds the kernels of a manifest (their sources must be there). Seed 0 runs blocks and
    /// threads in index order, any other shuffles both, differently in each step.
    pub fn new(emulator: &Emulator, manifest: &Manifest, seed: u64) -> Result<Self, ExecuteError> {
        let build = |kernel: &KernelImage| -> Result<EmulatedModule, ExecuteError> {
            if kernel.source.is_empty() {
                return Err(ManifestError::Damaged {
                    place: format!("kernel `{}`", kernel.name),
                    reason: "its source is missing".into(),
                }
                .into());
            }
            Ok(emulator.build(&[(&kernel.entry, &kernel.source)], &manifest.prelude)?)
        };
        let images: Vec<&KernelImage> = manifest.images().collect();
        let entry = |kernel: &KernelImage| {
            let image = images.iter().position(|image| image.name == kernel.image);
            let image = image.ok_or_else(|| ManifestError::Damaged {
                place: format!("kernel `{}`", kernel.name),
                reason: format!("`{}` is not the kernel it is compiled as", kernel.image),
            })?;
            Ok::<_, ExecuteError>((image, kernel.entry.clone()))
        };
        Ok(Self {
            modules: images
                .par_iter()
                .map(|image| build(image))
                .collect::<Result<_, _>>()?,
            entries: manifest
                .kernels
                .iter()
                .map(entry)
                .collect::<Result<_, _>>()?,
            regions: [const { None }; REGIONS],
            seed,
            sanitizer: emulator.sanitizer(),
        })
    }

    /// Tells the sanitizer, if there is one, that a launch may touch these buffers and nothing beside
    /// them; `None` opens everything.
    fn open(&mut self, given: Option<&[Place]>) -> Result<(), ExecuteError> {
        let Some(sanitizer) = self.sanitizer else {
            return Ok(());
        };
        for region in self.regions.iter().flatten() {
            match given {
                Some(_) => sanitizer.close(region),
                None => sanitizer.open(region),
            }
        }
        for place in given.into_iter().flatten() {
            sanitizer.open(self.bytes(*place)?);
        }
        Ok(())
    }

    fn bytes(&mut self, place: Place) -> Result<&mut [u8], ExecuteError> {
        let region = self.regions[place.region as usize].as_deref_mut();
        let end = place.offset.checked_add(place.bytes);
        end.zip(region)
            .and_then(|(end, region)| region.get_mut(place.offset..end))
            .ok_or_else(|| {
                ManifestError::Damaged {
                    place: place.region.name().into(),
                    reason: format!("bytes {} + {} are outside", place.offset, place.bytes),
                }
                .into()
            })
    }
}

impl Device for EmulatedDevice {
    fn name(&self) -> String {
        "emulator".into()
    }

    fn free_bytes(&self) -> Result<Option<usize>, ExecuteError> {
        Ok(host::available())
    }

    fn allocate(&mut self, region: Region, bytes: usize) -> Result<u64, ExecuteError> {
        self.open(None)?;
        // Pages, and so aligned; mapped lazily, so that poison costs what a run touches.
        self.regions[region as usize] = None;
        let mut map =
            MmapMut::map_anon(bytes.max(1)).map_err(|source| ExecuteError::HostMemory {
                region: region.name(),
                bytes,
                source,
            })?;
        let address = map.as_mut_ptr().expose_provenance() as u64;
        self.regions[region as usize] = Some(map);
        Ok(address)
    }

    fn write(&mut self, place: Place, bytes: &[u8]) -> Result<(), ExecuteError> {
        let target = self.bytes(Place {
            bytes: bytes.len(),
            ..place
        })?;
        target.copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, place: Place) -> Result<Vec<u8>, ExecuteError> {
        self.bytes(place).map(|bytes| bytes.to_vec())
    }

    fn step(&mut self, launch: &Launch, position: i64) -> Result<(), ExecuteError> {
        for place in &launch.fresh {
            self.bytes(*place)?.fill(POISON);
        }
        let args: Vec<KernelArg> = launch
            .args
            .iter()
            .map(|arg| match *arg {
                ArgValue::Address(address) => {
                    KernelArg::Ptr(std::ptr::with_exposed_provenance_mut(address as usize))
                }
                ArgValue::Integer(value) => KernelArg::I64(value),
                ArgValue::Position => KernelArg::I64(position),
                ArgValue::TensorMap(map) => KernelArg::TensorMap(TensorMapArg {
                    address: map.address,
                    element_bytes: map.element.bytes() as u32,
                    axes: map.axes as u32,
                    extent: map.extents,
                    stride_bytes: map.strides,
                    span: map.spans,
                }),
            })
            .collect();
        let grid = match launch.cooperative || launch.persistent {
            true => launch.grid.min(RESIDENT_BLOCKS),
            false => launch.grid,
        };
        let shape = LaunchShape {
            grid: [grid, 1, 1],
            block: [launch.block, 1, 1],
            smem_bytes: launch.shared_bytes,
            seed: match self.seed {
                0 => 0,
                seed => seed.wrapping_add(launch.step as u64).max(1),
            },
        };
        self.open(Some(&launch.given))?;
        let (module, entry) = &self.entries[launch.kernel];
        let module = &self.modules[*module];
        // SAFETY: the addresses were resolved inside the regions, which live as long as the
        // device and are borrowed by nobody during the call; sizes and extents were checked
        // against the graph when the executor was made.
        let barriers = unsafe { module.launch(entry, shape, &args) };
        self.open(None)?;
        let barriers = barriers.map_err(|error| ExecuteError::Emulated {
            computes: launch.computes.clone(),
            error: Box::new(error),
        })?;
        if barriers > 0 && !launch.cooperative {
            // Blocks that are not resident would be waited for.
            return Err(ManifestError::Damaged {
                place: format!("step {} (kernel `{}`)", launch.step, launch.name),
                reason: "its blocks wait for each other, but need not be resident at once".into(),
            }
            .into());
        }
        Ok(())
    }

    fn run(
        &mut self,
        _key: RunKey,
        launches: &[Launch],
        position: i64,
    ) -> Result<Submission, ExecuteError> {
        for launch in launches {
            self.step(launch, position)?;
        }
        Ok(Submission::Stepwise)
    }
}
