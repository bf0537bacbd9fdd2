//! Values of the right type that are wrong all the same.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use fed_core::{Destination, Leases};
use fed_rpc::invitation::MAX_DIALS;
use fed_rpc::is_address;

use super::document::At;
use super::{AgentConfig, OperatorTable, PoolConfig};
use crate::agent::policy::Limits;

/// Smallest scratch folder, in bytes: logs, fed's package and what Python itself writes.
const MIN_SCRATCH_BYTES: u64 = 64 << 20;

/// Where a value stands, and what is wrong with it.
type Mistake = (Vec<At<'static>>, String);

impl AgentConfig {
    /// The first mistake, if there is one.
    pub(super) fn first_mistake(&self) -> Option<Mistake> {
        self.mistake_of_host()
            .or_else(|| self.mistake_of_dial())
            .or_else(|| self.mistake_of_reach())
            .or_else(|| self.mistake_of_pools())
            .or_else(|| self.mistake_of_policy())
    }

    fn mistake_of_host(&self) -> Option<Mistake> {
        let top = |key, problem: String| Some((vec![At::Key(key)], problem));
        if self.name.as_str() == "operator" {
            let problem = "\"operator\" is what fed calls the operator's host; choose another";
            return top("name", problem.to_owned());
        }
        if let Some(address) = self.address.as_ref().filter(|address| !is_address(address)) {
            let problem = format!(
                "{address:?} is not host:port; write it as operators reach this agent, such as \
                 \"agent.site.example:4788\", and an IPv6 host in brackets"
            );
            return top("address", problem);
        }
        if self.address.is_none() && self.dial.is_empty() {
            let problem = "is missing; it takes a text in quotes, such as \
                           \"agent.site.example:4788\". Where this host accepts no connections, \
                           name in `dial` the operators to be dialled instead";
            return top("address", problem.to_owned());
        }
        if let Some(listen) = self
            .listen
            .as_ref()
            .filter(|listen| !can_be_listened_at(listen))
        {
            let problem = format!(
                "{listen:?} is not address:port; write \"[::]:4788\" to listen on all addresses"
            );
            return top("listen", problem);
        }
        if !self.state.is_absolute() {
            let problem = format!("{:?} is not absolute; begin with /", self.state.display());
            return top("state", problem);
        }
        let relative = self.read_only.iter().position(|path| !path.is_absolute());
        if let Some(index) = relative {
            let problem = format!(
                "{:?} is not absolute; begin with /",
                self.read_only[index].display()
            );
            return Some((vec![At::Key("read_only"), At::Index(index)], problem));
        }
        let scratch = self
            .scratch
            .filter(|size| size.as_u64() < MIN_SCRATCH_BYTES)?;
        let problem = format!("{scratch} is too little; logs alone need \"64 MiB\"");
        top("scratch", problem)
    }

    fn mistake_of_dial(&self) -> Option<Mistake> {
        if self.dial.len() > MAX_DIALS {
            let problem = format!("{MAX_DIALS} operators at most are dialled");
            return Some((vec![At::Key("dial")], problem));
        }
        let index = self.dial.iter().position(|address| !is_address(address))?;
        let problem = format!(
            "{:?} is not host:port; write it as this agent reaches the operator, such as \
             \"operator.example:4789\", and an IPv6 host in brackets",
            self.dial[index]
        );
        Some((vec![At::Key("dial"), At::Index(index)], problem))
    }

    fn mistake_of_reach(&self) -> Option<Mistake> {
        let mut known = BTreeSet::new();
        self.reach.iter().enumerate().find_map(|(index, text)| {
            let problem = match text.parse::<Destination>() {
                Ok(destination) if known.insert(destination.clone()) => return None,
                Ok(destination) => format!("{destination} is named twice"),
                Err(error) => error.to_string(),
            };
            Some((vec![At::Key("reach"), At::Index(index)], problem))
        })
    }

    fn mistake_of_pools(&self) -> Option<Mistake> {
        self.pools.iter().enumerate().find_map(|(index, pool)| {
            let earlier = &self.pools[..index];
            let (place, problem) = match earlier.iter().any(|other| other.name == pool.name) {
                true => (
                    vec![At::Key("name")],
                    format!("{} is named twice", pool.name),
                ),
                false => pool.first_mistake()?,
            };
            let pool = [At::Key("pool"), At::Index(index)];
            Some((pool.into_iter().chain(place).collect(), problem))
        })
    }

    fn mistake_of_policy(&self) -> Option<Mistake> {
        let own_pools = self.own_pools();
        let names: Vec<&str> = own_pools.iter().map(|pool| pool.name.as_str()).collect();
        if let Some((place, problem)) = mistake_of_limits(&self.policy, &names) {
            let table = [At::Key("policy")];
            return Some((table.into_iter().chain(place).collect(), problem));
        }
        self.operators
            .iter()
            .enumerate()
            .find_map(|(index, table)| {
                let earlier = &self.operators[..index];
                let named = mistake_of_names(table, earlier);
                let named = named.map(|(key, problem)| (vec![At::Key(key)], problem));
                let (place, problem) =
                    named.or_else(|| mistake_of_limits(&table.limits, &names))?;
                let table = [At::Key("operator"), At::Index(index)];
                Some((table.into_iter().chain(place).collect(), problem))
            })
    }
}

fn can_be_listened_at(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// What is wrong with whom a table is for.
fn mistake_of_names(
    table: &OperatorTable,
    earlier: &[OperatorTable],
) -> Option<(&'static str, String)> {
    match (&table.name, &table.fingerprint) {
        (None, None) => Some(("name", "give the operator's name or fingerprint".to_owned())),
        (_, Some(text)) if text.parse::<fed_rpc::Fingerprint>().is_err() => {
            let problem = format!("{text:?} is none; `fed agent operators` shows them");
            Some(("fingerprint", problem))
        }
        (_, Some(text)) => {
            let twice = earlier
                .iter()
                .any(|other| other.fingerprint.as_ref() == Some(text));
            twice.then(|| ("fingerprint", format!("{text} has a table already")))
        }
        (Some(name), None) => {
            let mut by_name = earlier.iter().filter(|other| other.fingerprint.is_none());
            let twice = by_name.any(|other| other.name.as_ref() == Some(name));
            twice.then(|| ("name", format!("{name:?} has a table already")))
        }
    }
}

/// What is wrong with limits, at a site with pools of these names.
fn mistake_of_limits(limits: &Limits, names: &[&str]) -> Option<Mistake> {
    let pools = limits.pools.iter().flatten().enumerate();
    let mut unknown = pools.filter(|(_, pool)| !names.contains(&pool.as_str()));
    if let Some((index, pool)) = unknown.next() {
        let near = fed_core::nearest(pool.as_str(), names.iter().copied());
        let hint = match near {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", names.join(", ")),
        };
        let place = vec![At::Key("pools"), At::Index(index)];
        return Some((place, format!("there is no pool {pool} ({hint})")));
    }
    // A limit that leaves no operator a lease that there is.
    let times = [("lease", limits.lease), ("lifetime", limits.lifetime)];
    let (key, time) = times
        .into_iter()
        .find_map(|(key, time)| Some((key, time.filter(|time| *time < Leases::MIN)?)))?;
    let problem = format!(
        "{} is shorter than the shortest lease, {}",
        humantime::format_duration(time),
        humantime::format_duration(Leases::MIN)
    );
    Some((vec![At::Key(key)], problem))
}

impl PoolConfig {
    fn first_mistake(&self) -> Option<Mistake> {
        if let (Some(workers), Some(max)) = (self.workers, self.max_workers)
            && workers > max
        {
            let problem = format!("{workers} is more than max_workers, {max}");
            return Some((vec![At::Key("workers")], problem));
        }
        if self.memory.is_some_and(|memory| memory.as_u64() == 0) {
            let problem = "no worker can run in 0 bytes".to_owned();
            return Some((vec![At::Key("memory")], problem));
        }
        self.data.iter().enumerate().find_map(|(index, root)| {
            let place = vec![At::Key("data"), At::Index(index)];
            Some((place, mistake_of_root(root)?))
        })
    }
}

/// What is wrong with a data root, as far as its text says.
fn mistake_of_root(root: &str) -> Option<String> {
    if root.contains("://") && !root.starts_with('/') {
        return None;
    }
    let path = Path::new(root);
    if !path.is_absolute() {
        return Some(format!(
            "{root:?} is neither absolute nor a URL; begin with / or with a scheme such as s3://"
        ));
    }
    if path.components().any(|step| step == Component::ParentDir) {
        return Some(format!("{root:?} goes up again; write where it leads"));
    }
    is_of_system(path)
}

/// Why a folder cannot be shown to workers, if it is one that no data lies in.
pub(in crate::agent) fn is_of_system(path: &Path) -> Option<String> {
    if path == Path::new("/") {
        return Some(
            "\"/\" would show workers the whole host; name the folders with data".to_owned(),
        );
    }
    let mut of_kernel = ["/proc", "/sys", "/dev"].into_iter();
    of_kernel.any(|folder| path.starts_with(folder)).then(|| {
        format!(
            "{:?} holds no data but the system's own",
            path.display().to_string()
        )
    })
}
