//! Kernels on the CPU, for tests and for machines without a GPU: slow, and strict.

use super::device::{ArgValue, Device, Launch, Place, REGIONS, Region, RunKey, Submission};
use super::in_place::{DeviceBytes, LENT_BYTES, Launcher, Lent, Run};
use super::{ExecuteError, ManifestError};
use crate::emulator::{EmulatedModule, Emulator, KernelArg, LaunchShape, Sanitizer, TensorMapArg};
use crate::memory::host;
use fusec_codegen::{KernelImage, Manifest};
use memmap2::MmapMut;
use rayon::prelude::*;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

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
    kernels: EmulatedKernels,
    regions: [Option<MmapMut>; REGIONS],
    sanitizer: Option<Sanitizer>,
}

impl EmulatedDevice {
    /// Builds the kernels of a manifest (their sources must be there). Seed 0 runs blocks and
    /// threads in index order, any other shuffles both, differently in each step.
    pub fn new(emulator: &Emulator, manifest: &Manifest, seed: u64) -> Result<Self, ExecuteError> {
        Ok(Self {
            kernels: EmulatedKernels::new(emulator, manifest, seed)?,
            regions: [const { None }; REGIONS],
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
        let mut map = map(region.name(), bytes)?;
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
        self.open(Some(&launch.given))?;
        // SAFETY: the addresses were resolved inside the regions, which live as long as the
        // device and are borrowed by nobody during the call; sizes and extents were checked
        // against the graph when the executor was made.
        let launched = unsafe { self.kernels.launch(launch, &launch.args, position) };
        self.open(None)?;
        launched
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

/// The kernels of a manifest, built for the emulator.
#[derive(Debug)]
struct EmulatedKernels {
    /// One per image of the manifest: entry points of different images may be equal.
    modules: Vec<EmulatedModule>,
    /// The module and the entry of each kernel.
    entries: Vec<(usize, String)>,
    seed: u64,
}

impl EmulatedKernels {
    /// Builds the kernels of a manifest (their sources must be there). Seed 0 runs blocks and
    /// threads in index order, any other shuffles both, differently in each step.
    fn new(emulator: &Emulator, manifest: &Manifest, seed: u64) -> Result<Self, ExecuteError> {
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
            seed,
        })
    }

    /// Performs a launch with these arguments.
    ///
    /// # Safety
    ///
    /// They are those of the kernel, and their addresses are memory that it may use, which nobody else
    /// touches meanwhile.
    unsafe fn launch(
        &self,
        launch: &Launch,
        args: &[ArgValue],
        position: i64,
    ) -> Result<(), ExecuteError> {
        let args: Vec<KernelArg> = args
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
        let (module, entry) = &self.entries[launch.kernel];
        let module = &self.modules[*module];
        // SAFETY: the caller's promise.
        let barriers = unsafe { module.launch(entry, shape, &args) };
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
}

/// Kernels on memory of the caller, on the CPU: what a run on a GPU does, without one.
///
/// Every run is done when it is submitted; there are no streams.
pub struct EmulatedLauncher {
    /// One run at a time, as of one stream.
    kernels: Mutex<EmulatedKernels>,
    held: Option<MmapMut>,
    lent: OnceLock<Lent>,
}

impl EmulatedLauncher {
    /// Builds the kernels of a manifest, as [`EmulatedDevice::new`].
    pub fn new(emulator: &Emulator, manifest: &Manifest, seed: u64) -> Result<Self, ExecuteError> {
        Ok(Self {
            kernels: Mutex::new(EmulatedKernels::new(emulator, manifest, seed)?),
            held: None,
            lent: OnceLock::new(),
        })
    }
}

fn map(region: &'static str, bytes: usize) -> Result<MmapMut, ExecuteError> {
    MmapMut::map_anon(bytes.max(1)).map_err(|source| ExecuteError::HostMemory {
        region,
        bytes,
        source,
    })
}

impl Launcher for EmulatedLauncher {
    fn name(&self) -> String {
        "emulator".into()
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, ExecuteError> {
        let mut held = map("weights", bytes)?;
        let address = held.as_mut_ptr().expose_provenance() as u64;
        self.held = Some(held);
        Ok(address)
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), ExecuteError> {
        let end = offset.saturating_add(bytes.len());
        let held = self.held.as_deref_mut();
        let place = held.and_then(|held| held.get_mut(offset..end));
        let place = place.ok_or_else(|| ManifestError::Damaged {
            place: "weights".into(),
            reason: format!("bytes {offset} + {} are outside", bytes.len()),
        })?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn memory(&self, bytes: usize) -> Result<Box<dyn DeviceBytes>, ExecuteError> {
        Ok(Box::new(HostBytes(map("results", bytes)?)))
    }

    fn lent(&self, _stream: u64) -> Result<Option<Lent>, ExecuteError> {
        if let Some(lent) = self.lent.get() {
            return Ok(Some(lent.clone()));
        }
        let lent = Lent::new(self.memory(LENT_BYTES)?);
        Ok(Some(self.lent.get_or_init(|| lent).clone()))
    }

    fn own_stream(&self) -> Result<u64, ExecuteError> {
        Ok(0)
    }

    fn wait(&self) -> Result<(), ExecuteError> {
        Ok(())
    }

    fn begin(&self, _stream: u64) -> Result<Box<dyn Run + '_>, ExecuteError> {
        let kernels = self.kernels.lock();
        Ok(Box::new(EmulatedRun(
            kernels.unwrap_or_else(PoisonError::into_inner),
        )))
    }
}

struct HostBytes(MmapMut);

impl DeviceBytes for HostBytes {
    fn address(&self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }
}

struct EmulatedRun<'a>(MutexGuard<'a, EmulatedKernels>);

impl Run for EmulatedRun<'_> {
    unsafe fn copy(&mut self, to: u64, from: u64, bytes: usize) -> Result<(), ExecuteError> {
        let to: *mut u8 = std::ptr::with_exposed_provenance_mut(to as usize);
        let from: *const u8 = std::ptr::with_exposed_provenance(from as usize);
        // SAFETY: the caller's promise.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(())
    }

    unsafe fn fill(&mut self, to: u64, word: u32, bytes: usize) -> Result<(), ExecuteError> {
        let to: *mut u8 = std::ptr::with_exposed_provenance_mut(to as usize);
        for (at, byte) in word
            .to_le_bytes()
            .into_iter()
            .cycle()
            .take(bytes)
            .enumerate()
        {
            // SAFETY: the caller's promise.
            unsafe { to.add(at).write(byte) };
        }
        Ok(())
    }

    unsafe fn launch(
        &mut self,
        launch: &Launch,
        args: &[ArgValue],
        position: i64,
    ) -> Result<(), ExecuteError> {
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(launch, args, position) }
    }
}
