use std::net::Ipv6Addr;

use super::*;

fn at(port: u16) -> Path {
    Path::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn paths(leads: bool, now: Instant) -> Paths {
    let mut paths = Paths::new(leads, &[]);
    assert!(paths.hear(at(1), Sign::Word, now));
    paths
}

#[test]
fn who_speaks_from_another_port_each_time_is_followed_once_in_a_hold() {
    for leads in [false, true] {
        let start = Instant::now();
        let mut paths = paths(leads, start);
        let mut moves = 0;
        // Three ports in turn, and then a new one each time.
        let ports = (0..3000).map(|number| {
            if number < 1500 {
                2 + number % 3
            } else {
                number
            }
        });
        for (number, port) in (0..).zip(ports) {
            let now = start + Duration::from_millis(10) * number;
            moves += u32::from(paths.hear(at(port), Sign::Word, now));
        }
        // In 30 s.
        assert!((1..=6).contains(&moves), "leads: {leads}, {moves} moves");
    }
}

#[test]
fn who_moves_is_followed_at_once_and_again_after_the_hold() {
    for leads in [false, true] {
        let start = Instant::now();
        let mut paths = paths(leads, start);
        assert!(paths.hear(at(2), Sign::Word, start));
        let almost = start + FOLLOW_HOLD - Duration::from_millis(1);
        assert!(!paths.hear(at(3), Sign::Word, almost));
        assert!(paths.hear(at(3), Sign::Word, start + FOLLOW_HOLD));
        assert_eq!(paths.current(), Some(at(3)));
    }
}

#[test]
fn two_that_have_followed_each_other_come_to_have_one_path() {
    // Each has followed the other at the same moment, to what the other has just left; from then on
    // each sends all the time.
    let start = Instant::now();
    let [mut leader, mut other] = [true, false].map(|leads| Paths::new(leads, &[]));
    for port in [1, 2] {
        leader.hear(at(port), Sign::Word, start);
        other.hear(at(3 - port), Sign::Word, start);
    }
    assert_ne!(leader.current(), other.current());
    let flight = Duration::from_millis(50);
    let mut moves = 0;
    for tick in 1..400_u32 {
        let now = start + flight * tick;
        let sent = [leader.current(), other.current()].map(Option::unwrap);
        moves += u32::from(leader.hear(sent[1], Sign::Word, now));
        moves += u32::from(other.hear(sent[0], Sign::Word, now));
    }
    assert_eq!(leader.current(), other.current());
    assert_eq!(moves, 1);
}

#[test]
fn the_path_by_which_a_call_is_answered_is_taken() {
    let start = Instant::now();
    let relay = Path::Relay(PublicKey::from_bytes([1; 32]));
    for other in [at(2), relay] {
        let mut paths = paths(true, start);
        // Of a session that is there another path's answer says nothing against this one.
        assert!(!paths.hear(other, Sign::Answer, start));
        paths.call(start);
        assert!(paths.hear(other, Sign::Answer, start + SEEK_EVERY));
        assert_eq!(paths.current(), Some(other));
    }
}

#[test]
fn pings_without_an_answer_are_forgotten() {
    let start = Instant::now();
    let mut paths = paths(true, start);
    let numbers: Vec<u64> = (0..30).map(|port| paths.ping(at(port), start)).collect();
    let late = start + PING_LIFE;
    assert_eq!(paths.pings.len(), 30);
    paths.ping(at(1), late);
    assert_eq!(paths.pings.len(), 1);
    assert!(!paths.pong(numbers[1], late));
    assert_eq!(paths.rtt(), None);
}

#[test]
fn the_late_answer_of_a_path_that_was_left_does_not_bring_it_back() {
    let now = Instant::now();
    let mut paths = paths(true, now);
    let left = paths.current().unwrap();
    let small = paths.ping(left, now);
    let relay = Path::Relay(PublicKey::from_bytes([9; 32]));
    paths.go_to(relay, now);
    assert!(!paths.pong(small, now));
    assert_eq!(paths.current(), Some(relay));
    let probe = paths.ping(left, now);
    assert!(paths.pong(probe, now));
    assert_eq!(paths.current(), Some(left));
}

#[test]
fn who_tries_from_another_port_each_time_is_asked_for_a_bounded_number() {
    let start = Instant::now();
    let relay = Path::Relay(PublicKey::from_bytes([1; 32]));
    let mut paths = Paths::new(true, &[]);
    assert!(paths.hear(relay, Sign::Word, start));
    assert!(!paths.is_worth(relay, start));
    let mut asked = |now| {
        let worth = (0..1000).filter(|port| {
            let worth = paths.is_worth(at(*port), now);
            if worth {
                paths.ping(at(*port), now);
                assert!(!paths.is_worth(at(*port), now));
            }
            worth
        });
        worth.count()
    };
    assert_eq!(asked(start), UNASKED);
    assert_eq!(asked(start + SEEK_EVERY / 2), 0);
    assert_eq!(asked(start + SEEK_EVERY), UNASKED);
}

#[test]
fn however_many_addresses_there_are_of_one_family_the_other_is_tried() {
    let v4 = |host| SocketAddr::from(([192, 0, 2, host], 1));
    let v6 = |host| SocketAddr::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(), 1);
    let half = CANDIDATES_MAX / 2;
    let v4s: Vec<_> = (0..20).map(v4).collect();
    let v6s: Vec<_> = (0..20).map(v6).collect();
    for [many, few] in [[&v4s, &v6s], [&v6s, &v4s]] {
        // How many there are of the other family, and how many of those are tried.
        for (there, tried) in [(0, 0), (1, 1), (half, half), (half + 1, half), (20, half)] {
            let candidates = [&many[..], &few[..there]].concat();
            let expected = [&many[..CANDIDATES_MAX - tried], &few[..tried]].concat();
            assert_eq!(Paths::new(true, &candidates).candidates, expected);
        }
    }
    let twice = [v4(1), v6(1), v4(1), v6(1)];
    assert_eq!(Paths::new(true, &twice).candidates, twice[..2]);
}
