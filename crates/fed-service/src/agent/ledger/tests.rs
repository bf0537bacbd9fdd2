//! Who may have how much: by hand, and in random order against a model that only counts processes.

mod model;

use fed_core::SiteName;
use proptest::prelude::*;

use self::model::{Fate, Step, World, step};
use super::*;
use crate::agent::policy::Limits;
use crate::agent::policy::tests::{offer, pool};

fn id(number: u8) -> FederationId {
    FederationId::from_random([number; 5])
}

fn workers(most: u32) -> Limits {
    Limits {
        workers: Some(most),
        ..Limits::default()
    }
}

fn load(staying: u32, ending: u32) -> Load {
    Load::from([(pool("hot"), headcount(staying, ending))])
}

fn headcount(staying: u32, ending: u32) -> Headcount {
    Headcount {
        staying,
        ending,
        doubtful: 0,
    }
}

fn ledger(federations: &[(u8, &str)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (number, operator) in federations {
        ledger.open(id(*number), operator, vec![offer("hot")], Load::new());
    }
    ledger
}

fn ask(
    ledger: &mut Ledger,
    of: u8,
    pool: PoolName,
    workers: u32,
    limits: &Limits,
) -> Result<Ticket, String> {
    let site: SiteName = "ecmwf".parse().unwrap();
    let allowance = Allowance {
        site: &site,
        operator: "alice@lab",
        limits,
    };
    let asked = ledger.reserve(id(of), &[(pool, workers)], &allowance);
    asked
        .map(|ticket| ticket.expect("its account is open"))
        .map_err(|refusal| refusal.message)
}

/// Reserves, and has it come about.
fn have(ledger: &mut Ledger, of: u8, workers: u32, limits: &Limits) -> Result<(), String> {
    let ticket = ask(ledger, of, pool("hot"), workers, limits)?;
    ledger.report(id(of), load(workers, 0));
    ledger.release(id(of), ticket);
    Ok(())
}

#[test]
fn a_refusal_names_the_limit_the_site_and_the_operator() {
    let mut ledger = ledger(&[(1, "a")]);
    for (limits, words) in [
        (workers(3), "3 workers (workers)"),
        (
            Limits {
                cores: Some(15),
                ..Limits::default()
            },
            "15 cores (cores)",
        ),
        (
            Limits {
                memory: Some(bytesize::ByteSize::gib(31)),
                ..Limits::default()
            },
            "of memory (memory)",
        ),
        (
            Limits {
                pools: Some(vec![pool("cold")]),
                ..Limits::default()
            },
            "the pools cold (pools), and not hot",
        ),
    ] {
        let message = have(&mut ledger, 1, 4, &limits).unwrap_err();
        assert!(message.starts_with("ecmwf allows alice@lab "), "{message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(have(&mut ledger, 1, 4, &Limits::default()), Ok(()));
    let message = ask(&mut ledger, 1, pool("cold"), 1, &Limits::default()).unwrap_err();
    assert_eq!(message, "ecmwf has no pool cold");
}

#[test]
fn federations_of_one_operator_count_together_and_others_do_not() {
    let limits = workers(4);
    let mut ledger = ledger(&[(1, "a"), (2, "a"), (3, "b")]);
    assert_eq!(have(&mut ledger, 1, 3, &limits), Ok(()));
    assert_eq!(have(&mut ledger, 3, 4, &limits), Ok(()));
    let refused = have(&mut ledger, 2, 2, &limits).unwrap_err();
    assert!(refused.contains("3 would become 5"), "{refused}");
    assert_eq!(have(&mut ledger, 2, 1, &limits), Ok(()));
    ledger.close(id(1));
    assert_eq!(have(&mut ledger, 2, 4, &limits), Ok(()));
}

#[test]
fn a_worker_counts_until_it_has_ended() {
    let limits = workers(4);
    let mut ledger = ledger(&[(1, "a"), (2, "a")]);
    assert_eq!(have(&mut ledger, 1, 4, &limits), Ok(()));
    ledger.report(id(1), load(3, 1));
    assert!(have(&mut ledger, 2, 1, &limits).is_err());
    ledger.report(id(1), load(3, 0));
    assert_eq!(have(&mut ledger, 2, 1, &limits), Ok(()));
}

#[test]
fn what_is_reserved_nobody_else_gets_and_what_is_given_back_they_do() {
    let limits = workers(4);
    let mut ledger = ledger(&[(1, "a"), (2, "a")]);
    let hot = || pool("hot");
    let four = ask(&mut ledger, 1, hot(), 4, &limits).unwrap();
    // Two calls for one pool: whichever comes last, there are no more than the greater says.
    let two = ask(&mut ledger, 1, hot(), 2, &limits).unwrap();
    assert!(ask(&mut ledger, 2, hot(), 1, &limits).is_err());
    ledger.release(id(1), four);
    assert!(ask(&mut ledger, 2, hot(), 3, &limits).is_err());
    let other = ask(&mut ledger, 2, hot(), 2, &limits).unwrap();
    ledger.release(id(1), two);
    ledger.release(id(2), other);
    assert_eq!(ledger.usage("a", None), Usage::default());
}

#[test]
fn what_waits_behind_an_end_is_refused_until_the_workers_have_ended() {
    let limits = workers(4);
    let mut ledger = ledger(&[(1, "a"), (2, "a")]);
    assert_eq!(have(&mut ledger, 1, 4, &limits), Ok(()));
    let none = ask(&mut ledger, 1, pool("hot"), 0, &limits).unwrap();
    let four = ask(&mut ledger, 1, pool("hot"), 4, &limits).unwrap();
    assert_eq!(ledger.check(id(1), none), Ok(()));
    ledger.report(id(1), load(0, 4));
    ledger.release(id(1), none);
    let refusal = ledger.check(id(1), four).unwrap_err();
    assert_eq!(refusal.reason, Reason::Exhausted);
    assert_eq!(
        refusal.message,
        "workers of hot that were told to end have not yet; ask again in a moment"
    );
    // That as many are counted already gives nobody as many.
    let refused = ask(&mut ledger, 1, pool("hot"), 4, &limits).unwrap_err();
    assert!(refused.contains("4 would become 8"), "{refused}");
    // Nor is there room for others, neither before nor after they have ended.
    assert!(ask(&mut ledger, 2, pool("hot"), 1, &limits).is_err());
    ledger.report(id(1), load(0, 0));
    assert_eq!(ledger.check(id(1), four), Ok(()));
    assert!(ask(&mut ledger, 2, pool("hot"), 1, &limits).is_err());
    ledger.release(id(1), four);
    ask(&mut ledger, 2, pool("hot"), 4, &limits).unwrap();
}

#[test]
fn room_that_others_have_got_is_granted_no_more() {
    let limits = workers(8);
    let mut ledger = ledger(&[(1, "a"), (2, "a")]);
    ledger.report(id(1), load(4, 4));
    let none = ask(&mut ledger, 1, pool("hot"), 0, &limits).unwrap();
    let four = ask(&mut ledger, 1, pool("hot"), 4, &limits).unwrap();
    // Four were ending when eight were granted; they have ended, and another has their place.
    ledger.report(id(1), load(4, 0));
    assert_eq!(have(&mut ledger, 2, 4, &limits), Ok(()));
    ledger.report(id(1), load(0, 4));
    ledger.release(id(1), none);
    assert!(ledger.check(id(1), four).is_err());
    ledger.report(id(1), load(0, 1));
    assert!(ledger.check(id(1), four).is_err());
    ledger.report(id(1), load(0, 0));
    assert_eq!(ledger.check(id(1), four), Ok(()));
}

#[test]
fn calls_may_be_taken_up_in_another_order_and_less_is_always_allowed() {
    let limits = workers(8);
    let mut ledger = ledger(&[(1, "a")]);
    let both = vec![offer("hot"), offer("cold")];
    ledger.open(id(1), "a", both, Load::new());
    let hot = ask(&mut ledger, 1, pool("hot"), 4, &limits).unwrap();
    let cold = ask(&mut ledger, 1, pool("cold"), 4, &limits).unwrap();
    assert_eq!(ledger.check(id(1), cold), Ok(()));
    ledger.report(id(1), Load::from([(pool("cold"), headcount(4, 0))]));
    ledger.release(id(1), cold);
    assert_eq!(ledger.check(id(1), hot), Ok(()));
    // One that seemed not to start is ending, beside those that were granted.
    let fewer = ask(&mut ledger, 1, pool("cold"), 3, &limits).unwrap();
    let (hot_now, cold_now) = (headcount(4, 1), headcount(4, 0));
    let now = Load::from([(pool("hot"), hot_now), (pool("cold"), cold_now)]);
    ledger.report(id(1), now);
    ledger.release(id(1), hot);
    assert_eq!(ledger.check(id(1), fewer), Ok(()));
}

#[test]
fn federations_are_counted_until_they_have_ended() {
    let site: SiteName = "ecmwf".parse().unwrap();
    let mut ledger = ledger(&[]);
    let admit = |ledger: &mut Ledger, number, operator, federations| {
        let limits = Limits {
            federations,
            ..Limits::default()
        };
        let allowance = Allowance {
            site: &site,
            operator: "alice@lab",
            limits: &limits,
        };
        let admitted = ledger.admit(id(number), operator, vec![offer("hot")], &allowance);
        admitted.map_err(|refusal| (refusal.reason, refusal.message))
    };
    assert_eq!(admit(&mut ledger, 1, "a", Some(2)), Ok(()));
    // One that another agent began counts too.
    ledger.open(id(2), "a", vec![offer("hot")], load(1, 0));
    let (reason, message) = admit(&mut ledger, 3, "a", Some(2)).unwrap_err();
    assert_eq!(reason, Reason::Exhausted);
    let told = "ecmwf allows alice@lab 2 federations (federations) at a time, and 2 run";
    assert!(message.starts_with(told), "{message}");
    assert_eq!(admit(&mut ledger, 3, "b", Some(2)), Ok(()));
    ledger.close(id(1));
    assert_eq!(admit(&mut ledger, 4, "a", Some(2)), Ok(()));
    // Without a number there is one all the same.
    for number in 5..19 {
        assert_eq!(admit(&mut ledger, number, "a", None), Ok(()));
    }
    assert!(admit(&mut ledger, 19, "a", None).is_err());
    assert!(admit(&mut ledger, 20, "c", Some(0)).is_err());
}

#[test]
fn a_limit_that_was_lowered_does_not_keep_anybody_from_using_less() {
    let mut ledger = ledger(&[(1, "a")]);
    assert_eq!(have(&mut ledger, 1, 8, &workers(8)), Ok(()));
    assert_eq!(have(&mut ledger, 1, 6, &workers(2)), Ok(()));
    assert!(have(&mut ledger, 1, 7, &workers(2)).is_err());
}

#[test]
fn a_federation_pays_what_its_own_workers_take() {
    let mut ledger = ledger(&[(1, "a")]);
    // The pool has changed since the first federation began.
    let later = PoolOffer {
        threads: 1,
        ..offer("hot")
    };
    ledger.open(id(2), "a", vec![later], Load::new());
    let limits = Limits {
        cores: Some(9),
        ..Limits::default()
    };
    assert_eq!(have(&mut ledger, 1, 2, &limits), Ok(()));
    assert_eq!(have(&mut ledger, 2, 1, &limits), Ok(()));
    let refused = have(&mut ledger, 2, 2, &limits).unwrap_err();
    assert!(refused.contains("9 would become 10"), "{refused}");
}

#[test]
fn a_start_that_was_not_answered_takes_the_place_of_one_that_crashed() {
    let mut world = World::new(4);
    for step in [
        Step::Ask(0, 0, 4),
        Step::Turn(0, Fate::Obeys),
        Step::Crash(0, 0),
        Step::Ask(0, 0, 4),
        Step::Turn(0, Fate::IsSilent(0)),
        Step::Replace(0, 0),
        Step::Ask(0, 0, 4),
        Step::Turn(0, Fate::Obeys),
        Step::Settle,
        Step::Replace(0, 0),
    ] {
        world.take(step);
        world.check().unwrap();
    }
    assert_eq!(world.running(0), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Calls of all kinds cross one another, fail and are given up, workers retire and crash, and
    /// the agent is restarted: never do more workers run than an operator may have, and whenever
    /// no call is under way, the ledger says what the model says, and so does each refusal.
    #[test]
    fn the_ledger_is_right_in_whichever_order_things_happen(
        most in 0u32..12,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(most);
        for step in steps {
            world.take(step);
            world.check()?;
        }
        world.take(Step::Settle);
        world.check()?;
    }
}
