//! Proof that a caller holds the key of a certificate that it hands over in a call.
//!
//! The handshake proves who calls. A call that has the agent take *another* key, to enrol it or to
//! replace the caller's, carries a signature by that key besides: whoever merely knows somebody's
//! certificate cannot have it enrolled. What is signed is bound to the TLS connection (the channel
//! binding of RFC 9266), so that no agent and nobody who has seen the call can use it elsewhere.

use std::fmt;

use rustls::crypto::ring::default_provider;
use rustls::{ConnectionCommon, SideData, SignatureScheme};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use webpki::EndEntityCert;

use crate::identity::{Fingerprint, Identity};
use crate::tls::private_key;

/// How every signed text begins. A TLS handshake signs texts that begin with 64 blanks (RFC 8446
/// section 4.4.3), so that neither can stand for the other.
const CONTEXT: &[u8] = b"fed.agent.v1 proof of possession";
/// Label of the exporter for channel bindings (RFC 9266 section 2).
const LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// The signature of every [`Identity`]'s key.
const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

/// What is the same at both ends of one TLS connection, and at no other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// Takes these bytes for those of a connection.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Asks a connection whose handshake is done; nothing before.
    pub(crate) fn of<Side: SideData>(connection: &ConnectionCommon<Side>) -> Option<Self> {
        let exported = connection.export_keying_material([0; 32], LABEL, Some(b""));
        exported.ok().map(Self)
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ChannelBinding(..)")
    }
}

/// What the agent is to do with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// Enrol it, by this name.
    Enrol(&'a str),
    /// Let it replace the caller's.
    Rotate,
}

/// A caller has not shown that it holds a key.
#[derive(Debug, Error)]
pub enum PossessionError {
    /// The certificate is none.
    #[error("the certificate is not X.509 in DER; make a new identity")]
    Certificate(#[source] webpki::Error),
    /// There is no signature, or it is not over this call on this connection by this key.
    #[error(
        "the caller has not proved to hold the private key of {fingerprint}: its signature \
         {problem}"
    )]
    Unproven {
        /// The certificate's key.
        fingerprint: Fingerprint,
        /// What is wrong with the signature.
        problem: &'static str,
    },
}

/// Signs, with the key of `identity`, that its holder asks for this on this connection.
pub fn prove(identity: &Identity, purpose: Purpose<'_>, connection: &ChannelBinding) -> Vec<u8> {
    let text = signed(identity.certificate(), purpose, connection);
    let key = default_provider()
        .key_provider
        .load_private_key(private_key(identity))
        .expect("an identity's key was parsed when it was made");
    let signer = key.choose_scheme(&[SCHEME]);
    signer
        .expect("an identity's key is of P-256")
        .sign(&text)
        .expect("a P-256 key signs any text")
}

/// Checks what [`prove`] has made; returns the key that the caller holds.
///
/// # Errors
/// See [`PossessionError`].
pub fn check(
    certificate: &CertificateDer<'_>,
    purpose: Purpose<'_>,
    connection: &ChannelBinding,
    proof: &[u8],
) -> Result<Fingerprint, PossessionError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(PossessionError::Certificate)?;
    let fingerprint = Fingerprint::of_public_key(&parsed.subject_public_key_info());
    let unproven = |problem| PossessionError::Unproven {
        fingerprint,
        problem,
    };
    if proof.is_empty() {
        return Err(unproven(
            "is missing (does the caller have the same version of fed?)",
        ));
    }
    let text = signed(certificate, purpose, connection);
    let verified = parsed.verify_signature(webpki::ring::ECDSA_P256_SHA256, &text, proof);
    verified.map_err(|_| unproven("is not that key's over this call and connection"))?;
    Ok(fingerprint)
}

/// The text under a signature. Each part but the last has a length that is fixed or told.
fn signed(
    certificate: &CertificateDer<'_>,
    purpose: Purpose<'_>,
    connection: &ChannelBinding,
) -> Vec<u8> {
    let (number, name) = match purpose {
        Purpose::Enrol(name) => (1_u8, name),
        Purpose::Rotate => (2, ""),
    };
    let length = u64::try_from(name.len()).expect("a length has 64 bits at most");
    [
        CONTEXT,
        &[0, number],
        &connection.0,
        &length.to_be_bytes(),
        name.as_bytes(),
        certificate,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: ChannelBinding = ChannelBinding([1; 32]);
    const ELSEWHERE: ChannelBinding = ChannelBinding([2; 32]);
    const ALICE: Purpose<'_> = Purpose::Enrol("alice");

    #[test]
    fn the_holder_of_a_key_proves_it() {
        let alice = Identity::generate("alice").unwrap();
        for purpose in [ALICE, Purpose::Enrol(""), Purpose::Rotate] {
            let proof = prove(&alice, purpose, &HERE);
            let held = check(alice.certificate(), purpose, &HERE, &proof).unwrap();
            assert_eq!(held, alice.fingerprint());
        }
    }

    #[test]
    fn a_signature_counts_for_its_key_call_and_connection_alone() {
        let [alice, mallory] = ["alice", "mallory"].map(|name| Identity::generate(name).unwrap());
        let proof = prove(&alice, ALICE, &HERE);
        // Another certificate of the same key is another call.
        let key = alice.private_key().secret_pkcs8_der();
        let again = Identity::from_private_key(key, "again").unwrap();
        for (what, certificate, purpose, connection, proof) in [
            (
                "foreign certificate",
                &alice,
                ALICE,
                HERE,
                prove(&mallory, ALICE, &HERE),
            ),
            ("foreign signature", &mallory, ALICE, HERE, proof.clone()),
            (
                "replayed elsewhere",
                &alice,
                ALICE,
                ELSEWHERE,
                proof.clone(),
            ),
            (
                "another name",
                &alice,
                Purpose::Enrol("alic"),
                HERE,
                proof.clone(),
            ),
            ("another call", &alice, Purpose::Rotate, HERE, proof.clone()),
            ("another certificate", &again, ALICE, HERE, proof.clone()),
            (
                "cut off",
                &alice,
                ALICE,
                HERE,
                proof[..proof.len() - 1].to_vec(),
            ),
            ("none", &alice, ALICE, HERE, Vec::new()),
        ] {
            let checked = check(certificate.certificate(), purpose, &connection, &proof);
            let error = checked.expect_err(what);
            let PossessionError::Unproven { fingerprint, .. } = &error else {
                panic!("{what}: {error}");
            };
            assert_eq!(*fingerprint, certificate.fingerprint(), "{what}");
        }
    }

    #[test]
    fn a_handshakes_signature_proves_nothing() {
        let alice = Identity::generate("alice").unwrap();
        let text = signed(alice.certificate(), ALICE, &HERE);
        assert!(!text.starts_with(&[b' '; 64]));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_prove(certificate: Vec<u8>, proof: Vec<u8>, name: String) {
            let certificate = CertificateDer::from(certificate);
            prop_assert!(check(&certificate, Purpose::Enrol(&name), &HERE, &proof).is_err());
            let alice = Identity::generate("alice").unwrap();
            prop_assert!(check(alice.certificate(), Purpose::Rotate, &HERE, &proof).is_err());
        }
    }
}
