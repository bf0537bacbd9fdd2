//! Agents that dial: who is called over their connections, and who is not let in.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fed_rpc::client::{ConnectError, Connected};
use fed_rpc::reverse::{self, Announced, Awaited, Caller, DialError, DialLimits};
use fed_rpc::server::{self, HandshakeLimits, IncomingFailure, TlsConn};
use fed_rpc::tls::{self, Pins, Presented};
use fed_rpc::v1::agent_server::AgentServer;
use fed_rpc::{Fingerprint, Identity, v1};
use rustls::AlertDescription;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;

use crate::site::Callers;
use crate::{PATIENCE, within};

/// An operator who listens.
struct Operator {
    address: SocketAddr,
    called: Arc<tokio::sync::Mutex<mpsc::Receiver<Announced>>>,
    failures: mpsc::UnboundedReceiver<IncomingFailure>,
}

impl Operator {
    async fn start(limits: HandshakeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (failed, failures) = mpsc::unbounded_channel();
        let mut incoming = reverse::callers(listener, limits, move |failure| {
            // The test may be over.
            let _ = failed.send(failure);
        });
        let (calls, called) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(announced) = incoming.next().await {
                if calls.send(announced.unwrap()).await.is_err() {
                    return;
                }
            }
        });
        Self {
            address,
            called: Arc::new(tokio::sync::Mutex::new(called)),
            failures,
        }
    }

    /// Waits for the agent with this key.
    async fn wait(
        &self,
        identity: &Identity,
        agent: Fingerprint,
        timeout: Duration,
    ) -> Result<Connected, ConnectError> {
        let awaited = Awaited {
            site: "ecmwf".to_owned(),
            listen: self.address.to_string(),
            agent: Pins::new([agent]),
            timeout,
        };
        let called = Arc::clone(&self.called);
        let next = move || {
            let called = Arc::clone(&called);
            async move {
                let announced = called.lock().await.recv().await;
                let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
                let announced = announced.ok_or_else(gone)?;
                assert_eq!(announced.site, "ecmwf");
                Ok::<Caller, io::Error>(announced.caller)
            }
        };
        let (connected, remote) = reverse::connect(awaited, identity, next, |_| {}).await?;
        assert_eq!(connected.seen, agent);
        assert!(remote.ip().is_loopback());
        Ok(connected)
    }

    async fn failure(&mut self) -> IncomingFailure {
        let failure = within("a connection that fails", self.failures.recv());
        failure.await.unwrap()
    }
}

/// An agent that admits these keys.
struct Agent {
    identity: Identity,
    admitted: Arc<Mutex<BTreeSet<Fingerprint>>>,
}

impl Agent {
    fn new(admitted: &[&Identity]) -> Self {
        let admitted = admitted.iter().map(|identity| identity.fingerprint());
        Self {
            identity: Identity::generate("agent").unwrap(),
            admitted: Arc::new(Mutex::new(admitted.collect())),
        }
    }

    async fn dial(&self, address: &str, answer: Duration) -> Result<TlsConn, DialError> {
        let admitted = Arc::clone(&self.admitted);
        let admission = move |peer: &Fingerprint| admitted.lock().unwrap().contains(peer);
        let presented = Arc::new(Presented::new(&self.identity));
        let config = tls::dialling_config(presented, Arc::new(admission));
        let limits = DialLimits {
            answer,
            ..DialLimits::default()
        };
        reverse::dial(address, "ecmwf", &config, limits).await
    }

    async fn dial_operator(&self, operator: &Operator) -> Result<TlsConn, DialError> {
        self.dial(&operator.address.to_string(), PATIENCE).await
    }
}

/// Answers calls over a connection until it is told to stop; returns who makes them.
fn serve(connection: TlsConn) -> (Callers, oneshot::Sender<()>, JoinHandle<()>) {
    let callers = Callers::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let connections = tokio_stream::once(Ok::<_, io::Error>(connection));
    // Another never comes.
    let connections = connections.chain(tokio_stream::pending());
    let service = AgentServer::new(callers.clone());
    let served = server::builder().serve_with_incoming_shutdown(service, connections, async {
        let _ = stopped.await;
    });
    let task = tokio::spawn(async { served.await.unwrap() });
    (callers, stop, task)
}

#[tokio::test]
async fn an_operator_calls_over_what_the_agent_dialled_and_again_when_it_is_lost() {
    let operator = Operator::start(HandshakeLimits::default()).await;
    let identity = Identity::generate("operator").unwrap();
    let agent = Agent::new(&[&identity]);
    let own = agent.identity.fingerprint();
    let (client, connection) = tokio::join!(
        operator.wait(&identity, own, PATIENCE),
        agent.dial_operator(&operator)
    );
    let (connected, connection) = (client.unwrap(), connection.unwrap());
    assert_eq!(connection.peer().fingerprint, identity.fingerprint());
    assert_eq!(connection.peer().binding, connected.binding);
    let mut client = connected.agent;
    assert_eq!(connection.peer().remote, operator.address);
    let (callers, stop, stopped) = serve(connection);
    let describe = client.describe(v1::DescribeRequest {});
    assert_eq!(describe.await.unwrap().into_inner().site, "ecmwf");
    assert_eq!(callers.all()[0].fingerprint, identity.fingerprint());
    // The agent ends, and another comes in its place.
    stop.send(()).unwrap();
    within("the agent's end", stopped).await.unwrap();
    let redial = async { serve(agent.dial_operator(&operator).await.unwrap()) };
    let call = async {
        // The first call may still find the connection that has ended.
        while client.describe(v1::DescribeRequest {}).await.is_err() {}
    };
    let both = async { tokio::join!(redial, call) };
    let ((callers, _stop, _), ()) = within("a call over the new connection", both).await;
    assert_eq!(callers.all().len(), 1);
}

