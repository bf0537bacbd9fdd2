//! The old way: the operator's xarray reads the sites' files over HTTP.

use std::time::Duration;

use anyhow::{Context, Result};
use fed_testkit::Lab;
use serde::Deserialize;

use super::conversation::Conversation;
use super::ground::Ground;
use super::measure::{self, Traffic};
use super::{CALCULATIONS, OPERATOR, SITES};
use crate::console;

/// Port of the sites' file servers.
const PORT: &str = "8080";
/// 2.9 GB at 100 Mbit/s take four minutes.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// What a calculation took.
pub(super) struct Outcome {
    pub(super) seconds: f64,
    /// Size of the files, both sites together.
    pub(super) file_bytes: u64,
    pub(super) traffic: Traffic,
}

#[derive(Deserialize)]
struct Connected {
    #[serde(rename = "connected")]
    _connected: bool,
}

#[derive(Deserialize)]
struct Answer {
    seconds: f64,
    file_bytes: u64,
}

/// Runs every calculation, in a warm interpreter and over open connections.
///
/// # Errors
/// If a server or a calculation fails.
pub(super) fn calculate(ground: &Ground, lab: &Lab) -> Result<Vec<Outcome>> {
    let servers = SITES
        .into_iter()
        .map(|site| {
            let mut command = ground.script(lab.host(site), "serve.py")?;
            command.args([&format!("/data/{site}"), PORT]);
            Conversation::start("the file server", &mut command, ground.interrupt())
                .with_context(|| format!("cannot serve the files of {site}"))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut command = ground.script(lab.host(OPERATOR), "remote.py")?;
    command
        .args([ground.example(), ground.results("remote")?])
        .arg(PORT);
    let name = "the client of the file servers";
    let mut client = Conversation::start(name, &mut command, ground.interrupt())?;
    let outcomes = CALCULATIONS
        .into_iter()
        .map(|name| run(&mut client, lab, name))
        .collect::<Result<Vec<_>>>()?;
    client.end()?;
    servers.into_iter().try_for_each(Conversation::stop)?;
    Ok(outcomes)
}

fn run(client: &mut Conversation, lab: &Lab, name: &str) -> Result<Outcome> {
    let _connected: Connected = client.ask(&format!("connect {name}"), LIMIT)?;
    let (answer, traffic) = measure::traffic(lab, || client.ask::<Answer>(name, LIMIT))?;
    console::progress(&format!(
        "       {name}: {:.2} s, {} over the WAN",
        answer.seconds,
        super::table::bytes(traffic.bytes)
    ));
    Ok(Outcome {
        seconds: answer.seconds,
        file_bytes: answer.file_bytes,
        traffic,
    })
}
