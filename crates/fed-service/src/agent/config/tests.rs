//! What is read of an agent.toml, and how mistakes in it are told.

use super::*;

fn parse(text: &str) -> Result<AgentConfig, String> {
    let parsed = AgentConfig::parse(text, Path::new("/var/lib/fed-agent"));
    parsed.map_err(|wrong| format!("{}: {}", wrong.line, wrong.problem))
}

const SMALL: &str = "name = \"ecmwf\"\naddress = \"agent.example:4788\"\n";

#[test]
fn a_small_file_gets_defaults() {
    let config = parse(SMALL).unwrap();
    let offers = config.offers(32, 64 << 30);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].name.as_str(), "ecmwf");
    assert_eq!((offers[0].default_workers, offers[0].threads), (4, 8));
    assert!(offers[0].memory_bytes < 16 << 30);
    let tiny = config.offers(2, 1 << 30);
    assert_eq!((tiny[0].default_workers, tiny[0].threads), (1, 2));
}

#[test]
fn what_is_written_counts() {
    let text = format!(
        "{SMALL}[[pool]]\nname = \"hot\"\ndata = [\"/data/hot\", \"s3://hot\"]\nworkers = 3\n\
         threads = 1\nmemory = \"2 GiB\"\n"
    );
    let config = parse(&text).unwrap();
    let offer = &config.offers(2, 1 << 30)[0];
    assert_eq!(
        (offer.default_workers, offer.threads, offer.memory_bytes),
        (3, 1, 2 << 30)
    );
    assert_eq!(
        config.data_folders().collect::<Vec<_>>(),
        [PathBuf::from("/data/hot")]
    );
}

#[test]
fn mistakes_are_told_with_line_key_and_what_is_right() {
    for (text, expected) in [
        (
            "pyton = \"x\"",
            "3: pyton: there is no such key (did you mean python?)",
        ),
        ("\n\nlisten = 4788", "5: listen: invalid type: integer"),
        (
            "x = 1",
            "3: x: there is no such key (there are name, listen",
        ),
        ("a = = 1", "3: "),
        (
            "[[pool]]\nname = \"a\"\ndaat = []",
            "5: pool.daat: there is no such key (did you mean data?)",
        ),
        (
            "[[pool]]\nname = \"a\"\ndata = [\"data\"]",
            "5: pool.data: \"data\" is neither absolute",
        ),
        (
            "[[pool]]\nname = \"a\"\nworkers = \"two\"",
            "5: pool.workers: invalid type: string",
        ),
        (
            "[[pool]]\nname = \"A b\"",
            "4: pool.name: pool name \"A b\" does not start",
        ),
        (
            "[[pool]]\nname = \"a\"\nmemory = \"4 Gux\"",
            "5: pool.memory: ",
        ),
        (
            "[[pool]]\nname = \"a\"\n[[pool]]\nname = \"a\"",
            "6: pool.name: a is named twice",
        ),
        (
            "[policy]\npools = [\"ecmw\"]",
            "4: policy.pools: there is no pool ecmw (did you mean ecmwf?)",
        ),
        (
            "[policy]\nlifetime = \"8 ours\"",
            "4: policy.lifetime: \"8 ours\" is no duration",
        ),
        (
            "[policy]\nworker = 3",
            "4: policy.worker: there is no such key (did you mean workers?)",
        ),
        (
            "[[operator]]\nworkers = 3",
            "operator.name: give the operator's name or fingerprint",
        ),
        (
            "[[operator]]\nnmae = \"alice\"",
            "4: operator.nmae: there is no such key (did you mean name?)",
        ),
        ("[[operator]]\nname = \"a\"\ncores = -1", "operator"),
        ("read_only = [\"opt\"]", "3: read_only: opt is not absolute"),
        (
            "reach = [\n  \"a.site:1\",\n  \"https://store.site/b\",\n]",
            "5: reach: \"https://store.site/b\" is a URL, not host:port; write \"store.site:443\"",
        ),
        (
            "reach = [\"store.site\"]",
            "3: reach: \"store.site\" has no port; write \"store.site:443\"",
        ),
        (
            "reach = [\"a.site:1\",\n  \"A.site:1\"]",
            "4: reach: a.site:1 is named twice",
        ),
        ("processes = 10", "3: processes: 10 are too few"),
        ("scratch = \"1 MiB\"", "3: scratch: 1.0 MiB is too little"),
        ("scratch = \"10 Gux\"", "3: scratch: "),
        (
            "proceses = 100",
            "3: proceses: there is no such key (did you mean processes?)",
        ),
        (
            "raech = [\"a.site:1\"]",
            "3: raech: there is no such key (did you mean reach?)",
        ),
    ] {
        let error = parse(&format!("{SMALL}{text}\n")).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error:?}");
    }
    let address = parse("name = \"a\"\n\naddress = \"nowhere\"\n").unwrap_err();
    assert_eq!(address, "3: address: \"nowhere\" is not host:port");
    assert!(
        parse("name = \"a\"\n")
            .unwrap_err()
            .contains("missing field `address`")
    );
}

