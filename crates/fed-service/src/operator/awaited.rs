//! What is waited for while a federation comes up, and what is said when it does not come.

use fed_core::{Leases, MemberId, Plan};
use tokio::time::Instant;

use super::client::gather_logs;
use super::driver::{Driver, POLL, Trouble};
use super::loss::with_last_lines;
use super::{reach, scheduler};

/// So many lines of a log are told with what failed, and of so many logs: the others say the same.
const LAST_LINES: u32 = 5;
const LOGS: usize = 2;

impl Driver {
    /// Waits until a member has shaken hands with all its peers.
    pub(super) async fn await_peers(&self, member: MemberId) -> Result<(), Trouble> {
        let started = Instant::now();
        loop {
            let peers = self.mesh(member).await?.peers;
            if peers.len() + 1 < self.plan()?.members().len() {
                let said = "its node has lost its peers".to_owned();
                return Err(self.with_log_of_node(said, member).await.into());
            }
            let missing: Vec<String> = peers
                .iter()
                .filter(|peer| peer.handshake_seconds_ago.is_none())
                .map(|peer| peer.name.clone())
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if started.elapsed() > Leases::REACH {
                return Err(self.unreached(member, &missing).await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Says why a member has not reached some of its peers: all members are asked whom they hear.
    async fn unreached(&self, member: MemberId, missing: &[String]) -> Trouble {
        let members = self.plan().map(Plan::members).unwrap_or_default();
        let asked = members.into_iter().map(async |member| {
            let mesh = tokio::time::timeout(Leases::CONNECT, self.mesh(member.id)).await;
            // What cannot be asked is told by the others.
            Some((member.name, mesh.ok()?.ok()?.peers))
        });
        let reports = futures::future::join_all(asked).await.into_iter().flatten();
        if let Some(blocked) = reach::blocked(&reports.collect()) {
            return Trouble::Blocked(blocked);
        }
        let said = format!(
            "no WireGuard handshake with {} in {} s, although datagrams pass",
            missing.join(", "),
            Leases::REACH.as_secs()
        );
        Trouble::Own(self.with_log_of_node(said, member).await)
    }

    pub(super) async fn await_workers(&self, names: &[String]) -> Result<(), String> {
        let gateway = self.gateway.as_ref().ok_or("the gateway is not open")?;
        let started = Instant::now();
        loop {
            let pools = scheduler::workers(gateway)
                .await
                .map_err(|error| self.with_scheduler_log(error.to_string()))?;
            let known = |name: &String| pools.values().flatten().any(|worker| worker.name == *name);
            let missing: Vec<&str> = names
                .iter()
                .filter(|name| !known(name))
                .map(String::as_str)
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if started.elapsed() > Leases::REGISTER {
                let said = format!(
                    "workers {} did not register with the scheduler in {} s",
                    missing.join(", "),
                    Leases::REGISTER.as_secs()
                );
                let of_them = |source: &str| missing.iter().any(|name| source.ends_with(name));
                return Err(self.with_logs(said, of_them).await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn with_log_of_node(&self, said: String, member: MemberId) -> String {
        let members = self.plan().map(Plan::members).unwrap_or_default();
        let name = members.into_iter().find(|other| other.id == member);
        let node = name.map(|member| format!("{}/node", member.name));
        self.with_logs(said, |source| node.as_deref() == Some(source))
            .await
    }

    /// Adds the last lines of some processes' logs, named `site/process`, to what is said: once the
    /// federation is torn down, nobody can ask for them.
    async fn with_logs(&self, said: String, named: impl Fn(&str) -> bool) -> String {
        let Ok(plan) = self.plan() else {
            return said;
        };
        let asked = gather_logs(self.clone(), plan.id, LAST_LINES);
        let Ok(logs) = tokio::time::timeout(Leases::CONNECT, asked).await else {
            return said;
        };
        let of_them = logs
            .into_iter()
            .filter(|(source, lines)| named(source) && !lines.is_empty());
        of_them.take(LOGS).fold(said, |said, (source, lines)| {
            with_last_lines(format!("{said}; the end of {source}'s log"), &lines)
        })
    }
}
