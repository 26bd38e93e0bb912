//! An event as one line of JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{
    BounceCategory, BounceType, ComplaintType, EventKind, FeedbackType, SendarixEvent, Suppression, Timestamp,
};

/// The envelope, and `data` as it was sent.
pub(super) fn nested(event: &SendarixEvent) -> Result<Vec<u8>, serde_json::Error> {
    #[derive(Serialize)]
    struct Line<'a> {
        event_id: &'a str,
        event_type: &'a str,
        timestamp: Timestamp,
        message_id: &'a str,
        recipient: &'a str,
        data: Option<Box<RawValue>>,
    }
    // A line break in JSON is white space between its parts: inside a text it would be escaped.
    let on_one_line = |data: &str| RawValue::from_string(data.replace(['\n', '\r'], " "));
    terminated(&Line {
        event_id: &event.event_id,
        event_type: event.type_name(),
        timestamp: event.timestamp,
        message_id: &event.message_id,
        recipient: &event.recipient,
        data: event.data().map(on_one_line).transpose()?,
    })
}

/// The columns of a flat row, in their order.
#[derive(Default, Serialize)]
struct Row<'a> {
    event_id: &'a str,
    event_type: &'a str,
    timestamp: Option<Timestamp>,
    message_id: &'a str,
    recipient: &'a str,
    is_permanent: bool,
    suppression: Option<&'static str>,
    smtp_code: Option<u16>,
    smtp_message: Option<&'a str>,
    bounce_type: Option<&'a str>,
    bounce_category: Option<&'a str>,
    was_automatic: Option<bool>,
    smtp_response: Option<&'a str>,
    server: Option<&'a str>,
    delivery_latency_ms: Option<i64>,
    complaint_type: Option<&'a str>,
    feedback_type: Option<&'a str>,
    ip: Option<&'a str>,
    user_agent: Option<&'a str>,
    os: Option<&'a str>,
    client: Option<&'a str>,
    link_id: Option<&'a str>,
    url: Option<&'a str>,
    data: Option<&'a str>,
}

/// The beginning of the year 1, the first of `BigQuery`, in Unix seconds.
const YEAR_1: i64 = -62_135_596_800;

/// A column for each documented field.
pub(super) fn flat(event: &SendarixEvent) -> Result<Vec<u8>, serde_json::Error> {
    let common = Row {
        event_id: &event.event_id,
        event_type: event.type_name(),
        timestamp: Some(event.timestamp.to_microsecond()).filter(|timestamp| timestamp.unix_seconds() >= YEAR_1),
        message_id: &event.message_id,
        recipient: &event.recipient,
        is_permanent: event.is_permanent(),
        suppression: event.suppression().map(Suppression::as_str),
        data: event.data(),
        ..Row::default()
    };
    terminated(&match &event.kind {
        EventKind::Delivered(delivered) => Row {
            smtp_response: delivered.smtp_response.as_deref(),
            server: delivered.server.as_deref(),
            // One number that a column cannot hold would cost a loader the whole file, and so would one time.
            delivery_latency_ms: delivered.delivery_latency_ms.and_then(|latency| latency.try_into().ok()),
            ..common
        },
        EventKind::Bounce(bounce) => Row {
            smtp_code: bounce.smtp_code,
            smtp_message: bounce.smtp_message.as_deref(),
            bounce_type: bounce.bounce_type.as_ref().map(BounceType::as_str),
            bounce_category: bounce.bounce_category.as_ref().map(BounceCategory::as_str),
            was_automatic: bounce.was_automatic,
            ..common
        },
        EventKind::SoftBounce(bounce) => Row {
            smtp_code: bounce.smtp_code,
            smtp_message: bounce.smtp_message.as_deref(),
            bounce_type: bounce.bounce_type.as_ref().map(BounceType::as_str),
            bounce_category: bounce.bounce_category.as_ref().map(BounceCategory::as_str),
            ..common
        },
        EventKind::Complaint(complaint) => Row {
            complaint_type: complaint.complaint_type.as_ref().map(ComplaintType::as_str),
            feedback_type: complaint.feedback_type.as_ref().map(FeedbackType::as_str),
            user_agent: complaint.user_agent.as_deref(),
            ..common
        },
        EventKind::Open(open) => Row {
            ip: open.ip.as_deref(),
            user_agent: open.user_agent.as_deref(),
            os: open.os.as_deref(),
            client: open.client.as_deref(),
            ..common
        },
        EventKind::Click(click) => Row {
            ip: click.ip.as_deref(),
            user_agent: click.user_agent.as_deref(),
            os: click.os.as_deref(),
            link_id: click.link_id.as_deref(),
            url: click.url.as_deref(),
            ..common
        },
        EventKind::Accepted(_) | EventKind::Unsubscribe(_) | EventKind::Deferred(_) | EventKind::Unknown(_) => common,
    })
}

/// What some loaders take for the end of a line, though JSON allows it in a text.
const LINE_BREAKS: [(char, &str); 3] = [('\u{85}', "\\u0085"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];

fn terminated(line: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_string(line)?;
    for (line_break, escaped) in LINE_BREAKS {
        if line.contains(line_break) {
            line = line.replace(line_break, escaped);
        }
    }
    line.push('\n');
    Ok(line.into_bytes())
}
