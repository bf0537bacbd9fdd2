//! What a caller is told when it does not work.

use std::time::Duration;

use fed_rpc::client::{self, ConnectError, Stage};
use fed_rpc::status::{CallError, Reason, Refusal};
use fed_rpc::{Fingerprint, Identity, v1};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::site::{Site, long_message};
use crate::{PATIENCE, within};

async fn failure(address: &str, timeout: Duration) -> ConnectError {
    let operator = Identity::generate("operator").unwrap();
    let agent = Fingerprint::from_bytes([7; 32]);
    client::connect(address, &operator, agent, timeout)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn a_text_that_is_no_address_is_refused_at_once() {
    for text in ["ecmwf", "ecmwf:port", "http://ecmwf:80/"] {
        let error = failure(text, PATIENCE).await;
        assert!(
            matches!(&error, ConnectError::Address { address } if address == text),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_one_is_not_resolved() {
    // Longer than DNS allows, so that no query leaves the host.
    let error = failure(&format!("{}:7443", "a".repeat(300)), PATIENCE).await;
    assert!(matches!(error, ConnectError::Resolve { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = failure(&address, PATIENCE).await;
    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_server_that_says_nothing_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let error = failure(&address, Duration::from_millis(200)).await;
    assert!(
        matches!(
            error,
            ConnectError::Timeout {
                stage: Stage::Handshake,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_kind_of_server_is_told_as_such() {
    for greeting in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting).await.unwrap();
        });
        let error = failure(&address, PATIENCE).await;
        assert!(matches!(error, ConnectError::Protocol { .. }), "{error:?}");
        within("the other server", server).await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_survives_the_wire_with_its_reason() {
    let site = Site::start().await;
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    let mut agent = site.connect(&operator).await.unwrap();
    let status = agent.renew(v1::RenewRequest::default()).await.unwrap_err();
    let CallError::Refused(Refusal { reason, message }) = CallError::from(status) else {
        panic!("no refusal");
    };
    assert_eq!(reason, Reason::UnknownFederation);
    let kept = message.strip_suffix(" …").unwrap();
    assert!(
        kept.len() > 1000 && long_message().starts_with(kept),
        "{message}"
    );
}

#[tokio::test]
async fn a_call_without_an_answer_ends_at_its_deadline() {
    let site = Site::start().await;
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    let mut agent = site.connect(&operator).await.unwrap();
    let mut request = tonic::Request::new(v1::ProbeRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let error = CallError::from(
        within("the deadline", agent.probe(request))
            .await
            .unwrap_err(),
    );
    assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
}

#[tokio::test]
async fn a_lost_agent_is_told_as_lost() {
    let site = Site::start().await;
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    let mut agent = site.connect(&operator).await.unwrap();
    let address = site.address.to_string();
    site.stop().await;
    let error = within("a call that cannot connect", async {
        loop {
            let status = agent.describe(v1::DescribeRequest {}).await.unwrap_err();
            let error = CallError::from(status);
            // The first call may still meet the dying connection.
            if !matches!(error, CallError::Broken { .. }) {
                break error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let CallError::Connection(message) = &error else {
        panic!("{error:?}")
    };
    assert!(
        message.contains(&format!("cannot reach {address}")),
        "{message}"
    );
}

/// The channel connects again by itself, and says so when it is not let in any more.
#[tokio::test]
async fn a_call_on_a_new_connection_tells_of_the_refusal() {
    let site = Site::start().await;
    let operator = Identity::generate("operator").unwrap();
    site.admit(&operator);
    let relay = Relay::start(site.address).await;
    let mut agent = client::connect(
        &relay.address.to_string(),
        &operator,
        site.identity.fingerprint(),
        PATIENCE,
    )
    .await
    .unwrap();
    agent.describe(v1::DescribeRequest {}).await.unwrap();

    site.revoke(&operator);
    relay.cut();
    let error = within("a call that is refused", async {
        loop {
            match agent
                .describe(v1::DescribeRequest {})
                .await
                .map_err(CallError::from)
            {
                Ok(_) | Err(CallError::Broken { .. }) => tokio::task::yield_now().await,
                Err(other) => break other,
            }
        }
    })
    .await;
    let CallError::Unenrolled(message) = &error else {
        panic!("{error:?}")
    };
    let own = operator.fingerprint().to_string();
    assert!(
        message.contains("refuses the key") && message.contains(&own),
        "{message}"
    );
}

/// A line between caller and agent that can be cut.
struct Relay {
    address: std::net::SocketAddr,
    cut: tokio::sync::watch::Sender<u32>,
}

impl Relay {
    async fn start(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, _) = tokio::sync::watch::channel(0);
        let cuts = cut.clone();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = cut.changed() => {}
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    /// Ends the connections that are open now.
    fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }
}
