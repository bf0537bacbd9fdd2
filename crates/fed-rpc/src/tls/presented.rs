//! The key that an agent shows, which may change while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{private_key, provider};
use crate::identity::Identity;

/// The identity that an agent presents from the next handshake on, whoever opens the connection.
#[derive(Debug)]
pub struct Presented(RwLock<Arc<CertifiedKey>>);

impl Presented {
    /// Begins with this identity.
    pub fn new(identity: &Identity) -> Self {
        Self(RwLock::new(certified(identity)))
    }

    /// Changes to another identity. Connections that stand are left alone.
    pub fn change(&self, identity: &Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(identity);
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Presented {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(identity: &Identity) -> Arc<CertifiedKey> {
    let key = provider()
        .key_provider
        .load_private_key(private_key(identity));
    let key = key.expect("an identity's key was parsed when it was made");
    Arc::new(CertifiedKey::new(vec![identity.certificate().clone()], key))
}
