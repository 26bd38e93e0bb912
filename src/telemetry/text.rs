//! Text for the log.

use std::error::Error;
use std::fmt;

/// Text from outside: escaped, so that it can forge no log line, and cut.
pub(crate) struct Clipped<'a>(pub(crate) &'a str);

const MAX_CHARS: usize = 128;

/// In quotes, so that it cannot look like another field.
impl fmt::Debug for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for Clipped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (shown, cut) = match self.0.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => self.0.split_at(end),
            None => (self.0, ""),
        };
        fmt::Display::fmt(&shown.escape_debug(), f)?;
        f.write_str(if cut.is_empty() { "" } else { "…" })
    }
}

/// An error and its causes, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_escaped_and_cut() {
        let hostile = format!("id\n\u{1b}[31m\u{202e}{}", "é".repeat(500));
        let shown = Clipped(&hostile).to_string();
        assert!(shown.starts_with(r"id\n\u{1b}[31m\u{202e}é"), "{shown}");
        assert!(shown.ends_with("é…"), "{shown}");
        assert_eq!(shown.chars().filter(|c| *c == 'é').count(), MAX_CHARS - 9);
        assert_eq!(Clipped("evt_1").to_string(), "evt_1");
    }
}
