//! The shared secrets: one or several at once, labelled, exchanged while the application runs.

use std::env::VarError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use hmac::{Hmac, KeyInit, Mac};
use regex_syntax::hir::{Class, ClassUnicode, HirKind};
use sha2::Sha256;
use subtle::ConditionallySelectable;

use super::Signature;
use super::refresh::OnFailedSignature;

/// The environment variable that [`SigningSecrets::from_env`] reads.
pub const SECRET_VARIABLE: &str = "SENDARIX_WEBHOOK_SECRET";

/// The environment variable that [`SigningSecrets::from_env`] reads for the secret before the last rotation, if it is
/// set.
pub const PREVIOUS_SECRET_VARIABLE: &str = "SENDARIX_WEBHOOK_SECRET_PREVIOUS";

/// The secret that Sendarix shares with one endpoint.
///
/// Only the keyed HMAC state is kept, computed once; it is wiped from memory when the last clone is dropped, and never
/// shown.
#[derive(Clone)]
pub struct SigningSecret(Hmac<Sha256>);

impl SigningSecret {
    /// Takes a secret exactly as it stands in the Sendarix dashboard.
    ///
    /// # Errors
    ///
    /// The secret is empty, or has white space or an invisible character around it, which is nearly always a line break
    /// that came with a paste or a byte-order mark that came with a file, and would make every signature fail.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SecretError> {
        let secret = secret.as_ref();
        if secret.is_empty() {
            return Err(SecretError(Fault::Empty));
        }
        let trimmed =
            str::from_utf8(secret).map_or(secret.trim_ascii(), |text| text.trim_matches(is_invisible).as_bytes());
        if trimmed.len() != secret.len() {
            return Err(SecretError(Fault::WhiteSpace));
        }
        Ok(Self::of_bytes(secret))
    }

    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    pub(crate) fn of_bytes(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("a key of any length"))
    }

    /// Signs a body as Sendarix does.
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> Signature {
        Signature(self.0.clone().chain_update(body).finalize().into_bytes().into())
    }
}

/// Whether a character cannot be seen at the edge of a text, by its Unicode properties: white space, control, format, or
/// ignored by default.
fn is_invisible(c: char) -> bool {
    static INVISIBLE: LazyLock<Option<ClassUnicode>> = LazyLock::new(|| {
        let class = r"[\p{White_Space}\p{Control}\p{Format}\p{Default_Ignorable_Code_Point}]";
        match regex_syntax::parse(class).ok()?.into_kind() {
            HirKind::Class(Class::Unicode(class)) => Some(class),
            _ => None,
        }
    });
    let Some(invisible) = INVISIBLE.as_ref() else { return c.is_whitespace() || c.is_control() };
    invisible.iter().any(|range| (range.start()..=range.end()).contains(&c))
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret([redacted])")
    }
}

/// The secrets that are valid now, each under a label that names it in logs.
///
/// Clones share one list: [`replace`](Self::replace) on any of them changes what the running receiver accepts from the
/// next request on, without a restart and without a lock on the path of a request. So a secret is rotated by accepting
/// both for a while:
///
/// ```
/// use sendarix_webhooks::{SigningSecret, SigningSecrets};
///
/// let secrets = SigningSecrets::from(SigningSecret::new("old")?);
/// // … the receiver is built with `secrets.clone()`; later, when the dashboard has a new secret:
/// secrets.replace(SigningSecrets::from(SigningSecret::new("new")?).and("previous", SigningSecret::new("old")?));
/// // … and when the log shows `secret=current` only:
/// secrets.replace(SigningSecret::new("new")?);
/// # Ok::<(), sendarix_webhooks::SecretError>(())
/// ```
#[derive(Clone)]
pub struct SigningSecrets(Arc<Shared>);

struct Shared {
    list: ArcSwap<Vec<(Label, SigningSecret)>>,
    failed_signature: OnFailedSignature,
}

type Label = Arc<str>;

/// The label of the first secret.
const CURRENT: &str = "current";
/// The label of the second secret, where it is not given.
const PREVIOUS: &str = "previous";

