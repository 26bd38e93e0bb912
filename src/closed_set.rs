//! Closed sets: enums whose values have stable names, for logs, labels, columns and settings.

/// The text is not the name of a value. The message lists the names that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownName(&'static str);

impl UnknownName {
    pub(crate) const fn new(message: &'static str) -> Self {
        Self(message)
    }
}

/// Declares an enum with the name of each value: `ALL`, `as_str`, `Display` and `FromStr`.
macro_rules! closed_set {
    ($(#[$meta:meta])* pub enum $set:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $set {
            $($(#[$doc])* $value,)+
        }

        impl $set {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$value,)+];

            /// The stable name: lower case, words joined by `_`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        impl std::fmt::Display for $set {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $set {
            type Err = crate::closed_set::UnknownName;

            /// # Errors
            ///
            /// The text is not the name of a value.
            fn from_str(name: &str) -> Result<Self, Self::Err> {
                match name {
                    $($name => Ok(Self::$value),)+
                    _ => Err(Self::Err::new(concat!("the name must be one of:" $(, " ", $name)+))),
                }
            }
        }
    };
}

pub(crate) use closed_set;
