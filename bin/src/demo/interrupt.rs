//! An interrupted demo leaves neither processes nor keys behind.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::{Exit, Failure};

/// The processes to end with the demo.
#[derive(Clone, Debug, Default)]
pub(super) struct Children(Arc<Mutex<Vec<Pid>>>);

impl Children {
    /// This one, too.
    pub(super) fn add(&self, pid: Pid) {
        self.list(|list| list.push(pid));
    }

    /// It has been waited for: its number may become another process's.
    pub(super) fn remove(&self, pid: Pid) {
        self.list(|list| list.retain(|other| *other != pid));
    }

    fn list(&self, change: impl FnOnce(&mut Vec<Pid>)) {
        // A list of numbers is whole even where a holder panicked.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// From now on SIGINT and SIGTERM end the children, remove `folder` and end this process. Starts a
/// thread: a user namespace must have been entered before.
pub(super) fn watch(folder: PathBuf) -> Result<Children, Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT])
        .map_err(|error| Failure::system("cannot catch signals", &error))?;
    let children = Children::default();
    let watched = children.clone();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            watched.list(|list| {
                for pid in list.drain(..) {
                    // It may have ended by the same signal.
                    let _ = kill(pid, Signal::SIGTERM);
                }
            });
            // Whoever cannot remove it now could not do so later.
            let _ = std::fs::remove_dir_all(&folder);
            eprintln!("masque: error: interrupted");
            std::process::exit(Exit::Internal as i32);
        }
    });
    Ok(children)
}
