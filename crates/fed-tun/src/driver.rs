//! The task that commands a packet path.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fed_mesh::{Output, Router};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep_until;

use crate::Handle;
use crate::handle::{COMMANDS, Command, EVENTS, State, Status};
use crate::threads::{Shared, Threads};
use crate::tun::Tun;
use crate::udp::Udp;

/// How long to sleep at most while there are peers. Packets change what is due, and wake nobody:
/// this is how late that may be noticed.
const NAP: Duration = Duration::from_millis(250);

/// How long to sleep without peers.
const IDLE: Duration = Duration::from_secs(3600);

/// What a packet path leaves to the kernel. Whatever a kernel lacks is done without; this is to do
/// without what it has, and tells what is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// The TUN cuts and joins packets of TCP and completes checksums. Needs a device made with
    /// `IFF_VNET_HDR`.
    pub tun: bool,
    /// It does so with packets of UDP too, if it does with those of TCP. Needs Linux 6.2.
    pub tun_udp: bool,
    /// UDP datagrams are sent many at a time (`UDP_SEGMENT`). Where the way to a destination passes
    /// no such, those to it are sent one by one for ten minutes; where many do not, those to all.
    pub udp_send: bool,
    /// UDP datagrams are received many at a time (`UDP_GRO`).
    pub udp_receive: bool,
}

impl Offloads {
    /// Whatever the kernel has.
    pub const ALL: Self = Self {
        tun: true,
        tun_udp: true,
        udp_send: true,
        udp_receive: true,
    };
}

/// The owner of a router, a TUN device and a UDP socket.
pub struct Driver {
    threads: Threads,
    out: Output,
}

impl Driver {
    /// Starts to move packets between `tun` and `udp` through `router`, in two threads under the
    /// command of a task, and returns the means to command that. `tun` is a TUN device made with
    /// `IFF_NO_PI`, best with `IFF_VNET_HDR` too, or anything that yields and takes one IPv6 packet
    /// at a time; `udp` is bound, to IPv4 or to both families through IPv6. Both are made
    /// non-blocking, and are closed when the driver ends.
    ///
    /// # Errors
    /// A descriptor cannot be made ready, or there can be no more threads.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub fn start(tun: OwnedFd, udp: UdpSocket, router: Router) -> io::Result<Handle> {
        Self::start_with(tun, udp, router, Offloads::ALL)
    }

    /// The same with some offloads only.
    ///
    /// # Errors
    /// As [`Driver::start`].
    ///
    /// # Panics
    /// As [`Driver::start`].
    pub fn start_with(
        tun: OwnedFd,
        udp: UdpSocket,
        router: Router,
        offloads: Offloads,
    ) -> io::Result<Handle> {
        let tun = Tun::new(tun, offloads.tun, offloads.tun_udp)?;
        let udp = Udp::new(udp, offloads.udp_send, offloads.udp_receive)?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let (ending, state) = watch::channel(State::Running);
        let handle = Handle {
            commands,
            events: events.downgrade(),
            state,
        };
        let driver = Self {
            threads: Threads::start(Shared::new(router, tun, udp, events)?)?,
            out: Output::default(),
        };
        tokio::spawn(driver.run(inbox, ending));
        Ok(handle)
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, ending: watch::Sender<State>) {
        let state = match self.serve(&mut inbox).await {
            Ok(()) => State::Stopped,
            Err(error) => {
                tracing::warn!(%error, "the TUN device failed; the mesh of this node ends");
                State::Failed(Arc::new(error))
            }
        };
        // Whoever waits for the inbox to close counts on the descriptors being closed by then.
        self.threads.end().await;
        ending.send_replace(state);
        drop(inbox);
    }

    /// Serves until it is told to stop, or nobody is left who could tell.
    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Command>) -> io::Result<()> {
        let mut alarm = pin!(sleep_until(self.deadline()));
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Stop) | None => return Ok(()),
                    Some(command) => self.obey(command),
                },
                error = self.threads.failed() => return Err(error),
                () = &mut alarm => {
                    let shared = self.threads.shared();
                    shared.change(&mut self.out, |router, out| {
                        router.handle_timeout(Instant::now(), out);
                    });
                }
            }
            alarm.as_mut().reset(self.deadline());
        }
    }

    fn deadline(&self) -> tokio::time::Instant {
        let now = Instant::now();
        let due = self.threads.shared().read().poll_timeout();
        due.map_or(now + IDLE, |(at, _)| at.min(now + NAP)).into()
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        let shared = self.threads.shared();
        // Whoever asked may have gone since; then nobody misses the answer.
        match command {
            Command::SetPeers(peers, reply) => {
                let set = |router: &mut Router, out: &mut Output| router.set_peers(peers, now, out);
                drop(reply.send(shared.change(&mut self.out, set)));
            }
            Command::Status(reply) => drop(reply.send(status(shared, now))),
            Command::Stop => {}
        }
    }
}

fn status(shared: &Shared, now: Instant) -> Status {
    let router = shared.read();
    Status {
        peers: router.peers(now),
        drops: router.drops(),
        losses: shared.losses.losses(),
        offloads: shared.offloads(),
    }
}
