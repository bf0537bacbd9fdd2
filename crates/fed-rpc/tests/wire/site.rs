//! An agent that answers `Describe` and writes down who asked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use fed_rpc::client::{self, ConnectError};
use fed_rpc::server::{self, HandshakeLimits, IncomingFailure};
use fed_rpc::status::{Reason, Refusal};
use fed_rpc::tls::Presented;
use fed_rpc::v1::agent_client::AgentClient;
use fed_rpc::v1::agent_server::{Agent, AgentServer};
use fed_rpc::{Fingerprint, Identity, PeerIdentity, tls, v1};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::Empty;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::{PATIENCE, within};

/// What a refused `Renew` says: longer than an HTTP/2 header would carry without a limit.
pub(crate) fn long_message() -> String {
    "no federation “€”\n".repeat(2000)
}

#[derive(Clone, Default)]
pub(crate) struct Callers(Arc<Mutex<Vec<PeerIdentity>>>);

impl Callers {
    /// Everyone who made a call so far.
    pub(crate) fn all(&self) -> Vec<PeerIdentity> {
        self.0.lock().unwrap().clone()
    }
}

/// An agent that runs until it is stopped.
pub(crate) struct Site {
    pub(crate) identity: Identity,
    pub(crate) presented: Arc<Presented>,
    pub(crate) address: SocketAddr,
    admitted: Arc<Mutex<BTreeSet<Fingerprint>>>,
    callers: Callers,
    failures: mpsc::UnboundedReceiver<IncomingFailure>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(HandshakeLimits::default(), |_| {}).await
    }

    /// Starts an agent with limits and a change to its TLS configuration.
    pub(crate) async fn start_with(
        limits: HandshakeLimits,
        change: impl FnOnce(&mut rustls::ServerConfig),
    ) -> Self {
        let identity = Identity::generate("agent").unwrap();
        let admitted = Arc::new(Mutex::new(BTreeSet::new()));
        let admission = {
            let admitted = Arc::clone(&admitted);
            move |peer: &Fingerprint| admitted.lock().unwrap().contains(peer)
        };
        let presented = Arc::new(Presented::new(&identity));
        let mut config = tls::changing_server_config(Arc::clone(&presented), Arc::new(admission));
        change(Arc::make_mut(&mut config));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (failed, failures) = mpsc::unbounded_channel();
        let incoming = server::incoming(listener, config, limits, move |failure| {
            // The test may be over.
            let _ = failed.send(failure);
        });
        let callers = Callers::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = AgentServer::new(callers.clone());
        let serving = server::builder().serve_with_incoming_shutdown(service, incoming, async {
            let _ = stopped.await;
        });
        let task = tokio::spawn(async { serving.await.unwrap() });
        Self {
            identity,
            presented,
            address,
            admitted,
            callers,
            failures,
            stop,
            task,
        }
    }

    pub(crate) fn admit(&self, identity: &Identity) {
        self.admitted.lock().unwrap().insert(identity.fingerprint());
    }

    pub(crate) fn revoke(&self, identity: &Identity) {
        assert!(
            self.admitted
                .lock()
                .unwrap()
                .remove(&identity.fingerprint())
        );
    }

    /// Connects as an operator would.
    pub(crate) async fn connect(
        &self,
        identity: &Identity,
    ) -> Result<AgentClient<Channel>, ConnectError> {
        let address = self.address.to_string();
        client::connect(&address, identity, self.identity.fingerprint(), PATIENCE).await
    }

    /// Everyone who made a call so far.
    pub(crate) fn callers(&self) -> Vec<PeerIdentity> {
        self.callers.all()
    }

    /// The next connection that did not come about.
    pub(crate) async fn failure(&mut self) -> IncomingFailure {
        within("a failed handshake", self.failures.recv())
            .await
            .unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        within("the agent's end", self.task).await.unwrap();
    }
}

fn unused() -> Status {
    Status::unimplemented("not part of these tests")
}

#[tonic::async_trait]
impl Agent for Callers {
    type WatchStream = Empty<Result<v1::Event, Status>>;
    type LogsStream = Empty<Result<v1::LogLine, Status>>;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        let peer = *request.extensions().get::<PeerIdentity>().unwrap();
        self.0.lock().unwrap().push(peer);
        Ok(Response::new(v1::DescribeReply {
            site: "ecmwf".to_owned(),
            ..Default::default()
        }))
    }

    async fn renew(
        &self,
        _: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewReply>, Status> {
        Err(Refusal::new(Reason::UnknownFederation, long_message()).into())
    }

    async fn enrol(
        &self,
        _: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolReply>, Status> {
        Err(unused())
    }

    async fn prepare(
        &self,
        _: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareReply>, Status> {
        Err(unused())
    }

    async fn connect(
        &self,
        _: Request<v1::ConnectRequest>,
    ) -> Result<Response<v1::ConnectReply>, Status> {
        Err(unused())
    }

    /// Never answers.
    async fn probe(
        &self,
        _: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeReply>, Status> {
        std::future::pending().await
    }

    async fn start(
        &self,
        _: Request<v1::StartRequest>,
    ) -> Result<Response<v1::StartReply>, Status> {
        Err(unused())
    }

    async fn scale(
        &self,
        _: Request<v1::ScaleRequest>,
    ) -> Result<Response<v1::ScaleReply>, Status> {
        Err(unused())
    }

    async fn stop(&self, _: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        Err(unused())
    }

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(unused())
    }

    async fn logs(
        &self,
        _: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        Err(unused())
    }

    async fn rotate(
        &self,
        _: Request<v1::RotateRequest>,
    ) -> Result<Response<v1::RotateReply>, Status> {
        Err(unused())
    }

    async fn leave(
        &self,
        _: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveReply>, Status> {
        Err(unused())
    }
}
