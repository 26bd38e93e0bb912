//! Bodies as only a hostile or broken sender makes them. A clear answer to each.

use std::time::{Duration, Instant};

use sendarix_webhooks::dead_letter::DeadLetterReason;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{Delivery, EventType, ReceiverBuilder};

use crate::support::{Connection, Endpoint, FaultyStores, Front, Post, Server, Version, parity};

parity! {
    the_limit_is_the_longest_that_is_taken,
    the_default_limit_is_256_kib,
    a_length_over_the_limit_is_refused_before_the_body,
    a_body_that_is_announced_and_too_long_is_refused,
    a_length_that_cuts_the_body_is_never_handled,
    a_body_that_breaks_off_is_no_shorter_body,
    a_missing_length_means_no_body,
    a_body_in_pieces_is_taken,
    broken_chunks_are_never_handled,
    a_refused_body_that_goes_on_ends_with_its_connection,
    a_body_that_trickles_is_cut_off_at_its_time_limit,
    authentic_bodies_that_are_no_event_are_kept,
    authentic_bodies_that_are_odd_are_handled,
}

const LIMIT: usize = 4096;

/// An authentic event, padded to this many bytes.
fn event_of(bytes: usize) -> Vec<u8> {
    let mut body = Sample::new(EventType::Open).body();
    body.resize(bytes, b' ');
    body
}

async fn the_limit_is_the_longest_that_is_taken(front: Front) {
    let endpoint = Endpoint::start(front, |builder| builder.body_limit(LIMIT), |_| async {}).await;
    for (bytes, status) in [(LIMIT - 1, 200), (LIMIT, 200), (LIMIT + 1, 413)] {
        assert_eq!(endpoint.post(&event_of(bytes)).await.status, status, "{bytes} bytes");
        let reply = endpoint.connect().await.send_in_pieces(&Post::signed(&event_of(bytes)), 1000).await;
        assert_eq!(reply.status, status, "{bytes} bytes in pieces");
    }
    assert_eq!(endpoint.handled(), 4);
}

async fn the_default_limit_is_256_kib(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    assert_eq!(endpoint.post(&event_of(256 * 1024)).await.status, 200);
    assert_eq!(endpoint.post(&event_of(256 * 1024 + 1)).await.status, 413);
}

async fn a_length_over_the_limit_is_refused_before_the_body(front: Front) {
    let endpoint = Endpoint::start(front, |builder| builder.body_limit(LIMIT), |_| async {}).await;
    let post = Post::signed(b"").replacing("content-length", "10000000000");
    let mut exchange = endpoint.connect().await.begin_open(&post).await;
    exchange.reply().await.assert_is(413, "the body is too large");
}

async fn a_body_that_is_announced_and_too_long_is_refused(front: Front) {
    let endpoint = Endpoint::start(front, |builder| builder.body_limit(LIMIT), |_| async {}).await;
    let post = Post::signed(b"").replacing("content-length", "10000000000").with("expect", "100-continue");
    let mut exchange = endpoint.connect().await.begin_open(&post).await;
    if (front.server, front.version) == (Server::Actix, Version::Http1) {
        // actix-web asks for the body before any middleware is called; hyper when the body is read.
        assert_eq!(exchange.reply().await.status, 100);
    }
    exchange.reply().await.assert_is(413, "the body is too large");
}

async fn a_length_that_cuts_the_body_is_never_handled(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let short = Post::signed(&event_of(300)).replacing("content-length", "299");
    let reply = endpoint.begin(&short).await.try_reply().await;
    match front.version {
        Version::Http1 => reply.unwrap().assert_is(401, "the signature does not match the body"),
        // There the length ends nothing, and one that is wrong breaks the protocol.
        Version::Http2 => assert!(reply.is_none_or(|reply| reply.status >= 400)),
    }
    assert_eq!(endpoint.handled(), 0);
}

