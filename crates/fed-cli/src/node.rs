//! `fed node`: one member's end of a federation.

use std::io::Write as _;
use std::path::PathBuf;

use fed_service::node::{self, NodeFolder};

use crate::console;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The node's folder, which holds its node.json
    folder: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // boringtun reports an ordinary retry as a warning; the mesh tells of its peers itself.
    console::log("info,boringtun=off");
    // No thread may be started before the sandbox is forked off, so there is no runtime here.
    node::run(&NodeFolder::new(&arguments.folder), |ready| {
        let line = serde_json::to_string(ready).expect("a key and a port are JSON");
        // A supervisor that is gone does not read it; the lease or the pipe ends this node then.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    })?;
    Ok(())
}
