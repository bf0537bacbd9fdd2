//! Opening connections: from `host:port` to a TLS stream on which the other end has begun to speak.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::client::Stage;
use crate::identity::Fingerprint;
use crate::possession::ChannelBinding;

/// How long after one address of a host the next is tried.
const STAGGER: Duration = Duration::from_millis(250);

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

/// Connects to `host:port`, by the first of its addresses that answers.
pub(crate) async fn open(address: &str, deadline: Instant) -> Result<TcpStream, OpenError> {
    let addresses: Vec<SocketAddr> = timeout_at(deadline, lookup_host(address))
        .await
        .map_err(|_| OpenError::Timeout(Stage::Resolve))?
        .map_err(OpenError::Resolve)?
        .collect();
    let mut failure = None;
    match timeout_at(deadline, first_of(&addresses, &mut failure)).await {
        Ok(Some(stream)) => Ok(stream),
        // Where one address refuses and another says nothing, the clearer answer is told.
        Ok(None) | Err(_) => {
            Err(failure.map_or(OpenError::Timeout(Stage::Connect), OpenError::Unreachable))
        }
    }
}

/// Connects to the first of these addresses of one host that answers. Each is tried a quarter of a
/// second after the one before it, or as soon as that has failed (RFC 8305): one at which nothing
/// answers, as where IPv6 is dead, holds nothing up.
///
/// # Errors
/// What the system said about the last one that failed, or that there are none.
pub async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failure = None;
    let stream = first_of(addresses, &mut failure).await;
    stream.ok_or_else(|| failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// As [`connect`]; notes a failure while others are still being tried.
async fn first_of(addresses: &[SocketAddr], failure: &mut Option<io::Error>) -> Option<TcpStream> {
    let mut addresses = addresses.iter().copied();
    let mut attempts = JoinSet::new();
    loop {
        let next = addresses.next();
        let more = next.is_some();
        if let Some(address) = next {
            attempts.spawn(TcpStream::connect(address));
        }
        tokio::select! {
            ended = attempts.join_next() => match ended?.map_err(io::Error::other) {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) | Err(error) => *failure = Some(error),
            },
            () = sleep(STAGGER), if more => {}
        }
    }
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
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// Ends a test that hangs, sooner than the system gives up an address at which nothing answers.
    const HANG: Duration = Duration::from_secs(60);

    /// A listener that answers no more calls, with the one that it has.
    fn silent() -> (Socket, std::net::TcpStream, SocketAddr) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        listener.bind(&anywhere.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let waiting = std::net::TcpStream::connect(address).unwrap();
        (listener, waiting, address)
    }

    #[tokio::test]
    async fn addresses_at_which_nothing_answers_hold_nothing_up() {
        let (_listener, _waiting, silent) = silent();
        let live = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let live = live.local_addr().map(|address| (live, address)).unwrap();
        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let refusing = nobody.local_addr().unwrap();
        drop(nobody);
        for addresses in [
            &[silent, live.1][..],
            &[live.1, silent],
            &[silent, refusing, silent, live.1],
        ] {
            let connecting = tokio::time::timeout(HANG, connect(addresses)).await;
            let stream = connecting.expect("in time").expect("one answers");
            assert_eq!(stream.peer_addr().unwrap(), live.1);
        }
        let refused = connect(&[refusing, refusing]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let nowhere = connect(&[]).await.unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::AddrNotAvailable);
    }

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
