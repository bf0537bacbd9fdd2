//! What an interpreter is, asked on behalf of operators: however many ask, one process answers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use crate::python::{Inspection, Interpreter, PythonError};

/// How long an answer holds: an interpreter changes when somebody installs into it.
const HOLDS: Duration = Duration::from_secs(5);
/// How long a failure holds: whoever mends the interpreter wants to see that it is mended.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);
/// Interpreters that may be asked at a time: few, and more than one, which may hang.
const AT_ONCE: usize = 4;

/// Places for processes of all interpreters of a site.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

pub(super) type Answer = Result<Inspection, Arc<PythonError>>;
/// An answer with the time it came at; nothing until then.
type Awaited = watch::Receiver<Option<(Instant, Answer)>>;

/// Asks one interpreter.
#[derive(Debug)]
pub(super) struct Inspector {
    interpreter: Interpreter,
    places: Arc<Semaphore>,
    latest: Mutex<Option<Awaited>>,
}

impl Inspector {
    pub(super) fn new(interpreter: Interpreter, places: &Arc<Semaphore>) -> Self {
        Self {
            interpreter,
            places: Arc::clone(places),
            latest: Mutex::default(),
        }
    }

    /// What the interpreter says of itself, or said a few seconds ago.
    ///
    /// # Errors
    /// See [`PythonError`].
    pub(super) async fn inspect(&self) -> Answer {
        let mut awaited = self.awaited(Instant::now());
        let answer = awaited.wait_for(Option::is_some).await;
        let answer = answer.expect("a question is answered in any case");
        let (_, answer) = answer.as_ref().expect("it was waited for");
        answer.clone()
    }

    /// The latest question, if it is open or its answer holds, else another one. It goes on when
    /// those who wait for it leave.
    fn awaited(&self, now: Instant) -> Awaited {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some(awaited) if holds(awaited, now) => awaited.clone(),
            _ => {
                let (answering, awaited) = watch::channel(None);
                let (interpreter, places) = (self.interpreter.clone(), Arc::clone(&self.places));
                tokio::spawn(async move {
                    let _place = places.acquire().await.expect("it is never closed");
                    let answer = interpreter.inspect().await.map_err(Arc::new);
                    answering.send_replace(Some((Instant::now(), answer)));
                });
                latest.insert(awaited).clone()
            }
        }
    }
}

fn holds(awaited: &Awaited, now: Instant) -> bool {
    awaited.borrow().as_ref().is_none_or(|(at, answer)| {
        let long = match answer {
            Ok(_) => HOLDS,
            Err(_) => FAILURE_HOLDS,
        };
        now.saturating_duration_since(*at) < long
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interpreter whose starts and ends are written down, and what is.
    fn noted(folder: &std::path::Path, then: &str) -> Interpreter {
        let log = folder.join("log");
        let log = log.display();
        Interpreter {
            python: "python3".to_owned(),
            prologue: format!("echo + >> {log}; sleep 0.1; echo - >> {log}; {then}"),
        }
    }

    /// How many processes there were, and how many at most at a time.
    fn processes(folder: &std::path::Path) -> (usize, i32) {
        let text = std::fs::read_to_string(folder.join("log")).unwrap();
        let (mut now, mut most) = (0, 0);
        for line in text.lines() {
            now += if line == "+" { 1 } else { -1 };
            most = most.max(now);
        }
        (text.matches('+').count(), most)
    }

    #[tokio::test]
    async fn one_process_answers_all_who_ask() {
        let folder = tempfile::tempdir().unwrap();
        for (then, long) in [("", HOLDS), ("exit 3", FAILURE_HOLDS)] {
            let inspector = Inspector::new(noted(folder.path(), then), &places());
            // Of those that leave, one had it begin.
            drop(inspector.awaited(Instant::now()));
            let all = (0..100).map(|_| inspector.inspect());
            let answers = futures::future::join_all(all).await;
            let first = answers[0].as_ref().map_err(ToString::to_string);
            assert_eq!(first.is_ok(), then.is_empty());
            let same = |answer: &Answer| answer.as_ref().map_err(ToString::to_string) == first;
            assert!(answers.iter().all(same));
            assert_eq!(processes(folder.path()).0, 1);
            // Later it is asked anew.
            let mut again = inspector.awaited(Instant::now() + long);
            again.wait_for(Option::is_some).await.unwrap();
            assert_eq!(processes(folder.path()), (2, 1));
            std::fs::remove_file(folder.path().join("log")).unwrap();
        }
    }

    #[tokio::test]
    async fn no_more_than_a_few_are_asked_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let places = places();
        let asked: Vec<Inspector> = (0..2 * AT_ONCE)
            .map(|_| Inspector::new(noted(folder.path(), ""), &places))
            .collect();
        let answers = futures::future::join_all(asked.iter().map(Inspector::inspect)).await;
        assert!(answers.iter().all(Result::is_ok));
        let (count, most) = processes(folder.path());
        assert_eq!(count, 2 * AT_ONCE);
        assert!(most <= i32::try_from(AT_ONCE).unwrap(), "{most}");
    }
}
