use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bolero::check;
use bytes::Bytes;
use http_body_util::Full;
use sendarix_webhooks::testing::signed_headers;
use sendarix_webhooks::{HandlerError, Receiver, SendarixLayer, SigningSecret};
use tower::{Layer, Service, ServiceExt, service_fn};

/// A request as somebody may send it who knows the secret, and who does not.
type Made = (Vec<u8>, Vec<(u8, Vec<u8>)>, Vec<u8>, Vec<u8>, bool);

const NAMES: [&str; 5] =
    ["x-sendarix-signature", "X-Sendarix-Timestamp", "content-length", "content-type", "transfer-encoding"];

/// No request panics or goes without an answer, and none is handled unless it is signed.
#[test]
fn anything() {
    let secret = SigningSecret::new("secret").unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let receiver = Receiver::builder(secret.clone()).build().unwrap();
    let count = Arc::clone(&handled);
    let service = SendarixLayer::new(receiver).layer(service_fn(move |_: http::Request<Full<Bytes>>| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, HandlerError>(http::Response::new(Full::<Bytes>::default())) }
    }));
    // A panic ends the test, so what it leaves behind does not matter.
    let service = Mutex::new(service);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    check!().with_type::<Made>().for_each(|(method, headers, body, path, is_signed)| {
        let mut request = http::Request::builder().method(if *is_signed { b"POST".as_slice() } else { method });
        for (name, value) in headers {
            request = request.header(NAMES[usize::from(*name) % NAMES.len()], value.as_slice());
        }
        if *is_signed {
            for (name, value) in signed_headers(&secret, body, SystemTime::now()) {
                request = request.header(name, value);
            }
        }
        // What no server would pass on.
        let uri = http::Uri::try_from(path.as_slice()).unwrap_or_default();
        let Ok(request) = request.uri(uri).body(Full::new(Bytes::from(body.clone()))) else { return };
        let before = handled.load(Ordering::Relaxed);
        let mut service = service.lock().unwrap();
        let response = runtime.block_on(async { service.ready().await.unwrap().call(request).await });
        let status = response.unwrap().status().as_u16();
        let was_handled = handled.load(Ordering::Relaxed) > before;
        let is_known = [200, 400, 401, 405, 413, 503].contains(&status);
        assert!(is_known, "{status}");
        assert!(*is_signed || !was_handled && status != 200, "{status} to a request that nobody signed");
    });
}
