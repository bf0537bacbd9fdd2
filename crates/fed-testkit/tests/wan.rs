//! The WAN emulator's core on virtual time.

use std::time::Duration;

use fed_testkit::wan::{Cut, Delivery, LinkSpec, Switch};
use proptest::prelude::*;

const MBIT: u64 = 1_000_000;

fn mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, port]
}

fn frame(to: [u8; 6], from: [u8; 6], bytes: usize) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.resize(bytes, 0);
    frame
}

/// Lets every port speak once, so that the switch knows them all, and drains what that caused.
fn switch_that_knows_all(ports: u8, spec: &LinkSpec, seed: u64) -> (Switch, Duration) {
    let mut switch = Switch::new(
        ports.into(),
        &LinkSpec::new(Duration::ZERO, 1000 * MBIT),
        seed,
    );
    for port in 0..ports {
        let hello = frame([0xff; 6], mac(port), 60);
        switch.handle_frame(Duration::ZERO, port.into(), hello);
    }
    let now = Duration::from_secs(1);
    while switch.poll_delivery(now).is_some() {}
    for (a, b) in (0..ports.into()).flat_map(|a| (0..ports.into()).map(move |b| (a, b))) {
        switch.set_link(a, b, spec.clone());
    }
    (switch, now)
}

fn drain(switch: &mut Switch) -> Vec<Delivery> {
    let mut all = Vec::new();
    while let Some(due) = switch.poll_timeout() {
        all.extend(switch.poll_delivery(due));
    }
    all
}

#[test]
fn a_frame_takes_its_sending_time_and_the_delay() {
    let spec = LinkSpec::new(Duration::from_millis(20), 100 * MBIT);
    let (mut switch, now) = switch_that_knows_all(2, &spec, 0);
    switch.handle_frame(now, 0, frame(mac(1), mac(0), 1250));
    let due = now + Duration::from_micros(20_100);
    assert_eq!(switch.poll_timeout(), Some(due));
    assert_eq!(switch.poll_delivery(due - Duration::from_nanos(1)), None);
    let delivery = switch.poll_delivery(due).unwrap();
    assert_eq!(
        (delivery.from, delivery.to, delivery.frame.len()),
        (0, 1, 1250)
    );
    assert_eq!(switch.poll_timeout(), None);
}

#[test]
fn frames_queue_behind_one_another_and_pairs_do_not() {
    let spec = LinkSpec::new(Duration::from_millis(5), 10 * MBIT);
    let (mut switch, now) = switch_that_knows_all(3, &spec, 0);
    for to in [1, 1, 2] {
        switch.handle_frame(now, 0, frame(mac(to), mac(0), 1250));
    }
    let due: Vec<_> = drain(&mut switch)
        .into_iter()
        .map(|d| (d.to, d.due - now))
        .collect();
    let ms = Duration::from_millis;
    assert_eq!(due, [(1, ms(6)), (2, ms(6)), (1, ms(7))]);
}

#[test]
fn the_switch_floods_until_it_has_learnt() {
    let mut switch = Switch::new(3, &LinkSpec::default(), 0);
    let receivers = |switch: &mut Switch| drain(switch).iter().map(|d| d.to).collect::<Vec<_>>();
    switch.handle_frame(Duration::ZERO, 0, frame(mac(1), mac(0), 60));
    assert_eq!(receivers(&mut switch), [1, 2], "an unknown address");
    let later = Duration::from_secs(1);
    switch.handle_frame(later, 1, frame(mac(0), mac(1), 60));
    assert_eq!(
        receivers(&mut switch),
        [0],
        "the address was seen at port 0"
    );
    let later = Duration::from_secs(2);
    switch.handle_frame(later, 1, frame([0x33, 0x33, 0, 0, 0, 1], mac(1), 60));
    assert_eq!(receivers(&mut switch), [0, 2], "a group");
    switch.handle_frame(later, 0, vec![0; 13]);
    assert_eq!(receivers(&mut switch), [0; 0], "less than a header");
}

#[test]
fn a_full_queue_drops_at_its_tail() {
    let mut spec = LinkSpec::new(Duration::ZERO, 8 * MBIT);
    spec.queue_bytes = Some(5000);
    let (mut switch, now) = switch_that_knows_all(2, &spec, 0);
    let before = switch.counters(now, 0, 1);
    for _ in 0..8 {
        switch.handle_frame(now, 0, frame(mac(1), mac(0), 1000));
    }
    // Two frames have left the queue after 2 ms: two more fit.
    let later = now + Duration::from_millis(2);
    for _ in 0..3 {
        switch.handle_frame(later, 0, frame(mac(1), mac(0), 1000));
    }
    assert_eq!(drain(&mut switch).len(), 7);
    let counted = switch
        .counters(now + Duration::from_secs(1), 0, 1)
        .since(&before);
    assert_eq!((counted.frames, counted.dropped_queue), (7, 4));
    assert_eq!(counted.busy, Duration::from_millis(7));
}

