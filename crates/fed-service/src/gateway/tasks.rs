//! Everything that runs for one gateway, so that all of it ends together.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The listeners and connections of one gateway. Clones speak of the same ones.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    running: TaskTracker,
    ended: CancellationToken,
}

impl Tasks {
    /// Runs a task until it is done or the gateway ends, whichever is first.
    pub(super) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let ended = self.ended.clone();
        self.running.spawn(ended.run_until_cancelled_owned(task));
    }

    /// Has all tasks end, and does not wait for them.
    pub(super) fn cancel(&self) {
        self.ended.cancel();
    }

    /// Has all tasks end, and waits for them.
    pub(super) async fn end(&self) {
        self.cancel();
        self.running.close();
        self.running.wait().await;
    }
}
