//! salvo, by its bridge to tower: what the guide's table of servers says of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::Full;
use salvo::conn::TcpListener;
use salvo::http::ReqBody;
use salvo::prelude::TowerServiceCompat;
use salvo::{Listener, Router, Server};
use sendarix_webhooks::destination::Terminal;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{Delivery, EventType, Receiver, SendarixLayer, SigningSecret};
use tower::Layer;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_handled_once_and_a_forged_one_never() {
    let secret = SigningSecret::new("a secret for tests").unwrap();
    let receiver = Receiver::builder(secret.clone()).dangerously_without_dead_letters().build().unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let on_event = {
        let handled = Arc::clone(&handled);
        move |_: Delivery| {
            handled.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        }
    };
    let service = SendarixLayer::new(receiver).layer(Terminal::<_, Full<Bytes>>::new(on_event));
    let acceptor = TcpListener::new("127.0.0.1:0").bind().await;
    let address = acceptor.local_addr().unwrap();
    let router = Router::with_path("webhooks/sendarix").post(TowerServiceCompat::<ReqBody, _, _, _>::compat(service));
    let server = tokio::spawn(Server::new(acceptor).serve(router));

    let body = Sample::new(EventType::Delivered).body();
    let send = async |body: &[u8], headers| {
        let mut request = reqwest::Client::new().post(format!("http://{address}/webhooks/sendarix"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(body.to_vec()).send().await.unwrap().status().as_u16()
    };
    let signed = |secret: &SigningSecret| signed_headers(secret, &body, SystemTime::now());
    assert_eq!(send(&body, signed(&SigningSecret::new("another secret").unwrap())).await, 401);
    assert_eq!(handled.load(Ordering::Relaxed), 0);
    assert_eq!(send(&body, signed(&secret)).await, 200);
    assert_eq!(send(&body, signed(&secret)).await, 200);
    assert_eq!(handled.load(Ordering::Relaxed), 1);
    server.abort();
}
