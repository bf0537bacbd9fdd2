//! Which members' datagrams do not reach which others: what the nodes report, put side by side.
//!
//! A node has received bytes from a peer only if an authentic datagram came, if only the first
//! message of a handshake. Of two members that found no way to each other, one has heard the other
//! or neither has, and that tells the direction in which UDP is blocked.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::PeerReport;

/// What members' nodes report, by the members' names.
pub(super) type Reports = BTreeMap<String, Vec<PeerReport>>;

/// Says which pairs are blocked, in which direction, and what to let through. Nothing if all that
/// report have heard all their peers.
pub(super) fn blocked(reports: &Reports) -> Option<String> {
    let pairs: BTreeSet<(&str, &str)> = reports
        .iter()
        .flat_map(|(name, peers)| peers.iter().map(move |peer| (name, &peer.name)))
        .map(|(a, b)| (a.min(b).as_str(), a.max(b).as_str()))
        .collect();
    let sentences: Vec<String> = pairs
        .into_iter()
        .filter_map(|(a, b)| between(reports, a, b))
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn between(reports: &Reports, a: &str, b: &str) -> Option<String> {
    let is_deaf = |own, peer| link(reports, own, peer).is_some_and(|peer| peer.received_bytes == 0);
    // A site learns where the operator is when it hears it: until then it has nowhere to send.
    let speaks = |own, peer| link(reports, own, peer).is_some_and(|peer| peer.endpoint.is_some());
    match (is_deaf(a, b), is_deaf(b, a)) {
        (false, false) => None,
        (true, true) if speaks(a, b) && speaks(b, a) => Some(format!(
            "no datagram passes between {a} and {b}, in either direction: {}, and {}",
            remedy(reports, a, b),
            remedy(reports, b, a)
        )),
        (true, true) if speaks(a, b) => Some(silence(reports, a, b)),
        (true, _) => Some(silence(reports, b, a)),
        (false, true) => Some(silence(reports, a, b)),
    }
}

fn silence(reports: &Reports, from: &str, to: &str) -> String {
    let heard = link(reports, from, to).is_some_and(|peer| peer.received_bytes > 0);
    let while_back = if heard {
        format!(", while those from {to} reach {from}")
    } else {
        String::new()
    };
    let remedy = remedy(reports, from, to);
    format!("no datagram from {from} reaches {to}{while_back}: {remedy}")
}

fn remedy(reports: &Reports, from: &str, to: &str) -> String {
    match link(reports, from, to).and_then(|peer| peer.endpoint) {
        Some(place) => format!(
            "allow UDP from {from} to {} (port {} in this federation)",
            place.ip(),
            place.port()
        ),
        None => format!("allow UDP from {from} to {to}"),
    }
}

fn link<'a>(reports: &'a Reports, own: &str, peer: &str) -> Option<&'a PeerReport> {
    let peers = reports.get(own)?;
    peers.iter().find(|report| report.name == *peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each member tells of each other: `(own, peer, bytes received, port of the peer)`.
    fn reports(links: &[(&str, &str, u64, Option<u16>)]) -> Reports {
        let mut reports = Reports::new();
        for (own, peer, received_bytes, port) in links {
            reports
                .entry((*own).to_owned())
                .or_default()
                .push(PeerReport {
                    name: (*peer).to_owned(),
                    endpoint: port.map(|port| ([192, 0, 2, 1], port).into()),
                    relay: None,
                    over_tls: false,
                    handshake_seconds_ago: None,
                    received_bytes: *received_bytes,
                    sent_bytes: 148,
                    ..PeerReport::default()
                });
        }
        reports
    }

    #[test]
    fn nothing_is_blocked_where_all_are_heard() {
        let all = [("a", "b", 148, Some(1)), ("b", "a", 92, Some(2))];
        assert_eq!(blocked(&reports(&all)), None);
        assert_eq!(blocked(&Reports::new()), None);
    }

    #[test]
    fn one_direction_is_told_from_both() {
        let told = blocked(&reports(&[
            ("a", "b", 148, Some(7)),
            ("b", "a", 0, Some(8)),
        ]));
        assert_eq!(
            told.unwrap(),
            "no datagram from a reaches b, while those from b reach a: allow UDP from a to \
             192.0.2.1 (port 7 in this federation)"
        );
        let told = blocked(&reports(&[("a", "b", 0, Some(7)), ("b", "a", 0, Some(8))]));
        let told = told.unwrap();
        assert!(told.starts_with("no datagram passes between a and b, in either direction: "));
        assert!(told.contains("from a to 192.0.2.1 (port 7"), "{told}");
        assert!(told.contains("from b to 192.0.2.1 (port 8"), "{told}");
    }

    #[test]
    fn a_site_that_cannot_begin_is_not_blamed_for_its_silence() {
        for (operator, site) in [("operator", "site"), ("operator", "a")] {
            let told = blocked(&reports(&[
                (operator, site, 0, Some(7)),
                (site, operator, 0, None),
            ]));
            let told = told.unwrap();
            let expected = format!(
                "no datagram from operator reaches {site}: allow UDP from operator to 192.0.2.1"
            );
            assert!(told.starts_with(&expected), "{told}");
            // Once the site has heard the operator, it answers.
            let told = blocked(&reports(&[
                (operator, site, 0, Some(7)),
                (site, operator, 148, Some(9)),
            ]));
            let told = told.unwrap();
            let expected = format!(
                "no datagram from {site} reaches operator, while those from operator reach {site}"
            );
            assert!(told.starts_with(&expected), "{told}");
        }
    }

    #[test]
    fn what_one_member_tells_is_enough_and_every_pair_is_told() {
        let told = blocked(&reports(&[
            ("c", "b", 0, Some(1)),
            ("a", "b", 148, Some(1)),
            ("a", "c", 0, Some(1)),
            ("c", "a", 0, Some(1)),
        ]));
        let told = told.unwrap();
        assert_eq!(told.split("; ").count(), 2, "{told}");
        assert!(told.contains("no datagram from b reaches c: allow UDP from b to c"));
    }
}
