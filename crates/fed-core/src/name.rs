//! Names of sites, pools and federations.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name, in bytes.
const MAX_LEN: usize = 31;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{kind} name {given:?} {problem}; a name is a lower-case letter followed by at most 30 lower-case letters, digits or hyphens"
)]
pub struct NameError {
    kind: &'static str,
    given: String,
    problem: &'static str,
}

fn check(kind: &'static str, text: &str) -> Result<(), NameError> {
    let problem = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_LEN {
        "is longer than 31 characters"
    } else if !text.starts_with(|first: char| first.is_ascii_lowercase()) {
        "does not start with a lower-case letter"
    } else if !text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        "holds a character other than a-z, 0-9 and '-'"
    } else {
        return Ok(());
    };
    Err(NameError {
        kind,
        given: text.to_owned(),
        problem,
    })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        ///
        /// `[a-z][a-z0-9-]{0,30}`, so that it fits in a host name, a Dask resource and a file name.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($kind, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                check($kind, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, formatter)
            }
        }
    };
}

name!(
    /// Name of a data centre.
    SiteName,
    "site"
);
name!(
    /// Name of a pool: workers of one site that see the same data.
    PoolName,
    "pool"
);
name!(
    /// Name of a federation, as its operator calls it.
    FederationName,
    "federation"
);

impl PoolName {
    /// Returns the Dask resource that pins a task to this pool, e.g. `pool-ecmwf`.
    pub fn resource(&self) -> String {
        format!("pool-{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_with_the_reason() {
        for (text, reason) in [
            ("", "is empty"),
            ("ECMWF", "does not start"),
            ("1st", "does not start"),
            ("met office", "holds a character"),
            ("a123456789012345678901234567890-x", "longer than"),
        ] {
            let error = text.parse::<SiteName>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn accepts_exactly_the_pattern(text in "[a-z][a-z0-9-]{0,30}") {
            let name: PoolName = text.parse().unwrap();
            prop_assert_eq!(name.as_str(), &text);
            prop_assert_eq!(name.resource(), format!("pool-{text}"));
        }

        #[test]
        fn never_accepts_what_breaks_a_path_or_a_host_name(text in ".*[^a-z0-9-].*") {
            prop_assert!(text.parse::<SiteName>().is_err());
        }
    }
}
