//! A run recorded as a CUDA graph: one submission instead of one per kernel.

use super::kernel::{Arguments, LoadedKernel};
use crate::executor::{ArgValue, Launch};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use std::sync::Arc;

/// A recorded run: a chain of kernels.
///
/// The position is an argument by value, so it is part of the record; the kernels that take it
/// get the new one before each launch.
#[derive(Debug)]
pub(super) struct RecordedRun {
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
    /// Kernels that take the position: index of the launch, and node.
    positioned: Vec<(usize, sys::CUgraphNode)>,
    position: i64,
    context: Arc<CudaContext>,
}

// SAFETY: the handles are the driver's; the driver asks that a graph is used by one thread at a
// time, which `&mut self` ensures.
unsafe impl Send for RecordedRun {}

impl RecordedRun {
    /// Records the launches in order.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        kernels: &[LoadedKernel],
        launches: &[Launch],
        position: i64,
    ) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes the handle it is given a pointer to; the flags must be 0.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result()?;
        let mut recorded = Self {
            graph,
            exec: std::ptr::null_mut(),
            positioned: Vec::new(),
            position,
            context: context.clone(),
        };
        let mut before: Option<sys::CUgraphNode> = None;
        for (at, launch) in launches.iter().enumerate() {
            let node = recorded.add(&kernels[launch.kernel], launch)?;
            if let Some(before) = before {
                recorded.follow(before, node, launch.early)?;
            }
            if launch.args.contains(&ArgValue::Position) {
                recorded.positioned.push((at, node));
            }
            before = Some(node);
        }
        // SAFETY: the graph is valid: created above, destroyed only when `recorded` is dropped.
        recorded.exec = unsafe { result::graph::instantiate(graph, CUgraphInstantiate_flags(0)) }?;
        Ok(recorded)
    }

    fn add(&self, kernel: &LoadedKernel, launch: &Launch) -> Result<sys::CUgraphNode, DriverError> {
        let mut arguments = Arguments::default();
        arguments.put(&launch.args, self.position)?;
        let params = kernel.node(launch, arguments.pointers());
        let mut node = std::ptr::null_mut();
        // SAFETY: the graph is valid; the parameters are one value per parameter of the kernel and are
        // copied by the call.
        unsafe {
            sys::cuGraphAddKernelNode_v2(&mut node, self.graph, std::ptr::null(), 0, &params)
        }
        .result()?;
        if launch.cooperative {
            let mut value = sys::CUkernelNodeAttrValue { pad: [0; 64] };
            value.cooperative = 1;
            let what = sys::CUkernelNodeAttrID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
            // SAFETY: the node was just added; the value is the attribute's integer.
            unsafe { sys::cuGraphKernelNodeSetAttribute(node, what, &value) }.result()?;
        }
        Ok(node)
    }

    /// Puts a node behind another: when that one has ended, or, `early`, when all of its blocks let the next
    /// kernel start or have ended.
    fn follow(
        &self,
        before: sys::CUgraphNode,
        node: sys::CUgraphNode,
        early: bool,
    ) -> Result<(), DriverError> {
        use sys::CUgraphDependencyType as Type;
        let (port, kind) = match early {
            true => (
                sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC,
                Type::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC,
            ),
            false => (
                sys::CU_GRAPH_KERNEL_NODE_PORT_DEFAULT,
                Type::CU_GRAPH_DEPENDENCY_TYPE_DEFAULT,
            ),
        };
        let edge = sys::CUgraphEdgeData {
            from_port: port as u8,
            to_port: 0,
            type_: kind as u8,
            reserved: [0; 5],
        };
        // SAFETY: both are nodes of this graph; one edge, whose data are copied by the call.
        unsafe { sys::cuGraphAddDependencies_v2(self.graph, &before, &node, &edge, 1) }.result()
    }

    /// Submits the run at a position. `launches` and `kernels` are those it was recorded with.
    pub(super) fn launch(
        &mut self,
        kernels: &[LoadedKernel],
        launches: &[Launch],
        position: i64,
        stream: &CudaStream,
    ) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        if position != self.position {
            for (at, node) in &self.positioned {
                let launch = &launches[*at];
                let mut arguments = Arguments::default();
                arguments.put(&launch.args, position)?;
                let params = kernels[launch.kernel].node(launch, arguments.pointers());
                // SAFETY: the node is one of the graph that `exec` was made from, the function
                // is the same, and the parameters are copied by the call; runs already submitted
                // keep theirs.
                unsafe { sys::cuGraphExecKernelNodeSetParams_v2(self.exec, *node, &params) }
                    .result()?;
            }
            self.position = position;
        }
        // SAFETY: both handles are valid: `exec` lives as long as `self`.
        unsafe { result::graph::launch(self.exec, stream.cu_stream()) }
    }
}

impl Drop for RecordedRun {
    fn drop(&mut self) {
        let destroy = || -> Result<(), DriverError> {
            self.context.bind_to_thread()?;
            if !self.exec.is_null() {
                // SAFETY: instantiated by `new`, destroyed only here.
                unsafe { result::graph::exec_destroy(self.exec) }?;
            }
            // SAFETY: created by `new`, destroyed only here.
            unsafe { result::graph::destroy(self.graph) }
        };
        if let Err(error) = destroy() {
            tracing::debug!("destroying a recorded run: {error:?}");
        }
    }
}
