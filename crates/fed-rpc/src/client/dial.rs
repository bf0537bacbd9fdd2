//! From `host:port` to a connection on which the agent has begun to speak.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ConnectError, Stage};
use crate::identity::{Fingerprint, Identity};
use crate::tls::{NotPinned, Pins, cause, pinning_client_config};

/// A connection of which the agent's first bytes lie in the buffer.
pub(super) type Stream = BufReader<TlsStream<TcpStream>>;

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
    pub(super) async fn dial(&self) -> Result<Stream, ConnectError> {
        let deadline = Instant::now() + self.timeout;
        let addresses = timeout_at(deadline, lookup_host(&self.address))
            .await
            .map_err(|_| self.late(Stage::Resolve))?
            .map_err(|source| ConnectError::Resolve {
                address: self.address.clone(),
                source,
            })?
            .collect();
        let stream = self.open(addresses, deadline).await?;
        timeout_at(deadline, self.shake_hands(stream))
            .await
            .map_err(|_| self.late(Stage::Handshake))?
            .map_err(|source| self.explain(source))
    }

    /// Tries one address after the other, each with its share of the time that is left.
    async fn open(
        &self,
        addresses: Vec<SocketAddr>,
        deadline: Instant,
    ) -> Result<TcpStream, ConnectError> {
        let mut failure = None;
        for (tried, address) in addresses.iter().enumerate() {
            let left = deadline.saturating_duration_since(Instant::now());
            let turns = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            match timeout_at(Instant::now() + left / turns, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => failure = Some(source),
                // The clearer answer of another address is kept.
                Err(_) => {}
            }
        }
        match failure {
            Some(source) => Err(ConnectError::Unreachable {
                address: self.address.clone(),
                source,
            }),
            None => Err(self.late(Stage::Connect)),
        }
    }

    /// Shakes hands and reads the agent's first bytes.
    ///
    /// In TLS 1.3 a client is done before the server has seen its certificate, so that a refusal
    /// arrives with the first read. An HTTP/2 server speaks first (RFC 9113 section 3.4: its
    /// SETTINGS need not wait for the client's), and ours does so after it has admitted the
    /// client: with its first byte the caller is known to be let in.
    async fn shake_hands(&self, stream: TcpStream) -> io::Result<Stream> {
        stream.set_nodelay(true)?;
        // A name must be given; it is neither sent nor checked.
        let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        let stream = self.connector.connect(name, stream).await?;
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().await?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(stream)
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
        match refusal(&source) {
            Some(alert) => ConnectError::Refused {
                address,
                fingerprint: self.own,
                alert,
            },
            None => ConnectError::Protocol { address, source },
        }
    }

    fn late(&self, stage: Stage) -> ConnectError {
        ConnectError::Timeout {
            address: self.address.clone(),
            stage,
            after: self.timeout,
        }
    }
}

/// Tells whether a text reads `host:port`, as a caller dials it.
pub fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = !host.contains([':', '[', ']']);
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .is_some_and(|host| host.contains(':') && !host.contains(['[', ']']));
        let printable = host.chars().all(|c| c.is_ascii_graphic());
        !host.is_empty()
            && printable
            && (bare || bracketed)
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

/// Finds the alert with which the other end turned the certificate down.
fn refusal(error: &io::Error) -> Option<AlertDescription> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let &rustls::Error::AlertReceived(alert) = inner else {
        return None;
    };
    let about_certificate = [
        AlertDescription::AccessDenied,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        AlertDescription::UnsupportedCertificate,
    ];
    about_certificate.contains(&alert).then_some(alert)
}

#[cfg(test)]
mod tests {
    use super::is_address;

    #[test]
    fn hosts_with_a_port_are_addresses() {
        for text in [
            "ecmwf.int:7443",
            "192.0.2.1:1",
            "[2001:db8::1]:65535",
            "localhost:80",
        ] {
            assert!(is_address(text), "{text}");
        }
    }

    #[test]
    fn other_texts_are_not() {
        for text in [
            "",
            ":",
            ":80",
            "host",
            "host:",
            "host:0",
            "host:+80",
            "host:65536",
            "2001:db8::1",
            "2001:db8::1:80",
            "[host]:80",
            "[2001:db8::1]",
            "https://host:80",
            "a b:80",
        ] {
            assert!(!is_address(text), "{text}");
        }
    }
}
