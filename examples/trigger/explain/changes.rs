//! What is known to happen to secrets, signatures and bodies on their way, and how to undo it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use sendarix_webhooks::{Signature, SigningSecret};

/// What was done, in words that follow the thing that it was done to.
#[derive(Clone, Copy)]
pub(super) struct Change(pub(super) &'static str);

/// The signature that a header stands for which is none.
pub(super) fn signature(header: &str) -> Option<Signature> {
    let bare = header.trim_matches(['"', '\'', ' ']);
    let bare = bare.split_once('=').filter(|(prefix, _)| prefix.len() < 10).map_or(bare, |(_, rest)| rest);
    let bare = bare.split_once(',').map_or(bare, |(first, _)| first).trim();
    Signature::parse(bare.as_bytes()).ok().or_else(|| {
        let bytes = base64(header.trim_matches(['"', '\'', ' '])).or_else(|| base64(bare))?;
        Signature::parse(const_hex::encode(bytes).as_bytes()).ok()
    })
}

/// The secret as it is, and as it may have been meant.
pub(super) fn of_secret(secret: &[u8]) -> Vec<(Option<Change>, SigningSecret)> {
    let text = String::from_utf8_lossy(secret);
    let trimmed = text.trim();
    let unquoted = trimmed.trim_matches(['"', '\'']);
    let named = unquoted.split_once('=').map(|(_, value)| value.trim_matches(['"', '\'']));
    let candidates = [
        (None, Some(secret.to_vec())),
        (Some("has white space around it that does not belong to it"), Some(trimmed.as_bytes().to_vec())),
        (Some("has quotes around it that do not belong to it"), Some(unquoted.as_bytes().to_vec())),
        (Some("holds `NAME=value`, and the secret is the value alone"), named.map(|value| value.as_bytes().to_vec())),
        (Some("is the base64 of the secret, which is what it should hold"), base64(unquoted)),
        (Some("is the hex of the secret, which is what it should hold"), unhex(unquoted)),
        (Some("holds the secret itself where its base64 is the secret"), Some(STANDARD.encode(unquoted).into_bytes())),
    ];
    let usable = |(change, bytes): (Option<&'static str>, Option<Vec<u8>>)| {
        Some((change.map(Change), SigningSecret::new(bytes?).ok()?))
    };
    candidates.into_iter().filter_map(usable).collect()
}

type Undo = fn(&[u8]) -> Option<Vec<u8>>;

/// Each undoes one thing, and says what the body was without it.
const OF_BODY: [(&str, Undo); 14] = [
    ("without the line break at its end", |body| {
        let end = body.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        body.get(..end).map(<[u8]>::to_vec)
    }),
    ("with a line break at its end", |body| Some([body, b"\n"].concat())),
    ("without the byte order mark at its beginning", |body| body.strip_prefix(b"\xEF\xBB\xBF").map(<[u8]>::to_vec)),
    ("with LF where it has CRLF now", |body| Some(text(body)?.replace("\r\n", "\n").into_bytes())),
    ("with CRLF where it has LF now", |body| {
        Some(text(body)?.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes())
    }),
    ("without the white space that a JSON serialiser has put in", |body| rewrite(body, "", "")),
    ("with the spaces behind commas and colons that a JSON serialiser has taken out", |body| rewrite(body, ", ", ": ")),
    ("with the spaces behind colons that a JSON serialiser has taken out", |body| rewrite(body, ",", ": ")),
    ("with the line breaks and indents of 2 that a JSON serialiser has taken out", |body| indented(body, 2)),
    ("with the line breaks and indents of 4 that a JSON serialiser has taken out", |body| indented(body, 4)),
    ("with \\u escapes where it has characters now", |body| Some(escaped(text(body)?).into_bytes())),
    ("with characters where it has \\u escapes now", unescaped),
    ("with \\/ where it has / now", |body| Some(text(body)?.replace('/', "\\/").into_bytes())),
    ("before it was taken for Latin-1 and encoded once more as UTF-8", |body| {
        text(body)?.chars().map(|c| u8::try_from(c).ok()).collect()
    }),
];

/// Whole encodings, which are undone first.
const WRAPPED: [(&str, Undo); 3] = [
    ("before it was encoded in base64, as API gateways do", |body| base64(text(body)?.trim())),
    ("before it was encoded in hex", |body| unhex(text(body)?.trim())),
    ("before it was put into a JSON string", |body| {
        serde_json::from_slice::<String>(body).ok().map(String::into_bytes)
    }),
];

/// So many bytes at most are tried, of which an event has some hundred. A large body takes its time to be signed.
const MAX_TOTAL: usize = 2 * 1024 * 1024;

/// The body as it is, and as it may have been: with up to two changes undone.
pub(super) fn of_body(body: &[u8]) -> Vec<(Vec<Change>, Vec<u8>)> {
    let mut found = vec![(Vec::new(), body.to_vec())];
    for (what, undo) in WRAPPED {
        found.extend(undo(body).map(|bytes| (vec![Change(what)], bytes)));
    }
    let (mut from, mut total) = (0, 0);
    for _ in 0..2 {
        let until = found.len();
        for index in from..until {
            for (what, undo) in OF_BODY {
                let Some((changes, bytes)) = found.get(index) else { continue };
                let Some(undone) = undo(bytes).filter(|undone| undone != bytes) else { continue };
                total += undone.len();
                if total > MAX_TOTAL {
                    return found;
                }
                let changes = changes.iter().copied().chain([Change(what)]).collect();
                found.push((changes, undone));
            }
        }
        from = until;
    }
    found
}

fn text(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(body).ok()
}

/// JSON with other white space between its parts, and every part as it is.
fn rewrite(body: &[u8], comma: &str, colon: &str) -> Option<Vec<u8>> {
    outside_of_strings(body, |c, rewritten| match c {
        ',' if !comma.is_empty() => rewritten.push_str(comma),
        ':' if !colon.is_empty() => rewritten.push_str(colon),
        c => rewritten.push(c),
    })
}

const MAX_DEPTH: i64 = 32;

/// JSON in lines, with so many spaces for each level.
fn indented(body: &[u8], width: usize) -> Option<Vec<u8>> {
    // What is nested deeper than any event would become very long.
    let depth = body.iter().scan(0_i64, |depth, byte| {
        *depth += i64::from(b"{[".contains(byte)) - i64::from(b"}]".contains(byte));
        Some(*depth)
    });
    if depth.max()? > MAX_DEPTH {
        return None;
    }
    let (mut level, mut opened) = (0_usize, false);
    outside_of_strings(body, move |c, rewritten| {
        let closes = matches!(c, '}' | ']');
        level -= usize::from(closes && level > 0);
        // Empty brackets stay on one line.
        if opened != closes {
            rewritten.extend(std::iter::once('\n').chain(std::iter::repeat_n(' ', level * width)));
        }
        opened = matches!(c, '{' | '[');
        level += usize::from(opened);
        match c {
            ',' => rewritten.extend(std::iter::once(",\n".to_owned()).chain([" ".repeat(level * width)])),
            ':' => rewritten.push_str(": "),
            c => rewritten.push(c),
        }
    })
}

/// Goes through the characters of JSON that are neither white space nor inside a string; to a string's first quote too.
fn outside_of_strings(body: &[u8], mut each: impl FnMut(char, &mut String)) -> Option<Vec<u8>> {
    let (mut rewritten, mut in_string, mut is_escaped) = (String::new(), false, false);
    for c in text(body)?.chars() {
        if in_string {
            rewritten.push(c);
            in_string = is_escaped || c != '"';
            is_escaped = !is_escaped && c == '\\';
        } else if !c.is_ascii_whitespace() {
            in_string = c == '"';
            each(c, &mut rewritten);
        }
    }
    Some(rewritten.into_bytes())
}

fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if c.is_ascii() {
            escaped.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

/// Only what is not ASCII: the others are escaped for a reason.
fn unescaped(body: &[u8]) -> Option<Vec<u8>> {
    let mut rest = text(body)?;
    let mut unescaped = String::new();
    while let Some((before, after)) = rest.split_once("\\u") {
        unescaped.push_str(before);
        let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
        let first = unit(after)?;
        let second = after.get(4..).and_then(|next| unit(next.strip_prefix("\\u")?));
        let (c, length) = match (char::from_u32(first.into()), second) {
            (Some(c), _) => (c, 4),
            (None, Some(second)) => (char::decode_utf16([first, second]).next()?.ok()?, 10),
            (None, None) => return None,
        };
        let (escape, behind) = after.split_at_checked(length)?;
        if c.is_ascii() {
            unescaped.extend(["\\u", escape]);
        } else {
            unescaped.push(c);
        }
        rest = behind;
    }
    unescaped.push_str(rest);
    Some(unescaped.into_bytes())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    engines.into_iter().find_map(|engine| engine.decode(text).ok()).filter(|bytes| !bytes.is_empty())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    const_hex::decode(text).ok().filter(|bytes| !bytes.is_empty())
}
