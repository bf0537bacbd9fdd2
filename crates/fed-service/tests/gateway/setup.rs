//! A gateway on loopback with keys of its own, whose sandbox is this host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fed_rpc::Identity;
use fed_service::gateway::{Gateway, GatewaySpec};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const TOKEN: &str = "a-token-for-the-tests_0123";
pub(crate) const COOKIE: &str = "fed-test";

/// A gateway, the keys of both ends, and what it asked of its dial.
pub(crate) struct Setup {
    pub(crate) gateway: Gateway,
    pub(crate) server: Identity,
    pub(crate) client: Identity,
    dials: Arc<AtomicUsize>,
}

impl Setup {
    pub(crate) async fn open(scheduler: SocketAddr, dashboard: SocketAddr) -> Self {
        let dials = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&dials);
        let dial = move |to| {
            counter.fetch_add(1, Ordering::SeqCst);
            TcpStream::connect::<SocketAddr>(to)
        };
        let server = Identity::generate("server").unwrap();
        let client = Identity::generate("client").unwrap();
        let spec = spec(scheduler, dashboard);
        let gateway = Gateway::open(spec, Arc::new(dial), &server, client.fingerprint())
            .await
            .unwrap();
        Self {
            gateway,
            server,
            client,
            dials,
        }
    }

    /// Opens a gateway in front of one service; the other one's port is closed.
    pub(crate) async fn for_scheduler(scheduler: SocketAddr) -> Self {
        Self::open(scheduler, closed_port().await).await
    }

    /// Opens a gateway in front of one service; the other one's port is closed.
    pub(crate) async fn for_dashboard(dashboard: SocketAddr) -> Self {
        Self::open(closed_port().await, dashboard).await
    }

    /// Returns how often something inside the sandbox was asked for.
    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

pub(crate) fn spec(scheduler: SocketAddr, dashboard: SocketAddr) -> GatewaySpec {
    GatewaySpec {
        scheduler,
        dashboard,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        first_port: 0,
        cookie_name: COOKIE.into(),
        token: TOKEN.into(),
    }
}

pub(crate) async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Returns an address where nobody listens: port 1 is reserved for a service that no one runs.
pub(crate) async fn closed_port() -> SocketAddr {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "these tests need port 1 to be closed"
    );
    address
}
