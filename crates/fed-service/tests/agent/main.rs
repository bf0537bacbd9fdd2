//! The daemon itself, over real TLS: whose key may call what, and what is written down of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fed_rpc::client::{self, ConnectError, Connected};
use fed_rpc::possession::{self, ChannelBinding, Purpose};
use fed_rpc::status::{CallError, Reason, Refusal};
use fed_rpc::tls::Pins;
use fed_rpc::v1::agent_client::AgentClient;
use fed_rpc::{Identity, Invitation, v1};
use fed_service::agent::{self, AgentConfig, ConfigFile, Roster};
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
        Self::with("").await
    }

    /// Starts one with more lines in its agent.toml.
    async fn with(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        Identity::load_or_create(&state.join("identity/agent.pem"), "ecmwf").unwrap();
        let path = folder.path().join("agent.toml");
        let text = "name = \"ecmwf\"\naddress = \"agent.example:4788\"\nlisten = \"127.0.0.1:0\"\n";
        let text = format!("{text}{more}");
        std::fs::write(&path, text).unwrap();
        let file = ConfigFile {
            path,
            state,
            dial: Vec::new(),
        };
        let config = file.load().unwrap();
        let (ready, address) = oneshot::channel();
        let running = agent::run(file, config.clone(), |address| {
            ready.send(address.unwrap()).unwrap();
        });
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
        Ok(self.bound(identity).await?.agent)
    }

    /// A connection, with what proofs on it are bound to.
    async fn bound(&self, identity: &Identity) -> Result<Connected, ConnectError> {
        let own = Identity::load(&self.state().join("identity/agent.pem")).unwrap();
        let (address, pins) = (self.address.to_string(), Pins::new([own.fingerprint()]));
        client::connect_to_any(&address, identity, &pins, PATIENCE).await
    }

    /// Enrols a new operator.
    async fn enrol(&self, name: &str) -> Identity {
        let (operator, invitation) = (Identity::generate(name).unwrap(), self.invite(None));
        let mut invited = self.bound(invitation.identity()).await.unwrap();
        let request = enrolment(&operator, name, &invited.binding);
        invited.agent.enrol(request).await.unwrap();
        operator
    }

    /// The audit log when it has so many lines: a refused client may know before it is noted.
    async fn audit_of(&self, lines: usize) -> Vec<(String, String, Option<String>)> {
        let there = async {
            while self.audit().len() < lines {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let there = tokio::time::timeout(PATIENCE, there).await;
        assert!(there.is_ok(), "{:?}", self.audit());
        self.audit()
    }

    fn audit_text(&self) -> String {
        std::fs::read_to_string(Path::new(&self.state()).join("audit.jsonl")).unwrap()
    }

    /// Lines of the audit log, as (call, outcome, operator).
    fn audit(&self) -> Vec<(String, String, Option<String>)> {
        let text = self.audit_text();
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

fn enrolment(operator: &Identity, name: &str, binding: &ChannelBinding) -> v1::EnrolRequest {
    v1::EnrolRequest {
        operator_certificate: operator.certificate().to_vec(),
        operator_name: name.to_owned(),
        proof: possession::prove(operator, Purpose::Enrol(name), binding),
    }
}

fn rotation(new: &Identity, keep_seconds: u64, binding: &ChannelBinding) -> v1::RotateRequest {
    v1::RotateRequest {
        operator_certificate: new.certificate().to_vec(),
        keep_seconds,
        proof: possession::prove(new, Purpose::Rotate, binding),
    }
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Refusal {
    let error = CallError::from(answer.unwrap_err());
    let CallError::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    refusal
}

#[track_caller]
fn reason<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> Reason {
    refusal(answer).reason
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
    let Connected {
        agent: mut invited,
        binding,
        ..
    } = site.bound(invitation.identity()).await.unwrap();
    let describe = invited.describe(v1::DescribeRequest {}).await;
    assert_eq!(reason(describe), Reason::NotAllowed);
    let leave = v1::LeaveRequest {
        federation: "0123456789".to_owned(),
    };
    assert_eq!(reason(invited.leave(leave).await), Reason::NotAllowed);
    let rotate = rotation(&operator, 60, &binding);
    assert_eq!(reason(invited.rotate(rotate).await), Reason::NotAllowed);
    let enrol = || enrolment(&operator, "root", &binding);
    invited.enrol(enrol()).await.unwrap();
    // The connection outlives the invitation, its rights do not.
    let again = invited.enrol(enrol()).await;
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
        site.audit_of(5).await[2..],
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
    let Connected {
        agent: mut before,
        binding,
        ..
    } = site.bound(&old).await.unwrap();
    before.rotate(rotation(&new, 3600, &binding)).await.unwrap();
    for key in [&old, &new] {
        let mut agent = site.connect(key).await.unwrap();
        agent.describe(v1::DescribeRequest {}).await.unwrap();
    }
    let Connected {
        agent: mut after,
        binding,
        ..
    } = site.bound(&new).await.unwrap();
    after.rotate(rotation(&new, 0, &binding)).await.unwrap();
    assert_eq!(
        reason(before.describe(v1::DescribeRequest {}).await),
        Reason::NotAllowed
    );
    let refused = site.connect(&old).await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })));
    after.describe(v1::DescribeRequest {}).await.unwrap();
}

