//! The two ends' questions to a certificate: is it the pinned key, is it an admitted one.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use thiserror::Error as ThisError;

use super::Admission;
use crate::identity::Fingerprint;

/// The server holds another key than the pinned one.
#[derive(Clone, Debug, ThisError)]
#[error("expected the key {expected} but saw {seen}")]
pub(crate) struct NotPinned {
    pub(crate) expected: Fingerprint,
    pub(crate) seen: Fingerprint,
}

/// The peer's key is not on the list.
#[derive(Clone, Debug, ThisError)]
#[error("the key {seen} is not admitted")]
pub(crate) struct NotAdmitted {
    pub(crate) seen: Fingerprint,
}

/// Finds what a verifier of this crate said in the error of a failed handshake.
pub(crate) fn cause<E: StdError + 'static>(error: &io::Error) -> Option<&E> {
    let Some(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    else {
        return None;
    };
    cause.downcast_ref()
}

fn refuse(cause: impl StdError + Send + Sync + 'static) -> Error {
    CertificateError::Other(OtherError(Arc::new(cause))).into()
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Result<Fingerprint, Error> {
    Fingerprint::of_certificate(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

/// The keys by which a server is known: one, or two while one replaces the other. Clones share
/// them.
#[derive(Clone, Debug)]
pub struct Pins(Arc<RwLock<Vec<Fingerprint>>>);

impl Pins {
    /// Pins these keys, of which there is at least one; the first is the one that is expected.
    pub fn new(keys: impl IntoIterator<Item = Fingerprint>) -> Self {
        Self(Arc::new(RwLock::new(keys.into_iter().collect())))
    }

    /// Pins one more key, from the next handshake on.
    pub fn add(&self, key: Fingerprint) {
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }

    /// The key that is expected.
    pub(crate) fn expected(&self) -> Fingerprint {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let first = keys.first().copied();
        first.unwrap_or(Fingerprint::from_bytes([0; 32]))
    }

    fn check(&self, seen: Fingerprint) -> Result<(), NotPinned> {
        if self.admit(&seen) {
            return Ok(());
        }
        Err(NotPinned {
            expected: self.expected(),
            seen,
        })
    }
}

impl Admission for Pins {
    fn admit(&self, peer: &Fingerprint) -> bool {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.contains(peer)
    }
}

/// Which servers are accepted.
enum Known {
    /// Those with one of these keys.
    Pinned(Pins),
    /// Those that an admission knows.
    Admitted(Arc<dyn Admission>),
}

/// Accepts a server by its key alone.
pub(super) struct KnownServer {
    known: Known,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KnownServer {
    pub(super) fn pinned(pins: Pins, algorithms: WebPkiSupportedAlgorithms) -> Self {
        let known = Known::Pinned(pins);
        Self { known, algorithms }
    }

    pub(super) fn admitted(
        admission: Arc<dyn Admission>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let known = Known::Admitted(admission);
        Self { known, algorithms }
    }
}

impl fmt::Debug for KnownServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KnownServer")
            .finish_non_exhaustive()
    }
}

impl ServerCertVerifier for KnownServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let seen = fingerprint(end_entity)?;
        match &self.known {
            Known::Pinned(pins) => pins.check(seen).map_err(refuse)?,
            Known::Admitted(admission) if admission.admit(&seen) => {}
            Known::Admitted(_) => return Err(refuse(NotAdmitted { seen })),
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Accepts the clients that an [`Admission`] knows.
pub(super) struct AdmittedClients {
    admission: Arc<dyn Admission>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AdmittedClients {
    pub(super) fn new(
        admission: Arc<dyn Admission>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        Self {
            admission,
            algorithms,
        }
    }
}

impl fmt::Debug for AdmittedClients {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AdmittedClients")
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for AdmittedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let seen = fingerprint(end_entity)?;
        if self.admission.admit(&seen) {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(refuse(NotAdmitted { seen }))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
