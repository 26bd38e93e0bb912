use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bolero::{TypeGenerator, check};
use bytes::Bytes;
use http_body_util::Full;
use sendarix_webhooks::testing::{ManualClock, signed_headers};
use sendarix_webhooks::{HandlerError, Receiver, SendarixEvent, SendarixLayer, SigningSecret};
use tower::{Layer, Service, ServiceExt, service_fn};

#[derive(Debug, TypeGenerator)]
struct Made {
    method: Option<Vec<u8>>,
    path: Vec<u8>,
    sender: Sender,
    headers: Vec<(u8, Vec<u8>)>,
    body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, TypeGenerator)]
enum Sender {
    /// A sender with the secret.
    Sendarix,
    /// A sender with another secret, which does everything else right.
    Forger,
    /// A sender that signs something else.
    Splicer,
    /// A sender that only makes up headers.
    Stranger,
}

const NAMES: [&str; 5] =
    ["x-sendarix-signature", "X-Sendarix-Timestamp", "content-length", "content-type", "transfer-encoding"];

/// A corpus means the same at any time.
const NOW: Duration = Duration::from_secs(1_776_600_000);

/// Every request is answered, what Sendarix sends with 200, and none is handled that it does not send.
#[test]
fn anything() {
    let [secret, another] = ["secret", "another"].map(|text| SigningSecret::new(text).unwrap());
    let handled = Arc::new(AtomicUsize::new(0));
    let now: SystemTime = UNIX_EPOCH + NOW;
    let receiver = Receiver::builder(secret.clone())
        .clock(ManualClock::at(now))
        .dangerously_without_dead_letters()
        .build()
        .unwrap();
    let count = Arc::clone(&handled);
    let service = SendarixLayer::new(receiver).layer(service_fn(move |_: http::Request<Full<Bytes>>| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, HandlerError>(http::Response::new(Full::<Bytes>::default())) }
    }));
    // A panic ends the test, so what it leaves behind does not matter.
    let service = Mutex::new(service);
    let seen = Mutex::new(HashSet::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    check!().with_type::<Made>().for_each(|made| {
        let mut request = http::Request::builder().method(made.method.as_deref().unwrap_or(b"POST"));
        let signed = match made.sender {
            Sender::Sendarix => Some(signed_headers(&secret, &made.body, now)),
            Sender::Forger => Some(signed_headers(&another, &made.body, now)),
            Sender::Splicer => Some(signed_headers(&secret, &[made.body.as_slice(), b" "].concat(), now)),
            Sender::Stranger => None,
        };
        for (name, value) in signed.into_iter().flatten() {
            request = request.header(name, value);
        }
        for (name, value) in &made.headers {
            request = request.header(NAMES[usize::from(*name) % NAMES.len()], value.as_slice());
        }
        // What no server would pass on.
        let uri = http::Uri::try_from(made.path.as_slice()).unwrap_or_default();
        let Ok(request) = request.uri(uri).body(Full::new(Bytes::from(made.body.clone()))) else { return };
        let is_post = request.method() == http::Method::POST;
        let before = handled.load(Ordering::Relaxed);
        let mut service = service.lock().unwrap();
        let response = runtime.block_on(async { service.ready().await.unwrap().call(request).await });
        let status = response.unwrap().status().as_u16();
        let was_handled = handled.load(Ordering::Relaxed) > before;
        if made.sender != Sender::Sendarix {
            assert!(!was_handled && [401, 405, 413].contains(&status), "{status} to {made:?}");
        } else if made.headers.is_empty() {
            assert_eq!(status, if is_post { 200 } else { 405 });
            let event = SendarixEvent::decode(made.body.clone());
            let is_event = event.as_ref().is_ok_and(|event| event.kind.event_type().is_some());
            let is_new = event.is_ok_and(|event| seen.lock().unwrap().insert(event.event_id.clone()));
            assert_eq!(was_handled, is_post && is_event && is_new);
        } else {
            assert!([200, 401, 405, 413].contains(&status), "{status} to {made:?}");
        }
    });
}
