//! Explains why a request is refused: every step of the receiver, and what is known to go wrong there.

use std::env;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use sendarix_webhooks::contract::{SIGNATURE_HEADER, TIMESTAMP_HEADER};
use sendarix_webhooks::testing::ManualClock;
use sendarix_webhooks::verify::{PREVIOUS_SECRET_VARIABLE, SECRET_VARIABLE};
use sendarix_webhooks::{
    Head, Receiver, RefusalKind, SendarixEvent, Signature, SigningSecret, SigningSecrets, Timestamp,
};

use self::changes::Change;
use crate::output;

mod changes;

#[derive(Args)]
#[command(after_help = "Example:
  sendarix explain --body captured.json --headers captured.txt --at 2026-04-19T14:32:01Z

The secrets are read from SENDARIX_WEBHOOK_SECRET and, where it is set, SENDARIX_WEBHOOK_SECRET_PREVIOUS.

Exits with 1 if the request is refused.")]
pub(crate) struct Explain {
    /// The file that holds the body exactly as it arrived
    #[arg(long, value_name = "FILE")]
    body: PathBuf,

    /// The file that holds the headers, `Name: value` on each line
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,

    /// A header, `Name: value`; may be repeated
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    header: Vec<String>,

    /// Another environment variable with a secret, such as that of staging; may be repeated
    #[arg(long, value_name = "VARIABLE")]
    also: Vec<String>,

    /// When the request arrived, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,

    /// How far its timestamp may be from then, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    tolerance: u64,

    /// It came over HTTP/2, where white space around a header's value is a part of it
    #[arg(long)]
    http2: bool,
}

impl Explain {
    /// When it arrived.
    fn now(&self) -> SystemTime {
        self.at.map_or_else(SystemTime::now, SystemTime::from)
    }

    /// The receiver itself judges each step, so that this says nothing else.
    fn receiver(&self, secrets: SigningSecrets) -> anyhow::Result<Receiver> {
        let receiver = Receiver::builder(secrets).dangerously_without_dead_letters().clock(ManualClock::at(self.now()));
        Ok(receiver.timestamp_tolerance(Duration::from_secs(self.tolerance)).build()?)
    }
}

/// A secret, by the variable that holds it, exactly as it was found.
struct Secret {
    variable: String,
    /// Whether the receiver accepts what it signed.
    is_active: bool,
    bytes: Vec<u8>,
}

/// The default of `ReceiverBuilder::body_limit`.
const BODY_LIMIT: usize = 256 * 1024;

/// What is said, and whether it amounts to a refusal.
#[derive(Default)]
struct Report {
    lines: String,
    refused: bool,
}

impl Report {
    fn passes(&mut self, what: impl Display) {
        self.line("ok", what);
    }

    fn refuses(&mut self, what: impl Display) {
        self.refused = true;
        self.line("REFUSED", what);
    }

    fn keeps(&mut self, what: impl Display) {
        self.line("KEPT", what);
    }

    fn hint(&mut self, what: impl Display) {
        self.line("", what);
    }

    fn line(&mut self, judgement: &str, what: impl Display) {
        self.lines.push_str(&format!("{judgement:<8} {what}\n"));
    }
}

