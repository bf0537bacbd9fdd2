//! Opening connections: from `host:port` to a TLS stream on which the other end has begun to speak.

use std::io;
use std::net::SocketAddr;

use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::client::Stage;
use crate::identity::Fingerprint;
use crate::possession::ChannelBinding;

/// A connection of which the other end's first bytes lie in the buffer.
pub(crate) type Greeted = BufReader<TlsStream<TcpStream>>;

/// Why there is no TCP connection.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The name has no address.
    Resolve(io::Error),
    /// What the system said about the last address tried.
    Unreachable(io::Error),
    /// It took too long.
    Timeout(Stage),
}

/// Connects to `host:port`: tries one address after the other, each with its share of the time that
/// is left.
pub(crate) async fn open(address: &str, deadline: Instant) -> Result<TcpStream, OpenError> {
    let addresses: Vec<SocketAddr> = timeout_at(deadline, lookup_host(address))
        .await
        .map_err(|_| OpenError::Timeout(Stage::Resolve))?
        .map_err(OpenError::Resolve)?
        .collect();
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
    Err(failure.map_or(OpenError::Timeout(Stage::Connect), OpenError::Unreachable))
}

/// Shakes hands and reads the first bytes of the other end, by which this one is known to be let in.
///
/// In TLS 1.3 a client is done before the server has seen its certificate, so that a refusal
/// arrives with the first read. Both ends of HTTP/2 begin without waiting for the other (RFC 9113
/// section 3.4), and ours do so after they have admitted the peer.
pub(crate) async fn greet(
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: TcpStream,
) -> io::Result<Greeted> {
    stream.set_nodelay(true)?;
    let stream = connector.connect(name, stream).await?;
    let mut stream = BufReader::new(TlsStream::from(stream));
    if stream.fill_buf().await?.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(stream)
}

/// The key that the other end showed in the handshake, and what both ends know of the connection
/// alone.
pub(crate) fn shown<S>(stream: &TlsStream<S>) -> Option<(Fingerprint, ChannelBinding)> {
    let binding = match stream {
        TlsStream::Client(stream) => ChannelBinding::of(stream.get_ref().1),
        TlsStream::Server(stream) => ChannelBinding::of(stream.get_ref().1),
    };
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    Some((Fingerprint::of_certificate(certificate).ok()?, binding?))
}

/// Finds the alert with which the other end turned the certificate down.
pub(crate) fn refusal(error: &io::Error) -> Option<AlertDescription> {
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
    alert(error).filter(|alert| about_certificate.contains(alert))
}

/// Finds the alert with which the other end ended the handshake.
pub(crate) fn alert(error: &io::Error) -> Option<AlertDescription> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let &rustls::Error::AlertReceived(alert) = inner else {
        return None;
    };
    Some(alert)
}

/// Tells whether a text reads `host:port`.
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
