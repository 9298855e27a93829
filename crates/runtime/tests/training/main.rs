//! Training: derivatives against PyTorch's, whole trainings against PyTorch's and against themselves.

mod golden;
mod learns;
mod steps;
