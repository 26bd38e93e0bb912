//! Everything that the receiver can stand behind, for cases that must hold on all of it.

use std::pin::Pin;
use std::sync::Arc;

use sendarix_webhooks::inbox::HandlerResponse;
use sendarix_webhooks::{Delivery, HandlerError};

/// A server with its adapter, and the version of HTTP that is spoken to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    pub server: Server,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `SendarixLayer` on an axum `Router`, by `Router::layer`.
    AxumLayer,
    /// `SendarixLayer` around a whole axum `Router`.
    AxumAround,
    /// `SendarixLayer` around a tower service on hyper.
    Hyper,
    /// A `Receiver` wired into a hyper service by hand.
    Receiver,
    /// `SendarixMiddleware` on a resource of an actix-web `App`.
    Actix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

impl Front {
    /// For what depends on no adapter.
    pub const ANY: Self = Self::on(Server::AxumLayer, Version::Http1);

    pub const ALL: [Self; 10] = {
        use self::Server::{Actix, AxumAround, AxumLayer, Hyper, Receiver};
        use self::Version::{Http1, Http2};
        [
            Self::on(AxumLayer, Http1),
            Self::on(AxumLayer, Http2),
            Self::on(AxumAround, Http1),
            Self::on(AxumAround, Http2),
            Self::on(Hyper, Http1),
            Self::on(Hyper, Http2),
            Self::on(Receiver, Http1),
            Self::on(Receiver, Http2),
            Self::on(Actix, Http1),
            Self::on(Actix, Http2),
        ]
    };

    pub const fn on(server: Server, version: Version) -> Self {
        Self { server, version }
    }
}

/// Makes a test of each case on every front. Where one cannot hold as the others do, the case says so and asserts what
/// holds instead.
#[macro_export]
macro_rules! parity {
    ($(#[$test:meta])? $($case:ident),* $(,)?) => {
        $crate::parity!(@axum_layer_http1 AxumLayer Http1 ($($test)?) $($case)*);
        $crate::parity!(@axum_layer_http2 AxumLayer Http2 ($($test)?) $($case)*);
        $crate::parity!(@axum_around_http1 AxumAround Http1 ($($test)?) $($case)*);
        $crate::parity!(@axum_around_http2 AxumAround Http2 ($($test)?) $($case)*);
        $crate::parity!(@hyper_http1 Hyper Http1 ($($test)?) $($case)*);
        $crate::parity!(@hyper_http2 Hyper Http2 ($($test)?) $($case)*);
        $crate::parity!(@receiver_http1 Receiver Http1 ($($test)?) $($case)*);
        $crate::parity!(@receiver_http2 Receiver Http2 ($($test)?) $($case)*);
        $crate::parity!(@actix_http1 Actix Http1 ($($test)?) $($case)*);
        $crate::parity!(@actix_http2 Actix Http2 ($($test)?) $($case)*);
    };
    (@$front:ident $server:ident $version:ident () $($case:ident)*) => {
        $crate::parity!(@$front $server $version (tokio::test) $($case)*);
    };
    (@$front:ident $server:ident $version:ident ($test:meta) $($case:ident)*) => {
        mod $front {
            use $crate::{Front, Server, Version};

            $(
                #[$test]
                async fn $case() {
                    super::$case(Front::on(Server::$server, Version::$version)).await;
                }
            )*
        }
    };
}

/// A test's handler, whatever the server.
pub type Handler = Arc<dyn Fn(Delivery) -> Handling + Send + Sync>;
pub(crate) type Handling = Pin<Box<dyn Future<Output = Result<Given, HandlerError>> + Send>>;

/// What a test's handler answers, whatever the server.
#[derive(Debug)]
pub struct Given {
    pub status: u16,
    pub header: Option<(&'static str, &'static str)>,
    pub body: String,
}

impl HandlerResponse for Given {
    fn status(&self) -> u16 {
        self.status
    }
}

/// What a test's handler may return.
pub trait Returned {
    fn given(self) -> Result<Given, HandlerError>;
}

impl Returned for Given {
    fn given(self) -> Result<Given, HandlerError> {
        Ok(self)
    }
}

impl Returned for () {
    fn given(self) -> Result<Given, HandlerError> {
        "".given()
    }
}

impl Returned for &str {
    fn given(self) -> Result<Given, HandlerError> {
        (200, self).given()
    }
}

impl Returned for String {
    fn given(self) -> Result<Given, HandlerError> {
        self.as_str().given()
    }
}

impl Returned for (u16, &str) {
    fn given(self) -> Result<Given, HandlerError> {
        Ok(Given { status: self.0, header: None, body: self.1.to_owned() })
    }
}

impl<R: Returned> Returned for Result<R, HandlerError> {
    fn given(self) -> Result<Given, HandlerError> {
        self?.given()
    }
}
