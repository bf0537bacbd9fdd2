//! Limits: which table counts, what is refused, and with what words.

use proptest::prelude::*;

use super::*;

fn operator(name: &str, fingerprint: &str) -> Operator {
    Operator {
        named_by_site: true,
        ..Operator::new(name, fingerprint, 0)
    }
}

fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

fn offer(name: &str) -> PoolOffer {
    PoolOffer {
        name: pool(name),
        data_roots: Vec::new(),
        default_workers: 2,
        max_workers: 100,
        threads: 4,
        memory_bytes: 8 << 30,
    }
}

fn id(number: u8) -> FederationId {
    FederationId::from_random([number; 5])
}

fn ledger(federations: &[(u8, &str)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (number, operator) in federations {
        ledger.open(id(*number), operator, BTreeMap::new());
    }
    ledger
}

/// Reserves, and gives the refusal's sentence.
fn ask(ledger: &mut Ledger, of: u8, workers: u32, limits: &Limits) -> Option<String> {
    let site = "ecmwf".parse().unwrap();
    let allowance = Allowance {
        site: &site,
        operator: "alice@lab",
        limits,
    };
    let asked = ledger.reserve(
        id(of),
        &[(pool("hot"), workers)],
        &[offer("hot")],
        &allowance,
    );
    asked.err().map(|refusal| refusal.message)
}

#[test]
fn a_key_counts_more_than_a_name_and_both_more_than_the_rest() {
    let table = |name: Option<&str>, key: Option<&str>, workers| OperatorTable {
        name: name.map(str::to_owned),
        fingerprint: key.map(str::to_owned),
        limits: Limits {
            workers: Some(workers),
            ..Limits::default()
        },
    };
    let policy = Policy {
        general: Limits {
            workers: Some(1),
            cores: Some(9),
            ..Limits::default()
        },
        operators: vec![
            table(Some("alice"), None, 2),
            table(None, Some("SHA256:a"), 3),
        ],
    };
    let workers = |name, key| policy.of(&operator(name, key)).workers;
    assert_eq!(workers("alice", "SHA256:a"), Some(3));
    assert_eq!(workers("alice", "SHA256:b"), Some(2));
    assert_eq!(workers("bob", "SHA256:b"), Some(1));
    let self_named = Operator::new("alice", "SHA256:b", 0);
    assert_eq!(policy.of(&self_named).workers, Some(1));
    assert_eq!(policy.of(&operator("alice", "SHA256:b")).cores, Some(9));
}

#[test]
fn a_refusal_names_the_limit_the_site_and_the_operator() {
    let mut ledger = ledger(&[(1, "a")]);
    for (limits, words) in [
        (
            Limits {
                workers: Some(3),
                ..Limits::default()
            },
            "3 workers (workers)",
        ),
        (
            Limits {
                cores: Some(15),
                ..Limits::default()
            },
            "15 cores (cores)",
        ),
        (
            Limits {
                memory: Some(ByteSize::gib(31)),
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
        let message = ask(&mut ledger, 1, 4, &limits).unwrap();
        assert!(message.starts_with("ecmwf allows alice@lab "), "{message}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(ask(&mut ledger, 1, 4, &Limits::default()), None);
}

#[test]
fn federations_of_one_operator_count_together_and_others_do_not() {
    let limits = Limits {
        workers: Some(4),
        ..Limits::default()
    };
    let mut ledger = ledger(&[(1, "a"), (2, "a"), (3, "b")]);
    assert_eq!(ask(&mut ledger, 1, 3, &limits), None);
    assert_eq!(ask(&mut ledger, 3, 4, &limits), None);
    assert!(
        ask(&mut ledger, 2, 2, &limits)
            .unwrap()
            .contains("3 would become 5")
    );
    assert_eq!(ask(&mut ledger, 2, 1, &limits), None);
    ledger.ended(id(1), &["hot-1-0".to_owned(), "hot-1-2".to_owned()]);
    assert_eq!(ask(&mut ledger, 2, 3, &limits), None);
    ledger.close(id(1));
    assert_eq!(ask(&mut ledger, 2, 4, &limits), None);
}

#[test]
fn a_limit_that_was_lowered_does_not_keep_anybody_from_using_less() {
    let limits = |workers| Limits {
        workers: Some(workers),
        ..Limits::default()
    };
    let mut ledger = ledger(&[(1, "a")]);
    assert_eq!(ask(&mut ledger, 1, 8, &limits(8)), None);
    assert_eq!(ask(&mut ledger, 1, 6, &limits(2)), None);
    assert!(ask(&mut ledger, 1, 7, &limits(2)).is_some());
}

#[test]
fn what_is_offered_fits_the_limits() {
    let site = "ecmwf".parse().unwrap();
    let limits = Limits {
        cores: Some(6),
        pools: Some(vec![pool("hot")]),
        ..Limits::default()
    };
    let allowance = Allowance {
        site: &site,
        operator: "alice",
        limits: &limits,
    };
    let offers = allowance.offers(&[offer("hot"), offer("cold")]);
    assert_eq!(offers.len(), 1);
    assert_eq!((offers[0].default_workers, offers[0].max_workers), (1, 1));
}

#[test]
fn leases_and_lives_end() {
    let site = "ecmwf".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let limits = Limits {
        lease: Some(hour),
        lifetime: Some(8 * hour),
        ..Limits::default()
    };
    let allowance = Allowance {
        site: &site,
        operator: "alice",
        limits: &limits,
    };
    assert_eq!(allowance.lease(hour), Ok(()));
    let refused = allowance.lease(2 * hour).unwrap_err().message;
    assert!(
        refused.contains("at most 1h (lease), and 2h was asked for"),
        "{refused}"
    );
    assert!(refused.contains("--lease 1h"), "{refused}");
    assert_eq!(allowance.renewal(7 * hour, hour), Ok(()));
    let refused = allowance
        .renewal(7 * hour + Duration::from_secs(1), hour)
        .unwrap_err()
        .message;
    assert!(refused.contains("at most 8h (lifetime)"), "{refused}");
}

proptest! {
    /// Whatever is asked, and in whichever order, nobody gets more than the limit, and what was
    /// refused has changed nothing.
    #[test]
    fn nobody_gets_more_than_the_limit(
        asked in prop::collection::vec((1u8..5, 0u32..10, any::<bool>()), 1..50),
        most in 0u32..20,
    ) {
        let limits = Limits { workers: Some(most), ..Limits::default() };
        let site = "ecmwf".parse().unwrap();
        let allowance = Allowance { site: &site, operator: "x", limits: &limits };
        let mut ledger = ledger(&[(1, "a"), (2, "a"), (3, "b"), (4, "b")]);
        for (of, workers, fails) in asked {
            let before = ledger.0.clone();
            match ledger.reserve(id(of), &[(pool("hot"), workers)], &[offer("hot")], &allowance) {
                Ok(earlier) if fails => {
                    // It may have come about in part.
                    let hot = |pools: &BTreeMap<PoolName, u32>| {
                        pools.get(&pool("hot")).copied().unwrap_or_default()
                    };
                    ledger.failed(id(of), earlier.clone());
                    prop_assert_eq!(hot(&ledger.0[&id(of)].pools), workers.max(hot(&earlier)));
                }
                Ok(_) => {}
                Err(_) => prop_assert_eq!(&ledger.0, &before),
            }
            for operator in ["a", "b"] {
                let used: u32 = ledger.0.values()
                    .filter(|account| account.operator == operator)
                    .flat_map(|account| account.pools.values())
                    .sum();
                prop_assert!(used <= most);
            }
        }
    }
}
