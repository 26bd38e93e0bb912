//! The stores against real servers, which the tests start for themselves on free ports and kill, stop and pause.

#![allow(unused_crate_dependencies)]

mod conformance;
mod support;
