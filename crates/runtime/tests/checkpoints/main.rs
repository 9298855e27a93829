//! Checkpoints: what is read from good files, and what is said about bad ones.

mod bad;
mod golden;
mod layouts;
mod limits;
mod write;
