//! Limits: which table counts, what is refused, and with what words.

use super::*;

fn operator(name: &str, fingerprint: &str) -> Operator {
    Operator {
        named_by_site: true,
        ..Operator::new(name, fingerprint, 0)
    }
}

pub(in crate::agent) fn pool(name: &str) -> PoolName {
    name.parse().unwrap()
}

pub(in crate::agent) fn offer(name: &str) -> PoolOffer {
    PoolOffer {
        name: pool(name),
        data_roots: Vec::new(),
        default_workers: 2,
        max_workers: 100,
        threads: 4,
        memory_bytes: 8 << 30,
    }
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
    // A table goes with its operator from key to key.
    let after = Operator {
        first: Some("SHA256:first".to_owned()),
        between: vec!["SHA256:a".to_owned()],
        ..operator("alice", "SHA256:now")
    };
    assert_eq!(policy.of(&after).workers, Some(3));
    // The latest key that has a table counts, wherever that stands in the file.
    let mut policy = policy;
    let rest = ["SHA256:now", "SHA256:first"].map(|key| table(None, Some(key), 1));
    policy.operators.splice(0..0, [rest[1].clone()]);
    assert_eq!(policy.of(&after).workers, Some(3));
    policy.operators.push(rest[0].clone());
    assert_eq!(policy.of(&after).workers, Some(1));
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
