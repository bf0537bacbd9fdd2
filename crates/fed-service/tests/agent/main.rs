//! The daemon itself, over real TLS: whose key may call what, and what is written down of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fed_rpc::client::{self, ConnectError};
use fed_rpc::status::{CallError, Reason};
use fed_rpc::v1::agent_client::AgentClient;
use fed_rpc::{Identity, Invitation, v1};
use fed_service::agent::{self, AgentConfig, ConfigFile};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A daemon with a state folder of its own.
struct Site {
    folder: tempfile::TempDir,
    config: AgentConfig,
    address: SocketAddr,
    daemon: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.daemon.abort();
    }
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        Identity::load_or_create(&state.join("identity/agent.pem"), "ecmwf").unwrap();
        let path = folder.path().join("agent.toml");
        let text = "name = \"ecmwf\"\naddress = \"agent.example:4788\"\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(&path, text).unwrap();
        let file = ConfigFile { path, state };
        let config = file.load().unwrap();
        let (ready, address) = oneshot::channel();
        let running = agent::run(file, config.clone(), |address| ready.send(address).unwrap());
        let daemon = tokio::spawn(async move { running.await.unwrap() });
        Self {
            folder,
            config,
            address: address.await.unwrap(),
            daemon,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn invite(&self, operator: Option<&str>) -> Invitation {
        let invited = agent::invite(&self.config, HOUR, operator).unwrap();
        invited.line.parse().unwrap()
    }

    async fn connect(&self, identity: &Identity) -> Result<AgentClient<Channel>, ConnectError> {
        let own = Identity::load(&self.state().join("identity/agent.pem")).unwrap();
        let address = self.address.to_string();
        client::connect(&address, identity, own.fingerprint(), PATIENCE).await
    }

    /// Enrols a new operator.
    async fn enrol(&self, name: &str) -> Identity {
        let (operator, invitation) = (Identity::generate(name).unwrap(), self.invite(None));
        let mut agent = self.connect(invitation.identity()).await.unwrap();
        agent.enrol(request(&operator, name)).await.unwrap();
        operator
    }

    /// Lines of the audit log, as (call, outcome, operator).
    fn audit(&self) -> Vec<(String, String, Option<String>)> {
        let text = std::fs::read_to_string(Path::new(&self.state()).join("audit.jsonl")).unwrap();
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let field = |line: &Value, key: &str| line[key].as_str().map(str::to_owned);
        lines
            .map(|line| {
                let (call, outcome) = (field(&line, "call"), field(&line, "outcome"));
                (call.unwrap(), outcome.unwrap(), field(&line, "operator"))
            })
            .collect()
    }
}

fn request(operator: &Identity, name: &str) -> v1::EnrolRequest {
    v1::EnrolRequest {
        operator_certificate: operator.certificate().to_vec(),
        operator_name: name.to_owned(),
    }
}

#[track_caller]
fn reason<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Reason {
    let error = CallError::from(answer.unwrap_err());
    let CallError::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    refusal.reason
}

fn noted(call: &str, outcome: &str, operator: Option<&str>) -> (String, String, Option<String>) {
    (
        call.to_owned(),
        outcome.to_owned(),
        operator.map(str::to_owned),
    )
}

#[tokio::test]
async fn an_invitations_key_may_enrol_once_and_nothing_else() {
    let site = Site::start().await;
    let invitation = site.invite(Some("alice@lab"));
    let operator = Identity::generate("operator").unwrap();
    let mut invited = site.connect(invitation.identity()).await.unwrap();
    let describe = invited.describe(v1::DescribeRequest {}).await;
    assert_eq!(reason(describe), Reason::NotAllowed);
    let leave = v1::LeaveRequest {
        federation: "0123456789".to_owned(),
    };
    assert_eq!(reason(invited.leave(leave).await), Reason::NotAllowed);
    let rotate = v1::RotateRequest {
        operator_certificate: operator.certificate().to_vec(),
        keep_seconds: 60,
    };
    assert_eq!(reason(invited.rotate(rotate).await), Reason::NotAllowed);
    invited.enrol(request(&operator, "root")).await.unwrap();
    // The connection outlives the invitation, its rights do not.
    let again = invited.enrol(request(&operator, "root")).await;
    assert_eq!(reason(again), Reason::InvitationSpent);
    let refused = site.connect(invitation.identity()).await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })));
    let mut enrolled = site.connect(&operator).await.unwrap();
    enrolled.describe(v1::DescribeRequest {}).await.unwrap();
    assert_eq!(
        site.audit(),
        [
            noted("Describe", "not-allowed", None),
            noted("Leave", "not-allowed", None),
            noted("Rotate", "not-allowed", None),
            noted("Enrol", "ok", Some("alice@lab")),
            noted("Enrol", "invitation-spent", None),
            noted("handshake", "refused", None),
            noted("Describe", "ok", Some("alice@lab")),
        ]
    );
}

#[tokio::test]
async fn a_removed_operators_next_call_is_refused_on_a_connection_that_stands() {
    let site = Site::start().await;
    let operator = site.enrol("alice").await;
    let mut agent = site.connect(&operator).await.unwrap();
    agent.describe(v1::DescribeRequest {}).await.unwrap();
    let removed = agent::remove_operator(&site.state(), "alice")
        .await
        .unwrap();
    assert_eq!(removed.ended, Some(0));
    let describe = agent.describe(v1::DescribeRequest {}).await;
    assert_eq!(reason(describe), Reason::NotAllowed);
    let refused = site.connect(&operator).await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })));
    assert_eq!(
        site.audit()[2..],
        [
            noted("RemoveOperator", "ok", Some("alice")),
            noted("Describe", "not-allowed", None),
            noted("handshake", "refused", None),
        ]
    );
}

#[tokio::test]
async fn an_operator_changes_the_key_and_the_old_one_ends() {
    let site = Site::start().await;
    let (old, new) = (
        site.enrol("alice").await,
        Identity::generate("new").unwrap(),
    );
    let rotate = |keep_seconds| v1::RotateRequest {
        operator_certificate: new.certificate().to_vec(),
        keep_seconds,
    };
    let mut before = site.connect(&old).await.unwrap();
    before.rotate(rotate(3600)).await.unwrap();
    for key in [&old, &new] {
        let mut agent = site.connect(key).await.unwrap();
        agent.describe(v1::DescribeRequest {}).await.unwrap();
    }
    let mut after = site.connect(&new).await.unwrap();
    after.rotate(rotate(0)).await.unwrap();
    assert_eq!(
        reason(before.describe(v1::DescribeRequest {}).await),
        Reason::NotAllowed
    );
    let refused = site.connect(&old).await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })));
    after.describe(v1::DescribeRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_new_key_of_the_agent_is_announced_and_then_used() {
    let site = Site::start().await;
    let operator = site.enrol("alice").await;
    let mut agent = site.connect(&operator).await.unwrap();
    let first = agent
        .describe(v1::DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.next_fingerprint, "");
    let announced = agent::rotate(&site.state(), "ecmwf", HOUR).await.unwrap();
    let second = agent
        .describe(v1::DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(second.next_fingerprint, announced.fingerprint.to_string());
    // An invitation does not outlive the key that it names.
    let invited = agent::invite(&site.config, 100 * HOUR, None).unwrap();
    assert!(invited.valid <= HOUR);
    agent::rotate(&site.state(), "ecmwf", Duration::ZERO)
        .await
        .unwrap();
    // `connect` pins what lies in the state folder, which is the new key now.
    let mut changed = site.connect(&operator).await.unwrap();
    let third = changed
        .describe(v1::DescribeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(third.next_fingerprint, "");
}
