//! A host and a port of a site's own network.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest name of a host, in bytes (RFC 1035).
const MAX_LEN: usize = 253;

/// Port to write where nothing tells which is meant: that of https.
const LIKELY_PORT: u16 = 443;

/// Why a text is not a destination.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{given:?} {problem}{}", hint.as_ref().map_or_else(String::new, |hint| format!("; write {hint:?}")))]
pub struct DestinationError {
    given: String,
    problem: &'static str,
    /// The nearest right form.
    hint: Option<String>,
}

/// A host, by name or by IP address, and a TCP port: `store.site:443`, `10.1.2.3:9000`,
/// `[fd00::5]:443`.
///
/// The name is one that a sandbox can give an address of its own: not `localhost`, not of the mesh
/// (`*.fed`), no pattern. Addresses are those of other hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    host: String,
    port: u16,
}

impl Destination {
    /// Name or address of the host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port, from 1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host's address, if it is named by one.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&joined(&self.host, self.port))
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;

    fn try_from(text: String) -> Result<Self, DestinationError> {
        text.parse()
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let refuse = |problem, hint| {
            let given = text.to_owned();
            Err(DestinationError {
                given,
                problem,
                hint,
            })
        };
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = split(authority);
        let number = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0),
            None => scheme.and_then(usual_port),
        };
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let is_host = name.parse::<IpAddr>().is_ok() || is_name(&name);
        let right = || is_host.then(|| joined(&name, number.unwrap_or(LIKELY_PORT)));
        if host.contains('*') {
            return refuse("is a pattern; name each host", None);
        }
        if !is_host {
            return refuse("names no host", Some("store.site:443".to_owned()));
        }
        if scheme.is_some() || !path.is_empty() {
            return refuse("is a URL, not host:port", right());
        }
        let Some(number) = number else {
            let problem = match port {
                None => "has no port",
                Some(_) => "has no port from 1 to 65535",
            };
            return refuse(problem, right());
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            if !is_of_a_host(address) {
                return refuse("is no address of another host", None);
            }
        } else if name == "localhost" || name.ends_with(".localhost") {
            return refuse(
                "means each sandbox itself in there; give this host's name in the site's network",
                None,
            );
        } else if name == "fed" || name.ends_with(".fed") {
            return refuse("is a name of the mesh", None);
        }
        Ok(Self {
            host: name,
            port: number,
        })
    }
}

/// Parts `host:port`, `[address]:port`, or a bare host or address.
fn split(authority: &str) -> (&str, Option<&str>) {
    if authority.parse::<Ipv6Addr>().is_ok() {
        return (authority, None);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let inside = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    (inside.unwrap_or(host), port)
}

fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" | "s3" => Some(443),
        _ => None,
    }
}

fn joined(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Letters, digits, hyphens, underscores and dots, with something between the dots.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let mut bytes = label.bytes();
        !label.is_empty() && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // What ends in a number is an address in one of its old ways of writing, such as 127.1.
    let is_number = |label: &str| {
        let hexadecimal = label.strip_prefix("0x").unwrap_or("-");
        label.bytes().all(|b| b.is_ascii_digit())
            || hexadecimal.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= MAX_LEN && name.split('.').all(is_label) && !is_number(last)
}

fn is_of_a_host(address: IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !(is_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_and_written() {
        for (text, host, port) in [
            ("store.site:443", "store.site", 443),
            ("Store.Site.:80", "store.site", 80),
            ("a_b-1:9000", "a_b-1", 9000),
            ("10.1.2.3:9000", "10.1.2.3", 9000),
            ("[fd00::5]:443", "fd00::5", 443),
        ] {
            let destination: Destination = text.parse().unwrap();
            assert_eq!((destination.host(), destination.port()), (host, port));
            let again: Destination = destination.to_string().parse().unwrap();
            assert_eq!(again, destination);
            assert_eq!(
                destination.address().is_some(),
                host.parse::<IpAddr>().is_ok()
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_nearest_right_form() {
        for (text, told) in [
            ("store.site", "has no port; write \"store.site:443\""),
            (
                "https://store.site",
                "is a URL, not host:port; write \"store.site:443\"",
            ),
            ("http://store.site/bucket", "write \"store.site:80\""),
            ("http://store.site:8080/b?c", "write \"store.site:8080\""),
            ("store.site:9000/bucket", "write \"store.site:9000\""),
            (
                "store.site:https",
                "has no port from 1 to 65535; write \"store.site:443\"",
            ),
            ("store.site:0", "has no port from 1 to 65535"),
            ("store.site:70000", "has no port from 1 to 65535"),
            ("fd00::5", "has no port; write \"[fd00::5]:443\""),
            (":443", "names no host; write \"store.site:443\""),
            ("", "names no host"),
            ("sto re:443", "names no host"),
            ("a..b:443", "names no host"),
            ("127.1:22", "names no host"),
            ("0x7f000001:22", "names no host"),
            ("2130706433:22", "names no host"),
            ("0:22", "names no host"),
            ("*.site:443", "is a pattern; name each host"),
            ("localhost:9000", "means each sandbox itself"),
            ("operator.fed:8786", "is a name of the mesh"),
            ("127.0.0.1:9000", "is no address of another host"),
            ("0.0.0.0:1", "is no address of another host"),
            ("[fe80::1]:1", "is no address of another host"),
            ("[::ffff:10.0.0.1]:1", "is no address of another host"),
        ] {
            let error = text.parse::<Destination>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} ")), "{error}");
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
