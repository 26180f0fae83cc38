//! Files that may change while the process runs: certificates, keys, tokens.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

/// How often files are looked at. They are small, so they are read: that misses no change, however
/// the files are replaced.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Load<T> = Box<dyn Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync>;

/// What some files hold, always the newest that could be used.
pub struct Reloaded<T> {
    /// What it is, for people.
    what: &'static str,
    files: Vec<PathBuf>,
    load: Load<T>,
    print: Vec<u8>,
    current: watch::Sender<Arc<T>>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads the files for the first time; `load` makes sense of their contents, in their order.
    pub fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        load: impl Fn(&[Vec<u8>]) -> anyhow::Result<T> + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let contents = read(&files)?;
        let current = watch::Sender::new(Arc::new(load(&contents)?));
        Ok(Self { what, files, load: Box::new(load), print: print(&contents), current })
    }

    /// What is current now and in the future.
    pub fn subscribe(&self) -> watch::Receiver<Arc<T>> {
        self.current.subscribe()
    }

    /// Looks at the files until told to stop. What cannot be used is said, and does not replace what
    /// could.
    pub async fn run(
        mut self,
        stopping: CancellationToken,
    ) -> Result<(), std::convert::Infallible> {
        while stopping.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            self.look();
        }
        Ok(())
    }

    fn look(&mut self) {
        let what = self.what;
        let contents = match read(&self.files) {
            Ok(contents) => contents,
            Err(error) => {
                // Said once, not every time.
                if !self.print.is_empty() {
                    let error = format!("{error:#}");
                    tracing::error!(
                        what,
                        error,
                        "cannot read what may have changed, keeping the old"
                    );
                    self.print.clear();
                }
                return;
            }
        };
        let print = print(&contents);
        if print == self.print {
            return;
        }
        self.print = print;
        match (self.load)(&contents) {
            Ok(loaded) => {
                self.current.send_replace(Arc::new(loaded));
                tracing::info!(what, "files have changed, using the new");
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    what,
                    error,
                    "files have changed but cannot be used, keeping the old"
                );
            }
        }
    }
}

impl<T> std::fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloaded").field("what", &self.what).finish_non_exhaustive()
    }
}

fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let read =
        |path: &PathBuf| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    files.iter().map(read).collect()
}

/// Tells contents apart, without keeping secrets about.
fn print(contents: &[Vec<u8>]) -> Vec<u8> {
    contents.iter().flat_map(|content| digest(&SHA256, content).as_ref().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(contents: &[Vec<u8>]) -> anyhow::Result<Vec<u32>> {
        contents.iter().map(|content| Ok(std::str::from_utf8(content)?.trim().parse()?)).collect()
    }

    #[test]
    fn what_changes_is_used_and_what_is_broken_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("number");
        fs::write(&file, "1").unwrap();
        let mut reloaded = Reloaded::new("number", vec![file.clone()], numbers).unwrap();
        let now = reloaded.subscribe();
        for (content, expected) in [("2", 2), ("three", 2), ("4", 4)] {
            fs::write(&file, content).unwrap();
            reloaded.look();
            assert_eq!(**now.borrow(), [expected]);
        }
        fs::remove_file(&file).unwrap();
        reloaded.look();
        assert_eq!(**now.borrow(), [4]);
        fs::write(&file, "4").unwrap();
        reloaded.look();
        fs::write(&file, "5").unwrap();
        reloaded.look();
        assert_eq!(**now.borrow(), [5]);
        assert!(Reloaded::new("number", vec![dir.path().join("none")], numbers).is_err());
    }
}
