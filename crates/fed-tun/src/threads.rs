//! The two threads of a packet path, one for each direction.

use std::io;
use std::os::fd::AsFd;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Instant;

use fed_mesh::{Event, Output, Router};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{broadcast, mpsc};

use crate::Offloads;
use crate::join::Joiner;
use crate::losses::Counters;
use crate::tun::Tun;
use crate::udp::{Arrivals, Sent, Udp};

/// Bytes and packets gathered from the TUN before they are sent: about as much as goes out in one
/// call.
const GATHERED_BYTES: usize = 65_536;
const GATHERED_PACKETS: usize = 64;

/// How often a thread lets others run before it sleeps, after a batch of at least this many bytes.
/// Where cores are short, packets arrive meanwhile, and neither has the thread to be woken nor the
/// next batch to be small. After a small batch it sleeps at once: a sleeper that is woken comes
/// before those that run, and a single packet is not kept waiting. It does not even look whether
/// more has come: the call that puts it to sleep does.
const YIELDS: usize = 2;
const YIELDS_AFTER: usize = 32_768;

/// What the threads and their driver share.
pub(crate) struct Shared {
    pub(crate) router: RwLock<Router>,
    pub(crate) tun: Tun,
    pub(crate) udp: Udp,
    pub(crate) losses: Counters,
    pub(crate) events: broadcast::Sender<Event>,
    /// Readable once the threads are to end.
    stop: EventFd,
}

/// What a thread does until it is told to end.
type Direction = fn(&Shared) -> io::Result<()>;

/// Running threads, told to end when this is dropped.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    ended: mpsc::UnboundedReceiver<io::Error>,
}

impl Threads {
    /// Starts both.
    pub(crate) fn start(shared: Shared) -> io::Result<Self> {
        let shared = Arc::new(shared);
        let (ending, ended) = mpsc::unbounded_channel();
        let threads = Self {
            shared: Arc::clone(&shared),
            ended,
        };
        let directions: [(&str, Direction); 2] =
            [("mesh-outbound", outbound), ("mesh-inbound", inbound)];
        for (name, direction) in directions {
            let (shared, ending) = (Arc::clone(&shared), ending.clone());
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || {
                    let run = AssertUnwindSafe(|| direction(&shared));
                    let failure = failure(panic::catch_unwind(run));
                    // Whoever waits for the end counts on the descriptors being closed by then.
                    drop(shared);
                    if let Some(error) = failure {
                        // Nobody may be left to be told.
                        let _ = ending.send(error);
                    }
                })?;
        }
        Ok(threads)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Waits for a thread that ends by itself, and says why. May be cancelled without loss.
    pub(crate) async fn failed(&mut self) -> io::Error {
        match self.ended.recv().await {
            Some(error) => error,
            None => io::Error::other("both threads have ended without being told to"),
        }
    }

