//! The proof that a request is Sendarix's and fresh: secrets, signature, timestamp, clock.
//!
//! ```
//! use sendarix_webhooks::{Signature, SigningSecret, SigningSecrets};
//!
//! let secrets = SigningSecrets::from(SigningSecret::new("Jefe")?);
//! let header = b"5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
//! let label = secrets.verify(b"what do ya want for nothing?", &Signature::parse(header)?);
//! assert_eq!(label.as_deref(), Some("current"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod clock;
mod freshness;
mod head;
pub(crate) mod refresh;
mod secret;
mod signature;

pub use self::check::{TOLERANCE, check};
pub(crate) use self::check::{check_head, check_method};
pub use self::clock::{Clock, SystemClock};
use self::freshness::{check_fresh, parse_timestamp};
pub use self::head::Head;
pub use self::refresh::SecretsRefresh;
pub use self::secret::{PREVIOUS_SECRET_VARIABLE, SECRET_VARIABLE, SecretError, SigningSecret, SigningSecrets};
pub use self::signature::{Signature, SignatureError};
