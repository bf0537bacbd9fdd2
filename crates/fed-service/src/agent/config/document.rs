//! Where the keys of an agent.toml stand, and whether each holds what it takes.

use std::fmt;

use fed_core::nearest;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{Key, TABLES, TOP, Takes};

/// Characters of a line that are repeated in a message.
const SHOWN: usize = 60;
/// What toml says of a key that stands twice.
const DUPLICATE: &str = "duplicate key";

/// A step on the way to a value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'a> {
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

/// What is wrong in a file.
#[derive(Debug)]
pub(super) struct Wrong {
    /// The line, from 1.
    pub(super) line: usize,
    /// The key, with its table; nothing where it is not known.
    pub(super) key: String,
    /// What is wrong, and what is right.
    pub(super) problem: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => formatter.write_str(&self.problem),
            key => write!(formatter, "{key}: {}", self.problem),
        }
    }
}

impl<'a> Document<'a> {
    /// Parses a file, and checks that all its keys are known and hold what they take.
    pub(super) fn parse(text: &'a str) -> Result<Self, Wrong> {
        let table = DeTable::parse(text).map_err(|error| unreadable(text, &error))?;
        let document = Self { text, table };
        document.check_table(document.table.get_ref(), 0, TOP, "")?;
        Ok(document)
    }

