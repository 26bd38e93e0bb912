//! The limits of a request's head and body.

use std::time::Duration;

use crate::inbox::{ConfigError, less};
use crate::verify::TOLERANCE;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) body_limit: usize,
    pub(super) body_timeout: Duration,
    pub(super) timestamp_tolerance: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { body_limit: 256 * 1024, body_timeout: Duration::from_secs(5), timestamp_tolerance: Some(TOLERANCE) }
    }
}

impl Settings {
    pub(super) fn check(&self, acknowledgement_deadline: Duration) -> Result<(), ConfigError> {
        let zero = [
            ("body_limit", self.body_limit == 0),
            ("body_timeout", self.body_timeout.is_zero()),
            ("timestamp_tolerance", self.timestamp_tolerance.is_some_and(|tolerance| tolerance.is_zero())),
        ];
        if let Some((setting, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::Zero { setting });
        }
        less("body_timeout", self.body_timeout, "acknowledgement_deadline", acknowledgement_deadline)
    }
}
