//! `fed status`: how federations stand.

use std::collections::BTreeMap;
use std::time::Duration;

use fed_core::FederationName;
use fed_service::node::{PathReport, PeerReport};
use fed_service::operator::{MemberReport, OperatorState, Running, Status, metrics};

use crate::console;
use crate::{Global, paths};

/// How long the end of a federation is told of.
const NEWS: Duration = Duration::from_secs(24 * 3600);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Name of the federation; all if none is named
    name: Option<FederationName>,
    /// How it is printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
    /// For monitoring: the text format of Prometheus
    Prometheus,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    console::log("warn");
    let state = paths::state(global)?;
    let names = match &arguments.name {
        Some(name) => vec![name.clone()],
        None => state.federations()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut all: BTreeMap<String, Option<Status>> = BTreeMap::new();
    let mut unanswered = Vec::new();
    for name in names {
        let status = runtime.block_on(async {
            match Running::find(&state, &name).await? {
                Some(mut running) => running.status().await.map(Some),
                None => Ok(None),
            }
        });
        match status {
            Ok(status) => drop(all.insert(name.to_string(), status)),
            Err(error) if arguments.name.is_some() => return Err(error.into()),
            Err(error) => unanswered.push(anyhow::Error::from(error)),
        }
    }
    match arguments.output {
        Output::Text => {
            if all.is_empty() && unanswered.is_empty() {
                console::note("no federation is up; `fed up SITE…` starts one");
            }
            show_all(&all)?;
            if arguments.name.is_none() {
                show_ends(&state)?;
            }
        }
        Output::Json => console::json(&all)?,
        Output::Prometheus => console::data(metrics(all.values().flatten()).trim_end())?,
    }
    // One that does not answer hides none of the others; the last is told as every error is.
    let last = unanswered.pop();
    for error in &unanswered {
        console::error(error);
    }
    last.map_or(Ok(()), Err)
}

fn show_all(all: &BTreeMap<String, Option<Status>>) -> anyhow::Result<()> {
    for (name, status) in all {
        match status {
            Some(status) => show(status)?,
            None => console::data(&format!(
                "{name}: its `fed up` has died; `fed down {name}` ends what is left"
            ))?,
        }
    }
    Ok(())
}

/// Shows why detached federations ended that failed not long ago.
fn show_ends(state: &OperatorState) -> anyhow::Result<()> {
    for end in state.ends()? {
        if end.at.elapsed().is_ok_and(|ago| ago < NEWS) {
            console::data(&end.to_string())?;
        }
    }
    Ok(())
}

fn show(status: &Status) -> anyhow::Result<()> {
    let phase = serde_json::to_value(status.phase)?;
    console::data(&format!(
        "federation {} ({}): {}, lease {} s",
        status.name,
        status.federation,
        phase.as_str().unwrap_or_default(),
        status.lease_seconds
    ))?;
    for member in &status.members {
        show_member(member)?;
    }
    if let Some(gateway) = &status.gateway {
        console::data(&format!("  scheduler  tls://{}", gateway.scheduler))?;
        console::data(&format!("  dashboard  {}", gateway.dashboard))?;
    }
    Ok(())
}

fn show_member(member: &MemberReport) -> anyhow::Result<()> {
    console::data(&format!("  {}", member.name))?;
    if let Some(problem) = &member.problem {
        console::data(&format!("    problem: {problem}"))?;
    }
    for (pool, workers) in &member.pools {
        let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
        console::data(&format!(
            "    pool {pool}: {} {}",
            console::count(workers.len(), "worker"),
            names.join(" ")
        ))?;
    }
    for peer in &member.peers {
        console::data(&format!("    {}", tunnel(peer)))?;
    }
    if !member.drops.is_empty() {
        console::data(&format!("    no tunnel{}", dropped(&member.drops)))?;
    }
    Ok(())
}

