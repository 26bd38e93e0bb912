//! What is known to happen to secrets, signatures and bodies on their way, and how to undo it.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use sendarix_webhooks::{Signature, SigningSecret};

/// What was done, in words that follow the thing that it was done to.
#[derive(Clone, Copy)]
pub(super) struct Change(pub(super) &'static str);

/// The signature that a malformed header stands for.
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
        (Some("has lost its `whsec_`, which belongs to it"), Some([b"whsec_", unquoted.as_bytes()].concat())),
        (
            Some("has a `whsec_` in front that does not belong to it"),
            unquoted.strip_prefix("whsec_").map(|rest| rest.as_bytes().to_vec()),
        ),
        (
            Some("is `whsec_` and the base64 of the secret, which is what it should hold"),
            unquoted.strip_prefix("whsec_").and_then(base64),
        ),
        (Some("holds the secret itself where its base64 is the secret"), Some(STANDARD.encode(unquoted).into_bytes())),
    ];
    let usable = |(change, bytes): (Option<&'static str>, Option<Vec<u8>>)| {
        Some((change.map(Change), SigningSecret::new(bytes?).ok()?))
    };
    candidates.into_iter().filter_map(usable).collect()
}

type Make = fn(&[u8]) -> Option<Vec<u8>>;

/// What may happen to a body on its way, and its opposite, which may happen as well: how the body was before the one, and
/// before the other.
struct Pair([(&'static str, Make); 2]);

const PAIRS: [Pair; 14] = [
    Pair([
        ("without the line break at its end", |body| {
            let end = body.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
            body.get(..end).map(<[u8]>::to_vec)
        }),
        ("with a line break at its end", |body| Some([body, b"\n"].concat())),
    ]),
    Pair([
        ("without the byte order mark at its beginning", |body| body.strip_prefix(MARK).map(<[u8]>::to_vec)),
        ("with a byte order mark at its beginning", |body| Some([MARK, body].concat())),
    ]),
    Pair([
        ("with LF where it has CRLF now", |body| Some(text(body)?.replace("\r\n", "\n").into_bytes())),
        ("with CRLF where it has LF now", |body| {
            Some(text(body)?.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes())
        }),
    ]),
    Pair([
        ("without the white space that a JSON serializer has put in", |body| rewrite(body, "", "")),
        ("with the spaces behind commas and colons that a JSON serializer has taken out", |body| {
            rewrite(body, ", ", ": ")
        }),
    ]),
    Pair([
        ("with the spaces behind colons that a JSON serializer has taken out", |body| rewrite(body, ",", ": ")),
        ("with the spaces behind commas that a JSON serializer has taken out", |body| rewrite(body, ", ", ":")),
    ]),
    Pair([
        ("with the line breaks and indents of 2 that a JSON serializer has taken out", |body| indented(body, "  ")),
        ("with the line breaks and indents of 4 that a JSON serializer has taken out", |body| indented(body, "    ")),
    ]),
    Pair([
        ("with the line breaks and tabs that a JSON serializer has taken out", |body| indented(body, "\t")),
        ("with a line break at its end, and another before it", |body| Some([body, b"\r\n"].concat())),
    ]),
    Pair([
        ("with \\u escapes where it has characters now", |body| Some(escaped(text(body)?, |c| !c.is_ascii()))),
        ("with characters where it has \\u escapes now", |body| unescaped(body, |c| !c.is_ascii())),
    ]),
    Pair([
        (
            "with \\u0026 for & and the like where it has the characters now, as serializers that are safe for HTML write",
            |body| Some(escaped(text(body)?, |c| "<>&\u{2028}\u{2029}".contains(c))),
        ),
        ("with & for \\u0026 and the like, as serializers that do not care for HTML write", |body| {
            // What must be escaped in JSON stays so.
            unescaped(body, |c| !c.is_control() && !matches!(c, '"' | '\\'))
        }),
    ]),
    Pair([
        ("with \\u escapes for & < > ' + and = where it has the characters now", |body| {
            Some(escaped(text(body)?, |c| "<>&'+=".contains(c)))
        }),
        ("with &amp; and the like where it has the characters now", |body| {
            let body = text(body)?.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            Some(body.into_bytes())
        }),
    ]),
    Pair([
        ("with the characters where it has &amp;, &quot; and the like now", |body| {
            let entities =
                [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
            let plain = |body: String, (entity, plain): (&str, &str)| body.replace(entity, plain);
            Some(entities.into_iter().fold(text(body)?.to_owned(), plain).into_bytes())
        }),
        ("before \\/ was made of \\\\/", |body| Some(text(body)?.replace("\\\\/", "\\/").into_bytes())),
    ]),
    Pair([
        ("with \\/ where it has / now", |body| Some(text(body)?.replace('/', "\\/").into_bytes())),
        ("with / where it has \\/ now", |body| Some(text(body)?.replace("\\/", "/").into_bytes())),
    ]),
    Pair([
        ("before it was taken for Latin-1 and encoded once more as UTF-8", |body| {
            text(body)?.chars().map(|c| u8::try_from(c).ok()).collect()
        }),
        ("in UTF-8, where it is in Latin-1 now", |body| {
            Some(body.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes())
        }),
    ]),
    Pair([
        ("in UTF-8, where it is in UTF-16 now", |body| {
            let units = body.strip_prefix(b"\xFF\xFE").unwrap_or(body).chunks_exact(2);
            let units: Vec<u16> = units.filter_map(|unit| Some(u16::from_le_bytes(unit.try_into().ok()?))).collect();
            String::from_utf16(&units).ok().map(String::into_bytes)
        }),
        ("in UTF-16, where it is in UTF-8 now", |body| {
            Some(text(body)?.encode_utf16().flat_map(u16::to_le_bytes).collect())
        }),
    ]),
];

/// In UTF-8.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Whole encodings that are undone before anything else.
const DECODED: [(&str, Make); 7] = [
    ("before it was encoded in base64, as API gateways do", |body| base64(text(body)?.trim())),
    ("before it was encoded in hex", |body| unhex(text(body)?.trim())),
    ("before it was put into a JSON string", |body| {
        serde_json::from_slice::<String>(body).ok().map(String::into_bytes)
    }),
    ("before it was encoded like a form (%22, +)", |body| form(body).filter(|form| form != body)),
    ("before it was compressed by gzip", |body| inflated(flate2::read::GzDecoder::new(body))),
    ("before it was compressed by deflate", |body| inflated(flate2::read::ZlibDecoder::new(body))),
    ("before it was compressed by raw deflate", |body| inflated(flate2::read::DeflateDecoder::new(body))),
];

/// Whole encodings that a proxy on the way has undone.
const ENCODED: [(&str, Make); 3] = [
    ("in base64, before a gateway decoded it", |body| Some(STANDARD.encode(body).into_bytes())),
    ("as a JSON string, before it was taken out of it", |body| serde_json::to_vec(text(body)?).ok()),
    ("empty: something had read the body before it was signed, and nothing was left", |_| Some(Vec::new())),
];

/// With the timestamp in front, as other providers sign: how the header's value stands before the body.
pub(super) fn of_timestamp(timestamp: &str, body: &[u8]) -> Vec<(Vec<Change>, Vec<u8>)> {
    let forms = [
        (
            "with the timestamp and a dot in front, as other providers sign; Sendarix signs the body alone",
            format!("{timestamp}."),
        ),
        ("with `v0:`, the timestamp and a colon in front, as other providers sign", format!("v0:{timestamp}:")),
        ("with the timestamp in front, as other providers sign", timestamp.to_owned()),
    ];
    forms.into_iter().map(|(what, front)| (vec![Change(what)], [front.as_bytes(), body].concat())).collect()
}

/// How many bytes are tried at most; an event has some hundred. A large body takes its time to be signed.
const MAX_TOTAL: usize = 4 * 1024 * 1024;

/// The body as it is, and as it may have been: up to two changes before.
pub(super) fn of_body(body: &[u8]) -> Vec<(Vec<Change>, Vec<u8>)> {
    let mut found = vec![(Vec::new(), body.to_vec())];
    let made = |(what, make): (&'static str, Make)| Some((vec![Change(what)], make(body)?));
    let encoded = ENCODED.into_iter().filter_map(made);
    found.extend(DECODED.into_iter().filter_map(made));
    let (mut from, mut total) = (0, 0);
    for _ in 0..2 {
        let until = found.len();
        for index in from..until {
            for (what, make) in PAIRS.iter().flat_map(|pair| pair.0) {
                let Some((changes, bytes)) = found.get(index) else { continue };
                let Some(made) = make(bytes).filter(|made| made != bytes) else { continue };
                total += made.len();
                if total > MAX_TOTAL {
                    found.extend(encoded);
                    return found;
                }
                let changes = changes.iter().copied().chain([Change(what)]).collect();
                found.push((changes, made));
            }
        }
        from = until;
    }
    found.extend(encoded);
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

/// JSON in lines, with this indent for each level.
fn indented(body: &[u8], indent: &str) -> Option<Vec<u8>> {
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
            rewritten.extend(["\n", &indent.repeat(level)]);
        }
        opened = matches!(c, '{' | '[');
        level += usize::from(opened);
        match c {
            ',' => rewritten.extend([",\n", &indent.repeat(level)]),
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

/// JSON with escapes for the characters of which this is true.
fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Vec<u8> {
    let mut escaped = String::new();
    for c in text.chars() {
        if is_escaped(c) {
            let mut units = [0; 2];
            escaped.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            escaped.push(c);
        }
    }
    escaped.into_bytes()
}

/// JSON with characters for the escapes of which this is true.
fn unescaped(body: &[u8], is_unescaped: impl Fn(char) -> bool) -> Option<Vec<u8>> {
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
        if is_unescaped(c) {
            unescaped.push(c);
        } else {
            unescaped.extend(["\\u", escape]);
        }
        rest = behind;
    }
    unescaped.push_str(rest);
    Some(unescaped.into_bytes())
}

/// As `application/x-www-form-urlencoded` is read.
fn form(body: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut decoded) = (body.iter(), Vec::new());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [*bytes.next()?, *bytes.next()?];
                u8::from_str_radix(text(&digits)?, 16).ok()?
            }
            byte => *byte,
        });
    }
    Some(decoded)
}

/// What comes out, if it is not too much.
fn inflated(reader: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_TOTAL as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let engines = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD];
    engines.into_iter().find_map(|engine| engine.decode(text).ok()).filter(|bytes| !bytes.is_empty())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    const_hex::decode(text).ok().filter(|bytes| !bytes.is_empty())
}
