//! What every room needs to write to the log: the targets, text that is safe to write, a limit on lines.

mod line_limit;
mod text;

pub(crate) use self::line_limit::LineLimit;
pub(crate) use self::text::{Chain, Clipped, causes, milliseconds};

/// The target of everything but refusals.
pub const TARGET: &str = "sendarix_webhooks";

/// The target of refused requests, for a security audit. At most five lines a second are written for each reason; the next
/// one says in `suppressed` how many were left out before it. The metrics count all of them.
pub const AUDIT_TARGET: &str = "sendarix_webhooks::audit";
