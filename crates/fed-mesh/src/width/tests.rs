//! A path on virtual time over a link whose width, delay and loss are known.

use super::*;
use proptest::prelude::*;

/// A link that carries IP packets of up to `width` bytes, there and back in `delay`.
struct Link {
    width: usize,
    delay: Duration,
    /// Which probes are lost besides, by their number.
    lost: fn(u64) -> bool,
}

struct World {
    path: Width,
    overhead: usize,
    now: Instant,
    link: Link,
    /// Answers under way: when, and to which number.
    flying: Vec<(Instant, u64)>,
    sent: usize,
}

const MAX: usize = crate::MTU_MAX;
const NEVER: fn(u64) -> bool = |_| false;

impl World {
    fn new(width: usize, delay: Duration) -> Self {
        let now = Instant::now();
        let overhead = overhead(true);
        let mut path = Width::new(MAX, overhead, now);
        path.wake(now);
        Self {
            path,
            overhead,
            now,
            link: Link {
                width,
                delay,
                lost: NEVER,
            },
            flying: Vec::new(),
            sent: 0,
        }
    }

    /// Lets `time` pass; returns the sizes that were found on the way.
    fn run(&mut self, time: Duration) -> Vec<usize> {
        let end = self.now + time;
        let mut found = vec![self.path.mtu()];
        loop {
            let answer = self.flying.iter().map(|(at, _)| *at).min();
            let next = self.path.deadline().into_iter().chain(answer).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return found;
            };
            self.now = self.now.max(next);
            self.step();
            if found.last() != Some(&self.path.mtu()) {
                found.push(self.path.mtu());
            }
        }
    }

    fn step(&mut self) {
        let now = self.now;
        let (due, later) = self.flying.drain(..).partition(|(at, _)| *at <= now);
        self.flying = later;
        let due: Vec<_> = due;
        for (_, number) in due {
            self.path.answered(number, now);
        }
        if let Some(probes) = self.path.poll(now) {
            let small = (probes.small, crate::control::LENGTH);
            for (number, bytes) in std::iter::once(small).chain(probes.large) {
                self.sent += 1;
                if bytes + self.overhead <= self.link.width && !(self.link.lost)(number) {
                    self.flying.push((now + self.link.delay, number));
                }
            }
        }
        assert!(self.path.deadline().is_some_and(|due| due > now), "overdue");
    }

    /// Uses the path as a transfer does: with packets as large as fit, all the time.
    fn transfer(&mut self, time: Duration) -> Vec<usize> {
        let end = self.now + time;
        let mut found = vec![self.path.mtu()];
        while self.now < end {
            self.path.sent(self.path.mtu());
            found.extend(self.run(Duration::from_millis(100)));
        }
        found.dedup();
        found
    }
}

const DELAY: Duration = Duration::from_millis(80);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn ethernet_is_found_in_one_round_trip() {
    let mut world = World::new(1500, DELAY);
    assert_eq!(world.run(DELAY), [MTU_MIN, 1440]);
    assert_eq!(world.path.round_trip(), Some(DELAY));
}

#[test]
fn jumbo_frames_are_found_in_three_round_trips() {
    let mut world = World::new(9000, DELAY);
    assert_eq!(world.run(DELAY * 3), [MTU_MIN, 1440, 8836, MAX]);
}

#[test]
fn every_width_is_used_up_to_the_next_link_below_it() {
    for width in 1340..9100 {
        let mut world = World::new(width, Duration::from_millis(1));
        world.run(MINUTE);
        let expected = LINKS.into_iter().filter(|link| *link <= width).max();
        let expected = expected.map_or(MTU_MIN, |link| link - world.overhead);
        assert_eq!(world.path.mtu(), expected, "width {width}");
        // And then there is peace.
        let sent = world.sent;
        world.run(RAISE / 2);
        assert_eq!(world.sent, sent, "width {width}");
    }
}

#[test]
fn a_path_that_is_too_narrow_for_any_packet_is_found_out_and_carries_them_when_it_is_wider() {
    let floor = MTU_MIN + overhead(true);
    for width in [1100, floor - 1, floor] {
        let mut world = World::new(width, DELAY);
        world.run(Duration::from_secs(5));
        assert_eq!(world.path.is_narrow(), width < floor, "width {width}");
        let sent = world.sent;
        world.run(RAISE / 2);
        assert!(width == floor || world.sent == sent, "it is asked again");
        let sent = world.sent;
        world.transfer(MINUTE);
        assert_eq!(world.path.is_narrow(), width < floor, "width {width}");
        let looks = MINUTE.as_secs() / CONFIRM.as_secs();
        let most = usize::try_from(looks).unwrap() * 2 * usize::from(FLOOR_PROBES);
        assert!(world.sent - sent <= most, "width {width}");
        world.link.width = 1500;
        let found = world.transfer(if width < floor { MINUTE } else { RAISE });
        assert_eq!(found, [MTU_MIN, 1440], "width {width}");
        assert!(!world.path.is_narrow(), "width {width}");
    }
}