impl SigningSecrets {
    /// Reads the secret from `SENDARIX_WEBHOOK_SECRET` and, if it is set and not empty, the one before it from
    /// `SENDARIX_WEBHOOK_SECRET_PREVIOUS`. They are labelled `current` and `previous`.
    ///
    /// # Errors
    ///
    /// The first variable is unset or empty, or either has white space around its value or is not UTF-8.
    pub fn from_env() -> Result<Self, SecretError> {
        Self::from_variables(SECRET_VARIABLE, PREVIOUS_SECRET_VARIABLE)
    }

    /// As [`from_env`](Self::from_env), from the variables of these names: two endpoints of one process need secrets each.
    ///
    /// # Errors
    ///
    /// The first variable is unset or empty, or either has white space around its value or is not UTF-8.
    pub fn from_variables(current: &str, previous: &str) -> Result<Self, SecretError> {
        Self::read_variables([current, previous], |name| std::env::var(name))
    }

    fn read_variables(
        [current, previous]: [&str; 2],
        read: impl Fn(&str) -> Result<String, VarError>,
    ) -> Result<Self, SecretError> {
        let secret = |name| of_variable(name, read(name));
        let secrets = Self::from(secret(current)?.ok_or_else(|| SecretError(Fault::Unset(current.to_owned())))?);
        Ok(match secret(previous)? {
            Some(previous) => secrets.and(PREVIOUS, previous),
            None => secrets,
        })
    }

    /// Reads one secret a line, the current one first, then those before it. Empty lines count for nothing, so the
    /// line break that ends most files does no harm. The labels are `current`, `previous`, `previous-2` and so on.
    ///
    /// # Errors
    ///
    /// The file cannot be read, holds no secret, or a line has white space around its secret.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, SecretError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|error| SecretError(Fault::File { path: path.to_owned(), error: Arc::new(error) }))?;
        let mut secrets = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let label: Label = match secrets.len() {
                0 => CURRENT.into(),
                1 => PREVIOUS.into(),
                older => format!("{PREVIOUS}-{older}").into(),
            };
            // A comment is no secret: anyone who reads the file could sign with it.
            let secret =
                if line.starts_with("# ") { Err(SecretError(Fault::Comment)) } else { SigningSecret::new(line) };
            let secret = secret.map_err(|error| {
                SecretError(Fault::Line { path: path.to_owned(), line: index + 1, fault: Box::new(error.0) })
            })?;
            secrets.push((label, secret));
        }
        if secrets.is_empty() {
            return Err(SecretError(Fault::EmptyFile { path: path.to_owned() }));
        }
        Ok(Self::new(secrets))
    }

    /// These secrets and one more, under a label of your own.
    #[must_use]
    pub fn and(&self, label: impl Into<Arc<str>>, secret: SigningSecret) -> Self {
        let mut secrets = self.0.list.load_full().as_ref().clone();
        secrets.push((label.into(), secret));
        Self::new(secrets)
    }

    /// Accepts these secrets instead, from the next request on.
    pub fn replace(&self, secrets: impl Into<Self>) {
        self.0.list.store(secrets.into().0.list.load_full());
    }

    /// The label of the secret that signed this body; `None` if none of them did.
    ///
    /// Every secret is tried, in constant time, whether or not an earlier one matched.
    #[must_use]
    pub fn verify(&self, body: &[u8], signature: &Signature) -> Option<Arc<str>> {
        let secrets = self.0.list.load();
        let mut matched = u64::MAX;
        // From the last to the first, so that of two equal ones the newer is named.
        for (index, (_, secret)) in secrets.iter().enumerate().rev() {
            let expected = secret.sign(body);
            matched.conditional_assign(&(index as u64), expected.equals(signature));
        }
        let label = usize::try_from(matched).ok().and_then(|index| secrets.get(index)).map(|(label, _)| label.clone());
        if label.is_none() {
            self.0.failed_signature.tell();
        }
        label
    }

    /// Whether these are the same secrets under the same labels in the same order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (one, other) = (self.0.list.load(), other.0.list.load());
        let is_same = |((label, secret), (other_label, other)): (&(Label, SigningSecret), &(Label, SigningSecret))| {
            // The key itself is not kept.
            label == other_label && secret.sign(b"").equals(&other.sign(b"")).into()
        };
        one.len() == other.len() && one.iter().zip(other.iter()).all(is_same)
    }

    pub(super) fn on_failed_signature(&self) -> &OnFailedSignature {
        &self.0.failed_signature
    }

    /// The secret that Sendarix signs with now.
    #[cfg(feature = "testing")]
    pub(crate) fn current(&self) -> Option<SigningSecret> {
        self.0.list.load().first().map(|(_, secret)| secret.clone())
    }

    fn new(secrets: Vec<(Label, SigningSecret)>) -> Self {
        let (list, failed_signature) = (ArcSwap::from_pointee(secrets), OnFailedSignature::default());
        Self(Arc::new(Shared { list, failed_signature }))
    }
}

