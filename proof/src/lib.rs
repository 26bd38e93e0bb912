//! The evidence for what `sendarix-webhooks` promises, apart from its tests: what takes longer, needs other tools, or
//! looks at the design instead of the code.
//!
//! `docs/reliability.md` has the figures, each with the command that prints it.

#![allow(missing_docs, clippy::indexing_slicing, reason = "nobody depends on this crate")]

pub mod memory;
pub mod model;