#[tokio::test]
async fn another_agent_is_refused_and_the_right_one_still_awaited() {
    let operator = Operator::start(HandshakeLimits::default()).await;
    let identity = Identity::generate("operator").unwrap();
    let (right, wrong) = (Agent::new(&[&identity]), Agent::new(&[&identity]));
    let own = right.identity.fingerprint();
    let dialling = async {
        let refused = wrong.dial_operator(&operator).await.unwrap_err();
        assert!(
            matches!(refused, DialError::Refused(alert)
                if alert == AlertDescription::CertificateUnknown),
            "{refused:?}"
        );
        right.dial_operator(&operator).await.unwrap()
    };
    let (client, _connection) = tokio::join!(operator.wait(&identity, own, PATIENCE), dialling);
    client.unwrap();
    // Alone, it is told of with both keys.
    let seen = wrong.identity.fingerprint();
    let short = Duration::from_secs(2);
    let (error, _) = tokio::join!(
        operator.wait(&identity, own, short),
        wrong.dial_operator(&operator)
    );
    assert!(
        matches!(error, Err(ConnectError::WrongFingerprint { expected, seen: shown, .. })
            if expected == own && shown == seen)
    );
}

#[tokio::test]
async fn an_operator_who_is_not_enrolled_calls_nobody() {
    let operator = Operator::start(HandshakeLimits::default()).await;
    let [enrolled, stranger] = ["a", "b"].map(|name| Identity::generate(name).unwrap());
    let agent = Agent::new(&[&enrolled]);
    let short = Duration::from_secs(2);
    let (waited, dialled) = tokio::join!(
        operator.wait(&stranger, agent.identity.fingerprint(), short),
        agent.dial_operator(&operator)
    );
    let error = dialled.unwrap_err();
    assert!(
        matches!(error, DialError::Stranger { seen, remote }
            if seen == stranger.fingerprint() && remote == operator.address),
        "{error:?}"
    );
    assert!(
        matches!(waited, Err(ConnectError::Refused { fingerprint, .. })
            if fingerprint == stranger.fingerprint())
    );
    // Enrolled meanwhile: the next attempt counts.
    agent
        .admitted
        .lock()
        .unwrap()
        .insert(stranger.fingerprint());
    let (waited, dialled) = tokio::join!(
        operator.wait(&stranger, agent.identity.fingerprint(), PATIENCE),
        agent.dial_operator(&operator)
    );
    waited.unwrap();
    dialled.unwrap();
}

#[tokio::test]
async fn what_is_no_agents_first_message_ends_there() {
    let limits = HandshakeLimits {
        timeout: Duration::from_millis(200),
        concurrent: 1,
    };
    let mut operator = Operator::start(limits).await;
    // With room for one, each depends on the end of the one before.
    let mut noise = TcpStream::connect(operator.address).await.unwrap();
    noise.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let failure = operator.failure().await;
    assert!(
        matches!(failure, IncomingFailure::Handshake { .. }),
        "{failure:?}"
    );
    let mut silent = TcpStream::connect(operator.address).await.unwrap();
    let failure = operator.failure().await;
    assert!(
        matches!(failure, IncomingFailure::Timeout { .. }),
        "{failure:?}"
    );
    assert_eq!(within("its end", silent.read(&mut [0])).await.unwrap(), 0);
    // TLS, but no agent: the client of an operator sends no name.
    let identity = Identity::generate("stranger").unwrap();
    let own = identity.fingerprint();
    let address = operator.address.to_string();
    let error = fed_rpc::client::connect(&address, &identity, own, PATIENCE).await;
    assert!(matches!(error, Err(ConnectError::Protocol { .. })));
    let failure = operator.failure().await;
    assert!(
        matches!(failure, IncomingFailure::Handshake { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn whom_nobody_waits_for_is_told_so() {
    let operator = Operator::start(HandshakeLimits::default()).await;
    let agent = Agent::new(&[]);
    let turning = async {
        let announced = operator.called.lock().await.recv().await.unwrap();
        announced.caller.turn_away().await;
    };
    let (error, ()) = tokio::join!(agent.dial_operator(&operator), turning);
    assert!(matches!(error, Err(DialError::NotWanted)), "{error:?}");
    // No operator keeps a connection for longer than an agent waits.
    let address = operator.address.to_string();
    let error = agent.dial(&address, Duration::from_millis(100)).await;
    assert!(matches!(error, Err(DialError::Silent(_))), "{error:?}");
}

#[tokio::test]
async fn nobody_there_and_nobody_who_comes_are_told() {
    let agent = Agent::new(&[]);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap().to_string();
    drop(gone);
    let error = agent.dial(&address, PATIENCE).await.unwrap_err();
    assert!(matches!(error, DialError::Unreachable(_)), "{error:?}");
    let error = agent.dial("nowhere", PATIENCE).await.unwrap_err();
    assert!(matches!(error, DialError::Address { .. }), "{error:?}");
    let operator = Operator::start(HandshakeLimits::default()).await;
    let identity = Identity::generate("operator").unwrap();
    let waited = operator.wait(
        &identity,
        agent.identity.fingerprint(),
        Duration::from_millis(50),
    );
    let error = waited.await.map(drop).unwrap_err();
    assert!(matches!(error, ConnectError::NoCall { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(
            "the agent of ecmwf has not dialled us in 0.05 s, while we listened at 127.0.0.1:"
        ),
        "{text}"
    );
}
