//! Training: derivatives checked and used.
//!
//! What lives here: the check of derivatives against finite differences, all that turns derivatives into
//! other weights, and whether a model learns at all. What never will: how an operation is differentiated (`fusec_ir::gradient`).

pub mod adamw;
pub mod check;
pub mod compiled;
pub mod evaluator;
pub mod interpreted;
pub mod learns;
pub mod saved;
pub mod schedule;
pub mod tokens;
pub mod trainer;
