//! Preparing a host for an agent, and inviting operators.

use std::path::Path;
use std::time::Duration;

use fed_rpc::{Fingerprint, Invitation};
use nix::unistd::User;
use thiserror::Error;

use super::config::{AgentConfig, At};
use super::keys::{KeyError, Keys, unusable};
use super::roster::{Roster, unix_seconds};
use super::serve::AgentError;
use super::site::{Known, Site};
use crate::state::{self, StateError};

/// Why a host could not be prepared, or an operator not be invited.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The identity cannot be used.
    #[error("{}", unusable(.0))]
    Identity(#[from] fed_rpc::identity::StoreError),
    /// The identity cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No invitation could be made.
    #[error("cannot make an invitation: {0}")]
    Invitation(#[from] fed_rpc::invitation::InvitationError),
    /// Sandboxes are not possible here.
    #[error(transparent)]
    Unsupported(#[from] fed_sandbox::Unsupported),
    /// The agent would not run as it is configured.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The interpreter lacks what workers need.
    #[error("{place}: {python} has no {package}; install it there, or name another interpreter")]
    Package {
        /// Where it is named.
        place: String,
        /// The interpreter.
        python: String,
        /// The distribution.
        package: &'static str,
    },
    /// The configured user does not exist, or cannot be become.
    #[error("{place}: user {user:?}: {problem}")]
    User {
        /// Where the user is named.
        place: String,
        /// The name.
        user: String,
        /// What is wrong.
        problem: String,
    },
}

/// What workers find on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitness {
    /// The workers' Python, by its own path.
    pub executable: String,
    /// Its version.
    pub python: String,
    /// Version of `distributed` there.
    pub distributed: String,
    /// What works, and may not be meant: a sentence each.
    pub warnings: Vec<String>,
}

/// Checks that this host can run workers as the configuration says. Changes nothing.
///
/// # Errors
/// See [`SetupError`].
pub async fn check(config: &AgentConfig) -> Result<Fitness, SetupError> {
    fed_sandbox::check()?;
    user(config)?;
    let site = Site::open(config).await?;
    for known in site.interpreters() {
        package(known, "dask")?;
        package(known, "distributed")?;
    }
    let own = site.interpreters().first();
    let own = own.expect("a site has an interpreter of its own");
    Ok(Fitness {
        distributed: package(own, "distributed")?,
        executable: own.inspection.environment.executable.clone(),
        python: own.inspection.environment.version.clone(),
        warnings: site
            .overcommitted()
            .into_iter()
            .chain(as_root(config))
            .collect(),
    })
}

/// Says so if tasks would run as root.
fn as_root(config: &AgentConfig) -> Option<String> {
    let is_root = nix::unistd::geteuid().is_root() && config.user.is_none();
    is_root.then(|| {
        "tasks would run as root, without its capabilities: set `user` to somebody who may read the \
         data, and no more"
            .to_owned()
    })
}

/// The version of a package that workers need.
fn package(known: &Known, package: &'static str) -> Result<String, SetupError> {
    let found = known.inspection.environment.packages.get(package).cloned();
    found.ok_or_else(|| SetupError::Package {
        place: known.place.clone(),
        python: known.interpreter.python.clone(),
        package,
    })
}

/// Makes the agent's identity and its roster, unless it has them.
///
/// # Errors
/// See [`SetupError`].
pub fn init(config: &AgentConfig) -> Result<Fingerprint, SetupError> {
    state::private_folder(&config.state)?;
    let identity = Keys::of(&config.state).own_or_new(config.name.as_str())?;
    Roster::open(&config.state)?;
    Ok(identity.fingerprint())
}

/// What [`invite`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    /// The one line that the operator needs. Secret.
    pub line: String,
    /// How long it is valid: not beyond the agent's change to another key.
    pub valid: Duration,
}

/// Makes an invitation that one operator can redeem within `valid`, who is called `operator` then,
/// or else as they wish.
///
/// # Errors
/// See [`SetupError`].
pub fn invite(
    config: &AgentConfig,
    valid: Duration,
    operator: Option<&str>,
) -> Result<Invited, SetupError> {
    let keys = Keys::of(&config.state);
    let identity = keys.own()?;
    let roster = Roster::open(&config.state)?;
    roster.sweep()?;
    let now = unix_seconds();
    let change = keys
        .announced()?
        .map_or(u64::MAX, |announced| announced.from);
    let expires = now.saturating_add(valid.as_secs()).min(change);
    let (name, address) = (config.name.as_str(), config.address.as_deref());
    let agent = identity.fingerprint();
    let invitation = Invitation::generate(name, address, &config.dial, agent, expires)?;
    roster.invite(&invitation.holder(), expires, operator)?;
    Ok(Invited {
        line: invitation.to_line(),
        valid: Duration::from_secs(expires.saturating_sub(now)),
    })
}

/// Becomes the configured user, if the agent runs as root and one is configured.
///
/// The state folder is given to that user first. Must be called while the process has one thread.
///
/// # Errors
/// [`SetupError::User`].
pub fn drop_privileges(config: &AgentConfig) -> Result<(), SetupError> {
    let Some(user) = user(config)?.filter(|_| nix::unistd::geteuid().is_root()) else {
        return Ok(());
    };
    let wrong = |problem: String| SetupError::User {
        place: config.place(&[At::Key("user")]),
        user: user.name.clone(),
        problem,
    };
    state::private_folder(&config.state)?;
    give_away(&config.state, &user).map_err(|error| wrong(error.to_string()))?;
    let groups =
        std::ffi::CString::new(user.name.as_str()).map_err(|error| wrong(error.to_string()))?;
    nix::unistd::initgroups(&groups, user.gid)
        .and_then(|()| nix::unistd::setgid(user.gid))
        .and_then(|()| nix::unistd::setuid(user.uid))
        .map_err(|errno| wrong(format!("cannot become it: {errno}")))
}

/// The user that the configuration names.
fn user(config: &AgentConfig) -> Result<Option<User>, SetupError> {
    let Some(name) = &config.user else {
        return Ok(None);
    };
    let wrong = |problem: String| SetupError::User {
        place: config.place(&[At::Key("user")]),
        user: name.clone(),
        problem,
    };
    let found = User::from_name(name).map_err(|errno| wrong(errno.to_string()))?;
    let missing = || wrong("no such user; create it, or correct the name".to_owned());
    found.ok_or_else(missing).map(Some)
}

/// Changes the owner of a tree. Links are changed themselves, never followed, and the folders of
/// federations are left alone: workers write there, and could swap a folder for a link.
fn give_away(path: &Path, user: &User) -> std::io::Result<()> {
    std::os::unix::fs::lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let is_federations = path.file_name().is_some_and(|name| name == "federations");
    if !is_federations && std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_away(&entry?.path(), user)?;
        }
    }
    Ok(())
}
