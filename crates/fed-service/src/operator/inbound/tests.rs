//! Two commands of one operator, one port, and agents that dial it.

use fed_core::Leases;
use fed_rpc::client::ConnectError;
use fed_rpc::reverse::{self, Awaited, DialError, DialLimits};
use fed_rpc::server::TlsConn;
use fed_rpc::tls::{self, Pins, Presented};
use fed_rpc::{Fingerprint, Identity};
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// An operator's state folder, a port of this host, and the operator's key.
struct Operator {
    _folder: tempfile::TempDir,
    state: OperatorState,
    listen: String,
    identity: Identity,
}

async fn operator() -> Operator {
    let folder = tempfile::tempdir().unwrap();
    let state = OperatorState::open(&folder.path().join("fed")).unwrap();
    // Free a moment ago, and not given out again soon.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = free.local_addr().unwrap().to_string();
    Operator {
        _folder: folder,
        state,
        listen,
        identity: Identity::generate("operator").unwrap(),
    }
}

impl Operator {
    /// Dials as the agent of `site` until the operator of this key calls.
    fn dial(&self, site: &str, agent: &Identity) -> JoinHandle<TlsConn> {
        let own = self.identity.fingerprint();
        let admission = Arc::new(move |peer: &Fingerprint| *peer == own);
        let config = tls::dialling_config(Arc::new(Presented::new(agent)), admission);
        let (site, listen) = (site.to_owned(), self.listen.clone());
        tokio::spawn(async move {
            loop {
                let limits = DialLimits::default();
                match reverse::dial(&listen, &site, &config, limits).await {
                    Ok(connection) => return connection,
                    Err(DialError::Unreachable(_) | DialError::NotWanted) => {}
                    Err(error) => panic!("{error}"),
                }
                sleep(Duration::from_millis(10)).await;
            }
        })
    }

    fn socket(&self) -> PathBuf {
        socket(self.state.path(), &self.listen, &boot_id().unwrap())
    }

    fn awaited(&self, site: &str, agent: &Identity) -> Awaited {
        Awaited {
            site: site.to_owned(),
            listen: self.listen.clone(),
            agent: Pins::new([agent.fingerprint()]),
            timeout: Leases::DIALLED,
        }
    }

    /// Waits, as one command, for the agent of `site`; returns the key that it shows.
    async fn wait(
        &self,
        inbound: &Inbound,
        site: &str,
        agent: &Identity,
    ) -> Result<Fingerprint, ConnectError> {
        let awaited = self.awaited(site, agent);
        let (inbound, listen) = (inbound.clone(), self.listen.clone());
        let name: SiteName = site.parse().unwrap();
        let next = move || {
            let (inbound, listen, name) = (inbound.clone(), listen.clone(), name.clone());
            async move { inbound.caller(&listen, &name).await }
        };
        let connected = reverse::connect(awaited, &self.identity, next, |_| {}).await;
        connected.map(|(connected, _)| connected.seen)
    }
}

#[tokio::test]
async fn commands_share_a_port_and_the_next_takes_it_over() {
    let operator = operator().await;
    let (first, second) = (Inbound::of(&operator.state), Inbound::of(&operator.state));
    let agents = ["a", "b"].map(|name| Identity::generate(name).unwrap());
    let [a, b] = &agents;
    let calls = operator.dial("a", a);
    let seen = operator.wait(&first, "a", a).await.unwrap();
    assert_eq!(seen, a.fingerprint());
    let connection = calls.await.unwrap();
    assert_eq!(
        connection.peer().fingerprint,
        operator.identity.fingerprint()
    );
    // The first has the port; the second is handed what is its own, the same site's or another's.
    for (site, agent) in [("a", a), ("b", b), ("b", b)] {
        let calls = operator.dial(site, agent);
        let seen = operator.wait(&second, site, agent).await.unwrap();
        assert_eq!(seen, agent.fingerprint());
        let peer = calls.await.unwrap().peer();
        assert_eq!(peer.fingerprint, operator.identity.fingerprint());
    }
    // One that waits when the first ends goes on waiting, and listens itself.
    let waiting = operator.wait(&second, "b", b);
    let ending = async {
        drop(first);
        let calls = operator.dial("b", b);
        calls.await.unwrap()
    };
    let (seen, connection) = tokio::join!(waiting, ending);
    assert_eq!(seen.unwrap(), b.fingerprint());
    drop(connection);
    let socket = operator.socket();
    assert!(socket.exists());
    drop(second);
    let gone = async {
        while socket.exists() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), gone).await.unwrap();
}

#[tokio::test]
async fn a_connection_outlives_the_command_that_handed_it_over() {
    let operator = operator().await;
    let (first, second) = (Inbound::of(&operator.state), Inbound::of(&operator.state));
    let [a, b] = ["a", "b"].map(|name| Identity::generate(name).unwrap());
    let calls = operator.dial("a", &a);
    operator.wait(&first, "a", &a).await.unwrap();
    calls.await.unwrap();
    let calls = operator.dial("b", &b);
    let site: SiteName = "b".parse().unwrap();
    let caller = second.caller(&operator.listen, &site).await.unwrap();
    assert!(caller.remote.ip().is_loopback());
    drop(first);
    // All of the handshake but its first message is still to come.
    let handed = std::sync::Mutex::new(Some(caller));
    let next = move || {
        let caller = handed.lock().unwrap().take();
        async move { caller.ok_or_else(|| io::ErrorKind::BrokenPipe.into()) }
    };
    let awaited = operator.awaited("b", &b);
    let connected = reverse::connect(awaited, &operator.identity, next, |_| {}).await;
    assert_eq!(connected.unwrap().0.seen, b.fingerprint());
    let peer = calls.await.unwrap().peer();
    assert_eq!(peer.fingerprint, operator.identity.fingerprint());
}

