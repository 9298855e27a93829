//! Forms: other ways to compute the same thing.

mod canonical;

pub use canonical::canonical;