pub(crate) fn run(options: &Explain) -> anyhow::Result<ExitCode> {
    let body = read(&options.body)?;
    let mut lines: Vec<String> = options.header.clone();
    if let Some(path) = &options.headers {
        lines.extend(String::from_utf8_lossy(&read(path)?).lines().map(str::to_owned));
    }
    let headers: Vec<(&str, &str)> = lines.iter().filter_map(|line| header(line)).collect();
    let of = |wanted: &str| -> Vec<&str> {
        let named = headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| if options.http2 { *value } else { value.trim_matches([' ', '\t']) }).collect()
    };
    let mut report = Report::default();
    let is_padded = |(name, value): &&(&str, &str)| {
        (name.eq_ignore_ascii_case(SIGNATURE_HEADER) || name.eq_ignore_ascii_case(TIMESTAMP_HEADER))
            && value.trim_matches([' ', '\t']) != *value
    };
    if let (Some((name, _)), false) = (headers.iter().find(is_padded), options.http2) {
        report.hint(format!("{name} has white space around its value: HTTP/1 takes it off, HTTP/2 does not (--http2)"));
    }
    let timestamps = of(TIMESTAMP_HEADER);
    let signature = signature(&of(SIGNATURE_HEADER), options, &mut report)?;
    timestamp(&timestamps, options, &mut report)?;
    let secrets = secrets(options, &mut report)?;
    if body.len() > BODY_LIMIT {
        report
            .refuses(format!("the body has {} bytes, and the receiver's limit is {BODY_LIMIT} by default", body.len()));
    } else if let Some(signature) = signature {
        verify(&body, timestamps.first().copied(), &signature, &secrets, &mut report);
    }
    match SendarixEvent::decode(body) {
        Ok(event) if event.kind.event_type().is_none() => report.keeps(format!(
            "the body is an event of a type that this version does not know, {}: by default it becomes a dead letter",
            event.type_name().escape_debug()
        )),
        Ok(event) => report.passes(format!(
            "the body is an event: {}, {:?} of {}",
            event.type_name().escape_debug(),
            event.event_id,
            event.timestamp
        )),
        // Not refused: it is acknowledged and kept.
        Err(error) => report.keeps(format!("the body is no event, so it becomes a dead letter: {error}")),
    }
    let verdict = if report.refused { "This request is refused." } else { "This request is accepted." };
    output::print(format_args!("{}\n{verdict}", report.lines))?;
    Ok(if report.refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The name and value of a line such as curl, nginx or a proxy writes it.
fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.trim_start_matches(['>', '<', ' ']).split_once(':')?;
    Some((name.trim(), value.strip_prefix(' ').unwrap_or(value).trim_end_matches('\r')))
}

/// How the receiver judges the head of a request with this timestamp and these signatures, or the other way round.
fn judge(receiver: &Receiver, found: &[&str], name: &str, other: (&str, &str)) -> Result<(), RefusalKind> {
    let headers = found.iter().map(|value| (name, value.as_bytes())).chain([(other.0, other.1.as_bytes())]);
    receiver.admit(&Head::new("POST", headers)).map(drop).map_err(|refusal| refusal.kind())
}

fn signature(found: &[&str], options: &Explain, report: &mut Report) -> anyhow::Result<Option<Signature>> {
    let now = options.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string();
    let any_secret = SigningSecret::new("of no use here")?.into();
    let judged = judge(&options.receiver(any_secret)?, found, SIGNATURE_HEADER, (TIMESTAMP_HEADER, &now));
    let one = found.first().copied().unwrap_or_default();
    Ok(match judged {
        Ok(()) => {
            report.passes("the signature is 64 hex digits");
            Signature::parse(one.as_bytes()).ok()
        }
        Err(RefusalKind::SignatureMissing) => {
            report.refuses(format!("there is no {SIGNATURE_HEADER} header"));
            report.hint("a proxy may drop headers that it does not know; or this request is not from Sendarix");
            None
        }
        Err(RefusalKind::SignatureRepeated) => {
            report.refuses(format!("there are {} {SIGNATURE_HEADER} headers", found.len()));
            report.hint("something on the way adds one, or somebody tries which of them counts");
            None
        }
        Err(_) => {
            if let Err(error) = Signature::parse(one.as_bytes()) {
                report.refuses(error);
            }
            let signature = changes::signature(one.trim());
            if signature.is_some() {
                report.hint("what follows takes it for the hex digits that it stands for");
            }
            signature
        }
    })
}

