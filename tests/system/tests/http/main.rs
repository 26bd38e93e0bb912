//! What is served beside axum's and actix-web's own routes, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod operator;
mod salvo;
