//! The evidence for what `sendarix-webhooks` promises, apart from its tests: what takes longer, needs other tools, or
//! looks at the design instead of the code.
//!
//! `docs/reliability.md` has the figures, each with the command that prints it.

#![allow(missing_docs, clippy::indexing_slicing, reason = "no other crate depends on this one")]

pub mod memory;
pub mod model;
