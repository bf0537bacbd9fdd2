//! The first agent.toml of a site, from what `fed agent init` is told.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use fed_core::SiteName;
use serde::Serialize;
use thiserror::Error;

use super::config::{AgentConfig, ConfigFile, DEFAULT_PORT};

/// What an agent.toml begins with, as far as it is known. Folders are absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Name of the site.
    pub name: Option<SiteName>,
    /// `host:port` at which operators reach the agent; a host alone means the default port.
    pub address: Option<String>,
    /// `host:port` of operators that the agent dials.
    pub dial: Vec<String>,
    /// Interpreter of the workers.
    pub python: Option<String>,
    /// User that a root agent becomes.
    pub user: Option<String>,
    /// Folders and URL prefixes of the pool that bears the site's name.
    pub data: Vec<String>,
}

/// Why an agent.toml was not written, or is not what was asked for.
#[derive(Debug, Error)]
pub enum DraftError {
    /// There is no file, and too little is known to write one.
    #[error(
        "{path} does not exist; give {missing}, and it is written (or name another file with \
         --config)"
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The flags that are missing.
        missing: &'static str,
    },
    /// A value is wrong. Nothing was written.
    #[error("{problem}; {path} has not been written")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The key, what is wrong with it, and what to do.
        problem: String,
    },
    /// The file says something else already.
    #[error(
        "{path} exists, and its {key} is {found}, not {asked}: change it there, or remove the file \
         and run this again"
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// The key of agent.toml.
        key: &'static str,
        /// Its value in the file.
        found: String,
        /// The value that was asked for.
        asked: String,
    },
    /// The file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file, or the folder that it was to lie in.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The keys of a new file, in their order there.
#[derive(Serialize)]
struct Keys<'a> {
    name: &'a SiteName,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    dial: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    state: &'a std::path::Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    python: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

#[derive(Serialize)]
struct Tables<'a> {
    pool: [Pool<'a>; 1],
}

#[derive(Serialize)]
struct Pool<'a> {
    name: &'a str,
    data: &'a [String],
}

/// What a site may add to each part of the file; the rest is in docs/agent.md.
const MORE: &str = "\
# prologue = \"module load python\"  # shell commands before the interpreter
# read_only = [\"/opt/software\"]    # what workers may read besides
# reach = [\"store.site:443\"]       # hosts of the site's network that workers may connect to
# scratch = \"100 GiB\"              # most that one federation may write
";
const MORE_OF_POOL: &str = "\
# workers = 4                       # how many start when the operator names no number
# max_workers = 16                  # most of one federation
# threads = 4                       # of each worker
# memory = \"8 GiB\"                # of each worker
";
const POLICY: &str = "\
# [policy]                          # limits of each operator
# workers = 16                      # over all federations, at a time
# lifetime = \"8h\"                 # of a federation
";

impl Draft {
    /// The text of the file, and what it says: not written yet, so that it can be tried first.
    ///
    /// # Errors
    /// [`DraftError::Unknown`] and [`DraftError::Wrong`].
    pub fn text(&self, file: &ConfigFile) -> Result<(String, AgentConfig), DraftError> {
        let unknown = |missing| DraftError::Unknown {
            path: file.path.clone(),
            missing,
        };
        let address = self.address();
        let name = match (&self.name, address.is_some() || !self.dial.is_empty()) {
            (Some(name), true) => name,
            (Some(_), false) => return Err(unknown("--address (or --dial) too")),
            (None, true) => return Err(unknown("--name too")),
            (None, false) => return Err(unknown("--name and --address (or --dial)")),
        };
        let port = address.iter().find_map(|address| address.rsplit_once(':'));
        let port = port.map(|(_, port)| port);
        let listen = port.filter(|port| *port != DEFAULT_PORT.to_string());
        let keys = Keys {
            name,
            address: address.as_deref(),
            dial: &self.dial,
            listen: listen.map(|port| format!("[::]:{port}")),
            state: &file.state,
            python: self.python.as_deref(),
            user: self.user.as_deref(),
        };
        let tables = Tables {
            pool: [Pool {
                name: name.as_str(),
                data: &self.data,
            }],
        };
        let wrong = |problem: String| DraftError::Wrong {
            path: file.path.clone(),
            problem,
        };
        let keys = toml::to_string(&keys).map_err(|error| wrong(error.to_string()))?;
        let tables = toml::to_string(&tables).map_err(|error| wrong(error.to_string()))?;
        let text = format!(
            "# The agent of a fed site. All keys: docs/agent.md\n\n\
             {keys}{MORE}\n{tables}{MORE_OF_POOL}\n{POLICY}"
        );
        let config = file.parse(&text).map_err(wrong)?;
        Ok((text, config))
    }

