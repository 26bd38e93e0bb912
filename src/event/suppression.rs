//! The reasons to mail an address no more.

use crate::closed_set::closed_set;

closed_set! {
    /// Why an address should not be mailed again.
    ///
    /// Its name is for a column of a suppression list:
    ///
    /// ```
    /// use sendarix_webhooks::Suppression;
    ///
    /// assert_eq!(Suppression::PermanentBounce.as_str(), "permanent_bounce");
    /// assert_eq!("complaint".parse(), Ok(Suppression::Complaint));
    /// ```
    pub enum Suppression {
        /// The address does not exist or takes no mail.
        PermanentBounce = "permanent_bounce",
        /// The recipient called the mail spam.
        Complaint = "complaint",
        /// The recipient asked for no more.
        Unsubscribe = "unsubscribe",
    }
}
