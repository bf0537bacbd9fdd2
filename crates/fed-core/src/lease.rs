//! Leases and timeouts: the one table of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long each part of a federation outlives the one it depends on.
///
/// | between | value | what happens when it lapses |
/// |---|---|---|
/// | operator → agent | `federation` (default 5 min), renewed each third | the site ends the federation: workers, sandbox, files |
/// | agent → node | `federation` | the node ends its sandbox |
/// | node → workers | at once | the closed pipe ends the sandbox |
/// | pool without workers | `pool` (default 10 min) | the tasks that wait for it fail, and say so |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    federation: Duration,
    pool: Duration,
}

impl Leases {
    /// Shortest lease: below it a renewal that is late by one round trip would end a federation.
    pub const MIN: Duration = Duration::from_secs(3);
    /// Longest lease: a site should not hold a dead operator's workers for longer than a day.
    pub const MAX: Duration = Duration::from_secs(24 * 3600);
    /// How long tasks wait for a pool without workers, unless the operator says otherwise.
    pub const POOL: Duration = Duration::from_secs(10 * 60);
    /// How long connecting to an agent may take.
    pub const CONNECT: Duration = Duration::from_secs(5);
    /// Longest pause between two attempts of an agent that dials its operator.
    pub const REDIAL: Duration = Duration::from_secs(5);
    /// How long the operator waits for an agent that dials: it may first have to find out, for 11 s,
    /// that an earlier connection is dead.
    pub const DIALLED: Duration = Duration::from_secs(20);
    /// How long one call to an agent may take, unless it says otherwise.
    pub const CALL: Duration = Duration::from_secs(30);
    /// How long the mesh may take until every pair of members has shaken hands: the first handshake
    /// and two more, which WireGuard begins 5 s apart.
    pub const REACH: Duration = Duration::from_secs(12);
    /// How long the workers of `fed up` may take until the scheduler knows all of them.
    pub const REGISTER: Duration = Duration::from_secs(120);
    /// How long a process may take from SIGTERM until SIGKILL.
    pub const GRACE: Duration = Duration::from_secs(3);

    /// How long a site may take to end its part: the grace of its processes, twice, and the way.
    /// One that does not answer in time ends it by its lease.
    pub const LEAVE: Duration = Duration::from_secs(10);

    /// Makes a table with this lease, limited to [`Leases::MIN`]`..=`[`Leases::MAX`].
    pub fn new(federation: Duration) -> Self {
        Self {
            federation: federation.clamp(Self::MIN, Self::MAX),
            pool: Self::POOL,
        }
    }

    /// The same table with another time for pools without workers.
    #[must_use]
    pub fn with_pool(self, pool: Duration) -> Self {
        Self { pool, ..self }
    }

    /// How long tasks wait for a pool that has no workers.
    pub fn pool(self) -> Duration {
        self.pool
    }

    /// How long a site keeps a federation after the last renewal.
    pub fn federation(self) -> Duration {
        self.federation
    }

    /// How often a lease is renewed: two renewals may be lost.
    pub fn renewal(self) -> Duration {
        self.federation / 3
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self::new(Duration::from_secs(5 * 60))
    }
}