/// One secret, under the label `current`.
impl From<SigningSecret> for SigningSecrets {
    fn from(secret: SigningSecret) -> Self {
        Self::new(vec![(CURRENT.into(), secret)])
    }
}

/// Shows the labels alone.
impl fmt::Debug for SigningSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.list.load().iter().map(|(label, _)| label)).finish()
    }
}

/// `None` if the variable is unset or empty.
fn of_variable(name: &str, found: Result<String, VarError>) -> Result<Option<SigningSecret>, SecretError> {
    match found {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => match SigningSecret::new(text) {
            Ok(secret) => Ok(Some(secret)),
            Err(error) => Err(SecretError(Fault::Variable(name.to_owned(), Box::new(error.0)))),
        },
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(SecretError(Fault::Variable(name.to_owned(), Box::new(Fault::NotUtf8)))),
    }
}

/// Why there is no secret to verify with. It never shows one.
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct SecretError(Fault);

/// The text of the error, which is what a `main` that returns it prints.
impl fmt::Debug for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Debug, thiserror::Error)]
enum Fault {
    #[error("the signing secret is empty; copy it from the endpoint's page in the Sendarix dashboard")]
    Empty,
    #[error(
        "the signing secret has white space, a line break or an invisible character around it; remove it, or no \
         signature will match"
    )]
    WhiteSpace,
    #[error("the line is a comment, which would be taken for a secret; remove it")]
    Comment,
    #[error("the value is not UTF-8")]
    NotUtf8,
    #[error("{0} is not set; set it to the secret from the endpoint's page in the Sendarix dashboard")]
    Unset(String),
    #[error("{0}: {1}")]
    Variable(String, Box<Fault>),
    #[error("cannot read the signing secrets from {}: {error}", path.display())]
    File { path: PathBuf, error: Arc<std::io::Error> },
    #[error("{} line {line}: {fault}", path.display())]
    Line { path: PathBuf, line: usize, fault: Box<Fault> },
    #[error("{} holds no signing secret; write one a line, the current one first", path.display())]
    EmptyFile { path: PathBuf },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SigningSecret {
        SigningSecret::new(text).unwrap()
    }

    #[test]
    fn signs_as_rfc_4231_says() {
        let signature = secret("Jefe").sign(b"what do ya want for nothing?");
        assert_eq!(signature.to_string(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn names_the_secret_that_matched_wherever_it_stands() {
        let secrets = SigningSecrets::from(secret("a")).and("b", secret("b")).and("c", secret("c"));
        for (key, label) in [("a", "current"), ("b", "b"), ("c", "c")] {
            assert_eq!(secrets.verify(b"body", &secret(key).sign(b"body")).as_deref(), Some(label));
        }
        assert_eq!(secrets.verify(b"body", &secret("d").sign(b"body")), None);
        assert_eq!(secrets.verify(b"body ", &secret("a").sign(b"body")), None);
    }

    #[test]
    fn replacing_reaches_every_clone() {
        let secrets = SigningSecrets::from(secret("old"));
        let of_the_receiver = secrets.clone();
        secrets.replace(secret("new"));
        assert!(of_the_receiver.verify(b"", &secret("new").sign(b"")).is_some());
        assert!(of_the_receiver.verify(b"", &secret("old").sign(b"")).is_none());
    }

    #[test]
    fn refuses_a_secret_that_could_never_match() {
        for text in [
            "",
            " ",
            "\n",
            "secret\n",
            " secret",
            "secret\r",
            "\tsecret",
            "\u{feff}secret",
            "secret\u{a0}",
            "secret\u{2028}",
            "secret\0",
            "secret\u{200b}",
            "secret\u{200d}",
            "\u{2060}secret",
            "secret\u{ad}",
            "secret\u{202e}",
            "\u{180e}secret",
            "secret\u{3164}",
            "secret\u{fe0f}",
            "secret\u{e0041}",
            "\u{1d173}secret",
        ] {
            assert!(SigningSecret::new(text).is_err(), "{text:?}");
        }
        for text in ["inner white space", "e\u{301}", "\u{e9}", "密钥", "\u{1f511}", "-_"] {
            assert!(SigningSecret::new(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn is_never_shown() {
        let secrets = SigningSecrets::from(secret("hunter2")).and("old", secret("hunter1"));
        assert_eq!(format!("{:?} {secrets:?}", secret("hunter2")), "SigningSecret([redacted]) [\"current\", \"old\"]");
        let error = SigningSecret::new("hunter2 ").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter"));
    }

    #[test]
    fn reads_the_secret_and_the_one_before_it_from_variables() {
        let of = |current: Option<&str>, previous: Option<&str>| {
            SigningSecrets::read_variables([SECRET_VARIABLE, PREVIOUS_SECRET_VARIABLE], |name| {
                let value = if name == SECRET_VARIABLE { current } else { previous };
                value.map(str::to_owned).ok_or(VarError::NotPresent)
            })
        };
        let labels = |secrets: Result<SigningSecrets, SecretError>| format!("{:?}", secrets.unwrap());
        assert_eq!(labels(of(Some("new"), Some("old"))), r#"["current", "previous"]"#);
        let both = of(Some("new"), Some("old")).unwrap();
        assert_eq!(both.verify(b"", &secret("old").sign(b"")).as_deref(), Some("previous"));
        assert_eq!(labels(of(Some("new"), Some(""))), r#"["current"]"#);
        assert_eq!(labels(of(Some("new"), None)), r#"["current"]"#);
        for unset in [None, Some("")] {
            let error = of(unset, Some("old")).unwrap_err().to_string();
            assert!(error.contains(SECRET_VARIABLE), "{error}");
        }
        let error = of(Some("new"), Some("old\n")).unwrap_err().to_string();
        assert!(error.contains(PREVIOUS_SECRET_VARIABLE) && error.contains("line break"), "{error}");
    }

    #[test]
    fn reads_a_file_of_one_secret_a_line() {
        let path = std::env::temp_dir().join(format!("sendarix-secrets-{}", std::process::id()));
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            SigningSecrets::from_file(&path)
        };
        let secrets = read("new\r\n\nold\nolder\n").unwrap();
        assert_eq!(format!("{secrets:?}"), r#"["current", "previous", "previous-2"]"#);
        assert_eq!(secrets.verify(b"", &secret("old").sign(b"")).as_deref(), Some("previous"));
        let line = |text| match read(text).unwrap_err().0 {
            Fault::Line { line, fault, .. } => (line, *fault),
            fault => panic!("{fault}"),
        };
        assert!(matches!(line("new\n# rotated\n"), (2, Fault::Comment)));
        assert!(matches!(line("new\n old\n"), (2, Fault::WhiteSpace)));
        assert!(matches!(read("\n\n").unwrap_err().0, Fault::EmptyFile { .. }));
        std::fs::remove_file(&path).unwrap();
        let missing = SigningSecrets::from_file(&path).unwrap_err();
        assert!(matches!(missing.0, Fault::File { .. }), "{missing}");
    }
}