#[tokio::test]
async fn a_port_of_another_program_is_told() {
    let operator = operator().await;
    let _other = tokio::net::TcpListener::bind(&operator.listen)
        .await
        .unwrap();
    let inbound = Inbound::of(&operator.state);
    let agent = Identity::generate("a").unwrap();
    let error = operator.wait(&inbound, "a", &agent).await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Listen { source, .. }
            if source.kind() == io::ErrorKind::AddrInUse),
        "{error}"
    );
    assert!(error.to_string().contains("ss -ltnp"), "{error}");
}

#[tokio::test]
async fn a_command_that_has_the_port_and_is_stopped_is_told() {
    let operator = operator().await;
    // As the kernel keeps them for a process that is stopped: they take connections, and no more.
    let _port = tokio::net::TcpListener::bind(&operator.listen)
        .await
        .unwrap();
    let path = operator.socket();
    let _neighbours = control::bind(&path).unwrap();
    let inbound = Inbound::of(&operator.state);
    let agent = Identity::generate("a").unwrap();
    let error = operator.wait(&inbound, "a", &agent).await.unwrap_err();
    assert!(error.is_port_taken(), "{error}");
    let told = error.to_string();
    let own = std::process::id();
    assert!(told.contains(&format!("fed, process {own},")), "{told}");
    assert!(told.contains("kill -CONT"), "{told}");
}

#[tokio::test]
async fn a_command_that_is_stopped_while_others_wait_is_told() {
    let operator = operator().await;
    let _port = tokio::net::TcpListener::bind(&operator.listen)
        .await
        .unwrap();
    let path = operator.socket();
    let neighbours = control::bind(&path).unwrap();
    let inbound = Inbound::of(&operator.state);
    let agent = Identity::generate("a").unwrap();
    let waiting = operator.wait(&inbound, "a", &agent);
    let holding = async {
        let (mut stream, _) = neighbours.accept().await.unwrap();
        handing::greet(&mut stream).await.unwrap();
        stream
    };
    let (waited, _stream) = tokio::join!(waiting, holding);
    let error = waited.unwrap_err();
    assert!(error.is_port_taken(), "{error}");
    let (told, own) = (error.to_string(), std::process::id());
    assert!(told.contains(&format!("fed, process {own},")), "{told}");
}

#[tokio::test]
async fn whoever_waits_hears_of_the_port_all_the_while() {
    let (mut here, there) = UnixStream::pair().unwrap();
    let (asking, mut asks) = mpsc::channel(1);
    let (returning, _returned) = mpsc::channel(1);
    let handing_over = tokio::spawn(port::hand_over(there, asking, returning));
    here.write_all(b"a\n").await.unwrap();
    let Ask { answer, .. } = asks.recv().await.unwrap();
    let mut heard = [0; 4];
    here.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"!!!!");
    let taking = tokio::spawn(async move { handing::take(&mut here).await });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(tokio::net::TcpStream::connect(at), listener.accept());
    let (stream, remote) = accepted.unwrap();
    let read = b"hello".to_vec();
    let caller = Caller {
        remote,
        stream,
        read,
    };
    answer.send(caller).unwrap();
    let taken = taking.await.unwrap().unwrap().unwrap();
    assert_eq!((taken.remote, &taken.read[..]), (remote, &b"hello"[..]));
    assert_eq!(dialled.unwrap().local_addr().unwrap(), remote);
    handing_over.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_command_that_is_stopped_while_it_waits_is_passed_over() {
    let operator = operator().await;
    let (first, second) = (Inbound::of(&operator.state), Inbound::of(&operator.state));
    let [a, b] = ["a", "b"].map(|name| Identity::generate(name).unwrap());
    let calls = operator.dial("a", &a);
    operator.wait(&first, "a", &a).await.unwrap();
    calls.await.unwrap();
    let path = operator.socket();
    let mut stopped = control::open(&path).await.unwrap();
    stopped.write_all(b"b\n").await.unwrap();
    // The greeting, and what comes only after its question has been taken.
    stopped.read_exact(&mut [0; 2]).await.unwrap();
    let waiting = operator.wait(&second, "b", &b);
    let calls = operator.dial("b", &b);
    assert_eq!(waiting.await.unwrap(), b.fingerprint());
    calls.await.unwrap();
    // When it goes on, it finds that it had its turn, and asks again.
    assert!(taken(stopped).await.unwrap().is_none());
}

#[tokio::test]
async fn hosts_that_share_the_state_folder_have_sockets_of_their_own() {
    let operator = operator().await;
    let of = |boot| socket(operator.state.path(), &operator.listen, boot);
    let own = boot_id().unwrap();
    let other = of("01234567-89ab-cdef-0123-456789abcdef\n");
    assert!(other != of(&own) && of(&own) == operator.socket());
    let long = "[1234:5678:9abc:def0:1234:5678:9abc:def0]:65535";
    let path = socket(operator.state.path(), long, &own);
    drop(control::bind(&path).unwrap());
    // What another has put in its place is left to them.
    let first = Inbound::of(&operator.state);
    let agent = Identity::generate("a").unwrap();
    let calls = operator.dial("a", &agent);
    operator.wait(&first, "a", &agent).await.unwrap();
    calls.await.unwrap();
    let _theirs = control::bind(&operator.socket()).unwrap();
    drop(first);
    // The port is given up last.
    let free = async {
        while tokio::net::TcpListener::bind(&operator.listen)
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(30), free).await.unwrap();
    assert!(operator.socket().exists());
}
