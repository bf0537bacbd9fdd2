//! What is read of an agent.toml, and how mistakes in it are told.

use std::path::Path;

use super::*;

fn file(dial: &[&str]) -> ConfigFile {
    ConfigFile {
        path: PathBuf::from("/etc/fed/agent.toml"),
        state: PathBuf::from("/var/lib/fed-agent"),
        dial: dial.iter().map(ToString::to_string).collect(),
    }
}

/// The file at this path.
fn at(path: &Path) -> ConfigFile {
    ConfigFile {
        path: path.to_owned(),
        ..file(&[])
    }
}

fn parse(text: &str) -> Result<AgentConfig, String> {
    let parsed = AgentConfig::parse(text, &file(&[]), Source::Flags);
    parsed.map_err(|wrong| format!("{}: {wrong}", wrong.line))
}

const SMALL: &str = "name = \"ecmwf\"\naddress = \"agent.example:4788\"\n";

#[test]
fn a_small_file_gets_defaults() {
    let config = parse(SMALL).unwrap();
    let offers = config.offers(32, 64 << 30);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].name.as_str(), "ecmwf");
    assert_eq!((offers[0].default_workers, offers[0].threads), (4, 8));
    assert_eq!(offers[0].max_workers, 4);
    assert_eq!(offers[0].memory_bytes, (64 << 30) / 5 * 4 / 4);
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
        config
            .folders()
            .into_iter()
            .map(|(_, path)| path)
            .collect::<Vec<_>>(),
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
        (
            "\n\nlisten = 4788",
            "5: listen: expected a text in quotes, such as \"[::]:4788\", and found the number 4788",
        ),
        (
            "x = 1",
            "3: x: there is no such key (there are name, listen",
        ),
        (
            "a = = 1",
            "3: cannot read \"a = = 1\": lines are `key = value`",
        ),
        ("python", "3: cannot read \"python\": lines are"),
        ("name = \"b\"", "3: name: stands twice in its table"),
        (
            "workers = 3",
            "3: workers: there is no such key here (it belongs to [[pool]] or [policy]",
        ),
        (
            "[pool]\nname = \"a\"",
            "3: pool: expected tables that each begin with [[pool]], and found one table",
        ),
        (
            "[[policy]]\nworkers = 1",
            "3: policy: expected one table, [policy], and found a list",
        ),
        (
            "[[pool]]\ndata = []",
            "3: pool.name: is missing; it takes a name in quotes",
        ),
        (
            "[[operator]]\nname = \"a\"\n[[operator]]\nname = \"a\"",
            "6: operator.name: \"a\" has a table already",
        ),
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
            "5: pool.workers: expected a whole number from 0 to 4294967295, and found the text \"two\"",
        ),
        (
            "[[pool]]\nname = \"A b\"",
            "4: pool.name: pool name \"A b\" does not start",
        ),
        (
            "[[pool]]\nname = \"a\"\nmemory = \"4 Gux\"",
            "5: pool.memory: expected a size in quotes, such as \"4 GiB\", and found the text \"4 Gux\"",
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
            "4: policy.lifetime: expected a duration in quotes, such as \"8h\" or \"10m\", and found",
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
        (
            "[[operator]]\nname = \"a\"\ncores = -1",
            "5: operator.cores: expected a whole number from 0 to 4294967295, and found the number -1",
        ),
        (
            "read_only = [\"opt\"]",
            "3: read_only: \"opt\" is not absolute",
        ),
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
        (
            "processes = 10",
            "3: processes: expected a whole number from 64",
        ),
        ("scratch = \"1 MiB\"", "3: scratch: 1.0 MiB is too little"),
        ("scratch = \"10 Gux\"", "3: scratch: expected a size"),
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
    assert!(
        address.starts_with("3: address: \"nowhere\" is not host:port; write"),
        "{address}"
    );
    let missing = parse("name = \"a\"\n").unwrap_err();
    assert!(
        missing.starts_with("1: address: is missing; it takes a text in quotes, such as"),
        "{missing}"
    );
}

