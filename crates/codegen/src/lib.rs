//! x
pub mod prelude;
