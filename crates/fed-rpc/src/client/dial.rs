//! From `host:port` to a connection on which the agent has begun to speak.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::{ConnectError, Stage};
use crate::identity::{Fingerprint, Identity};
use crate::outgoing::{Greeted, OpenError, greet, is_address, open};
use crate::tls::{NotPinned, Pins, cause, pinning_client_config};

/// Opens connections to one agent.
pub(super) struct Dialer {
    address: String,
    connector: TlsConnector,
    own: Fingerprint,
    timeout: Duration,
}

impl Dialer {
    pub(super) fn new(
        address: &str,
        identity: &Identity,
        agent: &Pins,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        if !is_address(address) {
            return Err(ConnectError::Address {
                address: address.to_owned(),
            });
        }
        Ok(Self {
            address: address.to_owned(),
            connector: TlsConnector::from(pinning_client_config(identity, agent)),
            own: identity.fingerprint(),
            timeout,
        })
    }

    /// Connects, shakes hands and waits for the agent's first bytes.
    pub(super) async fn dial(&self) -> Result<Greeted, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        let address = || self.address.clone();
        let stream = open(&self.address, deadline)
            .await
            .map_err(|error| match error {
                OpenError::Resolve(source) => ConnectError::Resolve {
                    address: address(),
                    source,
                },
                OpenError::Unreachable(source) => ConnectError::Unreachable {
                    address: address(),
                    source,
                },
                OpenError::Timeout(stage) => self.late(stage),
            })?;
        // A name must be given; it is neither sent nor checked.
        let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        timeout_at(deadline, greet(&self.connector, name, stream))
            .await
            .map_err(|_| self.late(Stage::Handshake))?
            .map_err(|source| self.explain(source))
    }

    fn explain(&self, source: io::Error) -> ConnectError {
        let address = self.address.clone();
        if let Some(wrong) = cause::<NotPinned>(&source) {
            return ConnectError::WrongFingerprint {
                address,
                expected: wrong.expected,
                seen: wrong.seen,
            };
        }
        ConnectError::of_handshake(address, self.own, source)
    }

    fn late(&self, stage: Stage) -> ConnectError {
        ConnectError::Timeout {
            address: self.address.clone(),
            stage,
            after: self.timeout,
        }
    }
}
