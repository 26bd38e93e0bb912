//! What a refusal owes to HTTP, and to the proxy that carries it.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::map_request;
use axum::routing::post;
use http_body_util::Limited;
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Receiver, ReceiverBuilder, SendarixEvent, SendarixLayer};
use tokio::io::AsyncWriteExt;

use crate::support::{Client, Connection, Endpoint, Front, PATH, Post, Server, Version, parity, secret, serve};

parity! {
    refusals_keep_the_manners_of_http,
    a_refused_body_is_read_on_and_the_answer_arrives,
    a_large_refused_body_does_not_cost_the_answer,
    a_client_that_closes_its_sending_side_is_answered,
    white_space_around_a_header_belongs_to_it_in_http2_alone,
}

fn event() -> Vec<u8> {
    Sample::new(EventType::Open).body()
}

/// RFC 9110: a 401 has a challenge (15.5.2), a 405 the methods (15.5.6). RFC 9112, 9.6: a connection that will be closed is
/// announced.
async fn refusals_keep_the_manners_of_http(front: Front) {
    let endpoint = Endpoint::start(front, |builder: ReceiverBuilder| builder.body_limit(1000), |_| async {}).await;
    let signed = Post::signed(&event());
    let unsigned = signed.clone().without("x-sendarix-signature");
    let old = signed.clone().replacing("x-sendarix-timestamp", "1");
    let long = Post::signed(&[event(), vec![b' '; 1000]].concat());
    let forged = signed.clone().replacing("x-sendarix-signature", "0".repeat(64));
    let put = signed.clone().method("PUT");
    for (post, status, challenge, allow, unread) in [
        (&unsigned, 401, true, None, true),
        (&old, 401, true, None, true),
        (&long, 413, false, None, true),
        (&put, 405, false, Some("POST"), true),
        // The body has been read, so the connection can go on.
        (&forged, 401, true, None, false),
        (&signed, 200, false, None, false),
    ] {
        let reply = endpoint.send(post).await;
        assert_eq!(reply.status, status);
        let realm =
            reply.header("www-authenticate").is_some_and(|value| value.starts_with("Sendarix-Signature realm="));
        assert_eq!((realm, reply.header("allow")), (challenge, allow), "{status}");
        let closes = (unread && front.version == Version::Http1).then_some("close");
        assert_eq!(reply.header("connection").filter(|value| *value != "keep-alive"), closes, "{status}");
    }
}

/// The answer comes at once; the rest of the body is read, and then the connection ends in order.
async fn a_refused_body_is_read_on_and_the_answer_arrives(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let body = vec![b' '; 200_000];
    let unsigned = Post::signed(&body).without("x-sendarix-signature");
    if front.version == Version::Http2 {
        return endpoint.send(&unsigned).await.assert_is(401, "the X-Sendarix-Signature header is missing");
    }
    for post in [unsigned.clone(), unsigned.chunked(10_000)] {
        let mut connection = Connection::open(endpoint.addr).await;
        connection.write(&post.head()).await;
        // Nothing of the body is sent before the answer is there.
        connection.read().await.assert_is(401, "the X-Sendarix-Signature header is missing");
        for (number, piece) in post.body.chunks(10_000).enumerate() {
            assert!(connection.try_write(piece).await, "cut off after {number} pieces");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(connection.try_read().await.is_none(), "and then it ends");
    }
    assert_eq!(endpoint.handled(), 0);
}

/// A sender that writes faster than it reads has the answer waiting for it.
async fn a_large_refused_body_does_not_cost_the_answer(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    let unsigned = Post::signed(&vec![b' '; 5_000_000]).without("x-sendarix-signature");
    let text = "the X-Sendarix-Signature header is missing";
    // A declared length over the limit is refused as such only if the signature is there.
    for _ in 0..5 {
        endpoint.send(&unsigned).await.assert_is(401, text);
        if front.version == Version::Http2 {
            Client::open(endpoint.addr, front.version)
                .await
                .send_in_pieces(&unsigned, 100_000)
                .await
                .assert_is(401, text);
        }
    }
}

/// A client may shut its sending side once the request is out. Where the server lets go of such a request, it gets no answer.
async fn a_client_that_closes_its_sending_side_is_answered(front: Front) {
    // `axum::serve` lets go of it, and has no setting for that: see `abandoned requests` in the metrics.
    let lets_go = matches!(front.server, Server::AxumLayer | Server::AxumAround);
    if lets_go || front.version == Version::Http2 {
        return;
    }
    let endpoint = Endpoint::succeeding(front).await;
    for _ in 0..20 {
        let mut connection = Connection::open(endpoint.addr).await;
        connection.write(&Post::signed(&event()).bytes()).await;
        connection.0.shutdown().await.unwrap();
        assert_eq!(connection.read().await.status, 200);
    }
    assert_eq!(endpoint.handled(), 20);
}

async fn white_space_around_a_header_belongs_to_it_in_http2_alone(front: Front) {
    let endpoint = Endpoint::succeeding(front).await;
    for name in ["x-sendarix-signature", "x-sendarix-timestamp"] {
        let post = Post::signed(&event());
        let value = post.headers.iter().find(|(header, _)| header == name).unwrap().1.clone();
        let post = post.replacing(name, [b" ", value.as_slice(), b"\t"].concat());
        let status = endpoint.send(&post).await.status;
        // A server may refuse such a field by itself, as RFC 9113, 8.2.1 asks.
        let expected: &[u16] = if front.version == Version::Http1 { &[200] } else { &[400, 401] };
        assert!(expected.contains(&status), "{name}: {status}");
    }
}

/// What an outer layer says of the body keeps its meaning.
#[tokio::test]
async fn the_limit_and_the_decoder_of_an_outer_layer_keep_their_meaning() {
    let layer = || SendarixLayer::new(Receiver::builder(secret()).dangerously_without_dead_letters().build().unwrap());
    let route = || Router::new().route(PATH, post(|_: SendarixEvent| async {})).layer(layer());
    // As tower-http's `RequestBodyLimitLayer`.
    let limited = |request: Request| async { request.map(|body| Body::new(Limited::new(body, 100))) };
    // As tower-http's `RequestDecompressionLayer` with what is no gzip.
    let corrupt = |request: Request| async {
        let error = std::io::Error::new(std::io::ErrorKind::InvalidData, "corrupt deflate stream");
        request.map(|_| Body::from_stream(tokio_stream::once(Err::<axum::body::Bytes, _>(error))))
    };
    let limited = serve(route().layer(map_request(limited))).await;
    let corrupt = serve(route().layer(map_request(corrupt))).await;
    let post = Post::signed(&event());
    for post in [post.clone(), post.chunked(50)] {
        let reply = Connection::open(limited).await.exchange(&post.bytes()).await;
        reply.assert_is(413, "the body is too large");
        let reply = Connection::open(corrupt).await.exchange(&post.bytes()).await;
        reply.assert_is(400, "the body cannot be decoded");
    }
}
