//! A stock Dask scheduler and one worker on loopback, each a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Child;

use crate::{python, within};

/// The two processes; they end with it.
pub(crate) struct Cluster {
    pub(crate) scheduler: SocketAddr,
    pub(crate) dashboard: SocketAddr,
    pub(crate) folder: TempDir,
    processes: Vec<Child>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scheduler.json");
        let shared = [
            "--scheduler-file",
            file.to_str().unwrap(),
            "--host",
            "127.0.0.1",
        ];
        let mut scheduler = spawn(
            folder.path(),
            "distributed.cli.dask_scheduler",
            // The idle timeout ends it should this test be killed.
            &[
                &shared[..],
                &["--port", "0", "--dashboard-address", "127.0.0.1:0"],
            ]
            .concat(),
            &["--idle-timeout", "300 s"],
        );
        let (address, dashboard) = within(addresses(&file, &mut scheduler, folder.path())).await;
        let worker = spawn(
            folder.path(),
            "distributed.cli.dask_worker",
            &[
                &shared[..],
                &["--no-nanny", "--nthreads", "1", "--no-dashboard"],
            ]
            .concat(),
            &["--death-timeout", "60 s", "--local-directory", "."],
        );
        Self {
            scheduler: address,
            dashboard,
            folder,
            processes: vec![worker, scheduler],
        }
    }

    /// Ends both processes and waits for them.
    pub(crate) async fn stop(mut self) {
        for process in &mut self.processes {
            process.kill().await.unwrap();
        }
    }
}

fn spawn(folder: &Path, module: &str, arguments: &[&str], more: &[&str]) -> Child {
    let log = File::create(log(folder, module)).unwrap();
    python::command(folder)
        .args(["-m", module])
        .args(arguments)
        .args(more)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn log(folder: &Path, module: &str) -> PathBuf {
    folder.join(format!("{module}.log"))
}

/// Waits until the scheduler has written where it listens.
async fn addresses(file: &Path, scheduler: &mut Child, folder: &Path) -> (SocketAddr, SocketAddr) {
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        // It may be half written.
        if let Ok(said) = serde_json::from_str::<serde_json::Value>(&text) {
            let address = said["address"].as_str().unwrap();
            let address: SocketAddr = address.strip_prefix("tcp://").unwrap().parse().unwrap();
            let port = said["services"]["dashboard"].as_u64().unwrap();
            let port = u16::try_from(port).unwrap();
            return (address, SocketAddr::new(address.ip(), port));
        }
        if let Some(status) = scheduler.try_wait().unwrap() {
            let log = std::fs::read_to_string(log(folder, "distributed.cli.dask_scheduler"));
            panic!("the scheduler ended with {status}:\n{}", log.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
