//! The proof of a request as a pure function: no store, no clock, no runtime.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Head, Signature, SigningSecrets, check_fresh, parse_timestamp};
use crate::outcome::RefusalKind;

/// How far the timestamp header may be from now, in either direction: 5 min, as Sendarix recommends.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Checks that a request is a fresh POST, and that one of the secrets signed exactly these bytes. Returns the label of that
/// secret.
///
/// This is what a [`Receiver`](crate::Receiver) does before it claims the event, for places that have no tokio: a worker at
/// the edge, say, that passes requests on. It stops no duplicates and no replays.
///
/// ```
/// use std::time::SystemTime;
/// use sendarix_webhooks::{Head, RefusalKind, SigningSecret, SigningSecrets, verify};
///
/// let secrets = SigningSecrets::from(SigningSecret::new("Jefe")?);
/// let body = b"what do ya want for nothing?";
/// let headers = [
///     ("x-sendarix-signature", b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843".as_slice()),
///     ("x-sendarix-timestamp", b"0".as_slice()),
/// ];
/// let head = Head::new("POST", headers);
///
/// let label = verify::check(&secrets, &head, body, SystemTime::UNIX_EPOCH)?;
/// assert_eq!(&*label, "current");
/// let now = SystemTime::now();
/// assert_eq!(verify::check(&secrets, &head, body, now), Err(RefusalKind::TimestampTooOld));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The method is not POST; the signature or timestamp header is missing, repeated or malformed; the timestamp is more than
/// [`TOLERANCE`] from `now`; no secret signed the body.
pub fn check(secrets: &SigningSecrets, head: &Head<'_>, body: &[u8], now: SystemTime) -> Result<Arc<str>, RefusalKind> {
    check_method(head)?;
    let (signature, _) = check_head(head, Some(TOLERANCE), || now)?;
    secrets.verify(body, &signature).ok_or(RefusalKind::SignatureMismatch)
}

pub(crate) fn check_method(head: &Head<'_>) -> Result<(), RefusalKind> {
    if head.method == "POST" { Ok(()) } else { Err(RefusalKind::MethodNotAllowed) }
}

/// The signature that the body must have, and the timestamp header in Unix seconds, which is `None` where it is ignored.
pub(crate) fn check_head(
    head: &Head<'_>,
    tolerance: Option<Duration>,
    now: impl FnOnce() -> SystemTime,
) -> Result<(Signature, Option<u64>), RefusalKind> {
    let signature = head.signature.single(RefusalKind::SignatureMissing, RefusalKind::SignatureRepeated)?;
    let signature = Signature::parse(signature).map_err(|_| RefusalKind::SignatureMalformed)?;
    let Some(tolerance) = tolerance else { return Ok((signature, None)) };
    let timestamp = head.timestamp.single(RefusalKind::TimestampMissing, RefusalKind::TimestampRepeated)?;
    let sent_at = parse_timestamp(timestamp)?;
    check_fresh(sent_at, now(), tolerance)?;
    Ok((signature, Some(sent_at)))
}
