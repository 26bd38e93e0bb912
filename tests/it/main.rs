//! The crate from the outside: real sockets in front, real files behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::missing_panics_doc)]
#![allow(unreachable_pub)]

use sendarix_webhooks_test_support as support;

mod acknowledged;
mod actix;
mod bodies;
mod closed_sets;
mod concurrency;
mod dead_letter_file;
mod documents;
mod door;
mod event;
mod fan_out;
mod fixtures;
mod glob_import;
mod handlers;
mod headers;
mod house;
mod letters;
mod outcomes;
mod placements;
mod process;
mod properties;
mod readiness;
mod redrive;
mod reputation;
mod secrets;
mod settings;
mod simulation;
mod state;
mod stores;
