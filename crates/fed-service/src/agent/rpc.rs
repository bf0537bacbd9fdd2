//! The calls of `fed.agent.v1` on the wire: who is calling, may they, and a line in the audit log.

use std::future::Future;
use std::pin::Pin;

use fed_rpc::PeerIdentity;
use fed_rpc::status::{Reason, Refusal};
use fed_rpc::v1::{self, agent_server::Agent};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};
use tracing::warn;

use super::audit::{Audit, Caller};
use super::federation::Happening;
use super::roster::{Operator, Role};
use super::service::Service;

/// Characters that are noted of a federation's id; a right one has ten.
const NOTED: usize = 40;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

/// Writes the audit line of a call, also of one that its caller did not wait for.
struct Note<'a> {
    audit: &'a Audit,
    caller: Option<Caller>,
}

impl Note<'_> {
    fn end<T>(mut self, answer: &Result<T, Status>) {
        if let Some(caller) = self.caller.take() {
            self.audit.call(&caller, answer.as_ref().err());
        }
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        if let Some(caller) = &self.caller {
            let gone = Status::cancelled("the caller did not wait");
            self.audit.call(caller, Some(&gone));
        }
    }
}

impl Service {
    /// Makes one call for an operator, and notes it. Who calls is asked every time, because a
    /// connection may outlive its operator's enrolment.
    async fn make<M, T, Done>(
        &self,
        call: &'static str,
        federation: Option<&str>,
        request: Request<M>,
        act: impl FnOnce(Operator, M) -> Done,
    ) -> Answer<T>
    where
        Done: Future<Output = Result<T, Refusal>>,
    {
        let peer = request.extensions().get::<PeerIdentity>().copied();
        let role = peer.map_or(Role::Stranger, |peer| self.roster.role(&peer.fingerprint));
        let mut caller = Caller {
            peer,
            operator: None,
            call,
            federation: federation.map(|id| id.chars().take(NOTED).collect()),
        };
        let Role::Operator(operator) = role else {
            let who = peer.map_or_else(
                || "nobody".to_owned(),
                |peer| match role {
                    Role::Invited => "invitation".to_owned(),
                    Role::Operator(_) | Role::Stranger => self.roster.past(&peer.fingerprint),
                },
            );
            warn!(call, who, peer = ?peer.map(|peer| peer.remote), "call refused");
            let message = format!(
                "this key ({who}) is not an enrolled operator's; redeem an invitation first \
                 (`fed site add`)"
            );
            let refused = Refusal::new(Reason::NotAllowed, message).into();
            self.audit.call(&caller, Some(&refused));
            return Err(refused);
        };
        caller.operator = Some(operator.name.clone());
        let note = Note {
            audit: &self.audit,
            caller: Some(caller),
        };
        let answer = act(operator, request.into_inner()).await;
        let answer = answer.map(Response::new).map_err(Status::from);
        note.end(&answer);
        answer
    }
}

#[tonic::async_trait]
impl Agent for Service {
    type WatchStream = Streamed<v1::Event>;
    type LogsStream = Streamed<v1::LogLine>;

    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Answer<v1::EnrolReply> {
        let peer = request.extensions().get::<PeerIdentity>().copied();
        let mut caller = Caller {
            peer,
            operator: None,
            call: "Enrol",
            federation: None,
        };
        let enrolled = match peer {
            Some(peer) => Self::enrol(self, &peer, request.into_inner()),
            None => Err(Refusal::new(
                Reason::NotAllowed,
                "the caller has no identity",
            )),
        };
        let answer = enrolled.map_err(Status::from).map(|(operator, reply)| {
            caller.operator = Some(operator.name);
            Response::new(reply)
        });
        self.audit.call(&caller, answer.as_ref().err());
        answer
    }

    async fn rotate(&self, request: Request<v1::RotateRequest>) -> Answer<v1::RotateReply> {
        let peer = request.extensions().get::<PeerIdentity>().copied();
        let act = async |operator, message| {
            let peer = peer.expect("an operator is known by the key of the connection");
            Self::rotate(self, &operator, &peer, message)
        };
        self.make("Rotate", None, request, act).await
    }

    async fn describe(&self, request: Request<v1::DescribeRequest>) -> Answer<v1::DescribeReply> {
        let act = async |operator, _| Self::describe(self, &operator).await;
        self.make("Describe", None, request, act).await
    }

    async fn prepare(&self, request: Request<v1::PrepareRequest>) -> Answer<v1::PrepareReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::prepare(self, &operator, message).await;
        self.make("Prepare", Some(&id), request, act).await
    }

    async fn connect(&self, request: Request<v1::ConnectRequest>) -> Answer<v1::ConnectReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::connect(self, &operator, message).await;
        self.make("Connect", Some(&id), request, act).await
    }

    async fn probe(&self, request: Request<v1::ProbeRequest>) -> Answer<v1::ProbeReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::probe(self, &operator, message).await;
        self.make("Probe", Some(&id), request, act).await
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Answer<v1::StartReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::start(self, &operator, message).await;
        self.make("Start", Some(&id), request, act).await
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Answer<v1::ScaleReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::scale(self, &operator, message).await;
        self.make("Scale", Some(&id), request, act).await
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Answer<v1::StopReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::stop(self, &operator, message).await;
        self.make("Stop", Some(&id), request, act).await
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::renew(self, &operator, message).await;
        self.make("Renew", Some(&id), request, act).await
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Answer<v1::LeaveReply> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::leave(self, &operator, message).await;
        self.make("Leave", Some(&id), request, act).await
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::watch(self, &operator, &message);
        let events = self.make("Watch", Some(&id), request, act).await?;
        let events = BroadcastStream::new(events.into_inner());
        let events = events.filter_map(async |event| match event {
            Ok(happening) => Some(Ok(event_to_wire(happening))),
            Err(lagged) => {
                warn!(%lagged, "a watcher was too slow");
                None
            }
        });
        // Else the agent could not end while somebody watches.
        let ending = self.ending.clone().cancelled_owned();
        Ok(Response::new(Box::pin(events.take_until(ending))))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<Self::LogsStream> {
        let id = request.get_ref().federation.clone();
        let act = async |operator, message| Self::logs(self, &operator, message).await;
        let lines = self.make("Logs", Some(&id), request, act).await?;
        let lines = lines.into_inner().into_iter();
        let lines = lines.map(|(source, line)| Ok(v1::LogLine { source, line }));
        Ok(Response::new(Box::pin(futures::stream::iter(lines))))
    }
}

fn event_to_wire(happening: Happening) -> v1::Event {
    use v1::event::What;
    let what = match happening {
        Happening::WorkerExited {
            worker,
            status,
            last_lines,
        } => What::WorkerExited(v1::WorkerExited {
            worker,
            status,
            last_lines,
        }),
        Happening::Ended { reason } => What::FederationEnded(v1::FederationEnded { reason }),
    };
    v1::Event { what: Some(what) }
}
