//! Patterns of two operations: one of the kernel, and one that reads what it makes.

use super::{Pattern, Test};
use fusec_ir::{Access, Binary, Expr, Graph, Op, OpKind};

/// An operation that reads what another one of its kernel makes.
pub struct Edge<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// What reads.
    pub reader: &'a Op,
    /// As which operand.
    pub operand: usize,
    /// How.
    pub access: &'a Access,
    /// What makes it.
    pub maker: &'a Op,
}

impl Edge<'_> {
    /// Whether the current row is read, as the first operand.
    fn is_current_first(&self) -> bool {
        self.operand == 0 && self.access.delay == 0
    }

    /// Whether each element is read where it was made.
    fn is_elementwise(&self) -> bool {
        let of = self.graph.value(self.access.value);
        let axes = self.access.index.iter().map(|index| index.as_axis());
        axes.eq(of.axes.iter().map(|axis| Some(*axis)))
    }

    /// Whether an operand of the maker is made by an operation of some kind.
    fn is_behind(&self, kind: fn(&OpKind) -> bool) -> bool {
        let makers = self.maker.inputs.iter();
        makers
            .filter_map(|access| self.graph.producer(access.value))
            .any(|id| kind(&self.graph.op(id).kind))
    }
}

fn is_product(kind: &OpKind) -> bool {
    matches!(kind, OpKind::Contract { .. })
}

fn is_norm(kind: &OpKind) -> bool {
    matches!(kind, OpKind::Norm { .. })
}

fn is_map(kind: &OpKind) -> bool {
    matches!(kind, OpKind::Map { .. })
}

fn is_scan(kind: &OpKind) -> bool {
    matches!(kind, OpKind::Scan { .. })
}

fn is_row_work(kind: &OpKind) -> bool {
    is_map(kind) || is_norm(kind) || matches!(kind, OpKind::Reduce { .. })
}

/// A norm of a sum: the residual stream is updated and normalised in one pass.
pub static RESIDUAL_NORM: Pattern = Pattern {
    name: "residual-norm",
    reason: "the row that a residual updates is normalised while it is on the chip",
    condition: "the norm reads the current row of a sum",
    test: Test::Edge(|edge| {
        is_norm(&edge.reader.kind)
            && edge.is_current_first()
            && matches!(
                &edge.maker.kind,
                OpKind::Map {
                    expr: Expr::Binary(Binary::Add, ..)
                }
            )
    }),
};

/// The norm of an embedding, computed as the rows of the table are looked up.
pub static EMBED_NORM: Pattern = Pattern {
    name: "embed-norm",
    reason: "a row of the embedding is normalised as it is looked up",
    condition: "the norm reads the current row of a look-up",
    test: Test::Edge(|edge| {
        is_norm(&edge.reader.kind)
            && edge.is_current_first()
            && matches!(edge.maker.kind, OpKind::Gather)
    }),
};

/// A squared ReLU, a SiLU times its sibling, a softplus, a residual: whatever is done to each
/// element of a product.
pub static PRODUCT_EPILOGUE: Pattern = Pattern {
    name: "product-epilogue",
    reason: "each element of a product is finished before it leaves the chip",
    condition: "a map reads the product's current row, element by element",
    test: Test::Edge(|edge| {
        is_map(&edge.reader.kind)
            && is_product(&edge.maker.kind)
            && edge.access.delay == 0
            && edge.is_elementwise()
    }),
};

/// The norm before a head or another product, where rows are few.
pub static NORM_PRODUCT: Pattern = Pattern {
    name: "norm-product",
    reason: "a normalised row that only products read is not written, where each block can afford to make it",
    condition: "the product's activation is the current row of a norm",
    test: Test::Edge(|edge| {
        is_product(&edge.reader.kind) && edge.is_current_first() && is_norm(&edge.maker.kind)
    }),
};

/// The second product of a low-rank pair or of a feed-forward network, with the activation
/// function before it.
pub static PRODUCT_CHAIN: Pattern = Pattern {
    name: "product-chain",
    reason: "between two products, what is done to each element need not pass through memory twice",
    condition: "the product's activation is a map of another product",
    test: Test::Edge(|edge| {
        is_product(&edge.reader.kind)
            && edge.operand == 0
            && is_map(&edge.maker.kind)
            && edge.is_behind(is_product)
    }),
};

/// Decay, step size, normalised keys, updated keys: what a recurrence reads is made in its loop.
pub static SCAN_PROLOGUE: Pattern = Pattern {
    name: "scan-prologue",
    reason: "what each step of a recurrence reads is made in the step, and never written",
    condition: "an operand of the recurrence is a map, a norm or a reduction of the row",
    test: Test::Edge(|edge| is_scan(&edge.reader.kind) && is_row_work(&edge.maker.kind)),
};

/// Group norm, bonus, skip connection, gate: what follows a recurrence is done in its loop.
pub static SCAN_EPILOGUE: Pattern = Pattern {
    name: "scan-epilogue",
    reason: "what each step of a recurrence gives is normalised and gated in the step",
    condition: "a map, a norm or a reduction reads the recurrence's current row",
    test: Test::Edge(|edge| {
        is_row_work(&edge.reader.kind) && edge.access.delay == 0 && is_scan(&edge.maker.kind)
    }),
};
