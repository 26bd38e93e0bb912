//! The guide. Each page answers one question.
//!
//! | page | question |
//! |---|---|
//! | [`on_axum`] | axum: the route, the handler, stopping |
//! | [`on_actix_web`] | actix-web: the resource, the handler, stopping |
//! | [`other_frameworks`] | hyper, salvo, poem, Rocket, AWS Lambda, the edge |
//! | [`answers`] | what is answered, and when |
//! | [`settings`] | every setting, its default and the reason |
//! | [`stores`] | several instances, and restarts |
//! | [`transactions`] | the effect and its record, both or neither |
//! | [`dead_letters`] | what could not be handled, and how it is handled after all |
//! | [`queues`] | work that takes longer than Sendarix waits |
//! | [`destinations`] | one endpoint that feeds several destinations |
//! | [`mail_state`] | suppression, the status of a message, reputation |
//! | [`production`] | what to do before production |
//! | [`observability`] | logs, metrics, alerts |
//! | [`security`] | what is defended, and what is not |
//! | [`secrets`] | where secrets come from, and changing them |
//! | [`testing_your_handler`] | a handler in a test, without a network |
//! | [`staging`] | staging and the sandbox |
//! | [`outages`] | what to do after a long outage |
//! | [`differences`] | where this crate differs from Sendarix's page, and why |

#[cfg(all(feature = "axum", feature = "memory"))]
#[doc = include_str!("axum.md")]
pub mod on_axum {}

#[cfg(all(feature = "actix", feature = "memory"))]
#[doc = include_str!("actix.md")]
pub mod on_actix_web {}

#[doc = include_str!("other_frameworks.md")]
pub mod other_frameworks {}

#[doc = include_str!("answers.md")]
pub mod answers {}

#[doc = include_str!("settings.md")]
pub mod settings {}

#[cfg(all(feature = "memory", feature = "postgres"))]
#[doc = include_str!("stores.md")]
pub mod stores {}

#[cfg(feature = "postgres")]
#[doc = include_str!("transactions.md")]
pub mod transactions {}

#[doc = include_str!("dead_letters.md")]
pub mod dead_letters {}

#[doc = include_str!("queues.md")]
pub mod queues {}

#[doc = include_str!("destinations.md")]
pub mod destinations {}

#[cfg(feature = "postgres")]
#[doc = include_str!("mail_state.md")]
pub mod mail_state {}

#[doc = include_str!("production.md")]
pub mod production {}

#[cfg(feature = "metrics")]
#[doc = include_str!("observability.md")]
pub mod observability {}

#[doc = include_str!("security.md")]
pub mod security {}

#[doc = include_str!("secrets.md")]
pub mod secrets {}

#[cfg(all(feature = "axum", feature = "memory", feature = "testing"))]
#[doc = include_str!("testing.md")]
pub mod testing_your_handler {}

#[cfg(feature = "postgres")]
#[doc = include_str!("staging.md")]
pub mod staging {}

#[doc = include_str!("outages.md")]
pub mod outages {}

#[doc = include_str!("differences.md")]
pub mod differences {}
