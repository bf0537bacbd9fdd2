//! The keys of an agent.toml, and what each takes.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use fed_core::{NameError, PoolName, SiteName};
use toml::de::DeValue;

/// Fewest processes and threads of a worker: a nanny, a worker, their threads and a few more.
const MIN_PROCESSES: u32 = 64;
/// Characters of a text that are repeated in a message.
const SHOWN: usize = 60;

/// A key, and what it takes.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    /// Whether its table is wrong without it.
    pub(super) is_needed: bool,
}

/// What a key takes. Texts are examples.
#[derive(Clone, Copy)]
pub(super) enum Takes {
    Text(&'static str),
    /// Lines of shell, or nothing.
    Script,
    SiteName,
    PoolName,
    /// A list of texts.
    Texts(&'static str),
    /// A list of names of pools.
    PoolNames,
    /// A whole number, from this one on.
    Number(u32),
    Size,
    Duration,
    /// One table of this name.
    Table(&'static str, &'static [Key]),
    /// Any number of tables of this name.
    Tables(&'static str, &'static [Key]),
}

const fn key(name: &'static str, takes: Takes) -> Key {
    Key {
        name,
        takes,
        is_needed: false,
    }
}

const fn needed(name: &'static str, takes: Takes) -> Key {
    Key {
        name,
        takes,
        is_needed: true,
    }
}

/// Keys of agent.toml itself.
pub(super) const TOP: &[Key] = &[
    needed("name", Takes::SiteName),
    key("listen", Takes::Text("[::]:4788")),
    key("address", Takes::Text("agent.site.example:4788")),
    key("dial", Takes::Texts("operator.example:4789")),
    key("state", Takes::Text("/var/lib/fed-agent")),
    key("python", Takes::Text("/opt/fed/bin/python")),
    key("prologue", Takes::Script),
    key("user", Takes::Text("fed")),
    key("read_only", Takes::Texts("/opt/software")),
    key("reach", Takes::Texts("store.site:443")),
    key("processes", Takes::Number(MIN_PROCESSES)),
    key("scratch", Takes::Size),
    key("pool", Takes::Tables("pool", POOL)),
    key("policy", Takes::Table("policy", POLICY)),
    key("operator", Takes::Tables("operator", OPERATOR)),
];
/// Keys of a `[[pool]]` table.
pub(super) const POOL: &[Key] = &[
    needed("name", Takes::PoolName),
    key("data", Takes::Texts("/data/site")),
    key("workers", Takes::Number(0)),
    key("max_workers", Takes::Number(0)),
    key("threads", Takes::Number(1)),
    key("memory", Takes::Size),
];
/// Keys of `[policy]`.
pub(super) const POLICY: &[Key] = &[
    key("federations", Takes::Number(0)),
    key("workers", Takes::Number(0)),
    key("cores", Takes::Number(0)),
    key("memory", Takes::Size),
    key("pools", Takes::PoolNames),
    key("lease", Takes::Duration),
    key("lifetime", Takes::Duration),
    key("python", Takes::Text("/opt/fed/bin/python")),
    key("prologue", Takes::Script),
];
/// Keys of an `[[operator]]` table: whose it is, and those of `[policy]`.
pub(super) const OPERATOR: &[Key] = &[
    key("name", Takes::Text("alice@lab")),
    key("fingerprint", Takes::Text("SHA256:…")),
    POLICY[0],
    POLICY[1],
    POLICY[2],
    POLICY[3],
    POLICY[4],
    POLICY[5],
    POLICY[6],
    POLICY[7],
    POLICY[8],
];

/// The tables, as they are written.
pub(super) const TABLES: &[(&str, &[Key])] = &[
    ("[[pool]]", POOL),
    ("[policy]", POLICY),
    ("[[operator]]", OPERATOR),
];

impl fmt::Display for Takes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(such_as) => write!(formatter, "a text in quotes, such as \"{such_as}\""),
            Self::Script => formatter.write_str("a text in quotes, such as \"module load python\""),
            Self::SiteName | Self::PoolName => {
                formatter.write_str("a name in quotes, such as \"ecmwf\"")
            }
            Self::Texts(such_as) => write!(formatter, "a list of texts, such as [\"{such_as}\"]"),
            Self::PoolNames => formatter.write_str("a list of pools, such as [\"ecmwf\"]"),
            Self::Number(least) => write!(formatter, "a whole number from {least} to {}", u32::MAX),
            Self::Size => formatter.write_str("a size in quotes, such as \"4 GiB\""),
            Self::Duration => {
                formatter.write_str("a duration in quotes, such as \"8h\" or \"10m\"")
            }
            Self::Table(name, _) => write!(formatter, "one table, [{name}]"),
            Self::Tables(name, _) => write!(formatter, "tables that each begin with [[{name}]]"),
        }
    }
}

impl Takes {
    /// Says what is wrong with a value, or with an element of a list; not with tables within it.
    pub(super) fn check(self, value: &DeValue<'_>) -> Result<(), String> {
        let text = value.as_str();
        let is_right = match self {
            Self::Text(_) => text.is_some_and(|text| !text.trim().is_empty()),
            Self::Script => text.is_some(),
            Self::SiteName => is_name::<SiteName>(text)?,
            Self::PoolName => is_name::<PoolName>(text)?,
            Self::Texts(_) | Self::PoolNames | Self::Tables(..) => value.is_array(),
            Self::Number(least) => number(value)
                .is_some_and(|number| (i128::from(least)..=i128::from(u32::MAX)).contains(&number)),
            Self::Size => match text {
                Some(text) => text.parse::<ByteSize>().is_ok(),
                None => number(value)
                    .is_some_and(|bytes| i64::try_from(bytes).is_ok_and(|bytes| bytes >= 0)),
            },
            Self::Duration => text.is_some_and(|text| humantime::parse_duration(text).is_ok()),
            Self::Table(..) => value.is_table(),
        };
        match is_right {
            true => Ok(()),
            false => Err(format!("expected {self}, and found {}", found(value))),
        }
    }

    /// What each element of a list is to be.
    pub(super) fn element(self) -> Option<Self> {
        match self {
            Self::Texts(such_as) => Some(Self::Text(such_as)),
            Self::PoolNames => Some(Self::PoolName),
            Self::Tables(name, keys) => Some(Self::Table(name, keys)),
            Self::Text(_)
            | Self::Script
            | Self::SiteName
            | Self::PoolName
            | Self::Number(_)
            | Self::Size
            | Self::Duration
            | Self::Table(..) => None,
        }
    }
}

/// True if there is a text; it has to be a name then.
fn is_name<T: FromStr<Err = NameError>>(text: Option<&str>) -> Result<bool, String> {
    let named = text.map(str::parse::<T>).transpose();
    let named = named.map_err(|error| error.to_string())?;
    Ok(named.is_some())
}

fn number(value: &DeValue<'_>) -> Option<i128> {
    let number = value.as_integer()?;
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value as a message names it.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) if text.trim().is_empty() => "an empty text".to_owned(),
        DeValue::String(text) if text.chars().count() > SHOWN => "a long text".to_owned(),
        DeValue::String(text) => format!("the text {:?}", text.as_ref()),
        DeValue::Integer(number) => format!("the number {}", number.as_str()),
        DeValue::Float(number) => format!("the number {}", number.as_str()),
        DeValue::Boolean(is_true) => is_true.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "one table".to_owned(),
    }
}
