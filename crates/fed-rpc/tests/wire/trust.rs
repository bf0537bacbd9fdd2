//! Who gets in, and to whom.

use std::sync::Arc;

use fed_rpc::client::{self, ConnectError};
use fed_rpc::server::{HandshakeLimits, IncomingFailure};
use fed_rpc::tls::Pins;
use fed_rpc::{Identity, tls, v1};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, SignatureScheme};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::site::Site;
use crate::{PATIENCE, within};

fn operator() -> Identity {
    Identity::generate("operator").unwrap()
}

#[tokio::test]
async fn a_pinned_pair_talks_and_the_handler_knows_the_caller() {
    let site = Site::start().await;
    let operators = [operator(), operator()];
    for operator in &operators {
        site.admit(operator);
    }
    for operator in &operators {
        let mut agent = site.connect(operator).await.unwrap();
        let reply = agent.describe(v1::DescribeRequest {}).await.unwrap();
        assert_eq!(reply.into_inner().site, "ecmwf");
    }
    let seen: Vec<_> = site
        .callers()
        .iter()
        .map(|caller| caller.fingerprint)
        .collect();
    assert_eq!(seen, operators.map(|operator| operator.fingerprint()));
    assert!(
        site.callers()
            .iter()
            .all(|caller| caller.remote.ip().is_loopback())
    );
    site.stop().await;
}

#[tokio::test]
async fn another_agent_is_told_apart_with_both_fingerprints() {
    let site = Site::start().await;
    let operator = operator();
    site.admit(&operator);
    let pinned = Identity::generate("agent").unwrap().fingerprint();
    let error = client::connect(&site.address.to_string(), &operator, pinned, PATIENCE)
        .await
        .unwrap_err();
    let ConnectError::WrongFingerprint { expected, seen, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*expected, *seen), (pinned, site.identity.fingerprint()));
    let text = error.to_string();
    assert!(
        text.contains(&expected.to_string()) && text.contains(&seen.to_string()),
        "{text}"
    );
    assert_eq!(site.callers(), []);
}

#[tokio::test]
async fn an_agent_changes_its_key_while_it_runs() {
    let site = Site::start().await;
    let operator = operator();
    site.admit(&operator);
    let (old, next) = (
        site.identity.fingerprint(),
        Identity::generate("agent").unwrap(),
    );
    let address = site.address.to_string();
    let pins = Pins::new([old]);
    let connect = || client::connect_to_any(&address, &operator, &pins, PATIENCE);
    let client::Connected {
        agent: mut before,
        seen,
        ..
    } = connect().await.unwrap();
    assert_eq!(seen, old);
    site.presented.change(&next);
    // Who was connected stays so; who comes anew and has not heard of the new key does not.
    before.describe(v1::DescribeRequest {}).await.unwrap();
    let error = connect().await.unwrap_err();
    assert!(
        matches!(error, ConnectError::WrongFingerprint { expected, seen, .. }
            if expected == old && seen == next.fingerprint()),
        "{error:?}"
    );
    pins.add(next.fingerprint());
    let client::Connected {
        agent: mut after,
        seen,
        ..
    } = connect().await.unwrap();
    assert_eq!(seen, next.fingerprint());
    after.describe(v1::DescribeRequest {}).await.unwrap();
    // A third key is nobody's.
    site.presented.change(&Identity::generate("agent").unwrap());
    assert!(matches!(
        connect().await,
        Err(ConnectError::WrongFingerprint { .. })
    ));
}

/// Many times, because the refusal races with the client's own end of the handshake.
#[tokio::test]
async fn a_stranger_is_refused_in_the_handshake() {
    let mut site = Site::start().await;
    for _ in 0..50 {
        let stranger = operator();
        let error = site.connect(&stranger).await.unwrap_err();
        assert!(
            matches!(&error, ConnectError::Refused { fingerprint, .. }
                if *fingerprint == stranger.fingerprint()),
            "{error:?}"
        );
        let failure = site.failure().await;
        assert!(
            matches!(&failure, IncomingFailure::Refused { fingerprint, remote }
                if *fingerprint == stranger.fingerprint() && remote.ip().is_loopback()),
            "{failure:?}"
        );
    }
    assert_eq!(site.callers(), []);
}

#[tokio::test]
async fn who_is_revoked_does_not_come_back() {
    let mut site = Site::start().await;
    let operator = operator();
    site.admit(&operator);
    let mut agent = site.connect(&operator).await.unwrap();
    agent.describe(v1::DescribeRequest {}).await.unwrap();

    site.revoke(&operator);
    let error = site.connect(&operator).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    assert!(matches!(
        site.failure().await,
        IncomingFailure::Refused { .. }
    ));
    assert_eq!(site.callers().len(), 1);
}

/// A client that keeps sessions, as ours does not, must not get past the admission with one.
#[tokio::test]
async fn a_session_is_not_resumed() {
    let site = Site::start().await;
    let operator = operator();
    site.admit(&operator);
    let mut config = tls::client_config(&operator, site.identity.fingerprint());
    Arc::make_mut(&mut config).resumption = Resumption::in_memory_sessions(16);
    for _ in 0..2 {
        let stream = TcpStream::connect(site.address).await.unwrap();
        let name = site.address.ip().into();
        let mut stream = TlsConnector::from(Arc::clone(&config))
            .connect(name, stream)
            .await
            .unwrap();
        // The agent's first byte comes after whatever it has to say about sessions.
        within("the agent's first byte", stream.read_u8())
            .await
            .unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

/// Shows one's certificate and signs with the other's key.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl Impostor {
    fn new(shown: &Identity, held: &Identity) -> Arc<Self> {
        let key = any_supported_type(&held.private_key().clone_key().into()).unwrap();
        Arc::new(Self(Arc::new(CertifiedKey::new(
            vec![shown.certificate().clone()],
            key,
        ))))
    }
}

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Impostor {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_lets_nobody_in() {
    let mut site = Site::start().await;
    let (operator, thief) = (operator(), operator());
    site.admit(&operator);
    let mut config = tls::client_config(&thief, site.identity.fingerprint());
    Arc::make_mut(&mut config).client_auth_cert_resolver = Impostor::new(&operator, &thief);

    let stream = TcpStream::connect(site.address).await.unwrap();
    let name = site.address.ip().into();
    if let Ok(mut stream) = TlsConnector::from(config).connect(name, stream).await {
        within("the agent's answer", stream.read_u8())
            .await
            .unwrap_err();
    }
    let failure = site.failure().await;
    let IncomingFailure::Handshake { source, .. } = &failure else {
        panic!("{failure:?}")
    };
    assert!(source.to_string().contains("BadSignature"), "{source}");
}

#[tokio::test]
async fn an_agents_certificate_without_its_key_is_not_believed() {
    let (real, operator) = (Identity::generate("agent").unwrap(), operator());
    let thief = Identity::generate("agent").unwrap();
    let site = Site::start_with(HandshakeLimits::default(), |config| {
        config.cert_resolver = Impostor::new(&real, &thief);
    })
    .await;
    site.admit(&operator);
    let error = client::connect(
        &site.address.to_string(),
        &operator,
        real.fingerprint(),
        PATIENCE,
    )
    .await
    .unwrap_err();
    let ConnectError::Protocol { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(source.to_string().contains("BadSignature"), "{source}");
}
