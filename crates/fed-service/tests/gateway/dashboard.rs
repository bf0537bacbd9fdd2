//! The dashboard's port, byte by byte, with a listener of the test in the dashboard's place.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::setup::{COOKIE, Setup, TOKEN, closed_port, listen};
use crate::within;

/// Reads up to and with the empty line that ends a head.
async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    within(async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    })
    .await;
    String::from_utf8(head).unwrap()
}

async fn read(stream: &mut TcpStream, wanted: &str) {
    let mut bytes = vec![0; wanted.len()];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), wanted);
}

async fn write(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Sends a request with a `Host` and these lines, and returns the connection.
async fn send(gateway: SocketAddr, request: &str, lines: &[&str]) -> TcpStream {
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let mut text = format!("{request} HTTP/1.1\r\n");
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        text += &format!("Host: {gateway}\r\n");
    }
    for line in lines {
        text += &format!("{line}\r\n");
    }
    write(&mut stream, &format!("{text}\r\n")).await;
    stream
}

/// Sends a request and returns all that is answered.
async fn ask(gateway: SocketAddr, request: &str, lines: &[&str]) -> String {
    let lines = [lines, &["Connection: close"]].concat();
    let mut stream = send(gateway, request, &lines).await;
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

fn cookie() -> String {
    format!("Cookie: a=1; {COOKIE}={TOKEN}; b=2")
}

/// Accepts one connection and reads the request's head, in small letters and sorted lines.
async fn accept(listener: &TcpListener) -> (TcpStream, Vec<String>) {
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    let head = read_head(&mut stream).await;
    let mut lines: Vec<String> = head.trim().lines().map(str::to_ascii_lowercase).collect();
    lines[1..].sort();
    (stream, lines)
}

/// Says what a header is in an answer; nothing when it is absent.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

#[tokio::test]
async fn a_request_and_its_answer_lose_only_what_is_not_the_others() {
    let (listener, address) = listen().await;
    let setup = Setup::for_dashboard(address).await;
    let gateway = setup.gateway.dashboard_address();
    let cookie = cookie();
    let asked = tokio::spawn(async move {
        let bearer = format!("Authorization: Bearer {TOKEN}");
        let lines = [
            &*cookie,
            &*bearer,
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Proxy-Authorization: x",
            "Accept: text/html",
        ];
        ask(gateway, "GET /status?x=1", &lines).await
    });
    let (mut stream, lines) = accept(&listener).await;
    let host = format!("host: {gateway}");
    let expected = [
        "get /status?x=1 http/1.1",
        "accept: text/html",
        "cookie: a=1; b=2",
        &host,
    ];
    assert_eq!(lines, expected);
    write(
        &mut stream,
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=3\r\nSet-Cookie: b=4\r\nConnection: x-hop\r\n\
         X-Hop: 1\r\nX-End: 2\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await;
    let answer = asked.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert_eq!(header(&answer, "x-hop"), None);
    assert_eq!(header(&answer, "x-end"), Some("2"));
    assert_eq!(answer.to_ascii_lowercase().matches("set-cookie").count(), 2);
}

#[tokio::test]
async fn without_the_token_nothing_reaches_the_dashboard() {
    let setup = Setup::for_dashboard(closed_port().await).await;
    let gateway = setup.gateway.dashboard_address();
    let wrong = format!("Cookie: {COOKIE}=wrong");
    let websocket = ["Upgrade: websocket", "Connection: upgrade"];
    for (request, lines) in [
        ("GET /status", &[][..]),
        ("GET /status?token=wrong", &[]),
        ("GET /status", &[&*wrong]),
        ("GET /status/ws", &websocket),
        ("POST /status", &["Content-Length: 0"]),
    ] {
        let answer = ask(gateway, request, lines).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{request}: {answer}");
        assert!(answer.contains("`fed status`"), "{request}: {answer}");
        assert!(!answer.contains(TOKEN), "{request}: {answer}");
    }
    assert_eq!(setup.dials(), 0);
}

#[tokio::test]
async fn the_link_sets_a_cookie_and_leads_to_the_page_without_the_token() {
    let (listener, address) = listen().await;
    let setup = Setup::for_dashboard(address).await;
    let gateway = setup.gateway.dashboard_address();
    let link = setup.gateway.dashboard_url();
    let request = link.strip_prefix(&format!("http://{gateway}")).unwrap();
    assert_eq!(request, format!("/status?token={TOKEN}"));

    let answer = ask(gateway, &format!("GET {request}"), &[]).await;
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    assert_eq!(header(&answer, "location"), Some("./status"));
    assert_eq!(header(&answer, "cache-control"), Some("no-store"));
    assert_eq!(setup.dials(), 0);
    let mut parts = header(&answer, "set-cookie").unwrap().split("; ");
    let cookie = format!("Cookie: {}", parts.next().unwrap());
    let attributes: Vec<&str> = parts.collect();
    assert_eq!(attributes, ["Path=/", "HttpOnly", "SameSite=Strict"]);

    let asked = tokio::spawn(async move { ask(gateway, "GET /status", &[&cookie]).await });
    let (mut stream, lines) = accept(&listener).await;
    // The only cookie was the gateway's.
    assert_eq!(
        lines,
        ["get /status http/1.1".into(), format!("host: {gateway}")]
    );
    write(&mut stream, "HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(asked.await.unwrap().starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn other_names_of_this_host_are_refused() {
    let setup = Setup::for_dashboard(closed_port().await).await;
    let gateway = setup.gateway.dashboard_address();
    let cookie = cookie();
    for host in [
        "evil.example",
        "127.0.0.1",
        "localhost:1",
        "evil.example:80",
    ] {
        let host = format!("Host: {host}");
        let answer = ask(gateway, "GET /status", &[&*host, &*cookie]).await;
        assert!(answer.starts_with("HTTP/1.1 421"), "{host}: {answer}");
        assert!(answer.contains(&gateway.to_string()), "{host}: {answer}");
    }
    assert_eq!(setup.dials(), 0);

    // The other way to reach something else through a proxy.
    let answer = ask(gateway, "CONNECT evil.example:80", &[&*cookie]).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(setup.dials(), 0);

    for host in ["localhost", "[::1]"] {
        let host = format!("Host: {host}:{}", gateway.port());
        let answer = ask(gateway, "GET /status", &[&*host, &*cookie]).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{host}: {answer}");
    }
    assert_eq!(setup.dials(), 2);
}

#[tokio::test]
async fn an_unreachable_dashboard_is_named() {
    let dashboard = closed_port().await;
    let setup = Setup::for_dashboard(dashboard).await;
    let answer = ask(setup.gateway.dashboard_address(), "GET /", &[&cookie()]).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains(&dashboard.to_string()), "{answer}");
}

#[tokio::test]
async fn bodies_are_streamed_both_ways() {
    let (listener, address) = listen().await;
    let setup = Setup::for_dashboard(address).await;
    let cookie = cookie();
    let lines = [&*cookie, "Transfer-Encoding: chunked"];
    let mut browser = send(setup.gateway.dashboard_address(), "POST /x", &lines).await;
    let (mut dashboard, lines) = accept(&listener).await;
    assert!(
        lines.contains(&"transfer-encoding: chunked".into()),
        "{lines:?}"
    );

    // Each part is waited for before the next is sent: whoever buffers hangs here.
    for part in ["5\r\nfirst\r\n", "6\r\nsecond\r\n"] {
        write(&mut browser, part).await;
        read(&mut dashboard, part).await;
    }
    write(&mut browser, "0\r\n\r\n").await;
    read(&mut dashboard, "0\r\n\r\n").await;

    write(
        &mut dashboard,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    let head = read_head(&mut browser).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    for part in ["5\r\nthird\r\n", "6\r\nfourth\r\n"] {
        write(&mut dashboard, part).await;
        read(&mut browser, part).await;
    }
    write(&mut dashboard, "0\r\n\r\n").await;
    read(&mut browser, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways_until_one_end_leaves() {
    let (listener, address) = listen().await;
    let setup = Setup::for_dashboard(address).await;
    let gateway = setup.gateway.dashboard_address();
    let cookie = cookie();
    let origin = format!("Origin: http://{gateway}");
    let lines = [
        &*cookie,
        &*origin,
        "Connection: keep-alive, Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: a2V5",
        "Sec-WebSocket-Protocol: bokeh, token",
    ];
    let mut browser = send(gateway, "GET /status/ws", &lines).await;
    let (mut dashboard, lines) = accept(&listener).await;
    for line in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-key: a2v5",
        "sec-websocket-protocol: bokeh, token",
        &origin.to_ascii_lowercase(),
    ] {
        assert!(lines.iter().any(|seen| seen == line), "{line}: {lines:?}");
    }
    // The first frame may come in one piece with the head.
    write(
        &mut dashboard,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: eA==\r\n\r\nfrom the dashboard",
    )
    .await;
    let head = read_head(&mut browser).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    assert_eq!(header(&head, "sec-websocket-accept"), Some("eA=="));
    read(&mut browser, "from the dashboard").await;
    write(&mut browser, "from the browser").await;
    read(&mut dashboard, "from the browser").await;

    drop(browser);
    let mut rest = Vec::new();
    within(dashboard.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer() {
    let (listener, address) = listen().await;
    let setup = Setup::for_dashboard(address).await;
    let gateway = setup.gateway.dashboard_address();
    let cookie = cookie();
    let lines = [&*cookie, "Connection: upgrade", "Upgrade: websocket"];
    let mut browser = send(gateway, "GET /status/ws", &lines).await;
    let (mut dashboard, _) = accept(&listener).await;
    write(
        &mut dashboard,
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    let head = read_head(&mut browser).await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    read(&mut browser, "no").await;
}

#[tokio::test]
async fn a_protocol_that_nobody_asked_for_is_an_error() {
    let (listener, address) = listen().await;
    let setup = Setup::for_dashboard(address).await;
    let gateway = setup.gateway.dashboard_address();
    let asked = tokio::spawn(async move { ask(gateway, "GET /", &[&cookie()]).await });
    let (mut dashboard, _) = accept(&listener).await;
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
    write(&mut dashboard, answer).await;
    let answer = asked.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