async fn a_body_that_breaks_off_is_no_shorter_body(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    // Correctly signed as far as it came, so that taking it for the whole would be noticed.
    let long = Post::signed(&event_of(300)).replacing("content-length", "301");
    let mut exchange = endpoint.connect().await.begin_open(&long).await;
    exchange.break_off().await;
    let reply = exchange.try_reply().await;
    assert!(reply.is_none_or(|reply| reply.status == 408));
    assert_eq!(endpoint.handled(), 0);
}

async fn a_missing_length_means_no_body(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let post = Post::signed(&event_of(300)).without("content-length");
    endpoint.send(&Post { body: Vec::new(), ..post }).await.assert_is(401, "the signature does not match the body");
}

async fn a_body_in_pieces_is_taken(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    for size in [1, 7, 5000] {
        let client = endpoint.connect().await;
        assert_eq!(client.send_in_pieces(&Post::signed(&event_of(300)), size).await.status, 200);
    }
    assert_eq!(endpoint.handled(), 3);
}

async fn broken_chunks_are_never_handled(front: Front) {
    if front.version == Version::Http2 {
        return; // which has no chunks that could be broken
    }
    let endpoint = Endpoint::succeeding(front).await;
    let mut broken = Post::signed(&event_of(300)).chunked(100);
    broken.body.truncate("64\r\n".len() + 100 + "\r\n".len());
    broken.body.extend_from_slice(b"nonsense\r\n");
    let mut connection = Connection::open(endpoint.addr).await;
    connection.write(&broken.bytes()).await;
    assert!(connection.try_read().await.is_none_or(|reply| reply.status >= 400));
    assert_eq!(endpoint.handled(), 0);
}

/// Otherwise a client without a secret could keep connections for ever.
async fn a_refused_body_that_goes_on_ends_with_its_connection(front: Front) {
    if front.version == Version::Http2 {
        return; // where the refusal ends the stream, and other streams need the connection
    }
    let configure = |builder: ReceiverBuilder| builder.body_limit(LIMIT);
    let endpoint = Endpoint::start(front, configure, |_| async {}).await;
    let configure = |builder: ReceiverBuilder| builder.body_timeout(Duration::from_millis(200));
    let impatient = Endpoint::start(front, configure, |_| async {}).await;
    let endless = |post: Post, bytes: usize| {
        let mut post = Post { body: vec![b' '; bytes], ..post }.chunked(1000);
        post.body.truncate(post.body.len() - b"0\r\n\r\n".len());
        post
    };
    let post = Post::signed(&event_of(300));
    let unsigned = post.clone().without("x-sendarix-signature");
    for (endpoint, post, status) in [
        (&endpoint, endless(unsigned.clone().method("HEAD"), 10), 405),
        (&endpoint, endless(unsigned, 10), 401),
        (&endpoint, endless(post.clone(), LIMIT + 1), 413),
        (&impatient, endless(post, 10), 408),
    ] {
        let mut connection = Connection::open(endpoint.addr).await;
        assert_eq!(connection.exchange(&post.bytes()).await.status, status);
        assert!(connection.try_read().await.is_none(), "{status}: and then the end of the connection");
    }
}

