//! Who one end of a connection is: a key pair, its certificate, and the key's fingerprint.

mod fingerprint;
mod store;

use std::fmt;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thiserror::Error;

pub use fingerprint::{Fingerprint, ParseFingerprintError};
pub use store::StoreError;

/// Why a key or a certificate cannot be made or used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The key pair or the certificate could not be made.
    #[error("cannot make a key and its certificate")]
    Generate(#[source] rcgen::Error),
    /// The private key is not a P-256 key in PKCS#8.
    #[error("the private key is not an ECDSA P-256 key in PKCS#8; make a new one")]
    Key(#[source] rcgen::Error),
    /// The certificate cannot be parsed.
    #[error("the certificate is not X.509 in DER; make a new identity")]
    Certificate(#[source] webpki::Error),
    /// The certificate was made for another key.
    #[error(
        "the certificate is of {certificate} but the private key is {key}; make a new identity"
    )]
    Mismatch {
        /// The key that the certificate speaks of.
        certificate: Fingerprint,
        /// The key that lies beside it.
        key: Fingerprint,
    },
}

/// A private key and the certificate that it signed for itself.
///
/// The other end pins the public key, so the certificate is only its envelope: nobody looks at the
/// name, and the validity (1975 to 4096) stands for "no end", because a pinned key is withdrawn by
/// taking it off a list, and a date inside the envelope would only cut sites off by surprise.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Makes a new ECDSA P-256 key and its certificate.
    ///
    /// P-256, because Python's `ssl` takes part where the gateway is the server.
    ///
    /// # Errors
    /// When the system yields no random numbers, or `common_name` cannot stand in a certificate.
    pub fn generate(common_name: &str) -> Result<Self, IdentityError> {
        let pair = KeyPair::generate().map_err(IdentityError::Generate)?;
        Self::certify(&pair, common_name)
    }

    /// Makes a certificate for a key that already exists; its fingerprint depends on the key alone.
    ///
    /// # Errors
    /// When `pkcs8` is not an ECDSA P-256 key.
    pub fn from_private_key(pkcs8: &[u8], common_name: &str) -> Result<Self, IdentityError> {
        Self::certify(&key_pair(&PrivatePkcs8KeyDer::from(pkcs8))?, common_name)
    }

    /// Takes a certificate and its private key.
    ///
    /// # Errors
    /// When either cannot be parsed, or they do not belong together.
    pub fn from_parts(
        certificate: CertificateDer<'static>,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Self, IdentityError> {
        let fingerprint =
            Fingerprint::of_certificate(&certificate).map_err(IdentityError::Certificate)?;
        let of_key = of_key_pair(&key_pair(&key)?);
        if of_key != fingerprint {
            return Err(IdentityError::Mismatch {
                certificate: fingerprint,
                key: of_key,
            });
        }
        Ok(Self {
            certificate,
            key,
            fingerprint,
        })
    }

    fn certify(pair: &KeyPair, common_name: &str) -> Result<Self, IdentityError> {
        let mut parameters = CertificateParams::default();
        parameters.not_before = rcgen::date_time_ymd(1975, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(4096, 1, 1);
        parameters
            .distinguished_name
            .push(DnType::CommonName, common_name);
        // Not an authority: whoever takes it as `cafile` trusts this one certificate, and none that
        // its holder might sign.
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = parameters
            .self_signed(pair)
            .map_err(IdentityError::Generate)?;
        Ok(Self {
            certificate: certificate.into(),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()),
            fingerprint: of_key_pair(pair),
        })
    }

    /// Returns the certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the private key, PKCS#8 in DER. Secret.
    pub fn private_key(&self) -> &PrivatePkcs8KeyDer<'static> {
        &self.key
    }

    /// Returns the fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Returns the certificate in PEM, as Python's `cafile` and `certfile` want it.
    pub fn certificate_pem(&self) -> String {
        store::pem("CERTIFICATE", &self.certificate)
    }

    /// Returns the private key in PEM, as Python's `keyfile` wants it. Secret.
    pub fn private_key_pem(&self) -> String {
        store::pem("PRIVATE KEY", self.key.secret_pkcs8_der())
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
            fingerprint: self.fingerprint,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

fn key_pair(key: &PrivatePkcs8KeyDer<'_>) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pkcs8_der_and_sign_algo(key, &rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(IdentityError::Key)
}

fn of_key_pair(pair: &KeyPair) -> Fingerprint {
    Fingerprint::of_public_key(&rcgen::PublicKeyData::subject_public_key_info(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_same_from_the_certificate_and_from_the_key() {
        let identity = Identity::generate("ecmwf").unwrap();
        assert_eq!(
            Fingerprint::of_certificate(identity.certificate()).unwrap(),
            identity.fingerprint()
        );
        let again =
            Identity::from_private_key(identity.private_key().secret_pkcs8_der(), "other").unwrap();
        assert_eq!(again.fingerprint(), identity.fingerprint());
    }

    #[test]
    fn two_identities_differ() {
        let (one, other) = (
            Identity::generate("same").unwrap(),
            Identity::generate("same").unwrap(),
        );
        assert_ne!(one.fingerprint(), other.fingerprint());
    }

    #[test]
    fn a_certificate_with_another_key_is_refused() {
        let (one, other) = (
            Identity::generate("a").unwrap(),
            Identity::generate("b").unwrap(),
        );
        let error =
            Identity::from_parts(one.certificate().clone(), other.private_key().clone_key())
                .unwrap_err();
        assert!(
            matches!(error, IdentityError::Mismatch { certificate, key }
                if certificate == one.fingerprint() && key == other.fingerprint()),
            "{error}"
        );
    }

    #[test]
    fn a_key_of_another_kind_is_refused() {
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let error = Identity::from_private_key(ed25519.serialized_der(), "x").unwrap_err();
        assert!(matches!(error, IdentityError::Key(_)), "{error}");
        assert!(Identity::from_private_key(b"", "x").is_err());
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let identity = Identity::generate("ecmwf").unwrap();
        let shown = format!("{identity:?}");
        assert_eq!(
            shown,
            format!(
                "Identity {{ fingerprint: {:?}, .. }}",
                identity.fingerprint()
            )
        );
    }
}
