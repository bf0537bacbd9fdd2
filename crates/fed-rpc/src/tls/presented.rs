//! The key that a server shows, which may change while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{private_key, provider};
use crate::identity::Identity;

/// The identity that a server presents from the next handshake on.
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
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let presented = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&presented))
    }
}

fn certified(identity: &Identity) -> Arc<CertifiedKey> {
    let key = provider()
        .key_provider
        .load_private_key(private_key(identity));
    let key = key.expect("an identity's key was parsed when it was made");
    Arc::new(CertifiedKey::new(vec![identity.certificate().clone()], key))
}