fn timestamp(found: &[&str], options: &Explain, report: &mut Report) -> anyhow::Result<()> {
    let any_secret = SigningSecret::new("of no use here")?;
    let any_signature = any_secret.sign(b"").to_string();
    let receiver = options.receiver(any_secret.into())?;
    let judged = judge(&receiver, found, TIMESTAMP_HEADER, (SIGNATURE_HEADER, &any_signature));
    let one = found.first().copied().unwrap_or_default();
    let now = options.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let sent = one.parse::<u64>().unwrap_or_default();
    let (off, direction) = if sent > now { (sent - now, "ahead") } else { (now - sent, "ago") };
    let arrival = if options.at.is_some() { "its arrival" } else { "now; give its arrival with --at" };
    let measured = format!("the timestamp is {off} s {direction}, measured from {arrival}");
    match judged {
        Ok(()) => report.passes(measured),
        Err(RefusalKind::TimestampMissing) => {
            report.refuses(format!("there is no {TIMESTAMP_HEADER} header"));
            report.hint("a proxy may drop headers that it does not know");
        }
        Err(RefusalKind::TimestampRepeated) => {
            report.refuses(format!("there are {} {TIMESTAMP_HEADER} headers", found.len()));
        }
        Err(RefusalKind::TimestampMalformed) => {
            report.refuses(format!("the timestamp {one:?} is not Unix seconds"));
            report.hint("Sendarix sends an integer, such as 1776609121");
        }
        Err(kind) => {
            report.refuses(measured);
            let (tolerance, seconds) = (options.tolerance, sent / 1000);
            report.hint(if seconds <= now + tolerance && seconds + tolerance >= now {
                "it is right as milliseconds; Sendarix sends seconds, so look for what rewrites it"
            } else if kind == RefusalKind::TimestampTooNew {
                "the clock of this machine is slow: compare it with a time server"
            } else {
                "the clock of this machine is fast, or the request waited on its way, or somebody replays it"
            });
        }
    }
    Ok(())
}

fn secrets(options: &Explain, report: &mut Report) -> anyhow::Result<Vec<Secret>> {
    let mut secrets = Vec::new();
    let previous = env::var_os(PREVIOUS_SECRET_VARIABLE).filter(|value| !value.is_empty());
    let previous = previous.map(|_| PREVIOUS_SECRET_VARIABLE);
    let active = std::iter::once(SECRET_VARIABLE).chain(previous).map(|variable| (variable, true));
    for (variable, is_active) in active.chain(options.also.iter().map(|variable| (variable.as_str(), false))) {
        let value =
            env::var_os(variable).with_context(|| format!("{variable} is not set; it holds a secret to try"))?;
        let bytes = value.as_encoded_bytes().to_vec();
        match SigningSecret::new(&bytes) {
            Err(error) if is_active => report.refuses(format!("{variable}: {error}")),
            Err(error) => report.hint(format!("{variable}: {error}")),
            Ok(_) => {}
        }
        secrets.push(Secret { variable: variable.to_owned(), is_active, bytes });
    }
    Ok(secrets)
}

/// Looks for what was signed, and with what, until the signature fits.
fn verify(body: &[u8], timestamp: Option<&str>, signature: &Signature, secrets: &[Secret], report: &mut Report) {
    let mut bodies = changes::of_body(body);
    bodies.extend(timestamp.into_iter().flat_map(|timestamp| changes::of_timestamp(timestamp, body)));
    for secret in secrets {
        for (secret_change, key) in changes::of_secret(&secret.bytes) {
            for (body_changes, bytes) in &bodies {
                if key.sign(bytes) != *signature {
                    continue;
                }
                if secret.is_active && secret_change.is_none() && body_changes.is_empty() {
                    return report.passes("the secret signed exactly this body");
                }
                report.refuses("the secret did not sign this body");
                if !secret.is_active {
                    let other = &secret.variable;
                    report.hint(format!("the one in {other} did: the request is of another environment than this one"));
                }
                if let Some(change) = secret_change {
                    report.hint(format!("{} {}", secret.variable, change.0));
                }
                for Change(change) in body_changes {
                    report.hint(format!("what was signed is the body {change}"));
                }
                return;
            }
        }
    }
    report.refuses("the secret did not sign this body");
    if body.is_empty() {
        report.hint("the body is empty: something has read it before it was captured, or before it was verified");
    }
    report.hint("no change that is known makes it fit. Either the secret is another: copy it anew from the dashboard, and try those");
    report.hint("of other environments with --also. Or the body is not what was sent: capture it as bytes, before any JSON parser,");
    report.hint("character set or template has touched it.");
}
