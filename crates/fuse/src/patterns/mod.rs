//! Fusion patterns: names for what a kernel fuses.
//!
//! A pattern is a predicate on the operations of one kernel. It is asked when the kernels are
//! chosen, and changes nothing but the names that a plan shows: legality is [`crate::fit`]'s, the
//! choice [`crate::select`]'s, and other ways to compute a value are [`crate::forms`]. What never
//! will live here: costs, and anything that looks beyond the kernel.

mod edge;
mod group;

use edge::Edge;
use fusec_ir::{Access, Graph, Op, OpId};
use std::collections::BTreeSet;

/// A named combination of operations.
#[derive(Debug)]
pub struct Pattern {
    /// Name in plans and explanations.
    pub name: &'static str,
    /// Why one would want it, in one line.
    pub reason: &'static str,
    /// When it is there, in one line.
    pub condition: &'static str,
    test: Test,
}

/// How a pattern is recognised.
#[derive(Debug)]
enum Test {
    /// By an operation of the kernel and one that reads what it makes.
    Edge(fn(&Edge<'_>) -> bool),
    /// By the whole kernel.
    Kernel(fn(&Fused<'_>) -> bool),
}

/// Every pattern, by name.
pub static PATTERNS: [&Pattern; 11] = [
    &group::CONV_SSM,
    &edge::EMBED_NORM,
    &group::NORM_GAIN,
    &edge::NORM_PRODUCT,
    &edge::PRODUCT_CHAIN,
    &edge::PRODUCT_EPILOGUE,
    &edge::RESIDUAL_NORM,
    &edge::SCAN_EPILOGUE,
    &edge::SCAN_PROLOGUE,
    &group::SIBLING_PRODUCTS,
    &group::WKV_SCAN,
];

/// The names of the patterns that a kernel of these operations (ascending) shows, in order.
pub fn patterns(graph: &Graph, ops: &[OpId]) -> Vec<&'static str> {
    let kernel = Fused { graph, ops };
    let found: BTreeSet<&'static str> = PATTERNS
        .iter()
        .filter(|pattern| match pattern.test {
            Test::Edge(holds) => kernel.edges().any(|edge| holds(&edge)),
            Test::Kernel(holds) => holds(&kernel),
        })
        .map(|pattern| pattern.name)
        .collect();
    found.into_iter().collect()
}

/// The operations of a kernel.
struct Fused<'a> {
    graph: &'a Graph,
    /// Ascending.
    ops: &'a [OpId],
}

impl<'a> Fused<'a> {
    /// The operations with their positions.
    fn ops(&self) -> impl Iterator<Item = (usize, &'a Op)> {
        let graph = self.graph;
        let ops = self.ops.iter().enumerate();
        ops.map(move |(i, id)| (i, graph.op(*id)))
    }

    /// Position of the operation of the kernel that makes what an access reads.
    fn maker(&self, access: &Access) -> Option<usize> {
        let producer = self.graph.producer(access.value)?;
        self.ops.binary_search(&producer).ok()
    }

    /// The edges inside the kernel.
    fn edges(&self) -> impl Iterator<Item = Edge<'a>> {
        let graph = self.graph;
        self.ops().flat_map(move |(_, reader)| {
            let inputs = reader.inputs.iter().enumerate();
            inputs.filter_map(move |(operand, access)| {
                let maker = self.ops[self.maker(access)?];
                Some(Edge {
                    graph,
                    reader,
                    operand,
                    access,
                    maker: graph.op(maker),
                })
            })
        })
    }
}
