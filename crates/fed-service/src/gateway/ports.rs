//! The first free port of a range.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpListener;

use super::OpenError;

/// Ports that are tried. A host with as many federations has another trouble.
const RANGE: u16 = 200;

/// Listens on the first free port from `first` on, or on any when that is 0.
pub(super) async fn listen(
    bind: IpAddr,
    first: u16,
) -> Result<(TcpListener, SocketAddr), OpenError> {
    let last = match first {
        0 => 0,
        first => first.saturating_add(RANGE - 1),
    };
    for port in first..=last {
        let address = SocketAddr::new(bind, port);
        match TcpListener::bind(address).await {
            Ok(listener) => {
                let address = listener
                    .local_addr()
                    .map_err(|source| OpenError::Listen { address, source })?;
                return Ok((listener, address));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(source) => return Err(OpenError::Listen { address, source }),
        }
    }
    Err(OpenError::NoFreePort { bind, first, last })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn a_taken_port_is_passed_over() {
        let (_taken, first) = listen(LOOPBACK, 0).await.unwrap();
        let (_listener, found) = listen(LOOPBACK, first.port()).await.unwrap();
        assert!(found.port() > first.port(), "{found} {first}");
    }

    #[tokio::test]
    async fn a_port_of_all_addresses_is_taken_too() {
        let everywhere = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = everywhere.local_addr().unwrap().port();
        let (_listener, found) = listen(LOOPBACK, port).await.unwrap();
        assert_ne!(found.port(), port);
    }

    #[tokio::test]
    async fn an_address_of_another_host_is_named() {
        let error = listen("192.0.2.1".parse().unwrap(), 8786)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("192.0.2.1:8786"), "{error}");
    }
}
