//! Invitations, removal and rotation of keys, on real files.

use super::*;

const HOUR: u64 = 3600;

fn roster() -> (tempfile::TempDir, Roster) {
    let folder = tempfile::tempdir().unwrap();
    let roster = Roster::open(&folder.path().join("state")).unwrap();
    (folder, roster)
}

fn key(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 32])
}

fn enrolled(roster: &Roster, invitation: u8, operator: u8, name: &str) -> Operator {
    roster
        .invite(&key(invitation), unix_seconds() + HOUR, None)
        .unwrap();
    roster
        .enrol(&key(invitation), &key(operator), name)
        .unwrap()
}

#[test]
fn an_invitation_works_once_and_not_after_its_time() {
    let (_folder, roster) = roster();
    let [invited, late, operator, stranger] = [1, 2, 3, 4].map(key);
    roster.invite(&invited, unix_seconds() + 60, None).unwrap();
    roster.invite(&late, unix_seconds() - 1, None).unwrap();
    assert_eq!(roster.role(&invited), Role::Invited);
    assert!(!roster.admit(&late) && !roster.admit(&stranger));
    assert!(matches!(
        roster.enrol(&late, &operator, "x"),
        Err(RosterError::Spent)
    ));
    roster.enrol(&invited, &operator, "alice").unwrap();
    assert!(matches!(
        roster.enrol(&invited, &operator, "x"),
        Err(RosterError::Spent)
    ));
    assert!(!roster.admit(&invited) && roster.admit(&operator));
    assert_eq!(roster.operators().unwrap()[0].name, "alice");
    assert_eq!(roster.past(&invited), "used invitation");
    assert_eq!(roster.past(&late), "expired invitation");
    assert_eq!(roster.past(&stranger), "stranger");
}

#[test]
fn what_has_expired_is_swept() {
    let (folder, roster) = roster();
    roster.invite(&key(1), unix_seconds() + HOUR, None).unwrap();
    roster.invite(&key(2), unix_seconds() - 1, None).unwrap();
    let alice = enrolled(&roster, 3, 4, "alice");
    roster.rotate(&alice, &key(5), unix_seconds() - 1).unwrap();
    assert_eq!(roster.sweep().unwrap(), 2);
    assert_eq!(roster.sweep().unwrap(), 0);
    let count = |name| {
        state::entries(&folder.path().join("state").join(name))
            .unwrap()
            .len()
    };
    assert_eq!((count("invitations"), count("operators")), (1, 1));
    assert_eq!(roster.past(&key(2)), "expired invitation");
    assert_eq!(roster.past(&key(4)), "old key of operator alice");
}

#[test]
fn the_site_may_choose_the_name() {
    let (_folder, roster) = roster();
    roster
        .invite(&key(1), unix_seconds() + HOUR, Some("alice@lab"))
        .unwrap();
    let alice = roster.enrol(&key(1), &key(2), "root").unwrap();
    assert_eq!(
        (alice.name.as_str(), alice.named_by_site),
        ("alice@lab", true)
    );
    // Another invitation does not rename her, whoever chooses the name.
    let again = enrolled(&roster, 3, 2, "mallory");
    assert_eq!(again, alice);
    roster
        .invite(&key(6), unix_seconds() + HOUR, Some("mallory@lab"))
        .unwrap();
    let renamed = roster.enrol(&key(6), &key(2), "x").unwrap_err();
    assert!(
        matches!(&renamed, RosterError::OtherName { enrolled, invited }
            if enrolled == "alice@lab" && invited == "mallory@lab"),
        "{renamed}"
    );
    // It is not spent, and good for somebody else.
    assert_eq!(roster.operators().unwrap(), [alice]);
    assert_eq!(
        roster.enrol(&key(6), &key(7), "x").unwrap().name,
        "mallory@lab"
    );
    let bob = enrolled(&roster, 4, 5, "bob");
    assert!(!bob.named_by_site);
}

