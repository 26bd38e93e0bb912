//! What arrives, and what a crash leaves, as a fuzzer makes it up.
//!
//! `cargo test` tries what is in the corpora under `__fuzz__`, and as much again by chance as `BOLERO_RANDOM_TEST_TIME_MS` and
//! `BOLERO_RANDOM_ITERATIONS` allow. With `cargo install cargo-bolero`, libFuzzer looks for inputs that reach new code, and
//! adds them to the corpus:
//!
//! ```sh
//! cargo bolero test -p sendarix-webhooks-fuzz --engine libfuzzer --sanitizer NONE --rustc-bootstrap request::anything -T 1h
//! ```
//!
//! Reduce the corpus afterwards, to the inputs that reach different code:
//!
//! ```sh
//! cargo bolero reduce -p sendarix-webhooks-fuzz --engine libfuzzer --sanitizer NONE --rustc-bootstrap \
//!     -E=-set_cover_merge=1 -E=-use_counters=0 request::anything
//! ```

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod event;
mod headers;
mod lines;
mod request;
