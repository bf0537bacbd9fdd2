//! Dials operators who cannot reach this site, and goes on doing so.
//!
//! Over each connection one command of the operator calls (`fed up`, `fed site add`), so that the
//! next one is dialled at once. Who answers is asked for its key as whoever connects to the agent.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use fed_core::{Leases, SiteName};
use fed_rpc::reverse::{self, DialError, DialLimits};
use fed_rpc::server::TlsConn;
use futures::Stream;
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};

use super::audit::Audit;
use super::roster::{Role, Roster};

/// The first pause after an attempt in vain; each next one is twice as long, up to
/// [`Leases::REDIAL`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Share of a pause by which it is longer or shorter at random: sites that lost their operator at
/// one moment do not come back at one moment.
const JITTER: f64 = 0.2;

/// What is needed to dial.
#[derive(Clone)]
pub(super) struct Dialling {
    pub(super) site: SiteName,
    pub(super) config: Arc<ClientConfig>,
    pub(super) roster: Roster,
    pub(super) audit: Arc<Audit>,
}

impl Dialling {
    /// Dials each of these addresses (`host:port`) until the stream is dropped; it yields connections
    /// whose operators have begun to speak, never an error.
    pub(super) fn start(
        &self,
        addresses: &[String],
    ) -> impl Stream<Item = io::Result<TlsConn>> + Send + use<> {
        let (found, connections) = mpsc::channel(1);
        for address in addresses {
            let (this, address, found) = (self.clone(), address.clone(), found.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = this.keep_dialling(&address, &found) => {}
                    () = found.closed() => {}
                }
            });
        }
        // Without any address it ends at once, as it should.
        ReceiverStream::new(connections)
    }

    /// Ends when nobody takes connections any more.
    async fn keep_dialling(&self, address: &str, found: &mpsc::Sender<io::Result<TlsConn>>) {
        let (mut pause, mut news) = (Pause::default(), News::default());
        loop {
            let began = Instant::now();
            let limits = DialLimits::default();
            match reverse::dial(address, self.site.as_str(), &self.config, limits).await {
                Ok(connection) => {
                    let call = self.tell_of(address, &connection);
                    if found.send(Ok(connection.keeping(call))).await.is_err() {
                        return;
                    }
                    (pause, news) = (Pause::default(), News::default());
                }
                Err(error) => {
                    self.tell_why(address, &error, news.is_new(&error));
                    // A connection that was kept for a while was no attempt in vain.
                    if began.elapsed() > Leases::REDIAL {
                        pause = Pause::default();
                    }
                }
            }
            sleep(pause.next(rand::random())).await;
        }
    }

    fn tell_of(&self, address: &str, connection: &TlsConn) -> Call {
        let peer = connection.peer();
        let operator = match self.roster.role(&peer.fingerprint) {
            Role::Operator(operator) => operator.name,
            Role::Invited => "who redeems an invitation".to_owned(),
            Role::Stranger => "not enrolled any more".to_owned(),
        };
        info!(address, remote = %peer.remote, operator, fingerprint = %peer.fingerprint,
            "the operator who was dialled calls");
        Call {
            address: address.to_owned(),
            operator,
        }
    }

    fn tell_why(&self, address: &str, error: &DialError, is_new: bool) {
        if let DialError::Stranger { seen, remote } = error {
            self.audit.refused(*remote, seen, &self.roster.past(seen));
        }
        if !is_new {
            return debug!(address, %error, "dialled in vain");
        }
        let again = Leases::REDIAL.as_secs();
        match error {
            DialError::Stranger { seen, .. } => {
                let who = self.roster.past(seen);
                warn!(address, who, %error, "dialled in vain; tried again every {again} s");
            }
            DialError::Refused(_)
            | DialError::Protocol(_)
            | DialError::Silent(_)
            | DialError::Address { .. } => {
                warn!(address, %error, "dialled in vain; tried again every {again} s");
            }
            DialError::Resolve(_) | DialError::Unreachable(_) | DialError::Timeout(_) => {
                info!(address, %error, "no operator answers now; dialled again every {again} s");
            }
            DialError::NotWanted => {
                info!(
                    address,
                    "the operator listens, and wants no further connection now"
                );
            }
        }
    }
}

/// A connection over which an operator calls: tells its end.
struct Call {
    address: String,
    operator: String,
}

impl Drop for Call {
    fn drop(&mut self) {
        info!(
            address = self.address,
            operator = self.operator,
            "a connection to an operator has ended"
        );
    }
}

/// How long to wait before the next attempt.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pause {
    /// The next pause; `random` is between 0 and 1.
    fn next(&mut self, random: f64) -> Duration {
        let pause = self.0.mul_f64(1.0 + JITTER * (2.0 * random - 1.0));
        self.0 = (self.0 * 2).min(Leases::REDIAL);
        pause.min(Leases::REDIAL)
    }
}

/// What was said last, so that it is not said every few seconds.
#[derive(Default)]
struct News(Option<String>);

impl News {
    fn is_new(&mut self, error: &DialError) -> bool {
        let text = error.to_string();
        self.0.replace(text.clone()) != Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_differ() {
        for random in [0.0, 0.5, 1.0] {
            let mut pause = Pause::default();
            let pauses: Vec<_> = (0..12).map(|_| pause.next(random)).collect();
            assert!(pauses[0] >= FIRST_PAUSE.mul_f64(1.0 - JITTER));
            assert!(pauses[0] <= FIRST_PAUSE.mul_f64(1.0 + JITTER));
            assert!(pauses.is_sorted(), "{pauses:?}");
            assert!(pauses[11] <= Leases::REDIAL);
            assert!(pauses[11] >= Leases::REDIAL.mul_f64(1.0 - JITTER));
        }
        let different = [0.0, 1.0].map(|random| Pause::default().next(random));
        assert_ne!(different[0], different[1]);
    }

    #[test]
    fn the_same_failure_is_told_once() {
        let mut news = News::default();
        assert!(news.is_new(&DialError::NotWanted));
        assert!(!news.is_new(&DialError::NotWanted));
        let refused = DialError::Refused(rustls::AlertDescription::AccessDenied);
        assert!(news.is_new(&refused));
        assert!(news.is_new(&DialError::NotWanted));
    }

    /// The operator waits long enough for one that has just failed, even if the next fails too.
    #[test]
    fn an_operator_waits_for_more_than_one_attempt() {
        assert!(Leases::DIALLED > 2 * Leases::REDIAL);
        assert!(DialLimits::default().answer > Leases::DIALLED);
    }
}
