//! Who may see the dashboard.
//!
//! A page of any origin can have the browser call 127.0.0.1. So the request must name this
//! listener (else a name of the attacker's may have been pointed here: DNS rebinding), carry the
//! token, and, where the browser adds the cookie by itself, come from a page of this listener:
//! `SameSite` does not tell the ports of one host apart, and the dashboard admits any origin.

use std::hint::black_box;
use std::net::SocketAddr;

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, Request, Uri};

use super::headers;

/// Parameter of the link that carries the token.
const PARAMETER: &str = "token=";

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes to the dashboard.
    Pass,
    /// It showed the token in its URL: the caller gets the cookie and goes to this relative URL.
    Login {
        /// The same page without the token.
        location: String,
    },
    /// It names another host.
    WrongHost,
    /// It shows no valid token.
    NoToken,
    /// It comes from a page of another origin.
    WrongOrigin,
}

/// The rules of one listener.
pub(super) struct Access {
    hosts: Vec<String>,
    cookie: String,
    token: String,
}

impl Access {
    /// Makes the rules for the listener at `address`.
    pub(super) fn new(address: SocketAddr, cookie: String, token: String) -> Self {
        let port = address.port();
        let mut hosts = vec![address.to_string()];
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            let host = format!("{host}:{port}");
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        Self {
            hosts,
            cookie,
            token,
        }
    }

    /// Returns the names under which this listener answers.
    pub(super) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Judges a request by its head.
    pub(super) fn judge<B>(&self, request: &Request<B>) -> Verdict {
        let map = request.headers();
        if !self.names_us(request.uri(), map) {
            return Verdict::WrongHost;
        }
        if [Method::GET, Method::HEAD].contains(request.method()) {
            let shown = tokens(request.uri()).any(|token| self.is_token(token.as_bytes()));
            if shown {
                let location = without_token(request.uri());
                return Verdict::Login { location };
            }
        }
        if self.bears_token(map) {
            return Verdict::Pass;
        }
        if !headers::cookies(map, &self.cookie).any(|value| self.is_token(value)) {
            return Verdict::NoToken;
        }
        if self.is_ours_or_none(map) {
            Verdict::Pass
        } else {
            Verdict::WrongOrigin
        }
    }

    /// Returns the cookie that opens the dashboard until the browser ends.
    pub(super) fn cookie(&self) -> HeaderValue {
        let mut value = HeaderValue::try_from(format!(
            "{}={}; Path=/; HttpOnly; SameSite=Strict",
            self.cookie, self.token
        ))
        .expect("name and token were checked when the gateway was opened");
        value.set_sensitive(true);
        value
    }

    /// Takes away what opens this gateway: it is no business of the dashboard.
    pub(super) fn strip(&self, map: &mut HeaderMap) {
        headers::remove_cookie(map, &self.cookie);
        if self.bears_token(map) {
            map.remove(AUTHORIZATION);
        }
    }

    fn names_us(&self, uri: &Uri, map: &HeaderMap) -> bool {
        let mut named = map.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            return false;
        };
        let target = uri
            .authority()
            .map(|authority| authority.as_str().as_bytes());
        self.is_host(host.as_bytes()) && target.is_none_or(|target| self.is_host(target))
    }

    fn is_host(&self, name: &[u8]) -> bool {
        self.hosts
            .iter()
            .any(|host| host.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Tells whether a browser says that one of this listener's pages asked. Without `Origin` it
    /// was a plain link or a program; browsers always send it with websockets.
    fn is_ours_or_none(&self, map: &HeaderMap) -> bool {
        map.get_all(ORIGIN).iter().all(|origin| {
            origin
                .as_bytes()
                .strip_prefix(b"http://")
                .is_some_and(|host| self.is_host(host))
        })
    }

    fn bears_token(&self, map: &HeaderMap) -> bool {
        map.get(AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked("Bearer ".len()))
            .is_some_and(|(scheme, token)| {
                scheme.eq_ignore_ascii_case(b"Bearer ") && self.is_token(token.trim_ascii())
            })
    }

    /// Compares in a time that depends on the length alone.
    fn is_token(&self, shown: &[u8]) -> bool {
        let token = self.token.as_bytes();
        let differences = token
            .iter()
            .zip(shown)
            .fold(0, |differences, (one, other)| {
                black_box(differences | (one ^ other))
            });
        token.len() == shown.len() && differences == 0
    }
}

fn tokens(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.strip_prefix(PARAMETER))
}