/// The interpreter is started on the host itself, outside of what limits hold.
#[tokio::test]
async fn however_many_ask_what_a_site_is_one_interpreter_runs() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let prologue = format!(
        "prologue = \"echo + >> {log}; sleep 0.1; echo - >> {log}\"\n",
        log = log.display()
    );
    let site = Site::with(&prologue).await;
    let operator = site.enrol("alice").await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let agent = site.connect(&operator).await.unwrap();
        for _ in 0..100 {
            let mut agent = agent.clone();
            calls.spawn(async move { agent.describe(v1::DescribeRequest {}).await });
        }
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(Result::is_ok));
    let (mut now, mut most) = (0, 0);
    for line in std::fs::read_to_string(log).unwrap().lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!((now, most), (0, 1));
}

/// A site that reads of one key only, the present one, writes its limits for that.
#[tokio::test]
async fn limits_of_the_present_key_hold_for_the_old_one() {
    let new = Identity::generate("new").unwrap();
    let limits = format!(
        "[[pool]]\nname = \"ecmwf\"\nworkers = 4\n\
         [[operator]]\nfingerprint = \"{}\"\nworkers = 1\nlease = \"1m\"\n",
        new.fingerprint()
    );
    let site = Site::with(&limits).await;
    let old = site.enrol("alice").await;
    let Connected {
        mut agent, binding, ..
    } = site.bound(&old).await.unwrap();
    let most = async |agent: &mut AgentClient<Channel>| {
        let described = agent.describe(v1::DescribeRequest {}).await.unwrap();
        described.into_inner().pools[0].max_workers
    };
    assert_eq!(most(&mut agent).await, 4);
    agent.rotate(rotation(&new, 3600, &binding)).await.unwrap();
    assert_eq!(most(&mut agent).await, 1);
    let prepare = v1::PrepareRequest {
        federation: "ab12cd34ef".to_owned(),
        name: "default".to_owned(),
        site_number: 1,
        members: Vec::new(),
        lease_seconds: 600,
    };
    let refused = refusal(agent.prepare(prepare).await);
    assert_eq!(refused.reason, Reason::Exhausted, "{refused:?}");
    assert!(refused.message.contains("(lease)"), "{refused:?}");
}

/// Who holds an invitation, even one with a name, and knows somebody's certificate, gets nothing.
#[tokio::test]
async fn a_key_is_enrolled_by_its_holder_alone() {
    let (site, other) = (Site::start().await, Site::start().await);
    let alice = site.enrol("alice").await;
    let mallory = Identity::generate("mallory").unwrap();
    let invitation = site.invite(Some("mallory@lab"));
    let mut invited = site.bound(invitation.identity()).await.unwrap();
    // Another connection of the same holder, to this agent and to another one.
    let second = site.bound(invitation.identity()).await.unwrap();
    let elsewhere = other.invite(None);
    let elsewhere = other.bound(elsewhere.identity()).await.unwrap();
    let foreign = v1::EnrolRequest {
        operator_certificate: alice.certificate().to_vec(),
        ..enrolment(&mallory, "x", &invited.binding)
    };
    let unsigned = v1::EnrolRequest {
        proof: Vec::new(),
        ..enrolment(&mallory, "x", &invited.binding)
    };
    let renamed = v1::EnrolRequest {
        operator_name: "root".to_owned(),
        ..enrolment(&mallory, "x", &invited.binding)
    };
    for (what, request, held) in [
        ("a foreign certificate", foreign, &alice),
        ("no signature", unsigned, &mallory),
        ("a signature over another name", renamed, &mallory),
        (
            "a signature for another agent",
            enrolment(&alice, "alice", &elsewhere.binding),
            &alice,
        ),
        (
            "a signature of another connection",
            enrolment(&mallory, "x", &second.binding),
            &mallory,
        ),
    ] {
        let refused = refusal(invited.agent.enrol(request).await);
        assert_eq!(refused.reason, Reason::UnprovenKey, "{what}");
        let key = held.fingerprint().to_string();
        assert!(
            refused.message.contains(&key),
            "{what}: {}",
            refused.message
        );
    }
    // With her own key, which has a name here, mallory's invitation is of no use to alice either.
    let own = enrolment(&alice, "alice", &invited.binding);
    let refused = refusal(invited.agent.enrol(own).await);
    assert_eq!(refused.reason, Reason::NotAllowed);
    let told = "enrolled here as alice already, and the invitation is for mallory@lab";
    assert!(refused.message.contains(told), "{}", refused.message);
    let names: Vec<_> = Roster::open(&site.state()).unwrap().operators().unwrap();
    let names: Vec<_> = names.iter().map(|operator| &operator.name).collect();
    assert_eq!(names, ["alice"]);
    // None of this has spent the invitation.
    let request = enrolment(&mallory, "x", &invited.binding);
    invited.agent.enrol(request).await.unwrap();
    let mut expected = vec![noted("Enrol", "ok", Some("alice"))];
    expected.extend(vec![noted("Enrol", "unproven-key", None); 5]);
    expected.push(noted("Enrol", "not-allowed", None));
    expected.push(noted("Enrol", "ok", Some("mallory@lab")));
    assert_eq!(site.audit(), expected);
}

