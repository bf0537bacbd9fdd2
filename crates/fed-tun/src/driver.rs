//! The task that owns a router and its packet path.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fed_mesh::{Event, Router};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::sleep_until;

use crate::Handle;
use crate::handle::{COMMANDS, Command, EVENTS, State, Status};
use crate::path::Path;

/// How long to sleep when nothing is due, which is the case without peers.
const IDLE: Duration = Duration::from_secs(3600);

/// The owner of a router, a TUN device and a UDP socket.
pub struct Driver {
    router: Router,
    path: Path,
    events: broadcast::Sender<Event>,
}

impl Driver {
    /// Spawns the task that moves packets between `tun` and `udp` through `router`, and returns the
    /// means to command it. `tun` yields and takes one bare IP packet at a time (`IFF_NO_PI`,
    /// without virtio headers); `udp` is bound, to IPv4 or to both families through IPv6. Both
    /// are made non-blocking, and belong to the task, which closes them when it ends.
    ///
    /// # Errors
    /// A descriptor cannot be watched or made non-blocking.
    ///
    /// # Panics
    /// Outside a tokio runtime with input, output and time enabled.
    pub fn start(tun: OwnedFd, udp: UdpSocket, router: Router) -> io::Result<Handle> {
        let path = Path::new(tun, udp)?;
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let (ending, state) = watch::channel(State::Running);
        let handle = Handle {
            commands,
            events: events.downgrade(),
            state,
        };
        let driver = Self {
            router,
            path,
            events,
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
        drop(self);
        ending.send_replace(state);
        drop(inbox);
    }

    /// Serves until it is told to stop, or nobody is left who could tell.
    async fn serve(&mut self, inbox: &mut mpsc::Receiver<Command>) -> io::Result<()> {
        let mut alarm = pin!(sleep_until(self.deadline()));
        loop {
            self.flush();
            let deadline = self.deadline();
            if alarm.deadline() != deadline {
                alarm.as_mut().reset(deadline);
            }
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Stop) | None => return Ok(()),
                    Some(command) => self.obey(command),
                },
                readable = self.path.readable() => {
                    readable?;
                    self.read()?;
                }
                () = &mut alarm => self.router.handle_timeout(Instant::now()),
            }
        }
    }

    fn deadline(&self) -> tokio::time::Instant {
        let due = self.router.poll_timeout().map(|(at, _)| at);
        due.unwrap_or_else(|| Instant::now() + IDLE).into()
    }

    fn read(&mut self) -> io::Result<()> {
        let Self { router, path, .. } = self;
        let now = Instant::now();
        path.read_tun(|packet| router.handle_inner(packet, now))?;
        path.read_udp(|from, datagram| router.handle_datagram(from, datagram, now));
        Ok(())
    }

    /// Sends all that the router has to hand out.
    fn flush(&mut self) {
        while let Some(transmit) = self.router.poll_transmit() {
            self.path.send(&transmit);
        }
        while let Some(packet) = self.router.poll_deliver() {
            self.path.deliver(&packet);
        }
        while let Some(event) = self.router.poll_event() {
            log(&event);
            // Nobody needs to listen.
            drop(self.events.send(event));
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        // Whoever asked may have gone since; then nobody misses the answer.
        match command {
            Command::SetPeers(peers, reply) => {
                drop(reply.send(self.router.set_peers(peers, now)));
            }
            Command::Status(reply) => drop(reply.send(self.status(now))),
            Command::Stop => {}
        }
    }

    fn status(&self, now: Instant) -> Status {
        Status {
            peers: self.router.peers(now),
            drops: self.router.drops(),
            losses: self.path.losses,
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::HandshakeCompleted { peer, endpoint } => {
            tracing::info!(%peer, %endpoint, "handshake completed");
        }
        Event::EndpointChanged { peer, from, to } => {
            tracing::info!(%peer, ?from, %to, "peer moved");
        }
        Event::PeerSilent { peer, silence } => {
            tracing::info!(%peer, seconds = silence.as_secs(), "peer is silent");
        }
        Event::PeerReturned { peer, silence } => {
            tracing::info!(%peer, seconds = silence.as_secs(), "peer is heard again");
        }
    }
}
