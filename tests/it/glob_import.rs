//! A glob import of the crate, beside the crates that applications import.

use actix_web::App;
use axum::Router;
use http::Response;
use metrics::counter;
use sendarix_webhooks::*;

/// The names of other crates mean these crates, though the crate has rooms for axum and actix-web.
#[test]
fn no_public_module_hides_a_crate() {
    counter!("a_counter").increment(1);
    let _: (Router, _) = (Router::new(), App::new());
    assert_eq!(u16::from(Response::new(()).status()), Outcome::Processed.default_status());
}
