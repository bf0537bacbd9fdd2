//! Connections that agents open themselves, where none can be opened to them.
//!
//! Only who dials is turned round: the agent ([`dial`]) is the client of TCP and TLS, the operator
//! ([`callers`], [`connect`]) listens. Both pin each other's key as ever, and then the operator
//! calls and the agent answers.
//!
//! An agent says in its first message (as the name of the server, SNI) of which site it is. That
//! proves nothing; it tells whoever listens for several sites which key to expect.

mod agent;
mod callers;
mod operator;

pub use agent::{DialError, DialLimits, dial};
pub use callers::{Announced, Caller, callers};
pub use operator::{Awaited, connect};

/// Ends the name that stands for a site in the first message.
const SUFFIX: &str = "-site.fed.invalid";

/// The name that stands for a site.
fn server_name(site: &str) -> String {
    format!("{site}{SUFFIX}")
}

/// The site that a name stands for.
fn site_of(name: &str) -> Option<&str> {
    name.strip_suffix(SUFFIX).filter(|site| !site.is_empty())
}