/// The old key authorises, the new one proves that its holder wants to be this operator.
#[tokio::test]
async fn a_key_replaces_another_if_its_holder_asks() {
    let (site, other) = (Site::start().await, Site::start().await);
    let (alice, bob) = (site.enrol("alice").await, site.enrol("bob").await);
    let (new, at_other) = (Identity::generate("new").unwrap(), other.enrol("bob").await);
    let mut bobs = site.bound(&bob).await.unwrap();
    let alices = site.bound(&alice).await.unwrap();
    let elsewhere = other.bound(&at_other).await.unwrap();
    let foreign = v1::RotateRequest {
        operator_certificate: alice.certificate().to_vec(),
        ..rotation(&new, 60, &bobs.binding)
    };
    let unsigned = v1::RotateRequest {
        proof: Vec::new(),
        ..rotation(&new, 60, &bobs.binding)
    };
    let by_the_old = v1::RotateRequest {
        proof: possession::prove(&bob, Purpose::Rotate, &bobs.binding),
        ..rotation(&new, 60, &bobs.binding)
    };
    let for_enrolment = v1::RotateRequest {
        proof: possession::prove(&new, Purpose::Enrol(""), &bobs.binding),
        ..rotation(&new, 60, &bobs.binding)
    };
    for (what, request) in [
        ("a foreign certificate", foreign),
        ("no signature", unsigned),
        ("a signature of the old key", by_the_old),
        ("a signature for an enrolment", for_enrolment),
        (
            "a signature for another agent",
            rotation(&new, 60, &elsewhere.binding),
        ),
        (
            "a signature that another operator has seen",
            rotation(&new, 60, &alices.binding),
        ),
    ] {
        assert_eq!(
            reason(bobs.agent.rotate(request).await),
            Reason::UnprovenKey,
            "{what}"
        );
    }
    // Nobody becomes another operator, even with that one's key.
    let taken = bobs.agent.rotate(rotation(&alice, 60, &bobs.binding)).await;
    assert_eq!(reason(taken), Reason::NotAllowed);
    let keys = Roster::open(&site.state()).unwrap().operators().unwrap();
    assert!(keys.iter().all(|key| key.until.is_none()) && keys.len() == 2);
    bobs.agent
        .rotate(rotation(&new, 60, &bobs.binding))
        .await
        .unwrap();
    let mut expected = vec![noted("Rotate", "unproven-key", Some("bob")); 6];
    expected.push(noted("Rotate", "not-allowed", Some("bob")));
    expected.push(noted("Rotate", "ok", Some("bob")));
    assert_eq!(site.audit()[2..], expected);
}

/// In the handshake, and in the first call of a connection that stood before.
#[tokio::test]
async fn an_expired_invitation_is_refused_and_noted() {
    let site = Site::start().await;
    let (invitation, operator) = (site.invite(None), Identity::generate("alice").unwrap());
    let mut before = site.bound(invitation.identity()).await.unwrap();
    let roster = Roster::open(&site.state()).unwrap();
    roster.invite(&invitation.holder(), 1, None).unwrap();
    let request = enrolment(&operator, "alice", &before.binding);
    let refused = refusal(before.agent.enrol(request).await);
    assert_eq!(refused.reason, Reason::InvitationSpent);
    assert!(
        refused.message.contains("has expired"),
        "{}",
        refused.message
    );
    let late = site.connect(invitation.identity()).await;
    assert!(matches!(late, Err(ConnectError::Refused { .. })));
    assert_eq!(
        site.audit_of(2).await,
        [
            noted("Enrol", "invitation-spent", None),
            noted("handshake", "refused", None),
        ]
    );
    assert!(site.audit_text().contains("\"expired invitation\""));
    assert!(roster.operators().unwrap().is_empty());
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