async fn a_body_that_trickles_is_cut_off_at_its_time_limit(front: Front) {
    let limit = Duration::from_secs(1);
    let endpoint = Endpoint::start(front, |builder| builder.body_timeout(limit), |_| async {}).await;
    let post = Post::signed(&event_of(300));
    let head = Post { body: Vec::new(), ..post.clone() };
    let mut exchange = endpoint.connect().await.begin_open(&head).await;
    let start = Instant::now();
    // A byte now and then keeps a limit on each read from ever being reached.
    let reply = loop {
        tokio::select! {
            reply = exchange.reply() => break reply,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        let byte = post.body[start.elapsed().as_millis() as usize / 100];
        exchange.write(&[byte]).await;
    };
    reply.assert_is(408, "the body did not arrive in time");
    assert!(start.elapsed() >= limit);
    assert_eq!(endpoint.handled(), 0);
}

/// What authentic bodies come to that are hardly events.
async fn authentic_bodies_that_are_no_event_are_kept(front: Front) {
    let stores = FaultyStores::default();
    let configured = stores.clone();
    let endpoint = Endpoint::start(front, |builder| builder.dead_letters(configured), |_| async {}).await;
    let event = String::from_utf8(event_of(300)).unwrap();
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    gzip.extend_from_slice(&[0xab; 40]);
    let nested = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "not a JSON object"),
        (b"   ".to_vec(), "not a JSON object"),
        (b"null".to_vec(), "not a JSON object"),
        (b"[]".to_vec(), "not a JSON object"),
        (br#"["evt_1","open","2026-04-19T14:32:01Z","msg_1","a@b",{}]"#.to_vec(), "not a JSON object"),
        (b"{}".to_vec(), "`event_type` is missing"),
        (b"{".to_vec(), "EOF while parsing"),
        (event.replace("\"recipient\"", "\"to\"").into(), "`recipient` is missing"),
        (event.replace("\"message_id\":\"", "\"message_id\":null,\"x\":\"").into(), "`message_id` is missing"),
        (event.replace("\"timestamp\":\"", "\"timestamp\":\"about ").into(), "`timestamp` is not a time"),
        (event.replace("\"timestamp\":", "\"timestamp\":1776609121000,\"x\":").into(), "`timestamp` is not a time"),
        (event.replacen("Z\"", "\"", 1).into(), "`timestamp` is not a time"),
        (event.replacen('{', "{\"event_type\":\"bounce\",", 1).into(), "`event_type` is there twice"),
        (event.replacen('{', "{\"recipient\":\"other@example.com\",", 1).into(), "`recipient` is there twice"),
        (event.clone().into_bytes().into_iter().chain(*b"{}").collect(), "trailing characters"),
        (event.replace("user@", "us\u{0}er@").into(), "control character"),
        (event.replace("user@", "\\ud800@").into(), "`recipient` is not a text that can be read"),
        (event.replace("user@", "\\u0000@").into(), "`recipient` has a NUL"),
        (event.replace("\"evt_", "\"\\u0000evt_").into(), "`event_id` has a NUL"),
        (event.replace("\"open\"", "\"op\\u0000en\"").into(), "`event_type` has a NUL"),
        ([event.as_bytes(), b"\xff"].concat(), "not UTF-8 after its first 300 bytes"),
        (event.encode_utf16().flat_map(u16::to_le_bytes).collect(), "key must be a string"),
        (gzip, "it looks like gzip"),
        (nested.into(), "`event_type` is missing"),
    ];
    let total = cases.len();
    for (body, error) in cases {
        endpoint.post(&body).await.assert_is(200, "acknowledged without processing");
        let letters = stores.letters();
        let letter = letters.iter().find(|letter| letter.body == body).expect("the exact body is kept");
        assert_eq!(letter.reason, DeadLetterReason::Malformed);
        assert!(letter.error.contains(error), "expected {error:?} in {:?}", letter.error);
    }
    assert_eq!((endpoint.handled(), stores.letters().len()), (0, total));
}

