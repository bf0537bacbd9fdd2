//! TLS configurations in which each end pins the other's public key.
//!
//! No certificate authority takes part. The verifiers here replace only the question "do I trust
//! this certificate"; that the peer holds the private key is still proved by its signature over
//! the handshake, which rustls' own provider checks.
//!
//! No configuration resumes sessions: a resumed session would not ask the verifier again, and
//! whoever is no longer admitted could come back in.

mod presented;
mod verifier;

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;

use crate::identity::{Fingerprint, Identity};

pub use presented::Presented;
pub use verifier::Pins;
use verifier::{AdmittedClients, KnownServer};
pub(crate) use verifier::{NotAdmitted, NotPinned, cause};

/// ALPN name of HTTP/2, over which gRPC runs (RFC 9113 section 3.1).
const HTTP2: &[u8] = b"h2";

/// Says who may connect. Asked in each handshake, so that a change counts from the next one.
///
/// Closures `Fn(&Fingerprint) -> bool` are admissions too. An answer must not block: it is given
/// in the middle of a handshake.
pub trait Admission: Send + Sync + 'static {
    /// Tells whether the holder of this key may connect.
    fn admit(&self, peer: &Fingerprint) -> bool;
}

impl<F> Admission for F
where
    F: Fn(&Fingerprint) -> bool + Send + Sync + 'static,
{
    fn admit(&self, peer: &Fingerprint) -> bool {
        self(peer)
    }
}

/// Returns the configuration of a caller that talks to the agent with this key, and no other.
///
/// TLS 1.3 with HTTP/2.
pub fn client_config(identity: &Identity, agent: Fingerprint) -> Arc<ClientConfig> {
    pinning_client_config(identity, &Pins::new([agent]))
}

/// Returns the configuration of a caller that talks to the agent with one of these keys. What is
/// added to the pins counts from the next handshake.
pub fn pinning_client_config(identity: &Identity, agent: &Pins) -> Arc<ClientConfig> {
    let verifier = KnownServer::pinned(agent.clone(), provider().signature_verification_algorithms);
    let mut config = client(verifier, Arc::new(Presented::new(identity)));
    // The peer is known by its key; its name would only be told to whoever listens.
    config.enable_sni = false;
    Arc::new(config)
}

/// Returns the configuration of an agent that opens connections itself ([`crate::reverse`]) and asks
/// `admission` about whoever answers.
pub fn dialling_config(
    presented: Arc<Presented>,
    admission: Arc<dyn Admission>,
) -> Arc<ClientConfig> {
    let verifier = KnownServer::admitted(admission, provider().signature_verification_algorithms);
    Arc::new(client(verifier, presented))
}

fn client(verifier: KnownServer, presented: Arc<Presented>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(presented);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Returns the configuration of an agent, which asks `admission` about each caller.
///
/// TLS 1.3 with HTTP/2. A client without a certificate, or with a key that is not admitted, is
/// refused in the handshake.
pub fn server_config(identity: &Identity, admission: Arc<dyn Admission>) -> Arc<ServerConfig> {
    changing_server_config(Arc::new(Presented::new(identity)), admission)
}

/// Returns the configuration of an agent whose key may change while it runs.
pub fn changing_server_config(
    presented: Arc<Presented>,
    admission: Arc<dyn Admission>,
) -> Arc<ServerConfig> {
    let mut config = server(presented, admission, &[&TLS13]);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    Arc::new(config)
}

/// Returns the configuration of the gateway, whose clients are Python's `ssl`, with the one client
/// certificate that was made for the federation.
///
/// TLS 1.2 and 1.3, without ALPN. The client trusts the identity's own certificate as `cafile`.
pub fn gateway_config(identity: &Identity, client: Fingerprint) -> Arc<ServerConfig> {
    let only = move |peer: &Fingerprint| *peer == client;
    let presented = Arc::new(Presented::new(identity));
    Arc::new(server(presented, Arc::new(only), &[&TLS13, &TLS12]))
}

fn server(
    presented: Arc<Presented>,
    admission: Arc<dyn Admission>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = provider();
    let verifier = AdmittedClients::new(admission, provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(presented);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn private_key(identity: &Identity) -> PrivateKeyDer<'static> {
    identity.private_key().clone_key().into()
}
