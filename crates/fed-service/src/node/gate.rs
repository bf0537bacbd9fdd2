//! The gateway of the operator's node: its keys and its way into the sandbox.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use fed_core::FederationId;
use fed_rpc::Identity;
use futures::future::BoxFuture;
use rand::distr::{Alphanumeric, SampleString as _};
use tokio::net::TcpStream;

use super::protocol::GatewayInfo;
use crate::gateway::{Dial, Gateway, GatewaySpec};
use crate::state;

/// First port that clients try.
const FIRST_PORT: u16 = 8786;
/// Characters of the dashboard's token: 190 random bits.
const TOKEN_LEN: usize = 32;

struct Sandbox(fed_sandbox::Handle);

impl Dial for Sandbox {
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        let handle = self.0.clone();
        Box::pin(async move { handle.connect(to).await })
    }
}

/// Opens the gateway, with keys made for it, and writes what clients need to `folder`:
/// `scheduler.pem`, `client.pem` and `client-key.pem`.
pub(super) async fn open(
    federation: FederationId,
    sandbox: fed_sandbox::Handle,
    folder: &Path,
    scheduler: SocketAddr,
    dashboard: SocketAddr,
) -> Result<(Gateway, GatewayInfo), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let server = Identity::generate("fed-scheduler").map_err(|error| text(&error))?;
    let client = Identity::generate("fed-client").map_err(|error| text(&error))?;
    let spec = GatewaySpec {
        scheduler,
        dashboard,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        first_port: FIRST_PORT,
        cookie_name: format!("fed-{federation}"),
        token: Alphanumeric.sample_string(&mut rand::rng(), TOKEN_LEN),
    };
    let gateway = Gateway::open(
        spec,
        Arc::new(Sandbox(sandbox)),
        &server,
        client.fingerprint(),
    )
    .await
    .map_err(|error| text(&error))?;
    for (name, pem) in [
        ("scheduler.pem", server.certificate_pem()),
        ("client.pem", client.certificate_pem()),
        ("client-key.pem", client.private_key_pem()),
    ] {
        state::write(&folder.join(name), pem.as_bytes()).map_err(|error| text(&error))?;
    }
    let info = GatewayInfo {
        scheduler: gateway.scheduler_address(),
        dashboard: gateway.dashboard_url(),
    };
    Ok((gateway, info))
}
