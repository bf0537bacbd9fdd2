//! The mesh of a federation: a WireGuard router that performs no input and no output.
//!
//! The main type is [`Router`]. It holds the peers, the routes, the handshakes, the timers and the
//! counters. It is handed packets and the time, and answers with an [`Output`] (datagrams to send,
//! packets to deliver, events) and the next deadline:
//!
//! ```
//! use std::time::Instant;
//! use fed_mesh::{KEEPALIVE, Output, PeerConfig, PrivateKey, Router};
//!
//! let peer = PrivateKey::generate().public_key();
//! let mut router = Router::new(PrivateKey::generate(), Instant::now());
//! let mut out = Output::default();
//! router.set_peers(
//!     vec![PeerConfig {
//!         public_key: peer,
//!         endpoints: vec!["192.0.2.1:51820".parse()?],
//!         allowed_ips: vec!["fd00:0:0:1::/64".parse()?],
//!         keepalive: Some(KEEPALIVE),
//!     }],
//!     Instant::now(),
//!     &mut out,
//! )?;
//! let initiation = out.trains(1, 0).next().expect("a peer with an endpoint is called at once");
//! assert_eq!(initiation.to, "192.0.2.1:51820".parse()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! This crate must not know sockets, files, an async runtime or the clock. The one exception lies
//! inside boringtun, which reads the clock for its own handshake timers and the operating
//! system's randomness for ephemeral keys; [`Protocol`] stands between the two, so that a
//! simulation runs the same router on virtual time with a protocol of its own.

mod config;
mod control;
mod event;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod lane;
mod links;
mod noise;
mod output;
mod packet;
mod path;
mod paths;
mod peer;
mod prefix;
mod protocol;
mod reflexive;
mod route;
mod router;
mod status;
mod throttle;
mod told;
mod traffic;
mod width;

pub use config::{
    CANDIDATES_MAX, HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE, KEEPALIVE, MTU_MAX, MTU_MIN,
    PeerConfig, QUEUE_PACKETS, RELAY_BURST, RELAY_RATE, SILENT_AFTER, SetPeersError,
    UNANSWERED_MAX, UNHEARD_MAX,
};
pub use event::{Event, TimeoutReason};
pub use key::{ParseKeyError, PrivateKey, PublicKey};
pub use lane::{Inbound, Outbound};
pub use noise::{Noise, NoiseSession};
pub use output::{Output, Train};
pub use path::{Path, PathKind};
pub use prefix::{Ipv6Prefix, ParsePrefixError};
pub use protocol::{
    Addressee, Content, OVERHEAD, Opened, Origin, Protocol, ROOM_MIN, Refusal, Session, Tick,
};
pub use reflexive::{Mapping, Reflexive, Sighting};
pub use router::Router;
pub use status::{DropReason, Drops, PeerStatus};
pub use traffic::{ByPath, PathTraffic, Traffic};
