//! The interpreter's specification: small graphs with known results, an
//! element-by-element evaluator as second opinion, and the laws that runs obey.

mod builder;
mod laws;
mod malformed;
mod naive;
mod ops;
