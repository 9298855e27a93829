//! Training: derivatives against PyTorch's, whole trainings against PyTorch's and against themselves, kernels
//! against the interpreter.

#[path = "../common/mod.rs"]
mod common;
mod compiled;
mod golden;
mod learns;
mod placed;
mod steps;
