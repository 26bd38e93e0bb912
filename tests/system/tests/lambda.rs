//! `examples/lambda` as AWS Lambda runs it: the function asks for one request after the other, and posts its answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use sendarix_webhooks::testing::{Sample, signed_headers};
use sendarix_webhooks::{EventType, SigningSecret};
use sendarix_webhooks_system_tests::{Backend, Kind, SECRET, program};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};

/// The runtime API of Lambda, with one function.
#[derive(Clone)]
struct Runtime {
    requests: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<Value>,
}

async fn next(State(runtime): State<Runtime>) -> ([(HeaderName, &'static str); 3], Json<Value>) {
    let request = runtime.requests.lock().await.recv().await.unwrap();
    let head = [
        (HeaderName::from_static("lambda-runtime-aws-request-id"), "1"),
        (HeaderName::from_static("lambda-runtime-deadline-ms"), "9999999999999"),
        (HeaderName::from_static("lambda-runtime-invoked-function-arn"), "arn:aws:lambda:eu-west-1:1:function:f"),
    ];
    (head, Json(request))
}

async fn answer(State(runtime): State<Runtime>, Path(_): Path<String>, body: String) -> StatusCode {
    runtime.answers.send(serde_json::from_str(&body).unwrap()).await.unwrap();
    StatusCode::ACCEPTED
}

/// A request of an HTTP API (payload 2.0), its body as text or as base64.
fn request(body: &[u8], signature: &str, timestamp: &str, is_base64: bool) -> Value {
    let text = if is_base64 {
        base64::engine::general_purpose::STANDARD.encode(body)
    } else {
        String::from_utf8(body.to_vec()).unwrap()
    };
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": "/webhooks/sendarix", "rawQueryString": "",
        "headers": { "x-sendarix-signature": signature, "x-sendarix-timestamp": timestamp },
        "requestContext": {
            "accountId": "1", "apiId": "a", "domainName": "localhost", "domainPrefix": "a", "requestId": "1",
            "routeKey": "$default", "stage": "$default", "time": "19/Apr/2026:14:30:45 +0000", "timeEpoch": 0,
            "http": {
                "method": "POST", "path": "/webhooks/sendarix", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1",
                "userAgent": "a"
            }
        },
        "body": text, "isBase64Encoded": is_base64
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_runs_on_lambda() {
    let redis = Backend::start(Kind::Redis);
    let ((send, requests), (answers, mut answered)) = (mpsc::channel(1), mpsc::channel(1));
    let runtime = Runtime { requests: Arc::new(Mutex::new(requests)), answers };
    let api = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(answer))
        .with_state(runtime);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, api).await });

    let mut command = Command::new(program("lambda-example"));
    command.env("AWS_LAMBDA_RUNTIME_API", address).env("SENDARIX_WEBHOOK_SECRET", SECRET).env("REDIS_URL", redis.url());
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "f"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "s"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "g"),
    ] {
        command.env(name, value);
    }
    let mut function = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();

    let body = Sample::new(EventType::Open).message_id("msg_1").recipient("jörg@example.com").body();
    let [(_, signature), (_, timestamp)] =
        signed_headers(&SigningSecret::new(SECRET).unwrap(), &body, SystemTime::now());
    let mut status = async |request: Value| {
        send.send(request).await.unwrap();
        answered.recv().await.unwrap()["statusCode"].clone()
    };
    assert_eq!(status(request(&body, &signature, &timestamp, true)).await, 200);
    assert_eq!(status(request(&body, &signature, &timestamp, false)).await, 200, "a copy");
    assert_eq!(status(request(b"{}", &signature, &timestamp, false)).await, 401, "forged");

    function.kill().unwrap();
    let output = function.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "open: msg_1 to jörg@example.com\n", "handled once");
}
