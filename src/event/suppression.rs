//! The reasons to mail an address no more.

use std::fmt;
use std::str::FromStr;

/// Why an address should not be mailed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suppression {
    /// The address does not exist or takes no mail.
    PermanentBounce,
    /// The recipient called the mail spam.
    Complaint,
    /// The recipient asked for no more.
    Unsubscribe,
}

impl Suppression {
    /// Every reason.
    pub const ALL: &[Self] = &[Self::PermanentBounce, Self::Complaint, Self::Unsubscribe];

    /// The stable name, for a column of a suppression list: lower case, words joined by `_`.
    ///
    /// ```
    /// use sendarix_webhooks::Suppression;
    ///
    /// assert_eq!(Suppression::PermanentBounce.as_str(), "permanent_bounce");
    /// assert_eq!("complaint".parse(), Ok(Suppression::Complaint));
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PermanentBounce => "permanent_bounce",
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
        }
    }
}

impl fmt::Display for Suppression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a [`Suppression`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of the reasons to suppress an address: permanent_bounce, complaint, unsubscribe")]
pub struct UnknownSuppression(());

impl FromStr for Suppression {
    type Err = UnknownSuppression;

    /// # Errors
    ///
    /// The text is no name of a reason.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|known| known.as_str() == name).ok_or(UnknownSuppression(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_back_from_its_name_and_the_error_lists_all_names() {
        let error = Suppression::from_str("bounce").unwrap_err().to_string();
        for reason in Suppression::ALL {
            assert_eq!(reason.to_string().parse(), Ok(*reason));
            assert!(error.contains(reason.as_str()), "{reason}");
        }
    }
}
