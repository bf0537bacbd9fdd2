//! How federations stand, in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::report::{MemberReport, Status};
use crate::node::{PathReport, PeerReport};

/// The labels of one value.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// A metric of one tunnel, as one of its ends sees it.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&PeerReport) -> Option<f64>,
}

/// A metric of one kind of path of a tunnel: its name, what it is, and its value.
type PathMetric = (&'static str, &'static str, fn(&PathReport) -> u64);

const PATH_METRICS: [PathMetric; 5] = [
    (
        "fed_mesh_received_bytes_total",
        "UDP payload received from the peer.",
        |path| path.received_bytes,
    ),
    (
        "fed_mesh_sent_bytes_total",
        "UDP payload sent to the peer.",
        |path| path.sent_bytes,
    ),
    (
        "fed_mesh_received_datagrams_total",
        "Authentic datagrams received from the peer.",
        |path| path.received_datagrams,
    ),
    (
        "fed_mesh_sent_datagrams_total",
        "Datagrams sent to the peer.",
        |path| path.sent_datagrams,
    ),
    (
        "fed_mesh_handshakes_total",
        "Handshakes completed with the peer.",
        |path| path.handshakes,
    ),
];

const METRICS: [Metric; 8] = [
    counter(
        "fed_mesh_received_packets_total",
        "Packets received from the peer inside the tunnel.",
        |peer| Some(whole(peer.received_packets)),
    ),
    counter(
        "fed_mesh_sent_packets_total",
        "Packets sent to the peer inside the tunnel.",
        |peer| Some(whole(peer.sent_packets)),
    ),
    counter(
        "fed_mesh_relayed_packets_total",
        "Datagrams that the member has passed on for the peer.",
        |peer| Some(whole(peer.relayed_packets)),
    ),
    counter(
        "fed_mesh_relayed_bytes_total",
        "UDP payload that the member has passed on for the peer.",
        |peer| Some(whole(peer.relayed_bytes)),
    ),
    gauge(
        "fed_mesh_handshake_age_seconds",
        "Time since the last handshake with the peer.",
        |peer| peer.handshake_seconds_ago.map(whole),
    ),
    gauge(
        "fed_mesh_round_trip_seconds",
        "Smoothed round-trip time to the peer.",
        |peer| peer.round_trip_microseconds.map(|time| whole(time) / 1e6),
    ),
    gauge(
        "fed_mesh_path_narrow",
        "1 where not even packets of 1280 bytes pass, else 0.",
        |peer| Some(f64::from(u8::from(peer.narrow_seconds.is_some()))),
    ),
    gauge(
        "fed_mesh_path_mtu_bytes",
        "The largest packet inside the tunnel that the path to the peer carries.",
        |peer| Some(f64::from(peer.path_mtu)),
    ),
];

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&PeerReport) -> Option<f64>,
) -> Metric {
    Metric {
        name,
        kind: "counter",
        help,
        value,
    }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&PeerReport) -> Option<f64>,
) -> Metric {
    Metric {
        name,
        kind: "gauge",
        help,
        value,
    }
}

/// Writes how federations stand: version 0.0.4 of the text format, one sample per tunnel and end.
#[must_use]
pub fn metrics<'a>(federations: impl IntoIterator<Item = &'a Status>) -> String {
    let members: Vec<(&str, &MemberReport)> = federations
        .into_iter()
        .flat_map(|status| {
            let name = status.name.as_str();
            status.members.iter().map(move |member| (name, member))
        })
        .collect();
    let mut text = String::new();
    for metric in &METRICS {
        head(&mut text, metric.name, metric.kind, metric.help);
        for (federation, member) in &members {
            for peer in &member.peers {
                if let Some(value) = (metric.value)(peer) {
                    let labels = tunnel(federation, &member.name, &peer.name);
                    sample(&mut text, metric.name, &labels, value);
                }
            }
        }
    }
    by_path(&mut text, &members);
    direct(&mut text, &members);
    drops(&mut text, &members);
    workers(&mut text, &members);
    text
}

fn by_path(text: &mut String, members: &[(&str, &MemberReport)]) {
    for (name, help, value) in PATH_METRICS {
        head(text, name, "counter", help);
        for (federation, member) in members {
            for peer in &member.peers {
                for kind in PathReport::KINDS {
                    let went = peer.paths.get(kind).copied().unwrap_or_default();
                    let mut labels = tunnel(federation, &member.name, &peer.name);
                    labels.push(("path", kind));
                    sample(text, name, &labels, whole(value(&went)));
                }
            }
        }
    }
}

fn direct(text: &mut String, members: &[(&str, &MemberReport)]) {
    const NAME: &str = "fed_mesh_direct";
    let help = "1 where packets reach the peer straight over UDP, else 0; path is direct, tls, \
                relayed (by the member relay) or none.";
    head(text, NAME, "gauge", help);
    for (federation, member) in members {
        for peer in &member.peers {
            let path = peer.path();
            let mut labels = tunnel(federation, &member.name, &peer.name);
            labels.push(("path", path));
            labels.push(("relay", peer.relay.as_deref().unwrap_or_default()));
            sample(
                text,
                NAME,
                &labels,
                if path == "direct" { 1.0 } else { 0.0 },
            );
        }
    }
}

fn drops(text: &mut String, members: &[(&str, &MemberReport)]) {
    const NAME: &str = "fed_mesh_dropped_packets_total";
    let help =
        "Packets dropped or lost, by reason; those that concern no one peer have an empty peer.";
    head(text, NAME, "counter", help);
    for (federation, member) in members {
        let of_peers = member
            .peers
            .iter()
            .map(|peer| (peer.name.as_str(), &peer.drops));
        for (peer, drops) in std::iter::once(("", &member.drops)).chain(of_peers) {
            for (reason, count) in drops {
                let mut labels = tunnel(federation, &member.name, peer);
                labels.push(("reason", reason));
                sample(text, NAME, &labels, whole(*count));
            }
        }
    }
}

