//! The interpreter with the graph that it runs, for programs that keep it.

use fusec_ir::Graph;
use fusec_ir::interpret::{Input, InterpretError, NonFinite, Tensor};
use self_cell::self_cell;
use std::sync::Arc;

use crate::cpu::CpuSession;
use crate::executor::HostState;
use crate::session::{Session, SessionError};
use crate::weights::Weights;

type Interpreted<'g> = CpuSession<'g, f32>;

self_cell!(
    struct Cell {
        owner: Arc<Graph>,
        #[not_covariant]
        dependent: Interpreted,
    }
);

/// A [`CpuSession`] in f32 that owns its graph.
pub(super) struct OwnedSession {
    cell: Cell,
    graph: Arc<Graph>,
}

impl OwnedSession {
    /// Binds weights to a graph.
    pub(super) fn new(graph: Arc<Graph>, weights: Weights) -> Result<Self, InterpretError> {
        Ok(Self {
            cell: Cell::try_new(graph.clone(), |graph| CpuSession::new(graph, weights))?,
            graph,
        })
    }
}

impl Session for OwnedSession {
    fn device(&self) -> String {
        self.cell.with_dependent(|_, session| session.device())
    }

    fn graph(&self) -> &Graph {
        &self.graph
    }

    fn reset(&mut self, batch: usize) -> Result<(), SessionError> {
        self.cell
            .with_dependent_mut(|_, session| session.reset(batch))
    }

    fn run(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Vec<Tensor<f32>>, SessionError> {
        self.cell
            .with_dependent_mut(|_, session| session.run(time, inputs))
    }

    fn first_non_finite(
        &mut self,
        time: usize,
        inputs: &[Input<'_, f32>],
    ) -> Result<Option<NonFinite>, SessionError> {
        self.cell
            .with_dependent_mut(|_, session| session.first_non_finite(time, inputs))
    }

    fn state(&mut self) -> Result<HostState, SessionError> {
        self.cell.with_dependent_mut(|_, session| session.state())
    }

    fn set_state(&mut self, state: &HostState) -> Result<(), SessionError> {
        self.cell
            .with_dependent_mut(|_, session| session.set_state(state))
    }

    fn set_weights(&mut self, weights: Weights) -> Result<(), SessionError> {
        self.cell
            .with_dependent_mut(|_, session| session.set_weights(weights))
    }
}
