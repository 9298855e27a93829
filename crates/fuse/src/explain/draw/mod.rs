//! The kernels of an interior layer as a picture: coloured groups of operations.
//!
//! [`Picture`] says what is in it; [`svg`] and [`dot`] write it.

//mod dot;
//mod layered;
//mod svg;

//pub use dot::dot;
//pub use svg::svg;