    /// Ends both threads, and returns when their descriptors are closed.
    pub(crate) async fn end(mut self) {
        self.shared.stop();
        let mut ended = std::mem::replace(&mut self.ended, mpsc::unbounded_channel().1);
        drop(self);
        // The channel closes when both threads have dropped their ends of it.
        while ended.recv().await.is_some() {}
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// Why a thread ended without being told to. Half a mesh is worse than none: one direction that
/// panicked ends the other too.
fn failure(ended: thread::Result<io::Result<()>>) -> Option<io::Error> {
    match ended {
        Ok(result) => result.err(),
        Err(_) => Some(io::Error::other(
            "a thread panicked; what it said is on standard error",
        )),
    }
}

impl Shared {
    pub(crate) fn new(
        router: Router,
        tun: Tun,
        udp: Udp,
        events: broadcast::Sender<Event>,
    ) -> io::Result<Self> {
        Ok(Self {
            router: RwLock::new(router),
            tun,
            udp,
            losses: Counters::default(),
            events,
            stop: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Router> {
        self.router.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Router> {
        self.router.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel does for this path now.
    pub(crate) fn offloads(&self) -> Offloads {
        let tun = self.tun.joinable();
        Offloads {
            tun: tun.tcp,
            tun_udp: tun.udp,
            udp_send: self.udp.sends_together(),
            udp_receive: self.udp.receives_joined(),
        }
    }

    /// Changes the router and sends what comes of it, before anything else can be sent.
    pub(crate) fn change<T>(
        &self,
        out: &mut Output,
        change: impl FnOnce(&mut Router, &mut Output) -> T,
    ) -> T {
        let mut router = self.write();
        let result = change(&mut router, out);
        self.send_or_lose(out);
        drop(router);
        self.tell(out);
        out.clear();
        result
    }

    fn send_or_lose(&self, out: &Output) {
        for train in self.udp.trains(out) {
            if self.udp.send(train, &self.losses) == Sent::Full {
                self.losses.udp_full.add(train.datagrams());
            }
        }
    }

    fn tell(&self, out: &mut Output) {
        while let Some(event) = out.poll_event() {
            // Nobody needs to listen.
            drop(self.events.send(event));
        }
    }

    fn stop(&self) {
        // It fails only when it is full, and then it is readable.
        let _ = self.stop.write(1);
    }

    /// Waits until `descriptor` is ready; whether it is not time to end.
    fn wait(&self, descriptor: &impl AsFd, ready: PollFlags) -> io::Result<bool> {
        let mut watched = [
            PollFd::new(descriptor.as_fd(), ready),
            PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(!watched[1].any().unwrap_or(true))
    }
}

/// What a thread does that finds nothing to do.
#[derive(Default)]
struct Patience {
    yields: usize,
    /// Whether it is known that nothing waits, or was a moment ago.
    exhausted: bool,
}

impl Patience {
    /// After a batch of so many bytes; `exhausted` says that nothing else waited.
    fn after(bytes: usize, exhausted: bool) -> Self {
        let yields = if bytes < YIELDS_AFTER { 0 } else { YIELDS };
        Self { yields, exhausted }
    }

    /// Whether to wait without another look.
    fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.exhausted) && self.yields == 0
    }

    /// Lets others run, or sleeps when that has not helped; whether it is not time to end.
    fn wait(&mut self, sleep: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        if self.yields > 0 {
            self.yields -= 1;
            thread::yield_now();
            return Ok(true);
        }
        sleep()
    }
}

/// From the TUN to the network, until told to end.
fn outbound(shared: &Shared) -> io::Result<()> {
    let mut out = Output::default();
    let mut memory = vec![0; Tun::ROOM + GATHERED_BYTES];
    let mut reads = Vec::with_capacity(GATHERED_PACKETS);
    let mut joiner = Joiner::default();
    let mut patience = Patience::default();
    loop {
        if patience.is_over() || !gather(&shared.tun, &mut memory, &mut reads)? {
            if !patience.wait(|| shared.wait(&shared.tun, PollFlags::POLLIN))? {
                return Ok(());
            }
            continue;
        }
        let bytes = reads.iter().sum();
        patience = Patience::after(bytes, !is_full(reads.len(), bytes));
        let router = shared.read();
        let mut lane = router.outbound(Instant::now());
        let mut rest = &mut memory[..];
        for length in &reads {
            let (read, next) = rest.split_at_mut(*length);
            rest = next;
            shared
                .tun
                .packets(read, |packet| lane.push(packet, &mut out));
        }
        drop(lane);
        drop(router);
        // What was too big is answered.
        shared.tun.write(&out, &mut joiner, &shared.losses);
        for train in shared.udp.trains(&out) {
            // What waits meanwhile waits in the TUN, where the senders notice.
            while shared.udp.send(train, &shared.losses) == Sent::Full {
                if !shared.wait(&shared.udp, PollFlags::POLLOUT)? {
                    return Ok(());
                }
            }
        }
        shared.tell(&mut out);
        out.clear();
    }
}

/// Reads what waits in the TUN, up to about as much as goes out in one call, back to back into
/// `memory`, and notes the length of each read. Whether there was anything.
fn gather(tun: &Tun, memory: &mut [u8], reads: &mut Vec<usize>) -> io::Result<bool> {
    reads.clear();
    let mut used = 0;
    while !is_full(reads.len(), used) {
        let Some(length) = tun.read(&mut memory[used..used + Tun::ROOM])? else {
            break;
        };
        reads.push(length);
        used += length;
    }
    Ok(!reads.is_empty())
}

/// Whether so much is enough for one batch.
fn is_full(reads: usize, bytes: usize) -> bool {
    reads >= GATHERED_PACKETS || bytes >= GATHERED_BYTES
}

/// From the network to the TUN, until told to end.
fn inbound(shared: &Shared) -> io::Result<()> {
    let mut out = Output::default();
    let mut arrivals = Arrivals::default();
    let mut joiner = Joiner::default();
    let mut patience = Patience::default();
    loop {
        if patience.is_over() || !shared.udp.receive(&mut arrivals, &shared.losses) {
            if !patience.wait(|| shared.wait(&shared.udp, PollFlags::POLLIN))? {
                return Ok(());
            }
            continue;
        }
        patience = Patience::after(arrivals.bytes(), arrivals.is_exhausted());
        let now = Instant::now();
        let router = shared.read();
        let mut lane = router.inbound(now);
        for (from, datagram) in arrivals.datagrams() {
            lane.push(from, datagram, &mut out);
        }
        drop(lane);
        drop(router);
        shared.send_or_lose(&out);
        shared.tun.write(&out, &mut joiner, &shared.losses);
        shared.tell(&mut out);
        let waiting = out.has_waiting();
        out.clear();
        if waiting {
            shared.change(&mut out, |router, out| router.send_waiting(now, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_as_a_failure() {
        let ended = |run: fn() -> io::Result<()>| failure(panic::catch_unwind(run));
        assert!(ended(|| Ok(())).is_none());
        let kind = |error: Option<io::Error>| error.map(|error| error.kind());
        let failed = ended(|| Err(io::ErrorKind::BrokenPipe.into()));
        assert_eq!(kind(failed), Some(io::ErrorKind::BrokenPipe));
        let panicked = ended(|| panic!("for this test"));
        assert_eq!(kind(panicked), Some(io::ErrorKind::Other));
    }
}