#[test]
fn a_path_of_any_width_may_become_too_narrow_while_it_is_used() {
    for width in [1340, 1500, 9000] {
        let mut world = World::new(width, DELAY);
        world.run(MINUTE);
        world.link.width = 1320;
        world.transfer(Duration::from_secs(8));
        assert!(world.path.is_narrow(), "width {width}");
        // Another path may well carry them.
        world.path.moved(world.overhead, world.now);
        assert!(!world.path.is_narrow(), "width {width}");
    }
}

#[test]
fn nothing_larger_than_the_router_takes_is_tried() {
    let now = Instant::now();
    let mut world = World::new(9000, DELAY);
    world.path = Width::new(1400, world.overhead, now);
    world.path.wake(now);
    assert_eq!(world.run(MINUTE), [MTU_MIN, 1400]);
    world.path = Width::new(1000, world.overhead, now);
    world.path.wake(world.now);
    assert_eq!(world.run(MINUTE), [1000]);
}

#[test]
fn a_path_that_narrows_is_noticed_while_it_is_used() {
    let mut world = World::new(9000, DELAY);
    world.transfer(MINUTE);
    world.link.width = 1450;
    let found = world.transfer(Duration::from_secs(6));
    assert_eq!(found[..2], [MAX, MTU_MIN], "a black hole is left at once");
    assert_eq!(world.path.mtu(), 1390);
    // Nothing changes any more until a wider path is hoped for.
    assert_eq!(world.transfer(RAISE / 2), [1390]);
    world.link.width = 1500;
    assert_eq!(world.transfer(RAISE), [1390, 1440]);
}

#[test]
fn an_idle_path_is_left_alone_and_looked_after_when_it_is_used_again() {
    let mut world = World::new(1500, DELAY);
    world.run(MINUTE);
    world.link.width = 1400;
    assert_eq!(world.run(RAISE / 2), [1440]);
    assert_eq!(
        world.transfer(Duration::from_secs(6)),
        [1440, MTU_MIN, 1340]
    );
}

#[test]
fn small_packets_are_no_reason_to_try_large_ones() {
    let mut world = World::new(1500, DELAY);
    world.run(MINUTE);
    let sent = world.sent;
    for _ in 0..10 {
        world.path.sent(MTU_MIN - 1);
        world.run(MEASURE + DELAY);
    }
    assert_eq!(world.sent, sent + 10, "the round trip is measured, no more");
}

#[test]
fn a_path_that_is_down_teaches_nothing_about_its_width() {
    let mut world = World::new(9000, DELAY);
    world.transfer(MINUTE);
    world.link.lost = |_| true;
    assert_eq!(world.transfer(MINUTE * 5), [MAX]);
    let sent = world.sent;
    world.transfer(MINUTE * 10);
    assert!(world.sent - sent < 100, "{} probes", world.sent - sent);
    world.link.lost = NEVER;
    assert_eq!(world.transfer(MINUTE), [MAX]);
}

#[test]
fn a_peer_that_knows_no_probes_is_sent_few() {
    let mut world = World::new(9000, DELAY);
    world.link.lost = |_| true;
    assert_eq!(world.transfer(MINUTE * 60), [MTU_MIN]);
    assert!(world.sent < 200, "{} probes", world.sent);
    assert_eq!(world.path.round_trip(), None);
}

#[test]
fn another_way_is_tried_at_once_and_what_fitted_is_kept_meanwhile() {
    let mut world = World::new(9000, DELAY);
    world.run(MINUTE);
    world.overhead = overhead(false);
    world.path.moved(world.overhead, world.now);
    // 20 bytes more no longer fit.
    let found = world.run(MINUTE);
    assert_eq!(found, [MAX, MTU_MIN, 1420, 8816, 8920]);
    world.path.moved(world.overhead, world.now);
    assert_eq!(world.run(MINUTE), [8920]);
}

#[test]
fn without_a_session_nothing_is_due() {
    let mut world = World::new(1500, DELAY);
    world.run(MINUTE);
    world.path.sleep();
    world.path.sent(MTU_MIN);
    assert_eq!(world.path.deadline(), None);
    assert_eq!(world.path.poll(world.now), None);
    world.path.wake(world.now);
    assert_eq!(world.run(MINUTE), [1440]);
}

#[test]
fn answers_to_something_else_change_nothing() {
    let mut world = World::new(1500, DELAY);
    let probes = world.path.poll(world.now).unwrap();
    let (number, _) = probes.large.unwrap();
    for other in [number + 1, number - 2, 0, u64::MAX] {
        world.path.answered(other, world.now);
        assert_eq!(world.path.mtu(), MTU_MIN, "{other}");
    }
    world.path.answered(number, world.now);
    assert_eq!(world.path.mtu(), 1440);
    assert!(Width::owns(number) && !Width::owns(1));
}

proptest! {
    /// A third of all probes lost delays the answer, but for sizes that three losses in a row
    /// have ruled out for a while.
    #[test]
    fn with_loss_nothing_is_used_that_does_not_fit(width in 1340usize..9100, delay in 1u64..300) {
        let mut world = World::new(width, Duration::from_millis(delay));
        world.link.lost = |number| (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xffff) < 0x5555;
        for size in world.transfer(MINUTE * 30) {
            prop_assert!(size + world.overhead <= width.max(MTU_MIN + world.overhead));
        }
        prop_assert!(world.path.round_trip().is_some());
    }
}