    /// Checks that a file which exists says what was asked for, if anything was.
    ///
    /// # Errors
    /// [`DraftError::Differs`].
    pub fn agrees(&self, file: &ConfigFile, config: &AgentConfig) -> Result<(), DraftError> {
        let differs = |key, found: String, asked: String| DraftError::Differs {
            path: file.path.clone(),
            key,
            found,
            asked,
        };
        let asked = [
            ("name", self.name.as_ref().map(ToString::to_string)),
            ("address", self.address()),
            ("python", self.python.clone()),
            ("user", self.user.clone()),
        ];
        let found = [
            Some(config.name.as_str()),
            config.address.as_deref(),
            Some(config.python.as_str()),
            config.user.as_deref(),
        ];
        for ((key, asked), found) in asked.into_iter().zip(found) {
            if let Some(asked) = asked
                && found != Some(asked.as_str())
            {
                let found = found.map_or_else(|| "not set".to_owned(), |text| format!("{text:?}"));
                return Err(differs(key, found, format!("{asked:?}")));
            }
        }
        let data = config.pools.iter().flat_map(|pool| &pool.data).collect();
        let lists: [(_, Vec<&String>, _); 2] = [
            ("dial", config.dial.iter().collect(), &self.dial),
            ("data", data, &self.data),
        ];
        for (key, held, asked) in lists {
            if let Some(missing) = asked.iter().find(|one| !held.contains(one)) {
                return Err(differs(key, format!("{held:?}"), format!("{missing:?}")));
            }
        }
        Ok(())
    }

    fn address(&self) -> Option<String> {
        let address = self.address.as_ref()?;
        let has_port = address.rsplit_once(':').is_some() && !address.ends_with(']');
        Some(match has_port {
            true => address.clone(),
            false => format!("{address}:{DEFAULT_PORT}"),
        })
    }
}

/// Writes a new file, and its folder.
///
/// # Errors
/// [`DraftError::Write`], also where somebody else has written it meanwhile.
pub fn write(file: &ConfigFile, text: &str) -> Result<(), DraftError> {
    let cannot = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| DraftError::Write { path, source }
    };
    if let Some(folder) = file.path.parent() {
        std::fs::create_dir_all(folder).map_err(cannot(folder))?;
    }
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o644);
    let mut opened = options.open(&file.path).map_err(cannot(&file.path))?;
    opened.write_all(text.as_bytes()).map_err(|source| {
        // Half a file would be taken for the site's own.
        let _ = std::fs::remove_file(&file.path);
        cannot(&file.path)(source)
    })
}

#[cfg(test)]
mod tests {
    use fed_core::PoolName;

    use super::*;

    fn file() -> ConfigFile {
        ConfigFile {
            path: PathBuf::from("/etc/fed/agent.toml"),
            state: PathBuf::from("/var/lib/fed-agent"),
            dial: Vec::new(),
        }
    }

