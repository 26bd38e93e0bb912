//! The stores against real servers, which the tests start for themselves on free ports and kill, stop and pause.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]
#![allow(clippy::print_stderr)]

use sendarix_webhooks_system_tests as support;

mod conformance;
mod crashes;
mod fan_out;
mod faults;
mod instances;
mod letters;
mod nginx;
mod postgres;
mod queue;
mod redis;
mod redrive;
mod replay;
mod rig;
mod round_trips;
mod schema;
mod transactions;
