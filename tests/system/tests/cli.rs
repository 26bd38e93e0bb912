//! The command line as a process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use sendarix_webhooks::destination::Destination;
use sendarix_webhooks::mail::{Mail, SuppressionEntry, SuppressionReason};
use sendarix_webhooks::testing::Sample;
use sendarix_webhooks::{EventType, Inbox, Outcome, SendarixEvent, SigningSecret, SqliteStore};
use sendarix_webhooks_system_tests::{Instance, SECRET, program};
use sendarix_webhooks_test_support::TempFile;

fn sendarix() -> Command {
    Command::new(program("sendarix"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A server that remembers in memory and prints a line for each event, `handled TYPE EVENT_ID MESSAGE_ID RECIPIENT`.
fn server() -> Instance {
    let mut command = Command::new(program("shared_store"));
    command.args(["--listen", "127.0.0.1:0", "--store", "memory"]);
    Instance::of_command("shared_store", &mut command, &[])
}

fn send(server: &Instance, arguments: &[&str]) -> Output {
    let mut command = sendarix();
    let (name, rest) = arguments.split_first().unwrap();
    command.arg(name).args(["--url", server.url()]).args(rest).env("SENDARIX_WEBHOOK_SECRET", SECRET).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn trigger_sends_everything_that_a_receiver_must_stand() {
    let server = server();
    let first = |arguments: &[&str]| {
        stdout(&send(&server, &[&["trigger"], arguments].concat())).lines().next().unwrap().to_owned()
    };
    assert!(first(&["bounce", "--event-id", "evt_mine"]).starts_with("200 bounce evt_mine "));
    assert!(first(&["bounce", "--event-id", "evt_mine"]).ends_with("already processed"));
    assert!(first(&["open", "--tamper"]).starts_with("401 "));
    assert!(first(&["open", "--stale"]).contains("the timestamp is too old"));

    let body = TempFile::new("body");
    std::fs::write(body.path(), b"not an event\n").unwrap();
    let kept = first(&["--body", body.path().to_str().unwrap()]);
    assert!(kept.starts_with("200 13 bytes ") && kept.ends_with("acknowledged without processing"), "{kept}");

    let all = send(&server, &["trigger"]);
    assert_eq!(stdout(&all).lines().filter(|line| line.starts_with("200 ")).count(), 9, "{all:?}");
    let many = send(&server, &["trigger", "all", "--count", "20", "--duplicates", "3", "--concurrency", "8"]);
    let summary = stdout(&many);
    assert!(summary.contains("180 × 200 \n") && summary.contains("720 requests in "), "{summary}");
    assert!(summary.contains("latency in ms: p50 "), "{summary}");

    let of_one = ["trigger", "accepted", "delivered", "open", "--message-id", "msg_1", "--recipient", "a@example.com"];
    assert!(send(&server, &of_one).status.success());

    let handled: Vec<String> = server.terminate().into_iter().filter(|line| line.starts_with("handled ")).collect();
    assert_eq!(handled.len(), 1 + 9 + 180 + 3, "{handled:?}");
    let of_one: Vec<Vec<&str>> = handled[190..].iter().map(|line| line.split(' ').collect()).collect();
    for (line, event) in of_one.iter().zip(["accepted", "delivered", "open"]) {
        assert_eq!((line[1], line[3], line[4]), (event, "msg_1", "a@example.com"));
    }
    assert_ne!(of_one[0][2], of_one[1][2], "each has another id");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_has_a_status_and_a_reason() {
    let with_secret =
        |arguments: &[&str]| sendarix().args(arguments).env("SENDARIX_WEBHOOK_SECRET", SECRET).output().unwrap();
    let nowhere = with_secret(&["trigger", "open", "--url", "http://127.0.0.1:1/"]);
    assert_eq!((nowhere.status.code(), stdout(&nowhere).starts_with("no answer open evt_")), (Some(1), true));
    let unknown = with_secret(&["trigger", "teleported"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("or all"), "{unknown:?}");
    let ambiguous = with_secret(&["trigger", "open", "click", "--event-id", "evt_1"]);
    assert_eq!(ambiguous.status.code(), Some(2));
    assert!(stderr(&ambiguous).contains("name one type"), "{ambiguous:?}");
    for command in ["trigger", "simulate"] {
        let without = sendarix().arg(command).env_remove("SENDARIX_WEBHOOK_SECRET").output().unwrap();
        assert_eq!(without.status.code(), Some(2));
        assert!(stderr(&without).contains("SENDARIX_WEBHOOK_SECRET is not set"), "{without:?}");
        let help = stdout(&sendarix().args([command, "--help"]).output().unwrap());
        assert!(help.contains("SENDARIX_WEBHOOK_SECRET") && help.contains("Exits with 1"), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&sendarix().args(["completions", shell]).output().unwrap()).contains("simulate"), "{shell}");
    }
}

/// As in `sendarix … | head -1`.
#[test]
fn a_closed_pipe_is_no_error() {
    let mut command = sendarix();
    command.args(["trigger", "--count", "2", "--url", "http://127.0.0.1:1/"]).env("SENDARIX_WEBHOOK_SECRET", SECRET);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(process.stdout.take());
    let output = process.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_decides_everything() {
    let ids = |server: Instance| {
        let mut lines: Vec<String> =
            server.terminate().into_iter().filter(|line| line.starts_with("handled")).collect();
        lines.sort();
        lines
    };
    let [first, second, other] = ["7", "7", "8"].map(|seed| {
        let server = server();
        let simulated = send(&server, &["simulate", "--messages", "20", "--seed", seed]);
        assert!(stdout(&simulated).contains(&format!("seed {seed}\n")), "{simulated:?}");
        ids(server)
    });
    assert_eq!(first, second);
    assert_ne!(first, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn simulate_delivers_every_event_once_although_answers_are_lost() {
    let server = server();
    let simulated = send(
        &server,
        &[
            "simulate",
            "--messages",
            "200",
            "--lose-answers",
            "0.3",
            "--duplicate",
            "0.2",
            "--reorder",
            "30",
            "--burst",
            "50",
            "--rate",
            "5000",
            "--compress",
            "10000",
        ],
    );
    let summary = stdout(&simulated);
    assert!(summary.contains("lost on its way") && summary.contains("latency in ms: p50 "), "{summary}");
    let events: usize = summary.split(' ').next().unwrap().parse().unwrap();
    let lines = server.terminate();
    let mut ids: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("handled ")?.split(' ').nth(1)).collect();
    let handled = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), handled), (events, events), "{summary}");
}

/// A request that was captured, and what was done to it.
struct Captured {
    secret: Vec<u8>,
    also: Option<&'static str>,
    body: Vec<u8>,
    headers: Vec<(&'static str, String)>,
}

impl Captured {
    fn new() -> Self {
        let sample = Sample::new(EventType::Bounce)
            .recipient("jörg@example.com")
            .data(r#"{"url":"https://a/b","list":[],"n":[1,{"a":"x, y: z"}]}"#);
        Self::signed(sample.body())
    }

    fn signed(body: Vec<u8>) -> Self {
        Self::signed_with(SECRET, body)
    }

    fn signed_with(secret: &str, body: Vec<u8>) -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let signature = SigningSecret::new(secret).unwrap().sign(&body).to_string();
        let headers = vec![("X-Sendarix-Signature", signature), ("X-Sendarix-Timestamp", seconds.to_string())];
        Self { secret: SECRET.into(), also: None, body, headers }
    }

    fn with_signature(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.headers[0].1 = change(&self.headers[0].1);
        self
    }

    fn with_timestamp(mut self, change: impl FnOnce(u64) -> String) -> Self {
        self.headers[1].1 = change(self.headers[1].1.parse().unwrap());
        self
    }

    fn with_body(mut self, change: impl FnOnce(&str) -> String) -> Self {
        self.body = change(std::str::from_utf8(&self.body).unwrap()).into_bytes();
        self
    }

    fn with_secret(self, secret: impl Into<Vec<u8>>) -> Self {
        Self { secret: secret.into(), ..self }
    }

    fn explain(&self) -> Output {
        self.explain_with(&[])
    }

    fn explain_with(&self, arguments: &[&str]) -> Output {
        use std::os::unix::ffi::OsStringExt;
        let (body, headers) = (TempFile::new("captured-body"), TempFile::new("captured-headers"));
        std::fs::write(body.path(), &self.body).unwrap();
        let lines: Vec<String> = self.headers.iter().map(|(name, value)| format!("> {name}: {value}\r\n")).collect();
        std::fs::write(headers.path(), format!("> POST /hook HTTP/1.1\r\n{}", lines.concat())).unwrap();
        let mut command = sendarix();
        command.arg("explain").arg("--body").arg(body.path()).arg("--headers").arg(headers.path());
        command.env("SENDARIX_WEBHOOK_SECRET", std::ffi::OsString::from_vec(self.secret.clone()));
        if let Some(other) = self.also {
            command.args(["--also", "STAGING"]).env("STAGING", other);
        }
        command.args(arguments).output().unwrap()
    }

    #[track_caller]
    fn is_explained_by(&self, parts: &[&str]) {
        let output = self.explain();
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.ends_with("This request is refused.\n"), "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} in:\n{text}");
        }
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[test]
fn explain_passes_what_is_in_order() {
    let output = Captured::new().explain();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 4, "{text}");
    let kept = Captured::signed(b"no event".to_vec()).explain();
    assert!(kept.status.success() && stdout(&kept).contains("becomes a dead letter"), "{kept:?}");
}

/// During a rotation, and beside a variable of another environment that is not in order.
#[test]
fn explain_accepts_what_the_receiver_accepts() {
    let explain = |secret: &str, previous: &str, also: &str| {
        let captured = Captured::new().with_secret(secret);
        let body = TempFile::new("rotation-body");
        std::fs::write(body.path(), &captured.body).unwrap();
        let mut command = sendarix();
        command.args(["explain", "--also", "STAGING", "--body"]).arg(body.path());
        for (name, value) in &captured.headers {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        command.env("SENDARIX_WEBHOOK_SECRET", secret).env("SENDARIX_WEBHOOK_SECRET_PREVIOUS", previous);
        command.env("STAGING", also).output().unwrap()
    };
    assert!(explain("the new one", SECRET, "another").status.success());
    assert!(explain(SECRET, "", "another\n").status.success());
    assert!(!explain("the new one", "", SECRET).status.success());
}

/// What a confused sender sends.
#[test]
fn explain_is_not_exhausted_by_what_it_explains() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    Captured::new().with_body(|_| deep.clone()).is_explained_by(&["no change that is known makes it fit"]);
    Captured::new().with_body(|_| "x".repeat(300_000)).is_explained_by(&["the receiver's limit is 262144"]);
}

#[test]
fn explain_knows_what_happens_to_headers() {
    use base64::Engine;
    let base64 = |hex: &str| base64::engine::general_purpose::STANDARD.encode(const_hex::decode(hex).unwrap());
    Captured::new().with_signature(|hex| format!("sha256={hex}")).is_explained_by(&["`sha256=` prefix"]);
    Captured::new().with_signature(base64).is_explained_by(&["base64", "ok       the secret signed exactly this body"]);
    Captured::new().with_signature(|hex| format!("{hex}, {hex}")).is_explained_by(&["a proxy may have joined"]);
    Captured::new().with_signature(|hex| hex[..40].to_owned()).is_explained_by(&["40 bytes instead of 64"]);
    Captured::new().with_timestamp(|now| (now - 3600).to_string()).is_explained_by(&["3600 s ago", "clock"]);
    Captured::new().with_timestamp(|now| (now + 3600).to_string()).is_explained_by(&["s ahead", "is slow"]);
    Captured::new().with_timestamp(|now| (now * 1000).to_string()).is_explained_by(&["right as milliseconds"]);
    Captured::new().with_timestamp(|now| format!("{now}.5")).is_explained_by(&["is not Unix seconds"]);
    let mut none = Captured::new();
    none.headers.clear();
    none.is_explained_by(&["there is no x-sendarix-signature header", "there is no x-sendarix-timestamp header"]);
    let mut two = Captured::new();
    two.headers.push(two.headers[0].clone());
    two.is_explained_by(&["there are 2 x-sendarix-signature headers"]);
}

#[test]
fn explain_knows_what_happens_to_secrets() {
    use base64::Engine;
    let base64 = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let captured = || Captured::new();
    captured().with_secret(format!("{SECRET}\n")).is_explained_by(&["line break", "white space around it"]);
    captured().with_secret(format!("\"{SECRET}\"")).is_explained_by(&["has quotes around it"]);
    captured().with_secret(format!("SECRET={SECRET}")).is_explained_by(&["holds `NAME=value`"]);
    captured().with_secret(base64).is_explained_by(&["is the base64 of the secret"]);
    captured().with_secret(const_hex::encode(SECRET)).is_explained_by(&["is the hex of the secret"]);
    let mut staging = captured().with_secret("the one of this environment");
    staging.also = Some(SECRET);
    staging.is_explained_by(&["the one in STAGING did: the request is of another environment"]);
    captured().with_secret("another").is_explained_by(&["no change that is known makes it fit"]);
}

#[test]
fn explain_knows_what_happens_to_bodies() {
    use base64::Engine;
    let value = |body: &str| serde_json::from_str::<serde_json::Value>(body).unwrap();
    let base64 = |body: &str| base64::engine::general_purpose::STANDARD.encode(body);
    let captured = || Captured::new();
    captured().with_body(|body| format!("{body}\r\n")).is_explained_by(&["without the line break at its end"]);
    captured().with_body(|body| format!("\u{feff}{body}")).is_explained_by(&["without the byte order mark"]);
    let pretty = |body: &str| serde_json::to_string_pretty(&value(body)).unwrap();
    captured().with_body(pretty).is_explained_by(&["without the white space that a JSON serializer has put in"]);
    captured().with_body(base64).is_explained_by(&["before it was encoded in base64"]);
    captured().with_body(|body| serde_json::to_string(body).unwrap()).is_explained_by(&["put into a JSON string"]);
    let latin = |body: &str| body.bytes().map(char::from).collect();
    captured().with_body(latin).is_explained_by(&["taken for Latin-1"]);
    captured()
        .with_body(|body| body.replace('ö', "\\u00f6"))
        .is_explained_by(&["characters where it has \\u escapes now"]);
    let both = |body: &str| format!("{}\n", pretty(body));
    captured().with_body(both).is_explained_by(&["white space that a JSON serializer has put in"]);
    captured()
        .with_body(|body| body.replace("hard", "soft").replace("[1,", "[2,"))
        .is_explained_by(&["no change that is known"]);

    // What Sendarix may send, and a serializer on the way makes compact.
    let sent = || String::from_utf8(captured().body).unwrap();
    let compact = |sent: String, what: &str| {
        let body = sent.clone();
        let captured = Captured::signed(sent.into_bytes()).with_body(|sent| value(sent).to_string());
        assert_ne!(captured.body, body.into_bytes());
        captured.is_explained_by(&[what]);
    };
    compact(pretty(&sent()), "with the line breaks and indents of 2");
    compact(sent().replace('ö', "\\u00f6"), "with \\u escapes where it has characters now");
    compact(sent().replace('/', "\\/"), "with \\/ where it has / now");
    let spaced = sent()
        .replace("\",\"", "\", \"")
        .replace("\":", "\": ")
        .replace("},", "}, ")
        .replace("],", "], ")
        .replace("[1,", "[1, ");
    compact(spaced, "with the spaces behind commas and colons");
}

/// Each change and its opposite: something on the way may do the one or the other.
#[test]
fn explain_knows_what_serializers_and_decoders_do_in_both_directions() {
    use std::io::Write;
    let captured = || Captured::new();
    // Nothing else in it is changed by what changes the mark.
    let sent = |mark: &str| {
        let text = String::from_utf8(captured().body).unwrap();
        text.replace("jörg", &format!("jo{mark}rg")).replace("https://a/b", "a")
    };
    // (what Sendarix signed, what arrived, what is said)
    for (signed, arrived, said) in [
        ("\\u0026", "&", "with \\u0026 for & and the like where it has the characters now"),
        ("&", "\\u0026", "with & for \\u0026 and the like"),
        ("<", "\\u003c", "with & for \\u0026 and the like"),
        ("+", "\\u002B", "with & for \\u0026 and the like"),
        ("\\u002b", "+", "with \\u escapes for & < > ' + and ="),
        ("&", "&amp;", "with the characters where it has &amp;"),
        ("&amp;", "&", "with &amp; and the like where it has the characters now"),
        ("/", "\\/", "with / where it has \\/ now"),
        ("\\/", "/", "with \\/ where it has / now"),
        ("ö", "\\u00f6", "with characters where it has \\u escapes now"),
        ("\\u00f6", "ö", "with \\u escapes where it has characters now"),
    ] {
        let captured = Captured::signed(sent(signed).into_bytes());
        captured.with_body(|body| body.replace(signed, arrived)).is_explained_by(&[said]);
    }
    let gzip = |body: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    };
    let bytes = |make: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut captured = captured();
        captured.body = make(&captured.body);
        captured
    };
    bytes(&gzip).is_explained_by(&["before it was compressed by gzip"]);
    let utf16 = |body: &[u8]| str::from_utf8(body).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect();
    bytes(&utf16).is_explained_by(&["in UTF-8, where it is in UTF-16 now"]);
    let form = |body: &[u8]| body.iter().flat_map(|byte| format!("%{byte:02X}").into_bytes()).collect();
    bytes(&form).is_explained_by(&["before it was encoded like a form"]);
    let body = captured().body;
    let decoded = Captured { body: body.clone(), ..Captured::signed(base64_of(&body).into_bytes()) };
    decoded.is_explained_by(&["in base64, before a gateway decoded it"]);
    // An empty body, on either side.
    bytes(&|_| Vec::new()).is_explained_by(&["the body is empty: something has read it before it was captured"]);
    let unread = Captured { body: captured().body, ..Captured::signed(Vec::new()) };
    unread.is_explained_by(&["what was signed is the body empty"]);
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn explain_knows_other_providers_habits() {
    let captured = Captured::new();
    let timestamp = captured.headers[1].1.clone();
    let signed = [timestamp.as_bytes(), b".", &captured.body].concat();
    let mut dotted = Captured { body: captured.body, ..Captured::signed(signed) };
    dotted.headers[1].1 = timestamp;
    dotted.is_explained_by(&["with the timestamp and a dot in front, as other providers sign"]);

    let with = |secret: &str| Captured::new().with_secret(secret);
    with(&format!("whsec_{SECRET}")).is_explained_by(&["has a `whsec_` in front that does not belong to it"]);
    let prefixed = Captured::signed_with(&format!("whsec_{SECRET}"), Captured::new().body);
    prefixed.is_explained_by(&["has lost its `whsec_`, which belongs to it"]);
    Captured::new().with_signature(|hex| format!("{hex}00")).is_explained_by(&["look for what adds to it"]);
}

/// The verdict is that of the receiver, over either version of HTTP.
#[test]
fn explain_says_of_white_space_what_the_receiver_says() {
    let padded = Captured::new().with_signature(|hex| format!("{hex} "));
    let output = padded.explain();
    assert!(output.status.success() && stdout(&output).contains("HTTP/2 does not (--http2)"), "{output:?}");
    let output = padded.explain_with(&["--http2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("white space around its value"), "{output:?}");
}

#[test]
fn explain_says_that_an_unknown_type_becomes_a_letter() {
    let body = Sample::of_unknown_type("teleported").body();
    let output = Captured::signed(body).explain();
    assert!(output.status.success(), "{output:?}");
    assert!(
        stdout(&output).contains("KEPT     the body is an event of a type that this version does not know"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suppression_list_is_exported_imported_and_asked() {
    let file = TempFile::new("mail.sqlite");
    let mail = Mail::new(SqliteStore::open(file.path()).unwrap());
    let event = Sample::new(EventType::Complaint).recipient("\"Lee, Ann\" <ann@example.com>");
    let inbox = Inbox::builder("default").store(mail.store().clone()).build().unwrap();
    let event = SendarixEvent::decode(event.event_id("evt_1").message_id("msg_1").body()).unwrap();
    let recorder = mail.clone();
    assert_eq!(inbox.process(event, move |delivery| recorder.take(delivery)).await.unwrap(), Outcome::Processed);

    let place = format!("sqlite:{}", file.path().display());
    let run =
        |arguments: &[&str]| sendarix().args(["suppressions", "--store", &place]).args(arguments).output().unwrap();
    let exported = run(&["export"]);
    let csv = stdout(&exported);
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("recipient,reason,since,event_id,message_id"), "{exported:?}");
    let line = lines.next().unwrap();
    assert!(line.starts_with("\"\"\"Lee, Ann\"\" <ann@example.com>\",complaint,20"), "{line}");
    assert!(line.ends_with("Z,evt_1,msg_1"), "{line}");

    let imported = TempFile::new("import.csv");
    std::fs::write(imported.path(), "recipient, since\nbob@example.com,\n\"carl@example.com\",2026-01-01T00:00:00Z\n")
        .unwrap();
    let path = imported.path().to_str().unwrap();
    assert!(stderr(&run(&["import", path])).contains("2 imported"));
    let checked = run(&["check", "BOB@example.com", "carl@example.com", "dora@example.com"]);
    assert_eq!(checked.status.code(), Some(1));
    let told = stdout(&checked);
    assert!(told.contains("carl@example.com manual since 2026-01-01T00:00:00Z\n"), "{told}");
    assert!(told.contains("dora@example.com may be mailed\n"), "{told}");
    assert!(run(&["release", "bob@example.com", "--because", "by hand"]).status.success());
    assert_eq!(run(&["release", "bob@example.com", "--because", "again"]).status.code(), Some(1));
    assert!(run(&["check", "bob@example.com"]).status.success());

    // An erased address is found by the key alone, so that no answer is given without it.
    let key = [7; 32];
    let erasing = Mail::builder(mail.store().clone()).erasure_key(key).build().unwrap();
    erasing.erase("carl@example.com").await.unwrap();
    let unknown = run(&["check", "carl@example.com"]);
    assert_eq!((unknown.status.code(), stdout(&unknown).as_str()), (Some(2), ""), "{unknown:?}");
    assert!(stderr(&unknown).contains("SENDARIX_ERASURE_KEY"), "{unknown:?}");
    assert_eq!(run(&["release", "carl@example.com", "--because", "by hand"]).status.code(), Some(2));
    let known = run(&["--erasure-key", &const_hex::encode(key), "check", "carl@example.com"]);
    assert_eq!(known.status.code(), Some(1), "{known:?}");

    // A broken file changes nothing, and the message says where it is broken.
    for (broken, reason) in [
        ("recipient\neve@example.com\n\"\"\n", "entry 2: it has no recipient"),
        ("recipient,since\neve@example.com,2026-01-01T00:00:00Z\nfay@example.com,yesterday\n", "entry 2: since: "),
        (
            "recipient,reason\neve@example.com,manual\nfay@example.com,dislike\n",
            "entry 2: reason: the name must be one of:",
        ),
        ("address\neve@example.com\n", "missing field `recipient`"),
    ] {
        std::fs::write(imported.path(), broken).unwrap();
        let failed = run(&["import", path]);
        assert_eq!(failed.status.code(), Some(2), "{failed:?}");
        assert!(stderr(&failed).contains(reason), "{failed:?}");
        assert!(!erasing.is_suppressed("eve@example.com").await.unwrap());
    }
    // More than any buffer holds, to a reader that has gone.
    let many: Vec<_> = (0..5000)
        .map(|number| {
            SuppressionEntry::new(format!("user{number}@example.com"), SuppressionReason::Manual, SystemTime::now())
        })
        .collect();
    erasing.suppress(&many).await.unwrap();
    let mut closed = sendarix();
    closed.args(["suppressions", "--store", &place, "export"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut closed = closed.spawn().unwrap();
    drop(closed.stdout.take());
    let closed = closed.wait_with_output().unwrap();
    assert_eq!((closed.status.code(), stderr(&closed).as_str()), (Some(0), ""));
    let nowhere = sendarix().args(["suppressions", "--store", "memory", "export"]).output().unwrap();
    assert!(stderr(&nowhere).contains("PostgreSQL or SQLite"), "{nowhere:?}");
}