    fn draft() -> Draft {
        Draft {
            name: Some("ecmwf".parse().unwrap()),
            address: Some("agent.example:4999".to_owned()),
            dial: Vec::new(),
            python: Some("/opt/py \"3\"/bin/python".to_owned()),
            user: Some("fed".to_owned()),
            data: vec!["/data/ecmwf".to_owned(), "s3://ecmwf".to_owned()],
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_agrees() {
        let (text, config) = draft().text(&file()).unwrap();
        assert!(text.starts_with("# The agent of a fed site."), "{text}");
        assert_eq!(config.listen.as_deref(), Some("[::]:4999"));
        assert_eq!(config.state, file().state);
        assert_eq!(config.user.as_deref(), Some("fed"));
        let pool: PoolName = "ecmwf".parse().unwrap();
        assert_eq!(
            (&config.pools[0].name, &config.pools[0].data),
            (&pool, &draft().data)
        );
        draft().agrees(&file(), &config).unwrap();
        Draft::default().agrees(&file(), &config).unwrap();
    }

    #[test]
    fn what_may_be_added_is_right_as_it_stands() {
        let (text, _) = draft().text(&file()).unwrap();
        let (first, rest) = text.split_once('\n').unwrap();
        assert!(first.starts_with("# "), "{first}");
        let added: Vec<&str> = rest
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .collect();
        let added = added.join("\n");
        let config = file().parse(&added).unwrap();
        assert_eq!(config.policy.workers, Some(16), "{added}");
        assert_eq!(config.pools[0].max_workers, Some(16), "{added}");
        assert_eq!(config.read_only.len(), 1, "{added}");
    }

    #[test]
    fn the_port_need_not_be_given() {
        for (given, address) in [
            ("agent.example", "agent.example:4788"),
            ("[2001:db8::1]", "[2001:db8::1]:4788"),
            ("[2001:db8::1]:4788", "[2001:db8::1]:4788"),
        ] {
            let mut draft = draft();
            draft.address = Some(given.to_owned());
            let (text, config) = draft.text(&file()).unwrap();
            assert_eq!(config.address.as_deref(), Some(address));
            assert!(!text.contains("listen"), "{text}");
        }
    }

    #[test]
    fn an_agent_that_dials_needs_no_address_and_does_not_listen() {
        let mut draft = draft();
        (draft.address, draft.dial) = (None, vec!["operator.example:4789".to_owned()]);
        let (text, config) = draft.text(&file()).unwrap();
        assert!(!text.contains("address"), "{text}");
        assert_eq!((&config.dial, config.listens_at()), (&draft.dial, None));
        draft.agrees(&file(), &config).unwrap();
        draft.dial = vec!["other.example:4789".to_owned()];
        let error = draft.agrees(&file(), &config).unwrap_err().to_string();
        assert!(error.contains("its dial is "), "{error}");
    }

    #[test]
    fn what_is_wrong_is_told_before_anything_is_written() {
        let error = Draft::default().text(&file()).unwrap_err().to_string();
        assert!(error.contains("--name and --address"), "{error}");
        let mut wrong = draft();
        wrong.address = Some("agent:port".to_owned());
        let error = wrong.text(&file()).unwrap_err().to_string();
        assert!(error.contains("\"agent:port\" is not host:port"), "{error}");
        wrong = draft();
        wrong.data = vec!["data".to_owned()];
        let error = wrong.text(&file()).unwrap_err().to_string();
        assert!(error.contains("neither absolute nor a URL"), "{error}");
        assert!(error.contains("has not been written"), "{error}");
    }

    #[test]
    fn a_file_that_says_something_else_is_named_with_its_key() {
        let (_, config) = draft().text(&file()).unwrap();
        for (key, change) in [
            (
                "address",
                Draft {
                    address: Some("other".to_owned()),
                    ..Draft::default()
                },
            ),
            (
                "python",
                Draft {
                    python: Some("python3".to_owned()),
                    ..Draft::default()
                },
            ),
            (
                "data",
                Draft {
                    data: vec!["/data/other".to_owned()],
                    ..Draft::default()
                },
            ),
        ] {
            let error = change.agrees(&file(), &config).unwrap_err().to_string();
            assert!(error.contains(&format!("its {key} is ")), "{error}");
        }
    }
}
