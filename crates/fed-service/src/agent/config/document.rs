//! Where the keys of an agent.toml stand, and which of them there are.

use std::ops::Range;

use fed_core::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Keys of agent.toml itself.
const TOP: &[&str] = &[
    "name",
    "listen",
    "address",
    "state",
    "python",
    "prologue",
    "user",
    "read_only",
    "reach",
    "processes",
    "scratch",
    "pool",
    "policy",
    "operator",
];
/// Keys of a `[[pool]]` table.
const POOL: &[&str] = &[
    "name",
    "data",
    "workers",
    "max_workers",
    "threads",
    "memory",
];
/// Keys of `[policy]`.
const POLICY: &[&str] = &[
    "federations",
    "workers",
    "cores",
    "memory",
    "pools",
    "lease",
    "lifetime",
    "python",
    "prologue",
];
/// Keys of an `[[operator]]` table.
const OPERATOR: &[&str] = &[
    "name",
    "fingerprint",
    "federations",
    "workers",
    "cores",
    "memory",
    "pools",
    "lease",
    "lifetime",
    "python",
    "prologue",
];

/// A step on the way to a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'a> {
    /// The value of a key.
    Key(&'a str),
    /// An element of an array, counted from 0.
    Index(usize),
}

/// A parsed file that remembers where everything stood.
#[derive(Debug)]
pub(super) struct Document<'a> {
    text: &'a str,
    table: Spanned<DeTable<'a>>,
}

/// What is wrong in a file, and in which line (from 1).
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) problem: String,
}

impl<'a> Document<'a> {
    /// Parses a file, and checks that all its keys are known.
    pub(super) fn parse(text: &'a str) -> Result<Self, Wrong> {
        let table = DeTable::parse(text).map_err(|error| Wrong {
            line: line(text, error.span().map_or(0, |span| span.start)),
            problem: error.message().to_owned(),
        })?;
        let document = Self { text, table };
        let top = document.table.get_ref();
        document.check(top, TOP, "")?;
        for (key, known) in [("pool", POOL), ("policy", POLICY), ("operator", OPERATOR)] {
            for table in tables(top.get(key)) {
                document.check(table, known, &format!("{key}."))?;
            }
        }
        Ok(document)
    }

    /// True if the file names this key at its top.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.get_ref().contains_key(key)
    }

    /// The line of a value, or of the last step to it that there is.
    pub(super) fn line(&self, path: &[At<'_>]) -> usize {
        let mut found = self.table.span().start;
        let mut value = None;
        for (depth, step) in path.iter().enumerate() {
            let next = match (step, depth) {
                (At::Key(key), 0) => self.table.get_ref().get(*key),
                (At::Key(key), _) => value.and_then(|value: &Spanned<DeValue<'_>>| {
                    value.get_ref().as_table().and_then(|table| table.get(*key))
                }),
                (At::Index(index), _) => value.and_then(|value: &Spanned<DeValue<'_>>| {
                    value
                        .get_ref()
                        .as_array()
                        .and_then(|array| array.get(*index))
                }),
            };
            let Some(next) = next else { break };
            found = next.span().start;
            value = Some(next);
        }
        line(self.text, found)
    }

    /// Says where a value of a wrong type stands, and which key it has.
    pub(super) fn mistyped(&self, error: &toml::de::Error) -> Wrong {
        let message = error.message();
        let Some(span) = error.span() else {
            return Wrong {
                line: 1,
                problem: message.to_owned(),
            };
        };
        let mut keys = Vec::new();
        way_to(self.table.get_ref(), &span, &mut keys);
        let problem = match keys.is_empty() {
            true => message.to_owned(),
            false => format!("{}: {message}", keys.join(".")),
        };
        Wrong {
            line: line(self.text, span.start),
            problem,
        }
    }

    fn check(&self, table: &DeTable<'_>, known: &[&str], prefix: &str) -> Result<(), Wrong> {
        // In the order of the file, so that the first mistake is told first.
        let mut keys: Vec<_> = table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        for key in keys {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let meant = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("there are {}", known.join(", ")),
            };
            return Err(Wrong {
                line: line(self.text, key.span().start),
                problem: format!("{prefix}{name}: there is no such key ({meant})"),
            });
        }
        Ok(())
    }
}

/// The tables that a key holds: one, or an array of them.
fn tables<'t, 'a>(value: Option<&'t Spanned<DeValue<'a>>>) -> Vec<&'t DeTable<'a>> {
    match value.map(Spanned::get_ref) {
        Some(DeValue::Table(table)) => vec![table],
        Some(DeValue::Array(array)) => {
            let elements = array.iter().map(Spanned::get_ref);
            elements.filter_map(DeValue::as_table).collect()
        }
        _ => Vec::new(),
    }
}

/// Collects the keys on the way to a place in the text.
fn way_to(table: &DeTable<'_>, place: &Range<usize>, keys: &mut Vec<String>) {
    for (key, value) in table {
        let (names, holds) = (key.span(), value.span());
        let is_here = |span: &Range<usize>| span.start <= place.start && place.end <= span.end;
        if !is_here(&names) && !is_here(&holds) {
            continue;
        }
        keys.push(key.get_ref().to_string());
        for table in tables(Some(value)) {
            way_to(table, place, keys);
        }
        return;
    }
    // A `[[table]]` may have the span of its header alone: look further down in each.
    for (key, value) in table {
        let mut below = Vec::new();
        for table in tables(Some(value)) {
            way_to(table, place, &mut below);
        }
        if !below.is_empty() {
            keys.push(key.get_ref().to_string());
            keys.append(&mut below);
            return;
        }
    }
}

fn line(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::config::{AgentConfig, PoolConfig};
    use crate::agent::policy::{Limits, OperatorTable};

    /// The lists here say the same as the types: serde names all keys when it meets a strange one.
    #[test]
    fn every_key_is_known() {
        fn keys<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
            let said = toml::from_str::<T>("strange-key = 1").unwrap_err();
            let mut keys: Vec<String> = said
                .message()
                .split('`')
                .skip(3)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            keys.sort();
            keys
        }
        let sorted = |known: &[&str]| {
            let mut known: Vec<String> = known.iter().map(ToString::to_string).collect();
            known.sort();
            known
        };
        assert_eq!(keys::<AgentConfig>(), sorted(TOP));
        assert_eq!(keys::<PoolConfig>(), sorted(POOL));
        assert_eq!(keys::<Limits>(), sorted(POLICY));
        let own: Vec<&str> = ["name", "fingerprint"]
            .into_iter()
            .chain(POLICY.iter().copied())
            .collect();
        assert_eq!(sorted(&own), sorted(OPERATOR));
        // Flattened types name no keys: they are read one by one.
        for key in OPERATOR {
            assert!(
                toml::from_str::<OperatorTable>(&format!("{key} = []")).is_err() || *key == "pools"
            );
        }
    }
}
