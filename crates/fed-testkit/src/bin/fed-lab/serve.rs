//! `fed-lab serve`: a lab behind standard input and output.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use fed_testkit::wan::LinkSpec;
use fed_testkit::{Host, Lab, Leftovers, Snapshot};
use serde::Serialize;
use serde_json::{Value, json};

use super::protocol::{Answer, Counters, Folder, HostAddress, LabSpec, LinkChange, Ready, Request};

/// Runs the lab of a JSON file until it is stopped, or the input ends.
pub(crate) fn serve(path: &Path) -> anyhow::Result<()> {
    fed_testkit::enter()?;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let spec: LabSpec = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("{} does not describe a lab", path.display()))?;
    let mut server = Server::start(spec)?;
    say(&server.ready())?;
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let request = serde_json::from_str(&line).context("this is no command");
        if matches!(request, Ok(Request::Stop)) {
            break;
        }
        match request.and_then(|request| server.answer(request)) {
            Ok(value) => say(&Answer::Ok(value))?,
            Err(error) => say(&Answer::Error(format!("{error:#}")))?,
        }
    }
    // Ends every process of every host before the answer.
    drop(server);
    // A reader that has closed its input may have gone as well.
    let _ = say(&Answer::Ok(Value::Null));
    Ok(())
}

fn say(message: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, message).context("cannot write to standard output")?;
    out.write_all(b"\n")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

struct Server {
    lab: Lab,
    links: BTreeMap<(String, String), LinkSpec>,
    before: Vec<(Leftovers, Snapshot)>,
}

impl Server {
    fn start(spec: LabSpec) -> anyhow::Result<Self> {
        let wan = spec
            .wan
            .apply(&LinkSpec::default())
            .map_err(|e| anyhow!("the WAN: {e}"))?;
        let mut builder = Lab::builder().wan(wan.clone()).seed(spec.seed);
        for host in &spec.hosts {
            builder = builder.host(&host.name);
            for path in &host.private {
                builder = builder.private(&host.name, path);
            }
            for bind in &host.binds {
                builder = if bind.read_only {
                    builder.bind_read_only(&host.name, &bind.source, &bind.target)
                } else {
                    builder.bind(&host.name, &bind.source, &bind.target)
                };
            }
        }
        let lab = builder.start()?;
        let names: Vec<_> = lab.hosts().iter().map(Host::name).collect();
        let pairs = names
            .iter()
            .flat_map(|a| names.iter().map(move |b| (*a, *b)));
        let links = pairs
            .filter(|(a, b)| a != b)
            .map(|(a, b)| ((a.to_owned(), b.to_owned()), wan.clone()))
            .collect();
        Ok(Self {
            lab,
            links,
            before: Vec::new(),
        })
    }

    fn ready(&self) -> Ready {
        let hosts = self.lab.hosts().iter().map(|host| {
            let address = HostAddress {
                pid: host.pid(),
                addr4: host.addr4(),
                addr6: host.addr6(),
            };
            (host.name().to_owned(), address)
        });
        Ready {
            hosts: hosts.collect(),
        }
    }

    fn answer(&mut self, request: Request) -> anyhow::Result<Value> {
        let wan = self.lab.wan();
        match request {
            Request::Counters => return Ok(serde_json::to_value(Counters::from(wan.counters()?))?),
            Request::Reset => wan.reset()?,
            Request::Cut {
                a,
                b,
                what,
                one_way: true,
            } => wan.set_cut(&a, &b, what.into())?,
            Request::Cut {
                a,
                b,
                what,
                one_way: false,
            } => wan.cut(&a, &b, what.into())?,
            Request::Wan {
                a,
                b,
                one_way,
                change,
            } => {
                self.change_link(&a, &b, &change)?;
                if !one_way {
                    self.change_link(&b, &a, &change)?;
                }
            }
            Request::Processes { host } => {
                let found = self.host(&host)?.processes()?;
                let found = found
                    .iter()
                    .map(|p| json!({"pid": p.pid, "cmdline": p.cmdline}));
                return Ok(found.collect());
            }
            Request::Snapshot { folders, machine } => self.snapshot(folders, machine)?,
            Request::Leftovers => return self.leftovers(),
            Request::Stop => {}
        }
        Ok(Value::Null)
    }

    fn change_link(&mut self, from: &str, to: &str, change: &LinkChange) -> anyhow::Result<()> {
        let key = (from.to_owned(), to.to_owned());
        let Some(link) = self.links.get_mut(&key) else {
            bail!("there is no link from {from:?} to {to:?}");
        };
        let spec = change
            .apply(link)
            .map_err(|e| anyhow!("the link {from} to {to}: {e}"))?;
        self.lab.wan().set_link(from, to, spec.clone())?;
        *link = spec;
        Ok(())
    }

    fn snapshot(&mut self, folders: Vec<Folder>, machine: bool) -> anyhow::Result<()> {
        let mut hosts = Leftovers::of_lab(&self.lab);
        for Folder { host, path } in folders {
            hosts = hosts.folder(match host {
                Some(host) => self.host(&host)?.path(&path.to_string_lossy()),
                None => path,
            });
        }
        let mut scopes = vec![hosts];
        if machine {
            scopes.push(Leftovers::of_machine());
        }
        let taken = scopes
            .into_iter()
            .map(|scope| scope.snapshot().map(|before| (scope, before)));
        self.before = taken.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn leftovers(&self) -> anyhow::Result<Value> {
        if self.before.is_empty() {
            bail!(
                "there is no snapshot to compare with; send {{\"command\": \"snapshot\"}} before"
            );
        }
        let mut lines: Vec<String> = Vec::new();
        for (scope, before) in &self.before {
            let new = scope.since(before)?;
            lines.extend(
                new.into_iter()
                    .filter(|line| !lines.contains(line))
                    .collect::<Vec<_>>(),
            );
        }
        Ok(json!(lines))
    }

    fn host(&self, name: &str) -> anyhow::Result<&Host> {
        self.lab
            .find_host(name)
            .ok_or_else(|| anyhow!("the lab has no host {name:?}"))
    }
}
