//! The scheduler's port, with a listener of the test in the scheduler's place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fed_rpc::{Fingerprint, Identity};
use fed_service::gateway::{Gateway, OpenError};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::log::Log;
use crate::setup::{Setup, closed_port, listen, spec};
use crate::{python, within};

/// Starts a service that hears each client out and then says it all back.
async fn echo() -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut heard = Vec::new();
                stream.read_to_end(&mut heard).await.unwrap();
                stream.write_all(&heard).await.unwrap();
            });
        }
    });
    address
}

async fn connect(
    gateway: SocketAddr,
    identity: &Identity,
    server: Fingerprint,
) -> TlsStream<TcpStream> {
    let connector = TlsConnector::from(fed_rpc::tls::client_config(identity, server));
    let stream = TcpStream::connect(gateway).await.unwrap();
    let name = ServerName::try_from("gateway").unwrap();
    within(connector.connect(name, stream)).await.unwrap()
}

/// Says something, ends, and returns the answer.
async fn say(stream: &mut TlsStream<TcpStream>, text: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    within(async {
        stream.write_all(text).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut answer).await.unwrap();
    })
    .await;
    answer
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_the_answer() {
    let setup = Setup::for_scheduler(echo().await).await;
    let address = setup.gateway.scheduler_address();
    let mut stream = connect(address, &setup.client, setup.server.fingerprint()).await;
    let text: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    assert!(say(&mut stream, &text).await == text, "the bytes differ");
}

#[tokio::test]
async fn another_certificate_is_refused_in_the_handshake() {
    let log = Log::start();
    let setup = Setup::for_scheduler(echo().await).await;
    let stranger = Identity::generate("client").unwrap();
    let address = setup.gateway.scheduler_address();
    let mut stream = connect(address, &stranger, setup.server.fingerprint()).await;
    let remote = stream.get_ref().0.local_addr().unwrap();

    // TLS 1.3 has the client finish first; the refusal is what it reads.
    let mut answer = Vec::new();
    let error = within(stream.read_to_end(&mut answer)).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(setup.dials(), 0);
    let text = log.text();
    assert!(text.contains("WARN"), "{text}");
    assert!(text.contains(&format!("remote={remote}")), "{text}");
    assert!(text.contains(&stranger.fingerprint().to_string()), "{text}");
}

#[tokio::test]
async fn no_certificate_is_refused_in_the_handshake() {
    let log = Log::start();
    let setup = Setup::for_scheduler(echo().await).await;
    let folder = tempfile::tempdir().unwrap();
    let cafile = folder.path().join("scheduler.pem");
    std::fs::write(cafile, setup.server.certificate_pem()).unwrap();
    let port = setup.gateway.scheduler_address().port().to_string();

    for version in ["TLSv1_2", "TLSv1_3"] {
        let arguments = ["127.0.0.1", &port, version];
        let said = python::run("stranger.py", folder.path(), &arguments).await;
        let (remote, outcome) = said.trim().split_once('\n').unwrap();
        assert!(outcome.contains("ALERT"), "{version}: {outcome}");
        assert!(
            log.text().contains(&format!("remote={remote}")),
            "{}",
            log.text()
        );
    }
    assert_eq!(setup.dials(), 0);
}

#[tokio::test]
async fn a_dial_that_fails_ends_that_one_connection() {
    let log = Log::start();
    let scheduler = echo().await;
    let up = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&up);
    let dial = move |to: SocketAddr| -> BoxFuture<'static, std::io::Result<TcpStream>> {
        if seen.load(Ordering::SeqCst) {
            TcpStream::connect(to).boxed()
        } else {
            async { Err(std::io::Error::other("the sandbox is gone")) }.boxed()
        }
    };
    let server = Identity::generate("server").unwrap();
    let client = Identity::generate("client").unwrap();
    let gateway = Gateway::open(
        spec(scheduler, closed_port().await),
        Arc::new(dial),
        &server,
        client.fingerprint(),
    )
    .await
    .unwrap();
    let address = gateway.scheduler_address();

    let mut first = connect(address, &client, server.fingerprint()).await;
    let remote = first.get_ref().0.local_addr().unwrap();
    let mut answer = Vec::new();
    within(first.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
    let text = log.text();
    for part in ["WARN", &format!("remote={remote}"), "the sandbox is gone"] {
        assert!(text.contains(part), "{text}");
    }

    up.store(true, Ordering::SeqCst);
    let mut second = connect(address, &client, server.fingerprint()).await;
    assert_eq!(say(&mut second, b"hello").await, b"hello");
}

#[tokio::test]
async fn closing_ends_listeners_and_connections() {
    let setup = Setup::for_scheduler(echo().await).await;
    let scheduler = setup.gateway.scheduler_address();
    let dashboard = setup.gateway.dashboard_address();
    let mut stream = connect(scheduler, &setup.client, setup.server.fingerprint()).await;
    let mut browser = TcpStream::connect(dashboard).await.unwrap();

    within(setup.gateway.close()).await;
    for address in [scheduler, dashboard] {
        assert!(TcpStream::connect(address).await.is_err(), "{address}");
    }
    // Cut off, not taken leave of: an end without the last words of TLS.
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap_err();
    // With or without a reset, whatever was on its way.
    let _ = within(browser.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn the_dashboards_search_begins_above_the_schedulers() {
    let (taken, address) = listen().await;
    drop(taken);
    let mut wanted = spec(address, address);
    wanted.first_port = address.port();
    let server = Identity::generate("server").unwrap();
    let gateway = Gateway::open(
        wanted,
        Arc::new(TcpStream::connect::<SocketAddr>),
        &server,
        server.fingerprint(),
    )
    .await
    .unwrap();
    let (scheduler, dashboard) = (gateway.scheduler_address(), gateway.dashboard_address());
    assert!(scheduler.port() >= address.port(), "{scheduler} {address}");
    assert!(dashboard.port() > address.port(), "{dashboard} {address}");
    assert_ne!(scheduler, dashboard);
}

#[tokio::test]
async fn a_token_that_can_be_guessed_is_refused() {
    let address = closed_port().await;
    let server = Identity::generate("server").unwrap();
    let open = async |token: &str, cookie: &str| {
        let mut wanted = spec(address, address);
        wanted.token = token.into();
        wanted.cookie_name = cookie.into();
        let dial = Arc::new(TcpStream::connect::<SocketAddr>);
        Gateway::open(wanted, dial, &server, server.fingerprint())
            .await
            .err()
    };
    for token in [
        "",
        "short",
        "0123456789012345678901 ",
        "0123456789012345678901;x",
    ] {
        let error = open(token, "fed-x").await;
        assert!(
            matches!(error, Some(OpenError::Token)),
            "{token}: {error:?}"
        );
    }
    for cookie in ["", "a b", "a=b"] {
        let error = open("0123456789012345678901", cookie).await;
        assert!(
            matches!(error, Some(OpenError::CookieName(_))),
            "{cookie}: {error:?}"
        );
    }
}
