//! Executing a manifest: memory, arguments, states, and results against the interpreter.

mod bind;
mod gpu;
mod memory;
mod plan_dir;
mod run;
mod sample;
mod state;