#[test]
fn who_dials_listens_only_where_that_is_asked_for() {
    let dials = "name = \"a\"\ndial = [\"operator.example:4789\"]\n";
    assert_eq!(parse(dials).unwrap().listens_at(), None);
    let both = parse(&format!("{dials}address = \"agent.example:4788\"\n")).unwrap();
    assert_eq!(both.listens_at().as_deref(), Some("[::]:4788"));
    let asked = parse(&format!("{dials}listen = \"[::1]:4799\"\n")).unwrap();
    assert_eq!(asked.listens_at().as_deref(), Some("[::1]:4799"));
    let small = parse(SMALL).unwrap();
    assert_eq!(small.listens_at().as_deref(), Some("[::]:4788"));
    let wrong = parse("name = \"a\"\ndial = [\"a:1\", \"nowhere\"]\n").unwrap_err();
    assert!(
        wrong.starts_with("2: dial: \"nowhere\" is not host:port"),
        "{wrong}"
    );
}

#[test]
fn who_is_dialled_besides_is_dialled_once() {
    let besides = file(&["one.example:4789", "two.example:4789"]);
    for text in ["", "dial = [\"one.example:4789\"]\n"] {
        let text = format!("name = \"a\"\n{text}");
        let config = AgentConfig::parse(&text, &besides, Source::Flags);
        assert_eq!(
            config.map_err(|wrong| wrong.problem).unwrap().dial,
            besides.dial
        );
    }
}

#[test]
fn the_file_and_the_line_stand_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let named = at(&path);
    std::fs::write(&path, format!("{SMALL}pols = 1\n")).unwrap();
    let error = named.load().unwrap_err();
    let expected = format!("{}:3: pols: ", path.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = named.load().unwrap_err();
    assert!(
        error.to_string().contains("`fed agent init` writes one"),
        "{error}"
    );
}

/// Words of serde, toml, bytesize and humantime, which mean nothing to whoever wrote the file.
const FOREIGN: [&str; 9] = [
    "invalid type",
    "invalid value",
    "missing field",
    "unknown field",
    "TOML parse",
    "expected struct",
    "u32",
    "`Some`",
    "parsable",
];

/// A file in which one key of one table has this value, and the line of it.
fn file_with(table: &str, key: &str, value: &str) -> (String, usize) {
    let mut lines = match table {
        "" => Vec::new(),
        table => vec![table.to_owned()],
    };
    let named = ["[[pool]]", "[[operator]]"].contains(&table);
    if named && key != "name" {
        lines.push("name = \"a\"".to_owned());
    }
    lines.push(format!("{key} = {value}"));
    let top = ["name = \"ecmwf\"", "address = \"agent.example:4788\""];
    let top: Vec<&str> = top
        .into_iter()
        .filter(|line| !table.is_empty() || !line.starts_with(&format!("{key} =")))
        .collect();
    let text = format!("{}\n{}\n", top.join("\n"), lines.join("\n"));
    (text, top.len() + lines.len())
}

/// Each key with a value of another type, with one that it does not take, and misspelt: told with
/// the line, the key, what it takes or which key is meant, and in our own words.
#[test]
fn every_key_says_what_it_takes() {
    use super::schema::{TABLES, TOP, Takes};
    let mut tried = 0;
    for (table, keys) in TABLES.iter().chain([&("", TOP)]) {
        let prefix = match table.trim_matches(['[', ']']) {
            "" => String::new(),
            table => format!("{table}."),
        };
        for key in *keys {
            let (wrong_type, wrong_value) = match key.takes {
                Takes::Text(_) => ("4788", Some("\" \"")),
                Takes::Script => ("[]", None),
                Takes::SiteName | Takes::PoolName => ("4788", Some("\"A b\"")),
                Takes::Texts(_) => ("\"/data\"", Some("[\"/data\", 7]")),
                Takes::PoolNames => ("\"ecmwf\"", Some("[\"A b\"]")),
                Takes::Number(_) => ("\"four\"", Some("-1")),
                Takes::Size => ("true", Some("\"4 Gux\"")),
                Takes::Duration => ("3600", Some("\"8 ours\"")),
                Takes::Table(..) => ("1979-05-27", Some("[]")),
                Takes::Tables(..) => ("2.5", Some("[1]")),
            };
            let typo = format!("{}x", key.name);
            for (name, value) in [
                (key.name, Some(wrong_type)),
                (key.name, wrong_value),
                (&typo, Some(wrong_type)),
            ] {
                let Some(value) = value else { continue };
                let (text, line) = file_with(table, name, value);
                let error = parse(&text).unwrap_err();
                let what = format!("{text}\n{error}");
                assert!(
                    error.starts_with(&format!("{line}: {prefix}{name}: ")),
                    "{what}"
                );
                let told = match name == key.name {
                    true => ["expected ", "name holds", "does not start"].as_slice(),
                    false => &["did you mean "],
                };
                assert!(told.iter().any(|told| error.contains(told)), "{what}");
                assert!(
                    !error.contains('\n') && !FOREIGN.iter().any(|word| error.contains(word)),
                    "{what}"
                );
                tried += 1;
            }
        }
    }
    // A prologue takes any text.
    assert_eq!(tried, 3 * 41 - 3);
}

