//! Python's `ssl` as the client of the gateway's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fed_rpc::server::{self, HandshakeLimits, IncomingFailure};
use fed_rpc::{Fingerprint, Identity, tls};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use crate::within;

/// Connects, sends a line, prints the version and the echo, or the error's class.
const CLIENT: &str = r#"
import socket, ssl, sys

port, cafile, certificate, version, flags = sys.argv[1:]
context = ssl.create_default_context(cafile=cafile)
context.check_hostname = False
context.verify_mode = ssl.CERT_REQUIRED
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
if flags == "strict":  # The default from Python 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
if certificate:
    context.load_cert_chain(certificate)
try:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as plain:
        with context.wrap_socket(plain) as stream:
            stream.sendall(b"hello")
            print(stream.version(), stream.recv(5).decode())
except OSError as error:
    print(type(error).__name__, getattr(error, "reason", None))
"#;

struct Gateway {
    address: SocketAddr,
    folder: tempfile::TempDir,
    failures: mpsc::UnboundedReceiver<IncomingFailure>,
    peers: mpsc::UnboundedReceiver<Fingerprint>,
}

impl Gateway {
    /// Serves an echo of what a client says.
    async fn start(server: &Identity, client: Fingerprint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (failed, failures) = mpsc::unbounded_channel();
        let (seen, peers) = mpsc::unbounded_channel();
        let config = tls::gateway_config(server, client);
        let mut incoming = server::incoming(
            listener,
            config,
            HandshakeLimits::default(),
            move |failure| {
                // The test may be over.
                let _ = failed.send(failure);
            },
        );
        tokio::spawn(async move {
            while let Some(Ok(connection)) = incoming.next().await {
                seen.send(connection.peer().fingerprint).unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(connection);
                    // Ends as the client does.
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let folder = tempfile::tempdir().unwrap();
        Self {
            address,
            folder,
            failures,
            peers,
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs the Python client; an empty path stands for no certificate.
    async fn python(
        &self,
        cafile: &Path,
        certificate: &Path,
        version: &str,
        flags: &str,
    ) -> String {
        let running = Command::new("python3")
            .args(["-I", "-c", CLIENT])
            .arg(self.address.port().to_string())
            .args([cafile, certificate])
            .args([version, flags])
            .kill_on_drop(true)
            .output();
        let output = within("the Python client", running)
            .await
            .expect("python3 is on the PATH");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn pem(identity: &Identity) -> String {
    identity.certificate_pem() + &identity.private_key_pem()
}

#[tokio::test]
async fn python_trusts_the_certificate_and_is_let_in() {
    let (server, client) = identities();
    let mut gateway = Gateway::start(&server, client.fingerprint()).await;
    let cafile = gateway.write("ca.pem", &server.certificate_pem());
    let certificate = gateway.write("client.pem", &pem(&client));
    for (version, shown) in [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")] {
        for flags in ["plain", "strict"] {
            let said = gateway.python(&cafile, &certificate, version, flags).await;
            assert_eq!(said, format!("{shown} hello"), "{version} {flags}");
            assert_eq!(gateway.peers.recv().await, Some(client.fingerprint()));
        }
    }
}

#[tokio::test]
async fn python_refuses_another_gateway() {
    let (server, client) = identities();
    let gateway = Gateway::start(&server, client.fingerprint()).await;
    let other = Identity::generate("gateway").unwrap();
    let cafile = gateway.write("ca.pem", &other.certificate_pem());
    let certificate = gateway.write("client.pem", &pem(&client));
    let said = gateway
        .python(&cafile, &certificate, "TLSv1_3", "plain")
        .await;
    assert_eq!(said, "SSLCertVerificationError CERTIFICATE_VERIFY_FAILED");
}

#[tokio::test]
async fn another_certificate_or_none_is_refused() {
    let (server, client) = identities();
    let mut gateway = Gateway::start(&server, client.fingerprint()).await;
    let cafile = gateway.write("ca.pem", &server.certificate_pem());
    let stranger = Identity::generate("client").unwrap();
    let certificate = gateway.write("stranger.pem", &pem(&stranger));
    for version in ["TLSv1_2", "TLSv1_3"] {
        let said = gateway
            .python(&cafile, &certificate, version, "plain")
            .await;
        assert!(said.contains("CERTIFICATE_UNKNOWN"), "{version}: {said}");
        let failure = within("a refusal", gateway.failures.recv()).await.unwrap();
        assert!(
            matches!(failure, IncomingFailure::Refused { fingerprint, .. }
                if fingerprint == stranger.fingerprint()),
            "{failure:?}"
        );

        let said = gateway
            .python(&cafile, Path::new(""), version, "plain")
            .await;
        assert!(said.starts_with("SSLError"), "{version}: {said}");
        let failure = within("a failed handshake", gateway.failures.recv())
            .await
            .unwrap();
        assert!(
            matches!(failure, IncomingFailure::Handshake { .. }),
            "{failure:?}"
        );
    }
    assert!(gateway.peers.try_recv().is_err());
}

fn identities() -> (Identity, Identity) {
    let generate = |name| Identity::generate(name).unwrap();
    (generate("gateway"), generate("client"))
}