#[test]
fn a_removed_operator_is_refused_with_every_key() {
    let (_folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    roster
        .rotate(&alice, &key(3), unix_seconds() + HOUR)
        .unwrap();
    enrolled(&roster, 4, 5, "bob");
    assert!(roster.knows(alice.id()).unwrap());
    let keys = roster.remove("alice").unwrap();
    assert_eq!(keys.len(), 2);
    assert!(keys.iter().all(|key| key.id() == alice.id()));
    assert!(!roster.admit(&key(2)) && !roster.admit(&key(3)) && roster.admit(&key(5)));
    assert!(!roster.knows(alice.id()).unwrap());
    assert_eq!(roster.past(&key(3)), "removed operator alice");
    let unknown = roster.remove("bobb").unwrap_err().to_string();
    assert!(unknown.contains("did you mean bob?"), "{unknown}");
}

#[test]
fn a_removal_needs_nothing_to_be_written() {
    let (folder, roster) = roster();
    enrolled(&roster, 1, 2, "alice");
    enrolled(&roster, 3, 4, "bob");
    // A write that was cut off.
    let operators = folder.path().join("state/operators");
    std::fs::write(operators.join("00.json.new-1"), "").unwrap();
    // Nothing can be remembered where there is no folder.
    std::fs::remove_dir_all(folder.path().join("state/past-keys")).unwrap();
    assert_eq!(roster.remove("alice").unwrap().len(), 1);
    assert!(!roster.admit(&key(2)) && roster.admit(&key(4)));
    assert_eq!(roster.past(&key(2)), "stranger");
}

#[test]
fn of_two_with_one_name_the_key_tells() {
    let (_folder, roster) = roster();
    enrolled(&roster, 1, 2, "alice");
    let second = enrolled(&roster, 3, 4, "alice");
    let error = roster.remove("alice").unwrap_err();
    assert!(
        matches!(&error, RosterError::Ambiguous { fingerprints, .. } if fingerprints.len() == 2)
    );
    assert_eq!(roster.remove(&second.fingerprint).unwrap().len(), 1);
    assert!(roster.admit(&key(2)) && !roster.admit(&key(4)));
}

#[test]
fn both_keys_count_while_one_replaces_the_other() {
    let (_folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    roster
        .rotate(&alice, &key(3), unix_seconds() + HOUR)
        .unwrap();
    for both in [2, 3].map(key) {
        let Role::Operator(operator) = roster.role(&both) else {
            panic!("{both} is refused");
        };
        assert_eq!(operator.id(), alice.id());
    }
    // Again, from the old key: nothing is lost, and its time is not extended.
    let Role::Operator(old) = roster.role(&key(2)) else {
        panic!("refused");
    };
    roster
        .rotate(&old, &key(3), unix_seconds() + 9 * HOUR)
        .unwrap();
    let Role::Operator(again) = roster.role(&key(2)) else {
        panic!("refused");
    };
    assert_eq!(again.until, old.until);
    assert!(!roster.admit(&key(1)));
    // The new key ends the old one, and says so with itself.
    let Role::Operator(new) = roster.role(&key(3)) else {
        panic!("refused");
    };
    roster.rotate(&new, &key(3), unix_seconds()).unwrap();
    assert!(!roster.admit(&key(2)) && roster.admit(&key(3)));
    assert!(roster.knows(alice.id()).unwrap());
}

#[test]
fn a_key_that_was_replaced_is_not_enrolled_again() {
    let (_folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    roster
        .rotate(&alice, &key(3), unix_seconds() + HOUR)
        .unwrap();
    let invite = || {
        let expires = unix_seconds() + HOUR;
        roster.invite(&key(4), expires, None).unwrap();
    };
    invite();
    let old_key = || roster.enrol(&key(4), &key(2), "alice");
    assert!(matches!(old_key(), Err(RosterError::Replaced { operator }) if operator == "alice"));
    // Nor when nothing but her id tells whose it was.
    let Role::Operator(new) = roster.role(&key(3)) else {
        panic!("refused");
    };
    roster.rotate(&new, &key(3), unix_seconds()).unwrap();
    assert_eq!(roster.sweep().unwrap(), 1);
    assert!(matches!(old_key(), Err(RosterError::Replaced { operator }) if operator == "alice"));
    // The new one may be enrolled as before, and whoever was removed with the old one too.
    assert_eq!(
        roster.enrol(&key(4), &key(3), "x").unwrap().id(),
        alice.id()
    );
    roster.remove("alice").unwrap();
    invite();
    old_key().unwrap();
}

#[test]
fn a_key_is_not_taken_from_another_operator() {
    let (_folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    let bob = enrolled(&roster, 3, 4, "bob");
    let taken = roster.rotate(&bob, &key(2), unix_seconds() + HOUR);
    assert!(matches!(taken, Err(RosterError::Taken)), "{taken:?}");
    assert_eq!(roster.role(&key(2)), Role::Operator(alice.clone()));
    assert_eq!(roster.role(&key(4)), Role::Operator(bob.clone()));
    // Nor the one that she was enrolled with, when another has replaced it.
    roster.rotate(&alice, &key(5), unix_seconds()).unwrap();
    assert_eq!(roster.sweep().unwrap(), 1);
    let taken = roster.rotate(&bob, &key(2), unix_seconds() + HOUR);
    assert!(matches!(taken, Err(RosterError::Taken)), "{taken:?}");
}

#[test]
fn a_removal_meanwhile_leaves_no_key() {
    let (_folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    // Her role was read, and she is removed before her new key is written.
    roster.remove("alice").unwrap();
    let late = roster.rotate(&alice, &key(3), unix_seconds() + HOUR);
    assert!(
        matches!(&late, Err(RosterError::Removed { operator }) if operator == "alice"),
        "{late:?}"
    );
    assert!(roster.operators().unwrap().is_empty() && !roster.admit(&key(3)));
    // Nor does another who was enrolled with that key meanwhile lose it to her.
    let first = enrolled(&roster, 4, 5, "bob");
    roster.rotate(&first, &key(6), unix_seconds()).unwrap();
    let Role::Operator(second) = roster.role(&key(6)) else {
        panic!("refused");
    };
    roster.remove("bob").unwrap();
    enrolled(&roster, 7, 6, "carol");
    let late = roster.rotate(&second, &key(8), unix_seconds() + HOUR);
    assert!(matches!(late, Err(RosterError::Removed { .. })), "{late:?}");
    assert!(!roster.admit(&key(8)));
}

#[test]
fn whoever_changes_keys_waits_for_the_others() {
    let (folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    roster.invite(&key(4), unix_seconds() + HOUR, None).unwrap();
    let path = folder.path().join("state/roster.lock");
    std::thread::scope(|scope| {
        let held = Lock::take(&path).unwrap();
        let rotated = scope.spawn(|| roster.rotate(&alice, &key(3), unix_seconds() + HOUR));
        let enrolled = scope.spawn(|| roster.enrol(&key(4), &key(5), "bob"));
        // What a removal does while it holds the lock.
        state::remove(&file(&roster.operators, &key(2))).unwrap();
        state::remove(&file(&roster.invitations, &key(4))).unwrap();
        drop(held);
        let rotated = rotated.join().unwrap();
        assert!(matches!(rotated, Err(RosterError::Removed { .. })));
        assert!(matches!(enrolled.join().unwrap(), Err(RosterError::Spent)));
    });
    assert!(roster.operators().unwrap().is_empty() && !path.exists());
}

#[test]
fn a_key_that_was_replaced_gets_no_other() {
    let (_folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    let until = unix_seconds() + HOUR;
    roster.rotate(&alice, &key(3), until).unwrap();
    // With what was read before it was replaced, and after.
    let Role::Operator(old) = roster.role(&key(2)) else {
        panic!("refused");
    };
    for role in [&alice, &old] {
        // Neither another key nor its own again.
        for other in [4, 2].map(key) {
            let rotated = roster.rotate(role, &other, until);
            assert!(
                matches!(&rotated, Err(RosterError::Replaced { operator }) if operator == "alice"),
                "{rotated:?}"
            );
        }
        assert!(!roster.admit(&key(4)));
        assert_eq!(roster.role(&key(2)), Role::Operator(old.clone()));
        // Told again what it was told already, as after an answer that was lost.
        roster.rotate(role, &key(3), until).unwrap();
    }
    let Role::Operator(new) = roster.role(&key(3)) else {
        panic!("refused");
    };
    assert_eq!(new.until, None);
}

#[test]
fn an_operator_goes_by_every_key_that_was_theirs() {
    let (_folder, roster) = roster();
    let mut now = enrolled(&roster, 1, 2, "alice");
    for next in [3, 4, 5] {
        roster
            .rotate(&now, &key(next), unix_seconds() + HOUR)
            .unwrap();
        let Role::Operator(operator) = roster.role(&key(next)) else {
            panic!("refused");
        };
        now = operator;
    }
    for own in [2, 3, 4, 5] {
        assert!(now.goes_by(&key(own).to_string()), "{own}");
    }
    assert!(!now.goes_by(&key(1).to_string()));
    // Asked again by a key that was replaced before the last change, it forgets none.
    let Role::Operator(old) = roster.role(&key(3)) else {
        panic!("refused");
    };
    roster.rotate(&old, &key(5), unix_seconds()).unwrap();
    let Role::Operator(now) = roster.role(&key(5)) else {
        panic!("refused");
    };
    assert!(
        [2, 3, 4, 5]
            .iter()
            .all(|own| now.goes_by(&key(*own).to_string()))
    );
    // Nobody else may come by one, even after it counts no more.
    let bob = enrolled(&roster, 6, 7, "bob");
    let taken = roster.rotate(&bob, &key(4), unix_seconds());
    assert!(matches!(taken, Err(RosterError::Taken)), "{taken:?}");
}

#[test]
fn no_key_is_forgotten() {
    let own = |number: usize| format!("SHA256:{number}");
    let mut alice = Operator {
        first: Some(own(0)),
        between: (1..BETWEEN_MAX).map(own).collect(),
        ..Operator::new("alice", &own(BETWEEN_MAX), 0)
    };
    alice.between = alice.before("SHA256:next").unwrap();
    alice.fingerprint = "SHA256:next".to_owned();
    assert!((0..=BETWEEN_MAX).all(|number| alice.goes_by(&own(number))));
    let refused = alice.before("SHA256:another");
    assert!(matches!(refused, Err(RosterError::TooMany { operator }) if operator == "alice"));
    // Saying again what counts already is no change.
    assert_eq!(alice.before("SHA256:next").unwrap(), alice.between);
}

#[test]
fn keys_come_by_their_latest_use() {
    let (_folder, roster) = roster();
    let mut now = enrolled(&roster, 1, 2, "alice");
    let mut order = |next, expected: &[u8]| {
        roster
            .rotate(&now, &key(next), unix_seconds() + HOUR)
            .unwrap();
        now = roster.present(&now).unwrap();
        assert_eq!(now.fingerprint, key(next).to_string());
        let mut keys: Vec<&str> = Vec::new();
        for key in now.keys() {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let expected: Vec<String> = expected.iter().map(|own| key(*own).to_string()).collect();
        assert_eq!(keys, expected);
        assert_eq!(now.id(), key(2).to_string());
    };
    order(3, &[3, 2]);
    // Back to the first, and on from there: the second is the oldest then.
    order(2, &[2, 3]);
    order(4, &[4, 2, 3]);
    order(3, &[3, 4, 2]);
    order(5, &[5, 3, 4, 2]);
    order(5, &[5, 3, 4, 2]);
}

#[test]
fn an_old_key_goes_by_what_is_written_of_the_present_one() {
    let (folder, roster) = roster();
    let alice = enrolled(&roster, 1, 2, "alice");
    let bob = enrolled(&roster, 4, 5, "bob");
    roster
        .rotate(&alice, &key(3), unix_seconds() + HOUR)
        .unwrap();
    let Role::Operator(old) = roster.role(&key(2)) else {
        panic!("refused");
    };
    let present = roster.present(&old).unwrap();
    assert_eq!(present.fingerprint, key(3).to_string());
    let known = roster.operators().unwrap();
    assert_eq!(super::present(&known, alice.id()), Some(&present));
    // A change that was cut off before the old key was told: both count, and the new one more.
    state::write_json(&file(&roster.operators, &key(2)), &alice).unwrap();
    assert_eq!(roster.present(&alice).unwrap(), present);
    // What is wrong with another's file is no matter; with one's own it is told.
    let damage = |number| std::fs::write(file(&roster.operators, &key(number)), "{").unwrap();
    damage(5);
    assert_eq!(roster.present(&old).unwrap(), present);
    let error = roster.present(&bob).unwrap_err().to_string();
    assert!(error.contains(".json:1"), "{error}");
    std::fs::remove_dir_all(folder.path().join("state/operators")).unwrap();
    let removed = roster.present(&old);
    assert!(matches!(removed, Err(RosterError::Removed { operator }) if operator == "alice"));
}

#[test]
fn what_a_removal_names_it_takes() {
    let (_folder, roster) = roster();
    for (invitation, first, second) in [(1, 2, 3), (4, 5, 6)] {
        let enrolled = enrolled(&roster, invitation, first, "alice");
        roster
            .rotate(&enrolled, &key(second), unix_seconds())
            .unwrap();
    }
    let Err(RosterError::Ambiguous { fingerprints, .. }) = roster.remove("alice") else {
        panic!("two are called so");
    };
    let mut now = [key(3), key(6)].map(|key| key.to_string());
    now.sort();
    let mut named = fingerprints.clone();
    named.sort();
    assert_eq!(named, now);
    assert!(!roster.remove(&fingerprints[0]).unwrap().is_empty());
    // An earlier key names them as well.
    let other = if fingerprints[0] == now[0] {
        &now[1]
    } else {
        &now[0]
    };
    let first = if *other == key(3).to_string() {
        key(2)
    } else {
        key(5)
    };
    assert!(!roster.remove(&first.to_string()).unwrap().is_empty());
    assert!(roster.operators().unwrap().is_empty());
}
