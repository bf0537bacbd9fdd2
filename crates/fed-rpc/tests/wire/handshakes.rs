//! What clients that do not shake hands do to the others: nothing.

use std::net::SocketAddr;
use std::time::Duration;

use fed_rpc::server::{HandshakeLimits, IncomingFailure};
use fed_rpc::{Identity, v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::site::Site;
use crate::within;

#[tokio::test]
async fn silent_clients_do_not_hold_up_the_others() {
    let limits = HandshakeLimits {
        timeout: Duration::from_secs(3600),
        concurrent: 9,
    };
    let site = Site::start_with(limits, |_| {}).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(site.address).await.unwrap());
    }
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    for _ in 0..3 {
        let mut agent = site.connect(&operator).await.unwrap();
        agent.describe(v1::DescribeRequest {}).await.unwrap();
    }
    assert_eq!(site.callers().len(), 3);
}

/// Connects from another address of this host.
async fn connect_from(address: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn one_address_does_not_take_the_places_of_the_others() {
    let limits = HandshakeLimits {
        timeout: Duration::from_secs(3600),
        concurrent: 4,
    };
    let mut site = Site::start_with(limits, |_| {}).await;
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    let mut silent = Vec::new();
    for _ in 0..3 {
        for _ in 0..4 {
            silent.push(connect_from([127, 0, 0, 2], site.address).await);
        }
        let mut agent = site.connect(&operator).await.unwrap();
        agent.describe(v1::DescribeRequest {}).await.unwrap();
    }
    assert_eq!(site.callers().len(), 3);
    let oldest = silent[0].local_addr().unwrap();
    let failure = site.failure().await;
    assert!(
        matches!(failure, IncomingFailure::Displaced { remote } if remote == oldest),
        "{failure:?}"
    );
    let end = within("the end of the connection", silent[0].read(&mut [0])).await;
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn a_silent_client_gives_up_its_place_in_time() {
    let limits = HandshakeLimits {
        timeout: Duration::from_millis(100),
        concurrent: 1,
    };
    let mut site = Site::start_with(limits, |_| {}).await;
    let mut silent = TcpStream::connect(site.address).await.unwrap();
    let own = silent.local_addr().unwrap();
    let failure = site.failure().await;
    assert!(
        matches!(failure, IncomingFailure::Timeout { remote, after }
            if remote == own && after == limits.timeout),
        "{failure:?}"
    );
    let end = within("the end of the connection", silent.read(&mut [0])).await;
    assert_eq!(end.unwrap(), 0);
}

/// With room for one handshake, each next client depends on the end of the one before.
#[tokio::test]
async fn failed_handshakes_free_their_place_and_do_not_end_the_stream() {
    let limits = HandshakeLimits {
        timeout: crate::PATIENCE,
        concurrent: 1,
    };
    let mut site = Site::start_with(limits, |_| {}).await;
    for _ in 0..3 {
        let mut noise = TcpStream::connect(site.address).await.unwrap();
        noise
            .write_all(b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n")
            .await
            .unwrap();
        assert!(matches!(
            site.failure().await,
            IncomingFailure::Handshake { .. }
        ));
        drop(noise);

        let gone = TcpStream::connect(site.address).await.unwrap();
        drop(gone);
        assert!(matches!(
            site.failure().await,
            IncomingFailure::Handshake { .. }
        ));

        site.connect(&Identity::generate("stranger").unwrap())
            .await
            .unwrap_err();
        assert!(matches!(
            site.failure().await,
            IncomingFailure::Refused { .. }
        ));
    }
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    let mut agent = site.connect(&operator).await.unwrap();
    agent.describe(v1::DescribeRequest {}).await.unwrap();
}

/// What the agent has not read when it closes must not turn its last words into a reset.
#[tokio::test]
async fn a_client_that_sends_too_much_still_reads_the_alert() {
    let mut site = Site::start().await;
    let mut noise = TcpStream::connect(site.address).await.unwrap();
    noise.write_all(&[b'x'; 32 * 1024]).await.unwrap();
    assert!(matches!(
        site.failure().await,
        IncomingFailure::Handshake { .. }
    ));
    noise.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the alert", noise.read_to_end(&mut answer))
        .await
        .unwrap();
    // Content type of an alert, RFC 8446 section 5.1.
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
}

#[tokio::test]
async fn a_stopped_agent_has_closed_its_port() {
    let site = Site::start().await;
    let address = site.address;
    let silent = TcpStream::connect(address).await.unwrap();
    site.stop().await;
    let error = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(silent);
}
