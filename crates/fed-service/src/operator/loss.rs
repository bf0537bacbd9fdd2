//! What is said when something is lost on which the whole federation stands: the operator's node, or
//! the scheduler in it.

use std::time::Duration;

use fed_core::{Action, Failure, FailureKind, Leases, MemberId};
use tokio::time::{Instant, sleep, timeout};

use super::driver::Driver;
use crate::node::{self, Death, NodeClient, NodeEvent, NodeEvents, Supervision};

/// How long the death of the node may take to be seen, once something failed that needs it.
const DEATH: Duration = Duration::from_secs(1);
/// How many lines of a log are told.
const LAST_LINES: usize = 5;

/// A failure of the operator's own part.
pub(super) fn failure(message: String) -> Failure {
    Failure {
        member: Some("operator".to_owned()),
        kind: FailureKind::Other,
        message,
    }
}

/// Waits until the operator's node dies; for ever if there is none.
pub(super) async fn of_node(node: &mut Option<Box<Supervision>>) -> Death {
    match node {
        Some(node) => node.died().await,
        None => std::future::pending().await,
    }
}

/// Asks the operator's node from time to time how it stands; returns what is to be said when it has
/// not answered for `patience`. Clients of one that is stopped would wait for ever.
pub(super) async fn of_answers(node: NodeClient, period: Duration, patience: Duration) -> Failure {
    let mut heard = Instant::now();
    loop {
        sleep(period).await;
        match node.report().await {
            Ok(_) => heard = Instant::now(),
            Err(error) if heard.elapsed() >= patience => {
                return failure(format!(
                    "its node has not answered for {} s, as when it is stopped: {error}",
                    heard.elapsed().as_secs()
                ));
            }
            Err(_) => {}
        }
    }
}

/// Says that the operator's node died, with the last it wrote.
pub(super) fn node_died(death: Death) -> Failure {
    let status = death.status.clone();
    let mut last = death.last_lines(LAST_LINES);
    // What went well before explains nothing.
    last.retain(|line| !line.contains(" INFO "));
    // What it ends with says all there is to say.
    let said = last.pop_if(|line| line.starts_with("error: "));
    failure(match said {
        Some(error) => format!("its node died: {}", error.trim_start_matches("error: ")),
        None => with_last_lines(format!("its node died ({status})"), &last),
    })
}

/// Whether an action is done in the operator's node.
fn needs_node(action: &Action) -> bool {
    match action {
        Action::StartScheduler | Action::AwaitWorkers(_) | Action::Publish => true,
        Action::Connect(member, _) | Action::Probe(member) => *member == MemberId::OPERATOR,
        Action::Describe(_) | Action::Prepare(_) | Action::StartWorkers(_) | Action::Leave(_) => {
            false
        }
    }
}

impl Driver {
    /// Gives the death of the operator's node, if that is why an action failed, the time to be told
    /// first: a connection that breaks may be noticed before it.
    pub(super) async fn let_death_be_told(&self, failed: &Action) {
        if needs_node(failed) {
            // If it does not die, something else is the cause.
            let _ = timeout(DEATH, self.node_died.cancelled()).await;
        }
    }

    /// Watches the scheduler; returns what is to be said of its end, when it ends.
    pub(super) async fn loss_of_scheduler(&self, events: NodeEvents) -> String {
        let Some(status) = scheduler_death(events).await else {
            // The node is ending, and what it has to say of that comes first.
            let _ = timeout(Leases::GRACE, self.node_died.cancelled()).await;
            return "its node does not tell of the scheduler any more".to_owned();
        };
        self.with_scheduler_log(format!("the scheduler ended ({status})"))
    }

    /// Adds the last that the scheduler wrote: nobody can ask for its log any more.
    pub(super) fn with_scheduler_log(&self, said: String) -> String {
        let mut last = node::log::of_process(&self.folder.node(), "scheduler", LAST_LINES);
        // Our own extension says all there is to say in its last line.
        if last
            .last()
            .is_some_and(|line| line.starts_with("fed.scheduler: "))
        {
            last.drain(..last.len() - 1);
        }
        with_last_lines(said, &last)
    }
}

/// Returns how the scheduler ended, when it does; nothing if its node is gone.
async fn scheduler_death(mut events: NodeEvents) -> Option<String> {
    while let Some(event) = events.next().await {
        if let NodeEvent::Exited {
            name,
            status,
            asked: false,
            ..
        } = event
            && name == "scheduler"
        {
            return Some(status);
        }
    }
    None
}

/// Adds the last lines of a process's log to what is said of its end, if it wrote any. Of a
/// traceback, whose steps are indented, that is what was raised; the log has the rest.
pub(super) fn with_last_lines(said: String, last: &[String]) -> String {
    let is_blank = |line: &&String| line.trim().is_empty();
    let lines = || last.iter().filter(|line| !is_blank(line));
    let outer: Vec<_> = lines()
        .filter(|line| !line.starts_with([' ', '\t']))
        .collect();
    let told = if outer.is_empty() {
        lines().collect()
    } else {
        outer
    };
    if told.is_empty() {
        return said;
    }
    let told: Vec<&str> = told.into_iter().map(|line| line.trim()).collect();
    format!("{said}: {}", told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_make_one_sentence() {
        let told = |lines: &[&str]| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            with_last_lines("it ended".to_owned(), &lines)
        };
        let traceback = ["    raise from_it()", "    ~~~^^^^^", "", "OSError: full"];
        assert_eq!(told(&traceback), "it ended: OSError: full");
        assert_eq!(told(&["one", "two"]), "it ended: one; two");
        assert_eq!(told(&["  cannot open it", " "]), "it ended: cannot open it");
        assert_eq!(told(&[" "]), "it ended");
    }
}
