//! Rules about what comes after a product.

use super::adjacent::Adjacent;
use fusec_ir::OpKind;

fn is_product(kind: &OpKind) -> bool {
    matches!(kind, OpKind::Contract { .. })
}

fn is_map(kind: &OpKind) -> bool {
    matches!(kind, OpKind::Map { .. })
}

/// A squared ReLU, a SiLU times its sibling, a softplus, a residual: whatever is done to each
/// element of a product.
pub static PRODUCT_EPILOGUE: Adjacent = Adjacent {
    name: "product-epilogue",
    reason: "each element of a product is finished before it leaves the chip",
    condition: "a map reads the product's current row, element by element",
    reader: is_map,
    holds: |edge| {
        is_product(&edge.maker.kind)
            && edge.read.delay == 0
            && edge.maker.results.first().is_some_and(|result| {
                let axes = edge.read.index.iter().map(|index| index.as_axis());
                axes.eq(result.axes.iter().map(|axis| Some(*axis)))
            })
    },
};

/// The norm before a head or another product, where rows are few.
pub static NORM_PRODUCT: Adjacent = Adjacent {
    name: "norm-product",
    reason: "a normalised row that only products read is not written, where each block can afford to make it",
    condition: "the product's activation is the current row of a norm",
    reader: is_product,
    holds: |edge| {
        edge.operand == 0 && edge.read.delay == 0 && matches!(edge.maker.kind, OpKind::Norm { .. })
    },
};

/// The second product of a low-rank pair or of a feed-forward network, with the activation
/// function before it.
pub static PRODUCT_PROLOGUE: Adjacent = Adjacent {
    name: "product-chain",
    reason: "between two products, what is done to each element need not pass through memory twice",
    condition: "the product's activation is a map of another product",
    reader: is_product,
    holds: |edge| edge.operand == 0 && is_map(&edge.maker.kind) && edge.is_behind(is_product),
};
