//! The thread that carries frames between TAP devices and a [`Switch`], and its handle.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::counters::Counters;
use super::cut::Cut;
use super::link::LinkSpec;
use super::switch::Switch;

/// Frames read from one port before the others and the deliveries have their turn.
const BURST: usize = 32;
const LARGEST_FRAME: usize = 65_536;

/// Why a call to a [`Wan`] failed.
#[derive(Debug, thiserror::Error)]
pub enum WanError {
    /// The emulator has no host of this name.
    #[error("the WAN has no host {name:?}; it joins {}", known.join(", "))]
    UnknownHost {
        /// The name asked for.
        name: String,
        /// The hosts there are.
        known: Vec<String>,
    },
    /// A value of a [`LinkSpec`] is out of range.
    #[error("the link {from} to {to}: {reason}")]
    InvalidLink {
        /// The sending host.
        from: String,
        /// The receiving host.
        to: String,
        /// What is wrong, and what is allowed.
        reason: String,
    },
    /// The emulator's thread could not be started.
    #[error("cannot start the WAN emulator's thread")]
    Start(#[source] io::Error),
    /// The emulator's thread has ended.
    #[error("the WAN emulator has stopped: {reason}; start the lab again")]
    Stopped {
        /// Why it ended.
        reason: String,
    },
}

/// What one direction between two hosts has carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkCounters {
    /// The sending host.
    pub from: String,
    /// The receiving host.
    pub to: String,
    /// What was carried and dropped since the last reset.
    pub counters: Counters,
}

/// What all links have carried since the last reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WanCounters {
    /// Time since the last reset, or since the start.
    pub elapsed: Duration,
    /// Each ordered pair of hosts, in the order of the hosts.
    pub links: Vec<LinkCounters>,
}

impl WanCounters {
    /// The counters of one direction.
    #[must_use]
    pub fn between(&self, from: &str, to: &str) -> Option<&Counters> {
        let mut links = self.links.iter();
        links
            .find(|link| link.from == from && link.to == to)
            .map(|link| &link.counters)
    }

    /// Bytes sent over all links together, as [`Counters::bytes`] counts them.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.links.iter().map(|link| link.counters.bytes).sum()
    }
}

enum Command {
    Link {
        from: usize,
        to: usize,
        spec: LinkSpec,
    },
    Cut {
        from: usize,
        to: usize,
        cut: Cut,
    },
    Counters {
        reply: Sender<(Duration, Vec<Counters>)>,
    },
    Reset,
    Stop,
}

/// A running WAN emulator: the handle of its thread.
///
/// Dropping it ends the thread and closes the TAP devices.
#[derive(Debug)]
pub struct Wan {
    names: Vec<String>,
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Wan {
    /// Starts carrying frames between `ports`, pairs of a host's name and its TAP device, which
    /// must be non-blocking and carry bare Ethernet frames (`IFF_NO_PI`).
    pub(crate) fn start(
        ports: Vec<(String, OwnedFd)>,
        spec: &LinkSpec,
        seed: u64,
    ) -> Result<Self, WanError> {
        let (names, taps): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_flags(flags).map_err(|errno| WanError::Start(errno.into()))?;
        let wake = Arc::new(wake);
        let (commands, inbox) = mpsc::channel();
        let carrier = Carrier {
            switch: Switch::new(names.len(), spec, seed),
            ports: taps.len(),
            taps: taps.into_iter().map(Some).collect(),
            inbox,
            wake: Arc::clone(&wake),
            origin: Instant::now(),
            reset_at: Duration::ZERO,
            baseline: Vec::new(),
            buffer: vec![0; LARGEST_FRAME],
        };
        let thread = std::thread::Builder::new()
            .name("fed-wan".to_owned())
            .spawn(move || carrier.run())
            .map_err(WanError::Start)?;
        Ok(Self {
            names,
            commands,
            wake,
            thread: Some(thread),
        })
    }

    /// Changes the link from `from` to `to`, for the frames sent from now on.
    ///
    /// # Errors
    /// [`WanError::UnknownHost`], [`WanError::InvalidLink`] or [`WanError::Stopped`].
    pub fn set_link(&self, from: &str, to: &str, spec: LinkSpec) -> Result<(), WanError> {
        spec.validate().map_err(|reason| WanError::InvalidLink {
            from: from.to_owned(),
            to: to.to_owned(),
            reason,
        })?;
        let (from, to) = (self.port(from)?, self.port(to)?);
        self.send(Command::Link { from, to, spec })
    }

    /// Cuts or mends the link from `from` to `to`: this direction only. It replaces what was cut
    /// before.
    ///
    /// # Errors
    /// [`WanError::UnknownHost`] or [`WanError::Stopped`].
    pub fn set_cut(&self, from: &str, to: &str, cut: Cut) -> Result<(), WanError> {
        let (from, to) = (self.port(from)?, self.port(to)?);
        self.send(Command::Cut { from, to, cut })
    }

    /// Cuts or mends both directions between two hosts.
    ///
    /// # Errors
    /// [`WanError::UnknownHost`] or [`WanError::Stopped`].
    pub fn cut(&self, a: &str, b: &str, cut: Cut) -> Result<(), WanError> {
        self.set_cut(a, b, cut)?;
        self.set_cut(b, a, cut)
    }

    /// What all links have carried since the last reset.
    ///
    /// # Errors
    /// [`WanError::Stopped`].
    pub fn counters(&self) -> Result<WanCounters, WanError> {
        let (reply, answer) = mpsc::channel();
        self.send(Command::Counters { reply })?;
        let (elapsed, all) = answer.recv().map_err(|_| self.stopped())?;
        let links = pairs(self.names.len())
            .zip(all)
            .map(|((from, to), counters)| LinkCounters {
                from: self.names[from].clone(),
                to: self.names[to].clone(),
                counters,
            });
        Ok(WanCounters {
            elapsed,
            links: links.collect(),
        })
    }

    /// Sets all counters and the elapsed time to zero. A frame under way counts as delivered later.
    ///
    /// # Errors
    /// [`WanError::Stopped`].
    pub fn reset(&self) -> Result<(), WanError> {
        self.send(Command::Reset)
    }

    fn port(&self, name: &str) -> Result<usize, WanError> {
        let found = self.names.iter().position(|known| known == name);
        found.ok_or_else(|| WanError::UnknownHost {
            name: name.to_owned(),
            known: self.names.clone(),
        })
    }

    fn send(&self, command: Command) -> Result<(), WanError> {
        self.commands.send(command).map_err(|_| self.stopped())?;
        // A full event counter wakes the thread just as well.
        let _ = self.wake.write(1);
        Ok(())
    }

    fn stopped(&self) -> WanError {
        let panicked = self.thread.as_ref().is_some_and(JoinHandle::is_finished);
        let reason = if panicked {
            "its thread ended"
        } else {
            "its thread is ending"
        };
        WanError::Stopped {
            reason: reason.to_owned(),
        }
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        let _ = self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // The thread's panic has been reported by the panic hook; nothing is left to undo.
            let _ = thread.join();
        }
    }
}