fn workers(text: &mut String, members: &[(&str, &MemberReport)]) {
    const NAME: &str = "fed_workers";
    head(
        text,
        NAME,
        "gauge",
        "Workers of a pool that the scheduler knows.",
    );
    for (federation, member) in members {
        let pools: &BTreeMap<_, _> = &member.pools;
        for (pool, workers) in pools {
            let labels = vec![
                ("federation", *federation),
                ("member", member.name.as_str()),
                ("pool", pool.as_str()),
            ];
            sample(text, NAME, &labels, whole(workers.len() as u64));
        }
    }
}

fn tunnel<'a>(federation: &'a str, member: &'a str, peer: &'a str) -> Labels<'a> {
    vec![
        ("federation", federation),
        ("member", member),
        ("peer", peer),
    ]
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}"));
    line(text, format_args!("# TYPE {name} {kind}"));
}

fn sample(text: &mut String, name: &str, labels: &Labels<'_>, value: f64) {
    let labels: Vec<_> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{}\"", escaped(value)))
        .collect();
    line(text, format_args!("{name}{{{}}} {value}", labels.join(",")));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes all");
}

/// A label's value. Sites tell the names of peers and reasons, so they are not trusted.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The format knows floats only; beyond 2^53 the last digits are lost.
#[expect(clippy::cast_precision_loss, reason = "as the format has it")]
fn whole(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use fed_core::Phase;

    use super::*;
    use crate::operator::report::WorkerReport;

    #[test]
    fn the_text_format() {
        let relayed = PathReport {
            received_bytes: 10,
            sent_bytes: 20,
            received_datagrams: 1,
            sent_datagrams: 2,
            handshakes: 2,
        };
        let peer = PeerReport {
            name: "ecmwf".into(),
            endpoint: None,
            handshake_seconds_ago: None,
            relay: Some("eumetsat".into()),
            over_tls: false,
            path_mtu: 1440,
            narrow_seconds: None,
            round_trip_microseconds: Some(81_250),
            handshakes: 2,
            received_bytes: 10,
            sent_bytes: 20,
            paths: BTreeMap::from([("relayed".to_owned(), relayed)]),
            received_packets: 3,
            sent_packets: 4,
            heard_seconds_ago: Some(7),
            relayed_packets: 6,
            relayed_bytes: 60,
            drops: BTreeMap::from([("too-\"big\"\n".into(), 5)]),
        };
        let other = |name: &str, heard, over_tls| PeerReport {
            name: name.into(),
            heard_seconds_ago: heard,
            over_tls,
            ..PeerReport::default()
        };
        let by_tls = other("dwd", Some(1), true);
        let unheard = other("cnes", None, false);
        let direct = other("eumetsat", Some(1), false);
        let worker = WorkerReport {
            name: "w".into(),
            threads: 1,
            memory_bytes: 1,
        };
        let status = Status {
            name: "fed".parse().unwrap(),
            federation: "0123456789".parse().unwrap(),
            phase: Phase::Running,
            up_seconds: None,
            lease_seconds: 300,
            gateway: None,
            members: vec![MemberReport {
                name: "operator".into(),
                pools: BTreeMap::from([("p".into(), vec![worker])]),
                peers: vec![peer, by_tls, unheard, direct],
                drops: BTreeMap::from([("no-route".into(), 1)]),
                problem: None,
            }],
        };
        let text = metrics([&status]);
        for line in [
            "# TYPE fed_mesh_received_bytes_total counter",
            r#"fed_mesh_received_bytes_total{federation="fed",member="operator",peer="ecmwf",path="relayed"} 10"#,
            r#"fed_mesh_received_bytes_total{federation="fed",member="operator",peer="ecmwf",path="direct"} 0"#,
            r#"fed_mesh_sent_datagrams_total{federation="fed",member="operator",peer="ecmwf",path="relayed"} 2"#,
            r#"fed_mesh_handshakes_total{federation="fed",member="operator",peer="ecmwf",path="relayed"} 2"#,
            r#"fed_mesh_round_trip_seconds{federation="fed",member="operator",peer="ecmwf"} 0.08125"#,
            r#"fed_mesh_relayed_packets_total{federation="fed",member="operator",peer="ecmwf"} 6"#,
            r#"fed_mesh_relayed_bytes_total{federation="fed",member="operator",peer="ecmwf"} 60"#,
            r#"fed_mesh_direct{federation="fed",member="operator",peer="ecmwf",path="relayed",relay="eumetsat"} 0"#,
            r#"fed_mesh_direct{federation="fed",member="operator",peer="dwd",path="tls",relay=""} 0"#,
            r#"fed_mesh_direct{federation="fed",member="operator",peer="cnes",path="none",relay=""} 0"#,
            r#"fed_mesh_direct{federation="fed",member="operator",peer="eumetsat",path="direct",relay=""} 1"#,
            r#"fed_mesh_dropped_packets_total{federation="fed",member="operator",peer="",reason="no-route"} 1"#,
            r#"fed_mesh_dropped_packets_total{federation="fed",member="operator",peer="ecmwf",reason="too-\"big\"\n"} 5"#,
            r#"fed_workers{federation="fed",member="operator",pool="p"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(!text.contains("fed_mesh_handshake_age_seconds{"), "{text}");
        let heads = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .count();
        assert_eq!(heads, METRICS.len() + PATH_METRICS.len() + 3);
    }
}
