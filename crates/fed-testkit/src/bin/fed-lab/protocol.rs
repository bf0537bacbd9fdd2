//! The JSON that `fed-lab serve` reads and writes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use fed_testkit::wan::{Cut, LinkSpec, WanCounters};
use serde::{Deserialize, Serialize};

/// The description of a lab.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LabSpec {
    pub(crate) hosts: Vec<HostSpec>,
    /// The link between all hosts; what is left out is 20 ms, 100 Mbit/s, no loss.
    #[serde(default)]
    pub(crate) wan: LinkChange,
    /// The seed of losses and jitter.
    #[serde(default)]
    pub(crate) seed: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostSpec {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) binds: Vec<BindSpec>,
    /// Paths of empty directories of the host's own.
    #[serde(default)]
    pub(crate) private: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BindSpec {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    #[serde(default)]
    pub(crate) read_only: bool,
}

/// Values of a link; what is left out stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LinkChange {
    pub(crate) delay_ms: Option<f64>,
    /// 0: no limit.
    pub(crate) rate_mbit: Option<f64>,
    pub(crate) loss: Option<f64>,
    pub(crate) queue_bytes: Option<u64>,
    pub(crate) jitter_ms: Option<f64>,
    pub(crate) reorder: Option<bool>,
    pub(crate) repeat: Option<f64>,
    /// 0: no limit.
    pub(crate) mtu: Option<usize>,
}

impl LinkChange {
    pub(crate) fn apply(&self, spec: &LinkSpec) -> Result<LinkSpec, String> {
        let mut spec = spec.clone();
        if let Some(ms) = self.delay_ms {
            spec.delay = milliseconds("delay_ms", ms)?;
        }
        if let Some(ms) = self.jitter_ms {
            spec.jitter = milliseconds("jitter_ms", ms)?;
        }
        if let Some(rate) = self.rate_mbit {
            if !(0.0..=1e6).contains(&rate) {
                return Err(format!(
                    "rate_mbit is {rate}; give Mbit/s up to 1e6, or 0 for no limit"
                ));
            }
            spec.rate_bit_per_s = (rate > 0.0).then_some((rate * 1e6) as u64);
        }
        spec.loss = self.loss.unwrap_or(spec.loss);
        spec.queue_bytes = self.queue_bytes.or(spec.queue_bytes);
        spec.repeat = self.repeat.unwrap_or(spec.repeat);
        spec.reorder = self.reorder.unwrap_or(spec.reorder);
        if let Some(mtu) = self.mtu {
            spec.mtu = (mtu > 0).then_some(mtu);
        }
        spec.validate()?;
        Ok(spec)
    }
}

fn milliseconds(name: &str, value: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(value / 1000.0)
        .map_err(|e| format!("{name} is {value}; give milliseconds from 0 up ({e})"))
}

/// One line of input.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// What each link has carried since the last reset.
    Counters,
    Reset,
    /// Cuts the link between two hosts, or one direction of it; `nothing` mends it.
    Cut {
        a: String,
        b: String,
        what: Cuttable,
        #[serde(default)]
        one_way: bool,
    },
    /// Changes the link between two hosts, or one direction of it.
    Wan {
        a: String,
        b: String,
        #[serde(default)]
        one_way: bool,
        change: LinkChange,
    },
    Processes {
        host: String,
    },
    /// Remembers what there is, for `leftovers`.
    Snapshot {
        /// Folders whose files count.
        #[serde(default)]
        folders: Vec<Folder>,
        /// Whether to look at the whole machine too.
        #[serde(default)]
        machine: bool,
    },
    /// What there is and was not at the last `snapshot`.
    Leftovers,
    Stop,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cuttable {
    Nothing,
    Tcp,
    Udp,
    Everything,
}

impl From<Cuttable> for Cut {
    fn from(what: Cuttable) -> Self {
        match what {
            Cuttable::Nothing => Self::Nothing,
            Cuttable::Tcp => Self::Tcp,
            Cuttable::Udp => Self::Udp,
            Cuttable::Everything => Self::Everything,
        }
    }
}

/// A folder of the machine, or one inside a host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Folder {
    pub(crate) host: Option<String>,
    pub(crate) path: PathBuf,
}

/// The first line of output.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    pub(crate) hosts: BTreeMap<String, HostAddress>,
}

#[derive(Debug, Serialize)]
pub(crate) struct HostAddress {
    pub(crate) pid: u32,
    pub(crate) addr4: Ipv4Addr,
    pub(crate) addr6: Ipv6Addr,
}

/// The answer to one line of input.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ok(serde_json::Value),
    Error(String),
}

#[derive(Debug, Serialize)]
pub(crate) struct Counters {
    elapsed_s: f64,
    links: Vec<Link>,
}

#[derive(Debug, Serialize)]
struct Link {
    from: String,
    to: String,
    frames: u64,
    bytes: u64,
    delivered_frames: u64,
    delivered_bytes: u64,
    dropped_queue: u64,
    dropped_loss: u64,
    dropped_cut: u64,
    dropped_mtu: u64,
    dropped_device: u64,
    busy_s: f64,
    utilisation: f64,
}

impl From<WanCounters> for Counters {
    fn from(all: WanCounters) -> Self {
        let links = all.links.into_iter().map(|link| {
            let c = link.counters;
            Link {
                from: link.from,
                to: link.to,
                frames: c.frames,
                bytes: c.bytes,
                delivered_frames: c.delivered_frames,
                delivered_bytes: c.delivered_bytes,
                dropped_queue: c.dropped_queue,
                dropped_loss: c.dropped_loss,
                dropped_cut: c.dropped_cut,
                dropped_mtu: c.dropped_mtu,
                dropped_device: c.dropped_device,
                busy_s: c.busy.as_secs_f64(),
                utilisation: c.utilisation(all.elapsed),
            }
        });
        Self {
            links: links.collect(),
            elapsed_s: all.elapsed.as_secs_f64(),
        }
    }
}