#[test]
fn counters_grow_as_the_last_bit_leaves() {
    let spec = LinkSpec::new(Duration::from_millis(100), 8 * MBIT);
    let (mut switch, now) = switch_that_knows_all(2, &spec, 0);
    let before = switch.counters(now, 0, 1);
    for _ in 0..4 {
        switch.handle_frame(now, 0, frame(mac(1), mac(0), 1000));
    }
    let counted = switch
        .counters(now + Duration::from_micros(2500), 0, 1)
        .since(&before);
    assert_eq!((counted.bytes, counted.delivered_bytes), (2000, 0));
    let half = Duration::from_millis(8);
    let counted = switch.counters(now + half, 0, 1).since(&before);
    assert_eq!((counted.bytes, counted.utilisation(half)), (4000, 0.5));
    drain(&mut switch);
    assert_eq!(
        switch
            .counters(now + half, 0, 1)
            .since(&before)
            .delivered_bytes,
        4000
    );
}

#[test]
fn loss_is_as_frequent_as_asked_and_repeats_with_the_seed() {
    let spec = LinkSpec::new(Duration::ZERO, 1000 * MBIT).with_loss(0.1);
    let run = |seed| {
        let (mut switch, mut now) = switch_that_knows_all(2, &spec, seed);
        let mut arrived = Vec::new();
        for i in 0..10_000 {
            now += Duration::from_millis(1);
            switch.handle_frame(now, 0, frame(mac(1), mac(0), 100));
            arrived.extend(drain(&mut switch).iter().map(|_| i));
        }
        (arrived, switch.counters(now + Duration::from_secs(1), 0, 1))
    };
    let (arrived, counters) = run(7);
    // Five standard deviations of the binomial distribution, sqrt(10,000 × 0.1 × 0.9) = 30.
    assert!(
        (850..=1150).contains(&counters.dropped_loss),
        "{counters:?}"
    );
    assert_eq!(arrived.len() as u64 + counters.dropped_loss, 10_000);
    assert_eq!(run(7).0, arrived);
    assert_ne!(run(8).0, arrived);
}

#[test]
fn a_cut_is_of_one_direction_and_loses_what_is_under_way() {
    let spec = LinkSpec::new(Duration::from_millis(10), 1000 * MBIT);
    let (mut switch, now) = switch_that_knows_all(2, &spec, 0);
    let send = |switch: &mut Switch, from: u8| {
        switch.handle_frame(now, from.into(), frame(mac(1 - from), mac(from), 100));
    };
    send(&mut switch, 0);
    switch.set_cut(0, 1, Cut::Everything);
    send(&mut switch, 0);
    send(&mut switch, 1);
    let arrived: Vec<_> = drain(&mut switch).iter().map(|d| d.to).collect();
    assert_eq!(arrived, [0], "the other direction still works");
    assert_eq!(switch.counters(now, 0, 1).dropped_cut, 2);
    switch.set_cut(0, 1, Cut::Nothing);
    send(&mut switch, 0);
    assert_eq!(drain(&mut switch).len(), 1);
}

#[test]
fn a_frame_above_the_mtu_vanishes() {
    let spec = LinkSpec {
        mtu: Some(1400),
        ..LinkSpec::default()
    };
    let (mut switch, now) = switch_that_knows_all(2, &spec, 0);
    for payload in [1400, 1401] {
        switch.handle_frame(now, 0, frame(mac(1), mac(0), 14 + payload));
    }
    assert_eq!(drain(&mut switch).len(), 1);
    assert_eq!(switch.counters(now, 0, 1).dropped_mtu, 1);
}

#[test]
fn without_a_rate_nothing_queues() {
    let spec = LinkSpec {
        rate_bit_per_s: None,
        ..LinkSpec::default()
    };
    let (mut switch, now) = switch_that_knows_all(2, &spec, 0);
    for _ in 0..1000 {
        switch.handle_frame(now, 0, frame(mac(1), mac(0), 1514));
    }
    let due: Vec<_> = drain(&mut switch)
        .into_iter()
        .map(|d| d.due - now)
        .collect();
    assert_eq!(due, vec![spec.delay; 1000]);
}

#[test]
fn the_default_queue_holds_a_window_of_the_default_link() {
    let spec = LinkSpec::default();
    let round_trip_bytes = 100 * MBIT / 8 * 40 / 1000;
    assert!(spec.queue_limit() >= round_trip_bytes);
    assert_eq!(LinkSpec::new(Duration::ZERO, MBIT).queue_limit(), 64 * 1514);
}