/// The ordered pairs of different ports, in the order in which counters are listed.
fn pairs(ports: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..ports * ports)
        .map(move |i| (i / ports, i % ports))
        .filter(|(from, to)| from != to)
}

/// What the thread owns.
struct Carrier {
    switch: Switch,
    ports: usize,
    taps: Vec<Option<OwnedFd>>,
    inbox: Receiver<Command>,
    wake: Arc<EventFd>,
    origin: Instant,
    reset_at: Duration,
    baseline: Vec<Counters>,
    buffer: Vec<u8>,
}

impl Carrier {
    fn run(mut self) {
        self.reset();
        loop {
            self.deliver();
            let ready = self.wait();
            for (port, flags) in ready.iter().enumerate().skip(1) {
                if !flags.is_empty() {
                    self.receive(port - 1, *flags);
                }
            }
            if !ready[0].is_empty() && !self.obey() {
                return;
            }
        }
    }

    /// Hands over all frames that are due.
    fn deliver(&mut self) {
        while let Some(delivery) = self.switch.poll_delivery(self.origin.elapsed()) {
            let tap = self.taps[delivery.to].as_ref();
            let written = tap.map(|tap| nix::unistd::write(tap, &delivery.frame));
            if !matches!(written, Some(Ok(_))) {
                self.switch.refuse(&delivery);
            }
        }
    }

    /// Waits for a frame, a command or the next delivery. Returns what is ready: the commands
    /// first, then each port.
    fn wait(&self) -> Vec<PollFlags> {
        let timeout = self
            .switch
            .poll_timeout()
            .map(|due| TimeSpec::from_duration(due.saturating_sub(self.origin.elapsed())));
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let open = self.taps.iter().flatten();
        fds.extend(open.map(|tap| PollFd::new(tap.as_fd(), PollFlags::POLLIN)));
        // An interrupted wait has nothing ready, and the loop comes round again.
        let _ = ppoll(&mut fds, timeout, None);
        let mut events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut ready = vec![events.next().unwrap_or(PollFlags::empty())];
        ready.extend(self.taps.iter().map(|tap| {
            tap.as_ref()
                .and_then(|_| events.next())
                .unwrap_or(PollFlags::empty())
        }));
        ready
    }

    fn receive(&mut self, port: usize, flags: PollFlags) {
        for _ in 0..BURST {
            let Some(tap) = self.taps[port].as_ref() else {
                return;
            };
            match nix::unistd::read(tap, &mut self.buffer) {
                Ok(bytes) => {
                    let frame = self.buffer[..bytes].to_vec();
                    self.switch.handle_frame(self.origin.elapsed(), port, frame);
                }
                Err(Errno::EAGAIN | Errno::EINTR) if !flags.contains(PollFlags::POLLERR) => return,
                // The device is gone with its host: polling it on would never block.
                Err(_) => self.taps[port] = None,
            }
        }
    }

    /// Carries out all commands that have come. Returns whether to go on.
    fn obey(&mut self) -> bool {
        let _ = self.wake.read();
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Link { from, to, spec }) => self.switch.set_link(from, to, spec),
                Ok(Command::Cut { from, to, cut }) => self.switch.set_cut(from, to, cut),
                Ok(Command::Counters { reply }) => {
                    let now = self.origin.elapsed();
                    let all = self.all_counters(now);
                    let fresh = all
                        .iter()
                        .zip(&self.baseline)
                        .map(|(now, then)| now.since(then));
                    // A caller that has gone needs no answer.
                    let _ = reply.send((now - self.reset_at, fresh.collect()));
                }
                Ok(Command::Reset) => self.reset(),
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn reset(&mut self) {
        self.reset_at = self.origin.elapsed();
        self.baseline = self.all_counters(self.reset_at);
    }

    fn all_counters(&mut self, now: Duration) -> Vec<Counters> {
        pairs(self.ports)
            .map(|(from, to)| self.switch.counters(now, from, to))
            .collect()
    }
}
