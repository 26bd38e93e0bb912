//! Text that is safe to write to the log.

use std::error::Error;
use std::fmt;
use std::time::Duration;

/// Text from outside: escaped, so that it can forge no log line, and cut.
pub(crate) struct Clipped<'a>(pub(crate) &'a str);

const MAX_CHARS: usize = 128;

/// In characters, once they are escaped.
const MAX_ESCAPED: usize = 256;

/// In quotes, so that it cannot look like another field.
impl fmt::Debug for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is escaped becomes up to ten times as long.
        let mut room = MAX_ESCAPED;
        for (index, c) in self.0.chars().enumerate() {
            let escaped = c.escape_debug();
            match room.checked_sub(escaped.len()) {
                Some(left) if index < MAX_CHARS => room = left,
                _ => return f.write_str("…"),
            }
            write!(f, "{escaped}")?;
        }
        Ok(())
    }
}

/// An error and its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        for cause in causes(self.0).skip(1) {
            let cause = cause.to_string();
            // Some errors tell their cause themselves.
            if !said.ends_with(&cause) {
                write!(f, ": {cause}")?;
            }
            said = cause;
        }
        Ok(())
    }
}

/// An error, its cause, the cause of that, and so on.
pub(crate) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// A duration for the log, to the microsecond: more digits say nothing.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_an_error_tells_itself_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Outer(&'static str, #[source] std::fmt::Error);
        let cause = std::fmt::Error;
        let told = |text| Chain(&Outer(text, cause)).to_string();
        assert_eq!(told("the store failed"), format!("the store failed: {cause}"));
        assert_eq!(Chain(&Outer("", cause)).to_string(), format!(": {cause}"));
        let text: &'static str = Box::leak(format!("the store failed: {cause}").into_boxed_str());
        assert_eq!(told(text), text);
    }

    #[test]
    fn text_from_outside_is_escaped_and_cut() {
        let hostile = format!("id\n\u{1b}[31m\u{202e}{}", "é".repeat(500));
        let shown = Clipped(&hostile).to_string();
        assert!(shown.starts_with(r"id\n\u{1b}[31m\u{202e}é"), "{shown}");
        assert!(shown.ends_with("é…"), "{shown}");
        assert_eq!(shown.chars().filter(|c| *c == 'é').count(), MAX_CHARS - 9);
        assert_eq!(Clipped("evt_1").to_string(), "evt_1");
        let long = "\u{e0001}".repeat(128);
        assert!(Clipped(&long).to_string().chars().count() <= MAX_ESCAPED + 1);
    }
}
