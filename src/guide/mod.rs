//! The user guide. Each page answers one question within its first screen.
//!
//! | page | question |
//! |---|---|
//! | [axum](on_axum) | How do I receive events in an axum application? |
//! | [actix-web](on_actix_web) | How do I receive events in an actix-web application? |
//! | [Other frameworks](other_frameworks) | How do I receive events on another server, on AWS Lambda, or from a queue of requests? |
//! | [Answers](answers) | What does Sendarix get back, and what decides it? |
//! | [Settings](settings) | What can I set, what is the default, and why? |
//! | [Stores](stores) | Which store do I need, and what can it not promise? |
//! | [Transactions](transactions) | How does an effect happen once, although events are delivered more than once? |
//! | [Dead letters](dead_letters) | Where are the events that failed, and how do I handle them after all? |
//! | [Queues](queues) | Where does work go that takes longer than Sendarix waits? |
//! | [Several destinations](destinations) | How does one endpoint feed several systems? |
//! | [A warehouse](warehouse) | How do I load events into `BigQuery`, Redshift, Snowflake or `DuckDB`? |
//! | [Mail state](mail_state) | Which addresses must I not mail, what became of a message, and how is my sending doing? |
//! | [Production](production) | What must be in front of the receiver and around it? |
//! | [Observability](observability) | What is in the log and in the metrics? |
//! | [Runbook](runbook) | An alert fires: what does it mean, what do I look at, what do I do? |
//! | [Security](security) | What is defended, and what is not? |
//! | [Secrets](secrets) | How do I load a secret, and rotate it without a restart? |
//! | [Testing your handler](testing_your_handler) | How do I test my handler without a network? |
//! | [Staging and sandbox](staging) | How do I keep test events away from real data? |
//! | [After a long outage](outages) | What do I do when events were lost at Sendarix? |
//! | [Where we differ](differences) | Where does this crate do something else than Sendarix's page says, and why? |

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

#[cfg(all(feature = "memory", feature = "postgres", feature = "redis", feature = "sqlite"))]
#[doc = include_str!("stores.md")]
pub mod stores {}

#[cfg(all(feature = "postgres", feature = "sqlite"))]
#[doc = include_str!("transactions.md")]
pub mod transactions {}

#[doc = include_str!("dead_letters.md")]
pub mod dead_letters {}

#[cfg(all(feature = "apalis", feature = "axum", feature = "memory", feature = "postgres"))]
#[doc = include_str!("queues.md")]
pub mod queues {}

#[cfg(all(feature = "axum", feature = "memory"))]
#[doc = include_str!("destinations.md")]
pub mod destinations {}

#[doc = include_str!("warehouse.md")]
pub mod warehouse {}

#[cfg(all(feature = "axum", feature = "mail", feature = "postgres"))]
#[doc = include_str!("mail_state.md")]
pub mod mail_state {}

#[doc = include_str!("production.md")]
pub mod production {}

#[cfg(all(feature = "axum", feature = "memory", feature = "metrics"))]
#[doc = include_str!("observability.md")]
pub mod observability {}

#[doc = include_str!("runbook.md")]
pub mod runbook {}

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

#[cfg(feature = "postgres")]
#[doc = include_str!("outages.md")]
pub mod outages {}

#[doc = include_str!("differences.md")]
pub mod differences {}