#[test]
fn the_file_and_the_line_stand_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, format!("{SMALL}pols = 1\n")).unwrap();
    let error = AgentConfig::load(&file, Path::new("/state")).unwrap_err();
    let expected = format!("{}:3: pols: ", file.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    std::fs::remove_file(&file).unwrap();
    let error = AgentConfig::load(&file, Path::new("/state")).unwrap_err();
    assert!(
        error.to_string().contains("`fed agent init` writes one"),
        "{error}"
    );
}

#[test]
fn limits_are_read() {
    let text = format!(
        "{SMALL}[policy]\nlease = \"10m\"\npools = [\"ecmwf\"]\n[[operator]]\n\
         name = \"alice@lab\"\nmemory = \"64 GiB\"\npython = \"/opt/a/python\"\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(
        config.policy.lease,
        Some(std::time::Duration::from_secs(600))
    );
    let alice = super::super::Operator {
        named_by_site: true,
        ..super::super::Operator::new("alice@lab", "SHA256:a", 0)
    };
    let alice = config.policy().of(&alice);
    assert_eq!(alice.memory, Some(ByteSize::gib(64)));
    assert_eq!(alice.lease, config.policy.lease);
    assert_eq!(alice.python.as_deref(), Some("/opt/a/python"));
}

#[test]
fn a_state_folder_that_is_not_named_is_the_callers() {
    assert_eq!(parse(SMALL).unwrap().state, Path::new("/var/lib/fed-agent"));
    let named = parse(&format!("{SMALL}state = \"/srv/fed\"\n")).unwrap();
    assert_eq!(named.state, Path::new("/srv/fed"));
}

#[test]
fn what_cannot_be_met_is_refused_with_its_line() {
    let pool = "[[pool]]\nname = \"a\"\n";
    for (text, told) in [
        (
            "[policy]\nlease = \"1s\"".to_owned(),
            "4: policy.lease: 1s is shorter",
        ),
        (
            "[policy]\nlifetime = \"0s\"".to_owned(),
            "4: policy.lifetime: 0s is shorter",
        ),
        (
            "[[operator]]\nname = \"x\"\nlease = \"2s\"".to_owned(),
            "5: operator.lease: 2s is shorter than the shortest lease, 3s",
        ),
        (
            format!("{pool}data = [\"/tmp/..\"]"),
            "5: pool.data: \"/tmp/..\" goes up again",
        ),
        (
            format!("{pool}data = [\"/proc/self\"]"),
            "5: pool.data: \"/proc/self\" holds no data",
        ),
        (
            format!("{pool}memory = \"0\""),
            "5: pool.memory: no worker can run in 0 bytes",
        ),
    ] {
        let error = parse(&format!("{SMALL}{text}\n")).unwrap_err();
        assert!(error.starts_with(told), "{error}");
    }
}
