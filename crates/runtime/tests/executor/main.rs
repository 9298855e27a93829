//! Executing a manifest: memory, arguments, states, and results against the interpreter.

mod memory;
mod run;
mod sample;
mod state;