#[test]
fn later_mistakes_find_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    let text = format!(
        "{SMALL}[policy]\npython = \"/nope\"\n[[pool]]\nname = \"a\"\ndata = [\n\"/one\",\n\"/two\"]\n\
         [[operator]]\nname = \"x\"\nprologue = \"module load python\"\n"
    );
    std::fs::write(&path, text).unwrap();
    let config = at(&path).load().unwrap();
    let told = |places: Vec<Vec<At<'static>>>| {
        let places: Vec<_> = places.iter().map(|place| config.place(place)).collect();
        let path = path.display().to_string();
        places
            .iter()
            .map(|place| place.replace(&path, ""))
            .collect::<Vec<_>>()
    };
    let interpreters = config.interpreters().into_iter();
    assert_eq!(
        told(interpreters.map(|(place, _)| place).collect()),
        [
            ": python (by default)",
            ":4: policy.python",
            ":12: operator.prologue"
        ]
    );
    let folders = config.folders().into_iter();
    assert_eq!(
        told(folders.map(|(place, _)| place).collect()),
        [":8: pool.data", ":9: pool.data"]
    );
    let flags = parse(SMALL).unwrap();
    assert_eq!(flags.place(&[At::Key("pool"), At::Key("data")]), "--data");
}

proptest::proptest! {
    /// However many workers an operator asks for: what the site has not said itself leaves a fifth
    /// of the memory.
    #[test]
    fn workers_together_leave_memory(
        cores in 0_u32..200,
        memory_bytes in 1_u64 << 30..1 << 42,
        pools in proptest::collection::vec(
            (
                proptest::option::of(1_u32..64),
                proptest::option::of(0_u32..64),
                proptest::option::of(1_u32..64),
                proptest::option::of(1_u64..64),
            ),
            1..4,
        ),
    ) {
        let mut text = SMALL.to_owned();
        for (number, (workers, max, threads, gib)) in pools.iter().enumerate() {
            text.push_str(&format!("[[pool]]\nname = \"p{number}\"\n"));
            let max = max.map(|max| max.max(workers.unwrap_or_default()));
            for (key, value) in [("workers", *workers), ("max_workers", max), ("threads", *threads)] {
                if let Some(value) = value {
                    text.push_str(&format!("{key} = {value}\n"));
                }
            }
            if let Some(gib) = gib {
                text.push_str(&format!("memory = \"{gib} GiB\"\n"));
            }
        }
        let config = parse(&text).unwrap();
        let share = memory_bytes / u64::try_from(pools.len()).unwrap();
        for (offer, (workers, max, _, gib)) in config.offers(cores, memory_bytes).iter().zip(&pools) {
            proptest::prop_assert!(offer.default_workers <= offer.max_workers);
            let together = u64::from(offer.max_workers) * offer.memory_bytes;
            // What the site says counts, and one worker there is always.
            let is_said = gib.is_some() && (workers.is_some() || max.is_some() || offer.max_workers == 1);
            proptest::prop_assert!(is_said || together <= share / 5 * 4, "{offer:?}");
        }
    }
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
