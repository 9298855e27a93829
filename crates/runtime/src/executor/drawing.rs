//! Tokens drawn where the model runs: the kernel that draws is the last of a step, and what it draws is what
//! the next step reads. Nothing is copied between steps, and the host need not wait for any of them.

use super::device::{ArgValue, Device, Launch, Place, Region, RunKey};
use super::{ExecuteError, Executor, PreparedRun, TailCopy, input, regime_for};
use crate::memory::{ALIGNMENT, ArenaPlan};
use crate::sampling::{MAX_TOKENS, Sampling, SamplingError};
use fusec_codegen::draw::{self, SEQUENCE_BYTES, SETTINGS_BYTES, Sequence, Settings};
use fusec_codegen::{BufferKind, CodegenError, Element, Manifest};
use fusec_fuse::Shape;
use fusec_ir::interpret::Input;
use std::sync::Arc;

/// Most steps between two looks at what was drawn.
pub const MOST_STEPS: usize = 64;

/// A sequence that steps go on with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GoesOn<'a> {
    /// Its last token, which the next step reads.
    pub last: i32,
    /// Of each token, whether it was there before.
    pub seen: &'a [bool],
    /// Position of the token that is drawn next.
    pub position: u64,
    /// Number of the sequence.
    pub number: u32,
}

/// What was drawn for a sequence, step by step.
pub type Drawn = Vec<Result<i32, SamplingError>>;

/// The kernel that draws, and the sequences that it draws for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawing {
    /// Its number in the manifest.
    kernel: usize,
    /// Tokens that can be drawn.
    tokens: usize,
    /// Bytes of what it keeps, as allocated.
    held: usize,
    /// Steps since the sequences were given; none before that, and after any other run.
    steps: Option<u32>,
}

/// Where things lie in what it keeps, from the settings on.
#[derive(Clone, Copy, Debug)]
struct Layout {
    records: usize,
    drawn: usize,
    marks: usize,
    /// Bytes of the marks of a sequence.
    words: usize,
    end: usize,
}

impl Layout {
    fn new(batch: usize, tokens: usize) -> Self {
        let records = SETTINGS_BYTES.next_multiple_of(ALIGNMENT);
        let drawn = (records + batch * SEQUENCE_BYTES).next_multiple_of(ALIGNMENT);
        let marks = (drawn + batch * MOST_STEPS * 4).next_multiple_of(ALIGNMENT);
        let words = tokens.div_ceil(32) * 4;
        Layout {
            records,
            drawn,
            marks,
            words,
            end: marks + batch * words,
        }
    }
}

fn kept(offset: usize, bytes: usize) -> Place {
    Place {
        region: Region::Drawing,
        offset,
        bytes,
    }
}

/// Puts the kernel that draws from the logits of single steps behind those of a manifest, before a device
/// loads them. Its number, for [`Executor::draw_with`]; `None` where single steps give no logits.
pub fn add_drawing_kernel(manifest: &mut Manifest) -> Result<Option<usize>, CodegenError> {
    let Some(element) = logits(manifest).map(|(_, element)| element) else {
        return Ok(None);
    };
    let kernel = draw::kernel(manifest, element)?;
    manifest.kernels.push(kernel);
    Ok(Some(manifest.kernels.len() - 1))
}

/// The buffer of the logits in the regime of single steps, and the type of its elements.
fn logits(manifest: &Manifest) -> Option<(usize, Element)> {
    let regime = manifest.regime(1).and_then(|at| manifest.regimes.get(at))?;
    let id = regime.graph.outputs.first()?;
    let kind = BufferKind::Output(*id);
    let at = regime.buffers.iter().position(|b| b.kind == kind)?;
    let element = regime.buffers[at].element;
    (element != Element::I32).then_some((at, element))
}

impl<D: Device> Executor<D> {
    /// Lets tokens be drawn on the device, the first `tokens` of those that have logits, by the kernel that
    /// [`add_drawing_kernel`] put into the manifest.
    pub fn draw_with(&mut self, kernel: usize, tokens: usize) {
        self.drawing = Some(Drawing {
            kernel,
            tokens,
            held: 0,
            steps: None,
        });
    }

    /// Whether [`Executor::draw_with`] was called.
    pub fn can_draw(&self) -> bool {
        self.drawing.is_some()
    }

