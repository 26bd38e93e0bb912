//! What `trigger` and `simulate` share: the endpoint, its secret, and an HTTP client.

use anyhow::Context;
use clap::Args;
use reqwest::redirect::Policy;
use reqwest::{ClientBuilder, Url};
use sendarix_webhooks::SigningSecret;
use sendarix_webhooks::verify::SECRET_VARIABLE;

#[derive(Clone, Args)]
pub(crate) struct Endpoint {
    /// The endpoint
    #[arg(long, default_value = "http://127.0.0.1:3000/webhooks/sendarix")]
    pub(crate) url: Url,

    /// The secret that the endpoint shares with Sendarix. Set the variable rather than the option: other users of the machine
    /// can read a process's arguments
    #[arg(long, env = SECRET_VARIABLE, hide_env_values = true)]
    secret: Option<String>,
}

impl Endpoint {
    pub(crate) fn secret(&self) -> anyhow::Result<SigningSecret> {
        let secret = self.secret.as_deref().with_context(|| {
            format!("{SECRET_VARIABLE} is not set; it holds the secret that the endpoint shares with Sendarix")
        })?;
        SigningSecret::new(secret).with_context(|| SECRET_VARIABLE.to_owned())
    }
}

/// A client whose TLS is built without C.
pub(crate) fn builder() -> ClientBuilder {
    // It fails where a provider is installed already, which is then the same.
    let _ = rustls_graviola::default_provider().install_default();
    // To Sendarix a redirect is a failure.
    reqwest::Client::builder().redirect(Policy::none())
}