/// What would cost an event if it were taken too seriously.
async fn authentic_bodies_that_are_odd_are_handled(front: Front) {
    let kind = |delivery: Delivery| async move { format!("{:?}", delivery.event().kind) };
    let endpoint = Endpoint::start(front, |builder| builder, kind).await;
    // Not with `Sample::data`, which would tidy it up.
    let bounce = |data: &str| {
        let body = Sample::new(EventType::Bounce).data("here").body();
        String::from_utf8(body).unwrap().replace("\"here\"", data)
    };
    let deep = format!(r#"{{"x":{}{},"smtp_code":550}}"#, "[".repeat(200), "]".repeat(200));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        ([b"\xef\xbb\xbf", bounce("{}").as_bytes()].concat(), "Bounce"),
        (format!("\r\n\t {}", bounce("{}")).into(), "Bounce"),
        (bounce(&deep).into(), "smtp_code: Some(550)"),
        (bounce(r#"{"smtp_code":"550","smtp_message":550,"bounce_type":null}"#).into(), "smtp_code: Some(550)"),
        (bounce(r#"{"smtp_code":-1}"#).into(), "smtp_code: None"),
        (bounce(r#"{"smtp_code":1e999}"#).into(), "smtp_code: None"),
        (bounce(r#"{"smtp_code":1,"smtp_code":2}"#).into(), "smtp_code: Some(2)"),
        (bounce("null").into(), "smtp_code: None"),
        // JSON by its grammar, and yet beyond what a reader can make sense of.
        (bounce("1e999").into(), "Bounce"),
        (bounce("\"\\ud800\"").into(), "Bounce"),
        (bounce(r#"{"\ud800":1,"bounce_type":"hard"}"#).into(), "Bounce"),
        (bounce("[1,2]").into(), "smtp_code: None"),
        (bounce("\"text\"").into(), "smtp_code: None"),
        (bounce(r#"{"bounce_type":"new"}"#).into(), r#"bounce_type: Some(Other("new"))"#),
        (bounce("{}").replace("\"event_id\":", "\"x\":").into(), "Bounce"),
        (bounce("{}").replace("\"event_id\":\"", "\"event_id\":\"\",\"x\":\"").into(), "Bounce"),
        (bounce("{}").replace("\"event_id\":\"", "\"event_id\":null,\"x\":\"").into(), "Bounce"),
        (bounce("{}").replace("bounce", "b\\u006funce").into(), "Bounce"),
        // One name or value that cannot be read costs itself alone, and makes no bounce permanent.
        (bounce(r#"{"bounce_type":"soft","smtp_code":452,"\ud83d":"x"}"#).into(), "bounce_type: Some(Soft)"),
        (bounce(r#"{"bounce_type":"\ud83d","smtp_code":452}"#).into(), "smtp_code: Some(452)"),
        (bounce(r#"{"bounce_type":" Soft","smtp_code":"550.0"}"#).into(), "bounce_type: Some(Soft)"),
        (bounce(r#"{"smtp_code":550.0,"was_automatic":"true"}"#).into(), "smtp_code: Some(550)"),
        (bounce(r#"{"smtp_message":"a\u0000b","was_automatic":"true"}"#).into(), "smtp_message: Some(\"a\u{fffd}b\")"),
        (bounce("{}").replace("{}", "{},\"\\ud83d\":1").into(), "Bounce"),
        // `event_type` wins, whatever stands beside it.
        (bounce("{}").replacen('{', "{\"event\":{\"id\":7},", 1).into(), "Bounce"),
        (bounce("{}").replacen('{', "{\"event\":\"open\",", 1).into(), "Bounce"),
        (bounce("{}").replacen("\"event_id\":\"", "\"event_id\":1234567890123456789012,\"x\":\"", 1).into(), "Bounce"),
        (bounce("{}").replacen("\"evt_", &format!("\"{}", "x".repeat(300)), 1).into(), "Bounce"),
        (bounce("{}").replacen("\"event_id\":\"", "\"event_id\":{},\"x\":\"", 1).into(), "Bounce"),
        (bounce("{}").replacen("\"timestamp\":\"", "\"timestamp\":1776609121.5,\"x\":\"", 1).into(), "Bounce"),
        (bounce("{}").replacen("\"timestamp\":\"", "\"timestamp\":\"1776609121\",\"x\":\"", 1).into(), "Bounce"),
        (bounce("{}").replacen("Z\"", "+0000\"", 1).into(), "Bounce"),
    ];
    let total = cases.len();
    for (body, expected) in cases {
        let reply = endpoint.post(&body).await;
        let shown = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(reply.status, 200, "{shown}");
        assert!(reply.body.contains(expected), "{shown}: expected {expected:?} in {:?}", reply.body);
        endpoint.post(&body).await.assert_is(200, "already processed");
    }
    assert_eq!(endpoint.handled(), total);
}