#[test]
fn impossible_links_are_refused() {
    assert_eq!(LinkSpec::default().validate(), Ok(()));
    for loss in [-0.1, 1.1, f64::NAN] {
        assert!(
            LinkSpec::default()
                .with_loss(loss)
                .validate()
                .unwrap_err()
                .contains("loss")
        );
    }
    let still = LinkSpec::new(Duration::ZERO, 0);
    assert!(still.validate().unwrap_err().contains("cut"));
}

#[test]
fn jitter_reorders_only_where_asked() {
    let overtakes = |reorder| {
        let jitter = Duration::from_millis(5);
        let spec = LinkSpec {
            jitter,
            reorder,
            ..LinkSpec::default()
        };
        let (mut switch, now) = switch_that_knows_all(2, &spec, 3);
        for bytes in 100..200 {
            switch.handle_frame(now, 0, frame(mac(1), mac(0), bytes));
        }
        let sizes: Vec<_> = drain(&mut switch).iter().map(|d| d.frame.len()).collect();
        assert_eq!(sizes.len(), 100);
        !sizes.is_sorted()
    };
    assert!(overtakes(true));
    assert!(!overtakes(false));
}

#[test]
fn frames_come_twice_where_asked() {
    let spec = LinkSpec {
        repeat: 0.5,
        ..LinkSpec::default()
    };
    let (mut switch, now) = switch_that_knows_all(2, &spec, 3);
    let before = switch.counters(now, 0, 1);
    for bytes in 100..200 {
        switch.handle_frame(now, 0, frame(mac(1), mac(0), bytes));
    }
    let arrived = drain(&mut switch).len();
    let end = now + Duration::from_secs(60);
    let counted = switch.counters(end, 0, 1).since(&before);
    assert!((130..170).contains(&arrived), "{arrived}");
    assert_eq!(counted.frames, 100);
    assert_eq!(counted.repeated, arrived as u64 - 100);
    assert_eq!(counted.delivered_frames, arrived as u64);
}

prop_compose! {
    fn any_link()(
        delay in 0u64..50_000,
        rate in prop::option::of(1u64..1000),
        loss in prop::sample::select(vec![0.0, 0.01, 0.3]),
        queue in prop::option::of(1u64..100_000),
        jitter in 0u64..5_000,
    ) -> LinkSpec {
        LinkSpec {
            delay: Duration::from_micros(delay),
            rate_bit_per_s: rate.map(|mbit| mbit * MBIT),
            loss,
            queue_bytes: queue,
            jitter: Duration::from_micros(jitter),
            reorder: false,
            repeat: 0.0,
            mtu: None,
        }
    }
}

proptest! {
    #[test]
    fn order_rate_and_numbers_hold(
        spec in any_link(),
        sent in prop::collection::vec((0u64..3000, 60usize..1515), 1..200),
        seed in any::<u64>(),
    ) {
        let (mut switch, start) = switch_that_knows_all(2, &spec, seed);
        let before = switch.counters(start, 0, 1);
        let mut now = start;
        let mut arrived = Vec::new();
        for (number, (gap, bytes)) in sent.iter().enumerate() {
            now += Duration::from_micros(*gap);
            while let Some(delivery) = switch.poll_delivery(now) {
                arrived.push(delivery);
            }
            let mut numbered = frame(mac(1), mac(0), *bytes);
            numbered[20..28].copy_from_slice(&number.to_be_bytes());
            switch.handle_frame(now, 0, numbered);
        }
        arrived.extend(drain(&mut switch));
        let end = arrived.last().map_or(now, |d| d.due).max(now) + Duration::from_secs(60);
        let counted = switch.counters(end, 0, 1).since(&before);

        let numbers: Vec<_> = arrived.iter().map(|d| d.frame[20..28].to_vec()).collect();
        prop_assert!(numbers.is_sorted(), "order is kept");
        prop_assert!(arrived.is_sorted_by_key(|d| d.due));

        prop_assert_eq!(counted.frames, counted.delivered_frames + counted.dropped_loss);
        prop_assert_eq!(counted.frames + counted.dropped_queue, sent.len() as u64);
        prop_assert_eq!(counted.delivered_frames, arrived.len() as u64);
        let bytes: usize = arrived.iter().map(|d| d.frame.len()).sum();
        prop_assert_eq!(counted.delivered_bytes, bytes as u64);

        if let Some(rate) = spec.rate_bit_per_s {
            let exact = counted.bytes as f64 * 8.0 / rate as f64;
            prop_assert!((counted.busy.as_secs_f64() - exact).abs() < 1e-6, "busy is bytes by rate");
            if let (Some(last), true) = (arrived.last(), spec.jitter.is_zero()) {
                let sending = last.due - start - spec.delay;
                prop_assert!(sending.as_secs_f64() + 1e-6 >= bytes as f64 * 8.0 / rate as f64);
            }
        }
    }
}