    /// True if the file names this key at its top.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.get_ref().contains_key(key)
    }

    /// The line of a value; nothing if there is none.
    pub(super) fn line_of(&self, path: &[At<'_>]) -> Option<usize> {
        self.find(path, true)
    }

    /// The line of a value, or of the last step to it that there is.
    pub(super) fn line(&self, path: &[At<'_>]) -> usize {
        self.find(path, false).unwrap_or(1)
    }

    fn find(&self, path: &[At<'_>], whole: bool) -> Option<usize> {
        let mut found = self.table.span().start;
        let mut value: Option<&Spanned<DeValue<'_>>> = None;
        for (depth, step) in path.iter().enumerate() {
            let within = value.map(Spanned::get_ref);
            let next = match (step, depth) {
                (At::Key(key), 0) => self.table.get_ref().get(*key),
                (At::Key(key), _) => within
                    .and_then(DeValue::as_table)
                    .and_then(|table| table.get(*key)),
                (At::Index(index), _) => within
                    .and_then(DeValue::as_array)
                    .and_then(|array| array.get(*index)),
            };
            match next {
                Some(next) => (found, value) = (next.span().start, Some(next)),
                None if whole => return None,
                None => break,
            }
        }
        Some(line(self.text, found))
    }

    /// A value that the types do not take, although the lists of keys say so.
    pub(super) fn unusable(&self, error: &toml::de::Error) -> Wrong {
        Wrong {
            line: error.span().map_or(1, |span| line(self.text, span.start)),
            key: String::new(),
            problem: "this value cannot be used; docs/agent.md says what each key takes".to_owned(),
        }
    }

    /// `start` is where the table begins, for what is missing in it.
    fn check_table(
        &self,
        table: &DeTable<'_>,
        start: usize,
        known: &[Key],
        prefix: &str,
    ) -> Result<(), Wrong> {
        // In the order of the file, so that the first mistake is told first.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name: &str = key.get_ref();
            let dotted = format!("{prefix}{name}");
            match known.iter().find(|known| known.name == name) {
                Some(known) => self.check_value(value, known.takes, &dotted)?,
                None => {
                    return Err(Wrong {
                        line: line(self.text, key.span().start),
                        key: dotted,
                        problem: unknown(name, known),
                    });
                }
            }
        }
        let missing = |key: &&Key| key.is_needed && !table.contains_key(key.name);
        match known.iter().find(missing) {
            Some(key) => Err(Wrong {
                line: line(self.text, start),
                key: format!("{prefix}{}", key.name),
                problem: format!("is missing; it takes {}", key.takes),
            }),
            None => Ok(()),
        }
    }

    fn check_value(
        &self,
        value: &Spanned<DeValue<'_>>,
        takes: Takes,
        key: &str,
    ) -> Result<(), Wrong> {
        let start = value.span().start;
        takes.check(value.get_ref()).map_err(|problem| Wrong {
            line: line(self.text, start),
            key: key.to_owned(),
            problem,
        })?;
        if let (Takes::Table(_, known), Some(table)) = (takes, value.get_ref().as_table()) {
            return self.check_table(table, start, known, &format!("{key}."));
        }
        if let (Some(each), Some(elements)) = (takes.element(), value.get_ref().as_array()) {
            for element in elements {
                self.check_value(element, each, key)?;
            }
        }
        Ok(())
    }
}

/// The keys of a path.
pub(super) fn dotted(path: &[At<'_>]) -> String {
    let keys = path.iter().filter_map(|step| match step {
        At::Key(key) => Some(*key),
        At::Index(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

/// What to do about a key that is none.
fn unknown(name: &str, known: &[Key]) -> String {
    if let Some(near) = nearest(name, known.iter().map(|key| key.name)) {
        return format!("there is no such key (did you mean {near}?)");
    }
    let elsewhere = TABLES.iter().chain([&("the file's top", TOP)]);
    let elsewhere = elsewhere.filter(|(_, keys)| keys.iter().any(|key| key.name == name));
    let elsewhere: Vec<&str> = elsewhere.map(|(table, _)| *table).collect();
    if elsewhere.is_empty() {
        let names: Vec<&str> = known.iter().map(|key| key.name).collect();
        return format!("there is no such key (there are {})", names.join(", "));
    }
    format!(
        "there is no such key here (it belongs to {})",
        elsewhere.join(" or ")
    )
}

/// What is wrong with a file that is not TOML.
fn unreadable(text: &str, error: &toml::de::Error) -> Wrong {
    let span = error.span().unwrap_or_default();
    let number = line(text, span.start);
    let named = text.get(span).filter(|_| error.message() == DUPLICATE);
    if let Some(key) = named {
        return Wrong {
            line: number,
            key: key.trim().to_owned(),
            problem: "stands twice in its table; take one of them out".to_owned(),
        };
    }
    let shown: String = text
        .lines()
        .nth(number - 1)
        .unwrap_or_default()
        .trim()
        .chars()
        .take(SHOWN)
        .collect();
    Wrong {
        line: number,
        key: String::new(),
        problem: format!(
            "cannot read {shown:?}: lines are `key = value`, `[table]` or `[[table]]`, texts stand \
             in quotes, lists in square brackets"
        ),
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
    use super::super::schema::{OPERATOR, POLICY, POOL};
    use super::*;
    use crate::agent::config::{AgentConfig, PoolConfig};
    use crate::agent::policy::{Limits, OperatorTable};

    /// The lists say the same as the types: serde names all keys when it meets a strange one.
    #[test]
    fn every_key_is_known() {
        fn keys<T: serde::de::DeserializeOwned + fmt::Debug>() -> Vec<String> {
            let said = toml::from_str::<T>("strange-key = 1").unwrap_err();
            let quoted = said.message().split('`').skip(3).step_by(2);
            let mut keys: Vec<String> = quoted.map(str::to_owned).collect();
            keys.sort();
            keys
        }
        let sorted = |known: &[Key]| {
            let mut known: Vec<String> = known.iter().map(|key| key.name.to_owned()).collect();
            known.sort();
            known
        };
        assert_eq!(keys::<AgentConfig>(), sorted(TOP));
        assert_eq!(keys::<PoolConfig>(), sorted(POOL));
        assert_eq!(keys::<Limits>(), sorted(POLICY));
        let mut own = sorted(POLICY);
        own.extend(["name", "fingerprint"].map(str::to_owned));
        own.sort();
        assert_eq!(own, sorted(OPERATOR));
        // Flattened types name no keys: they are read one by one.
        for key in OPERATOR {
            let text = format!("{} = []", key.name);
            assert!(toml::from_str::<OperatorTable>(&text).is_err() || key.name == "pools");
        }
    }
}
