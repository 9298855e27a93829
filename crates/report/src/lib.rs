//! A plan as one page: what `fusec report` writes.
//!
//! Lives here: what a page says as plain data ([`data`]), how that is collected from plans, kernels
//! and explanations ([`collect()`]), and the page itself ([`page()`]), whose HTML, CSS and JavaScript
//! are real files under `templates/`. Never here: planning, compiling, timing; a page shows what others
//! found out. A page asks no network for anything, and the same plans give the same bytes.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod collect;
pub mod data;
mod fold;
mod memory;
mod neighbours;
mod page;
pub mod plot;

pub use collect::{CollectError, Subject, collect};
pub use page::{PageError, page};
