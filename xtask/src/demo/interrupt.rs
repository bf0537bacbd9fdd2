//! Ctrl-C and SIGTERM: the demonstration stops at its next wait, and everything is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the demonstration is to stop.
#[derive(Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches both signals from now on.
    ///
    /// # Errors
    /// If they cannot be caught.
    pub(super) fn install() -> Result<Self> {
        let interrupt = Self::default();
        let raised = interrupt.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot watch for Ctrl-C")?;
        let (mut ctrl_c, mut term) = {
            let _context = runtime.enter();
            (
                signal(SignalKind::interrupt()).context("cannot catch Ctrl-C")?,
                signal(SignalKind::terminate()).context("cannot catch SIGTERM")?,
            )
        };
        std::thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = ctrl_c.recv() => {}
                        _ = term.recv() => {}
                    }
                });
                raised.raise();
            })
            .context("cannot watch for Ctrl-C")?;
        Ok(interrupt)
    }

    /// Makes every wait stop.
    pub(super) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Gives up if one has come.
    ///
    /// # Errors
    /// If one has come.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("stopped by a signal; all hosts and programs have been ended");
        }
        Ok(())
    }
}
