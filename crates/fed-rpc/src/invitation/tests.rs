//! Invitations as text: round trips, and what happens to a paste gone wrong.

use proptest::prelude::*;

use super::*;

fn example() -> Invitation {
    let agent = Identity::generate("agent").unwrap().fingerprint();
    let address = Some("fed.ecmwf.int:7443");
    Invitation::generate("ecmwf", address, &[], agent, 1_900_000_000).unwrap()
}

#[track_caller]
fn assert_same(read: &Invitation, written: &Invitation) {
    assert_eq!(read.site(), written.site());
    assert_eq!(read.address(), written.address());
    assert_eq!(read.dials(), written.dials());
    assert_eq!(read.agent(), written.agent());
    assert_eq!(read.holder(), written.holder());
    assert_eq!(read.expires(), written.expires());
    assert_eq!(
        read.identity().private_key(),
        written.identity().private_key()
    );
}

#[test]
fn it_is_one_line_without_blanks() {
    let line = example().to_line();
    assert!(line.starts_with("fed-invitation:"), "{line}");
    let rest = line.strip_prefix("fed-invitation:").unwrap();
    assert!(
        rest.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
        "{line}"
    );
}

#[test]
fn a_wrapped_paste_is_read() {
    let invitation = example();
    let line = invitation.to_line();
    let (one, two) = line.split_at(70);
    let (two, three) = two.split_at(70);
    assert_same(
        &format!("  {one}\r\n {two}\n{three}\n").parse().unwrap(),
        &invitation,
    );
}

#[test]
fn every_truncation_is_told_as_such() {
    let line = example().to_line();
    for end in PREFIX.len()..line.len() {
        let error = line[..end].parse::<Invitation>().unwrap_err();
        assert!(
            matches!(error, InvitationError::Truncated),
            "{end} of {}: {error:?}",
            line.len()
        );
    }
    for end in 0..PREFIX.len() {
        let error = line[..end].parse::<Invitation>().unwrap_err();
        assert!(matches!(error, InvitationError::NotOne), "{end}: {error:?}");
    }
}

#[test]
fn a_changed_or_added_character_is_noticed() {
    let line = example().to_line();
    // Behind the version, whose change is told otherwise.
    for at in PREFIX.len() + 2..line.len() - 1 {
        let other = if line.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        let changed = format!("{}{other}{}", &line[..at], &line[at + 1..]);
        assert!(changed.parse::<Invitation>().is_err(), "at {at}");
    }
    let error = format!("{line}AAAA").parse::<Invitation>().unwrap_err();
    assert!(matches!(error, InvitationError::Damaged), "{error:?}");
}

#[test]
fn another_version_is_told() {
    let bytes = BASE64.encode([9, 0, 0, 0, 0, 0]);
    let error = format!("{PREFIX}{bytes}")
        .parse::<Invitation>()
        .unwrap_err();
    assert!(
        matches!(error, InvitationError::Version { version: 9 }),
        "{error:?}"
    );
}

#[test]
fn fields_that_could_not_be_used_are_refused_on_both_sides() {
    let agent = Fingerprint::from_bytes([7; 32]);
    for (site, address, expected) in [
        ("", "host:1", "site"),
        ("ecmwf", "host", "address"),
        ("ecmwf", "a b:1", "address"),
    ] {
        let error = Invitation::generate(site, Some(address), &[], agent, 0).unwrap_err();
        assert!(matches!(error, InvitationError::Field { field } if field == expected));

        let mut invitation = example();
        invitation.site = site.to_owned();
        invitation.address = address.to_owned();
        let error = invitation.to_line().parse::<Invitation>().unwrap_err();
        assert!(matches!(error, InvitationError::Field { field } if field == expected));
    }
}

#[test]
fn it_says_where_the_agent_is_called_or_whom_it_dials() {
    let agent = Fingerprint::from_bytes([7; 32]);
    let dials = |to: &[&str]| to.iter().map(ToString::to_string).collect::<Vec<_>>();
    let made = |dials: &[String]| Invitation::generate("ecmwf", None, dials, agent, 0);
    let written = made(&dials(&["operator.example:4789", "[2001:db8::1]:443"])).unwrap();
    let read: Invitation = written.to_line().parse().unwrap();
    assert_same(&read, &written);
    assert_eq!(read.address(), None);
    for (wrong, expected) in [
        (dials(&[]), "address"),
        (dials(&["operator.example"]), "dial"),
        (dials(&["operator.example:4789"; 9]), "dial"),
    ] {
        let error = made(&wrong).unwrap_err();
        assert!(matches!(error, InvitationError::Field { field } if field == expected));
    }
}

#[test]
fn it_expires_at_its_second() {
    let invitation = example();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    assert!(!invitation.has_expired(end - Duration::from_nanos(1)));
    assert!(invitation.has_expired(end));
}

#[test]
fn debug_shows_neither_key_nor_line() {
    let invitation = example();
    let shown = format!("{invitation:?}");
    let payload = invitation.to_line();
    assert!(shown.contains("ecmwf"), "{shown}");
    assert!(!shown.contains("key"), "{shown}");
    for secret in [
        &payload[PREFIX.len()..],
        &format!(
            "{:?}",
            invitation.identity().private_key().secret_pkcs8_der()
        ),
    ] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn text_and_back(
        site in "[a-z][a-z0-9-]{0,30}",
        host in "[a-z0-9.-]{1,40}",
        port in 1u16..,
        agent: [u8; 32],
        expires: u64,
        dials in prop::collection::vec("[a-z0-9.-]{1,40}:[1-9][0-9]{0,3}", 0..8),
    ) {
        let address = format!("{host}:{port}");
        let agent = Fingerprint::from_bytes(agent);
        let written = Invitation::generate(&site, Some(&address), &dials, agent, expires).unwrap();
        assert_same(&written.to_line().parse().unwrap(), &written);
        prop_assert!(!written.has_expired(SystemTime::UNIX_EPOCH) || expires == 0);
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        prop_assert!(text.parse::<Invitation>().is_err());
        let line = format!("{PREFIX}{text}");
        prop_assert!(line.parse::<Invitation>().is_err());
    }

    #[test]
    fn no_payload_panics(version in 0u8..3, body: Vec<u8>) {
        let delimited = body.encode_length_delimited_to_vec();
        for body in [body, delimited] {
            let bytes = [&[version][..], &checksum(&body), &body].concat();
            let line = format!("{PREFIX}{}", BASE64.encode(bytes));
            prop_assert!(line.parse::<Invitation>().is_err());
        }
    }
}