    /// Says how tokens are drawn and for which sequences, one for each of the state's. Holds for the steps of
    /// [`Executor::draw`] up to the next run of another kind.
    pub fn begin_drawing(
        &mut self,
        sampling: &Sampling,
        sequences: &[GoesOn<'_>],
    ) -> Result<(), ExecuteError> {
        self.refuse_if_interrupted()?;
        let drawing = self.drawing.ok_or(ExecuteError::NotDrawing)?;
        sampling.check()?;
        if !(1..=MAX_TOKENS).contains(&drawing.tokens) {
            let got = drawing.tokens;
            return Err(SamplingError::Tokens { got }.into());
        }
        let batch = self.states.batch;
        let shape = Shape { batch, time: 1 };
        let regime = regime_for(&self.manifest, shape, self.position)?;
        let ids: Vec<i32> = sequences.iter().map(|of| of.last).collect();
        let graph = &self.manifest.regimes[regime].graph;
        input::check(graph, shape, &[Input::Ids(&ids)])?;
        let layout = Layout::new(batch, drawing.tokens);
        if layout.end > drawing.held {
            // Addresses change with the allocation.
            self.launches.clear();
            self.set_drawing(0, None);
            self.bases.drawing = self.device.allocate(Region::Drawing, layout.end)?;
        }
        let held = drawing.held.max(layout.end);
        self.set_drawing(held, None);
        let settings = Settings {
            // At temperature 0 nothing is multiplied by it.
            scale: match sampling.temperature {
                0.0 => 0.0,
                _ => sampling.scale(),
            },
            penalty: sampling.repetition_penalty,
            top_k: sampling.top_k,
            greedy: sampling.temperature == 0.0,
            share: sampling.share(),
            seed: sampling.seed,
        };
        self.device
            .write(kept(0, SETTINGS_BYTES), &settings.bytes())?;
        let records = sequences.iter().flat_map(|of| {
            let sequence = Sequence {
                position: of.position,
                number: of.number,
                drawn: 0,
                fault: None,
            };
            sequence.bytes()
        });
        let records: Vec<u8> = records.collect();
        self.device
            .write(kept(layout.records, records.len()), &records)?;
        let mut marks = vec![0u8; batch * layout.words];
        for (marks, of) in marks.chunks_exact_mut(layout.words).zip(sequences) {
            for (token, _) in of.seen.iter().enumerate().filter(|(_, seen)| **seen) {
                if let Some(byte) = marks.get_mut(token / 8) {
                    *byte |= 1 << (token % 8);
                }
            }
        }
        self.device.write(kept(layout.marks, marks.len()), &marks)?;
        let arena = self.arena(regime, shape)?;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let place = self.next_place(self.step_key(regime, shape), &arena)?;
        self.device.write(place, &bytes)?;
        self.set_drawing(held, Some(0));
        Ok(())
    }

    /// Runs single steps, each with the tokens that were drawn at the end of the one before. At most
    /// [`MOST_STEPS`]; they are submitted without waiting for any. What was drawn, for each sequence.
    pub fn draw(&mut self, steps: usize) -> Result<Vec<Drawn>, ExecuteError> {
        self.refuse_if_interrupted()?;
        let drawing = self.drawing.ok_or(ExecuteError::NotDrawing)?;
        let before = drawing.steps.ok_or(ExecuteError::NotDrawing)?;
        let steps = steps.min(MOST_STEPS);
        let drawn = self.submit_steps(steps).and_then(|()| {
            self.set_drawing(drawing.held, Some(before.wrapping_add(steps as u32)));
            self.read_drawn(drawing.tokens, before, steps)
        });
        if let Err(error) = &drawn {
            self.interrupted = Some(error.to_string());
        }
        drawn
    }

    fn submit_steps(&mut self, steps: usize) -> Result<(), ExecuteError> {
        let mut last = None;
        for _ in 0..steps {
            let run = self.prepare_step()?;
            self.device.submit(run.key, &run.launches, self.position)?;
            self.advance(&run);
            last = Some(run);
        }
        match last {
            Some(run) => self.device.finish(&run.launches),
            None => Ok(()),
        }
    }

    fn read_drawn(
        &mut self,
        tokens: usize,
        before: u32,
        steps: usize,
    ) -> Result<Vec<Drawn>, ExecuteError> {
        let batch = self.states.batch;
        let layout = Layout::new(batch, tokens);
        // The records, and behind them the tokens.
        let bytes = self
            .device
            .read(kept(layout.records, layout.marks - layout.records))?;
        let record = |row: usize| {
            let at = row * SEQUENCE_BYTES;
            Sequence::from_bytes(std::array::from_fn(|i| bytes[at + i]))
        };
        let token = |row: usize, step: usize| {
            let at = (before as usize + step) % MOST_STEPS;
            let at = layout.drawn - layout.records + (row * MOST_STEPS + at) * 4;
            i32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
        };
        let rows = (0..batch).map(|row| {
            let (token_of_fault, value) = record(row).fault.unwrap_or((0, f32::NAN));
            let steps = (0..steps).map(|step| match token(row, step) {
                drawn if drawn >= 0 => Ok(drawn),
                _ => Err(SamplingError::NotFinite {
                    token: token_of_fault as usize,
                    value,
                }),
            });
            steps.collect()
        });
        Ok(rows.collect())
    }

    /// The launches of a step that draws; its inputs are there.
    fn prepare_step(&mut self) -> Result<PreparedRun, ExecuteError> {
        let shape = Shape {
            batch: self.states.batch,
            time: 1,
        };
        let regime = regime_for(&self.manifest, shape, self.position)?;
        let key = self.step_key(regime, shape);
        let arena = self.arena(regime, shape)?;
        let launches = match self.launches.get(&key) {
            Some(launches) => launches.clone(),
            None => {
                let mut launches = self.binding(key, &arena).launches(self.bases)?;
                launches.push(self.drawing_launch(key, &arena)?);
                let launches = Arc::new(launches);
                self.launches.insert(key, launches.clone());
                launches
            }
        };
        Ok(PreparedRun {
            key,
            arena,
            launches,
        })
    }

    fn drawing_launch(&self, key: RunKey, arena: &ArenaPlan) -> Result<Launch, ExecuteError> {
        let drawing = self.drawing.ok_or(ExecuteError::NotDrawing)?;
        let kernel = self.manifest.kernels.get(drawing.kernel);
        let kernel = kernel.ok_or(ExecuteError::NotDrawing)?;
        let batch = key.shape.batch;
        let layout = Layout::new(batch, drawing.tokens);
        let (buffer, _) = logits(&self.manifest).ok_or(ExecuteError::NotDrawing)?;
        let from = self.binding(key, arena).place(buffer, TailCopy::Old);
        let from = from.ok_or(ExecuteError::NotDrawing)?;
        let to = self.next_place(key, arena)?;
        let settings = kept(0, SETTINGS_BYTES);
        let records = kept(layout.records, batch * SEQUENCE_BYTES);
        let drawn = kept(layout.drawn, batch * MOST_STEPS * 4);
        let marks = kept(layout.marks, batch * layout.words);
        let given = vec![from, to, settings, records, drawn, marks];
        let addresses = given.iter().map(|place| {
            let address = self.bases.of(place.region) + place.offset as u64;
            ArgValue::Address(address)
        });
        let regime = &self.manifest.regimes[key.regime];
        let numbers = [regime.buffers[buffer].elements, drawing.tokens, MOST_STEPS];
        let numbers = numbers.map(|n| ArgValue::Integer(n as i64));
        Ok(Launch {
            step: regime.steps.len(),
            kernel: drawing.kernel,
            name: kernel.name.clone(),
            computes: "the next tokens".into(),
            grid: batch as u32,
            block: kernel.threads,
            shared_bytes: kernel.shared_bytes,
            cooperative: false,
            persistent: false,
            early: false,
            args: addresses.chain(numbers).collect(),
            given,
            fresh: Vec::new(),
        })
    }

    fn step_key(&self, regime: usize, shape: Shape) -> RunKey {
        RunKey {
            regime,
            shape,
            parity: self.parity,
            draws: true,
        }
    }

    /// Where the input of the next step lies. It is kept to the end of a step.
    fn next_place(&self, key: RunKey, arena: &ArenaPlan) -> Result<Place, ExecuteError> {
        let regime = &self.manifest.regimes[key.regime];
        let input = regime.graph.inputs.first();
        let kind = input.map(|id| BufferKind::Input(*id));
        let at = regime.buffers.iter().position(|b| Some(b.kind) == kind);
        let place = at.and_then(|at| self.binding(key, arena).place(at, TailCopy::Old));
        place.ok_or(ExecuteError::NotDrawing)
    }

    fn set_drawing(&mut self, held: usize, steps: Option<u32>) {
        if let Some(drawing) = &mut self.drawing {
            (drawing.held, drawing.steps) = (held, steps);
        }
    }

    /// Any other run writes over what the next step would read.
    pub(super) fn end_drawing(&mut self) {
        if let Some(drawing) = &mut self.drawing {
            drawing.steps = None;
        }
    }
}
