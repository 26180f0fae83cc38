//! Owns every task of a process: starts them, tells them to stop, waits for them.

use std::{
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::FutureExt;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// A group of tasks that stop together. Clones are the same group.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    stopping: CancellationToken,
    tasks: TaskTracker,
    failed: Arc<AtomicBool>,
}

impl Lifecycle {
    /// A new group, not part of any other.
    pub fn new() -> Self {
        Self::default()
    }

    /// A group that stops when this one does, or by itself; this one waits for its tasks too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { stopping: self.stopping.child_token(), ..self.clone() }
    }

    /// Starts a task. An error or a panic in it stops the group, and the process fails.
    pub fn spawn<E: Display>(
        &self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let group = self.clone();
        self.tasks.spawn(async move {
            match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(task = name, %error, "task failed, stopping"),
                Err(_panic) => tracing::error!(task = name, "task panicked, stopping"),
            }
            group.failed.store(true, Ordering::SeqCst);
            group.stop();
        });
    }

    /// Asks every task to stop. They decide how.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// True once the group was asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Waits until the group is asked to stop.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stopping.cancelled()
    }

    /// The token behind [`Lifecycle::stopping`], for what must own it.
    pub fn token(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Waits until every task has ended; false if one of them failed.
    pub async fn drained(&self) -> bool {
        self.tasks.close();
        self.tasks.wait().await;
        !self.failed.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_stops_the_others() {
        let group = Lifecycle::new();
        let other = group.clone();
        group.spawn("waits", async move {
            other.stopping().await;
            Ok::<_, String>(())
        });
        group.spawn("panics", async {
            if true { panic!("on purpose") } else { Ok::<_, String>(()) }
        });
        assert!(!group.drained().await);
    }

    #[tokio::test]
    async fn a_child_stops_alone_or_with_its_parent() {
        let parent = Lifecycle::new();
        let child = parent.child();
        child.stop();
        assert!(child.is_stopping() && !parent.is_stopping());
        let child = parent.child();
        parent.stop();
        assert!(child.is_stopping());
        assert!(parent.drained().await);
    }
}
