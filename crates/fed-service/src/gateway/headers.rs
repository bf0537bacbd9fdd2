//! What a proxy passes on of a message's head, and what it keeps.

use http::header::{
    CONNECTION, COOKIE, EXPECT, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, Request};

/// Fields that concern one connection alone (RFC 9110 section 7.6.1), and `Expect`, which is
/// answered here.
const OF_ONE_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    EXPECT,
];

/// Tells whether a request asks to speak the websocket protocol (RFC 6455 section 4.1).
pub(super) fn asks_for_websocket<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && lists(request.headers(), &CONNECTION, "upgrade")
        && lists(request.headers(), &UPGRADE, "websocket")
}

/// Takes away what concerns one connection alone, also what `Connection` names.
pub(super) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = items(headers, &CONNECTION)
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named.iter().chain(&OF_ONE_HOP) {
        headers.remove(name);
    }
}

/// Marks a head as the question or the answer of a change to websockets.
pub(super) fn mark_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Returns the values of all cookies of this name.
pub(super) fn cookies<'a>(
    headers: &'a HeaderMap,
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> + 'a {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(pairs)
        .filter_map(move |pair| of_name(pair, name))
}

/// Takes the cookies of this name away and leaves the others.
pub(super) fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let kept: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| {
            let others: Vec<&[u8]> = pairs(value)
                .filter(|pair| of_name(pair, name).is_none())
                .collect();
            HeaderValue::from_bytes(&others.join(&b"; "[..])).ok()
        })
        .filter(|value| !value.is_empty())
        .collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

fn pairs(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
}

fn of_name<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    (key.trim_ascii() == name.as_bytes()).then(|| value.trim_ascii())
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(wanted))
}

fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_connection_names_is_stripped_too() {
        let mut map = headers(&[
            ("connection", "close, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "text/html"),
        ]);
        strip_hop(&mut map);
        assert_eq!(map, headers(&[("accept", "text/html")]));
    }

    #[test]
    fn websockets_are_asked_for_in_any_case_and_place() {
        let asks = |method: Method, fields: &[(&'static str, &'static str)]| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.headers_mut() = headers(fields);
            asks_for_websocket(&request)
        };
        let both = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
        ];
        assert!(asks(Method::GET, &both));
        assert!(!asks(Method::POST, &both));
        assert!(!asks(Method::GET, &both[..1]));
        assert!(!asks(Method::GET, &both[1..]));
        assert!(!asks(
            Method::GET,
            &[("connection", "upgrade"), ("upgrade", "h2c")]
        ));
    }

    #[test]
    fn one_cookie_is_found_and_removed_among_others() {
        let mut map = headers(&[
            ("cookie", "a=1; fed-x=secret;b=\"2\""),
            ("cookie", "fed-x=old"),
            ("cookie", "fed-xy=3"),
        ]);
        let found: Vec<&[u8]> = cookies(&map, "fed-x").collect();
        assert_eq!(found, [&b"secret"[..], b"old"]);
        remove_cookie(&mut map, "fed-x");
        assert_eq!(
            map,
            headers(&[("cookie", "a=1; b=\"2\""), ("cookie", "fed-xy=3")])
        );
    }
}