/// One line of a tunnel, as one of its ends sees it.
fn tunnel(peer: &PeerReport) -> String {
    let path = match (&peer.relay, peer.endpoint) {
        (Some(relay), _) => format!("relayed via {relay}"),
        (None, Some(address)) => format!("direct, {address}"),
        (None, None) if peer.over_tls => "direct, over TLS".to_owned(),
        (None, None) => "-".to_owned(),
    };
    let handshake = match (peer.handshake_seconds_ago, peer.handshakes) {
        (None, _) => "no handshake yet".to_owned(),
        (Some(seconds), 0 | 1) => format!("handshake {seconds} s ago"),
        (Some(seconds), count) => format!("{count} handshakes, the last {seconds} s ago"),
    };
    let round_trip = peer
        .round_trip_microseconds
        .map_or_else(String::new, |time| {
            format!(", round trip {}.{} ms", time / 1000, time % 1000 / 100)
        });
    let relayed = if peer.relayed_packets == 0 {
        String::new()
    } else {
        format!(
            ", {} B ({} packets) relayed for it",
            peer.relayed_bytes, peer.relayed_packets
        )
    };
    format!(
        "tunnel to {:<16} {path}, {handshake}{round_trip}, MTU {}{}, {} B ({} packets) in, \
         {} B ({} packets) out{}{relayed}{}",
        peer.name,
        peer.path_mtu,
        narrow(peer),
        peer.received_bytes,
        peer.received_packets,
        peer.sent_bytes,
        peer.sent_packets,
        elsewhere(peer),
        dropped(&peer.drops)
    )
}

/// Whether even the least packets that are large do not pass.
fn narrow(peer: &PeerReport) -> String {
    peer.narrow_seconds.map_or_else(String::new, |seconds| {
        format!(" (does not pass for {seconds} s: the path is too narrow)")
    })
}

/// What of it did not go by the path that is taken now; nothing where all did.
fn elsewhere(peer: &PeerReport) -> String {
    let taken = peer.path();
    let others = PathReport::KINDS.iter().filter(|kind| **kind != taken);
    let went = others.filter_map(|kind| {
        let path = peer.paths.get(*kind)?;
        let (received, sent) = (path.received_bytes, path.sent_bytes);
        Some(format!("{received} B in and {sent} B out {kind}"))
    });
    let went: Vec<_> = went.collect();
    if went.is_empty() {
        return String::new();
    }
    format!(" (of these {})", went.join(", "))
}

/// What was dropped, by reason; nothing where nothing was.
fn dropped(drops: &BTreeMap<String, u64>) -> String {
    if drops.is_empty() {
        return String::new();
    }
    let reasons: Vec<_> = drops
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    format!(", dropped {}", reasons.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_one_line() {
        let mut peer = PeerReport {
            name: "ecmwf".to_owned(),
            endpoint: Some("192.0.2.7:40123".parse().unwrap()),
            handshake_seconds_ago: Some(31),
            handshakes: 1,
            path_mtu: 1420,
            received_bytes: 300,
            sent_bytes: 200,
            received_packets: 3,
            sent_packets: 2,
            ..PeerReport::default()
        };
        assert_eq!(
            tunnel(&peer),
            "tunnel to ecmwf            direct, 192.0.2.7:40123, handshake 31 s ago, MTU 1420, \
             300 B (3 packets) in, 200 B (2 packets) out"
        );
        peer.heard_seconds_ago = Some(1);
        let path = PathReport {
            received_bytes: 280,
            sent_bytes: 160,
            ..PathReport::default()
        };
        peer.paths.insert("direct".to_owned(), path);
        peer.paths.insert("relayed".to_owned(), path);
        (peer.endpoint, peer.relay) = (None, Some("operator".to_owned()));
        (peer.handshakes, peer.round_trip_microseconds) = (4, Some(12_400));
        (peer.path_mtu, peer.narrow_seconds) = (1280, Some(5));
        (peer.relayed_bytes, peer.relayed_packets) = (1500, 5);
        peer.drops.insert("too-big".to_owned(), 6);
        assert_eq!(
            tunnel(&peer),
            "tunnel to ecmwf            relayed via operator, 4 handshakes, the last 31 s ago, \
             round trip 12.4 ms, MTU 1280 (does not pass for 5 s: the path is too narrow), 300 B (3 packets) in, 200 B (2 packets) out \
             (of these 280 B in and 160 B out direct), 1500 B (5 packets) relayed for it, dropped 6 too-big"
        );
    }
}