/// Gives the URL without its tokens, relative to itself.
///
/// Relative with a leading `./`, so that it holds behind a further proxy that adds a prefix, and
/// so that a path such as `//host/` cannot lead elsewhere.
fn without_token(uri: &Uri) -> String {
    let page = uri.path().rsplit('/').next().unwrap_or_default();
    let query: Vec<&str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with(PARAMETER))
        .collect();
    if query.is_empty() {
        format!("./{page}")
    } else {
        format!("./{page}?{}", query.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789-0123456789_abc";

    fn access() -> Access {
        Access::new(
            "127.0.0.1:8787".parse().unwrap(),
            "fed-x".into(),
            TOKEN.into(),
        )
    }

    /// Judges a GET; `host` stands for a `Host` of this listener unless the fields name another.
    fn judge(uri: &str, fields: &[(&str, &str)]) -> Verdict {
        let mut request = Request::get(uri);
        if !fields.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost:8787");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        access().judge(&request.body(()).unwrap())
    }

    fn login(location: &str) -> Verdict {
        Verdict::Login {
            location: location.into(),
        }
    }

    #[test]
    fn the_link_leads_to_the_same_page_without_the_token() {
        let uri = |text: &str| text.replace("TOKEN", TOKEN);
        for (shown, location) in [
            ("/status?token=TOKEN", "./status"),
            ("/a/status?x=1&token=TOKEN&y=2", "./status?x=1&y=2"),
            ("/status?token=TOKEN&token=other", "./status"),
            ("/?token=TOKEN", "./"),
            ("//elsewhere.example/?token=TOKEN", "./"),
        ] {
            assert_eq!(judge(&uri(shown), &[]), login(location), "{shown}");
        }
    }

    #[test]
    fn other_tokens_open_nothing() {
        let longer = format!("{TOKEN}0");
        for shown in ["", "other", &TOKEN[1..], &TOKEN[..24], &longer] {
            assert_eq!(
                judge(&format!("/status?token={shown}"), &[]),
                Verdict::NoToken
            );
            let cookie = format!("fed-x={shown}");
            assert_eq!(judge("/status", &[("cookie", &cookie)]), Verdict::NoToken);
            let bearer = format!("Bearer {shown}");
            assert_eq!(
                judge("/status", &[("authorization", &bearer)]),
                Verdict::NoToken
            );
        }
        let other_cookie = format!("fed-y={TOKEN}");
        assert_eq!(
            judge("/status", &[("cookie", &other_cookie)]),
            Verdict::NoToken
        );
        assert_eq!(
            judge(&format!("/status?x-token={TOKEN}"), &[]),
            Verdict::NoToken
        );
        assert_eq!(judge("/status", &[]), Verdict::NoToken);
    }

    #[test]
    fn cookie_and_bearer_pass() {
        let cookie = format!("a=1; fed-x={TOKEN}");
        assert_eq!(judge("/status", &[("cookie", &cookie)]), Verdict::Pass);
        let bearer = format!("bearer {TOKEN}");
        assert_eq!(
            judge("/status", &[("authorization", &bearer)]),
            Verdict::Pass
        );
    }

    #[test]
    fn a_post_with_the_token_in_its_url_is_not_turned_into_a_get() {
        let request = Request::post(format!("/x?token={TOKEN}"))
            .header("host", "localhost:8787")
            .body(())
            .unwrap();
        assert_eq!(access().judge(&request), Verdict::NoToken);
    }

    #[test]
    fn only_this_listener_may_be_named() {
        let link = format!("/status?token={TOKEN}");
        for host in ["127.0.0.1:8787", "LOCALHOST:8787", "[::1]:8787"] {
            assert_eq!(judge(&link, &[("host", host)]), login("./status"), "{host}");
        }
        for host in [
            "evil.example:8787",
            "127.0.0.1",
            "localhost:8786",
            "localhost:8787.evil.example",
            "",
        ] {
            assert_eq!(
                judge(&link, &[("host", host)]),
                Verdict::WrongHost,
                "{host}"
            );
        }
        let twice = [("host", "localhost:8787"), ("host", "evil.example")];
        assert_eq!(judge(&link, &twice), Verdict::WrongHost);
        let absolute = format!("http://evil.example{link}");
        assert_eq!(judge(&absolute, &[]), Verdict::WrongHost);
        let none = Request::get(&link).body(()).unwrap();
        assert_eq!(access().judge(&none), Verdict::WrongHost);
    }

    #[test]
    fn the_browsers_cookie_counts_for_our_own_pages_only() {
        let cookie = format!("fed-x={TOKEN}");
        let from = |origin| judge("/status/ws", &[("cookie", &cookie), ("origin", origin)]);
        assert_eq!(from("http://localhost:8787"), Verdict::Pass);
        assert_eq!(from("http://127.0.0.1:8787"), Verdict::Pass);
        for origin in ["http://127.0.0.1:9999", "https://localhost:8787", "null"] {
            assert_eq!(from(origin), Verdict::WrongOrigin, "{origin}");
        }
        let bearer = format!("Bearer {TOKEN}");
        let program = [
            ("authorization", &*bearer),
            ("origin", "http://127.0.0.1:9999"),
        ];
        assert_eq!(judge("/status/ws", &program), Verdict::Pass);
    }

    #[test]
    fn nothing_that_opens_the_gateway_is_passed_on() {
        let mut map = HeaderMap::new();
        map.insert("cookie", format!("fed-x={TOKEN}; _xsrf=1").parse().unwrap());
        map.insert(AUTHORIZATION, format!("Bearer {TOKEN}").parse().unwrap());
        access().strip(&mut map);
        assert_eq!(map.len(), 1);
        assert_eq!(map["cookie"], "_xsrf=1");
        map.insert(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        access().strip(&mut map);
        assert_eq!(map[AUTHORIZATION], "Basic eDp5");
    }
}
