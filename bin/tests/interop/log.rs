//! What has happened so far, and waiting for what has not.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than anything here takes; only a failing test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Everything of one kind that happened, in order.
#[derive(Debug)]
pub(crate) struct Log<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    entries: Vec<T>,
    ended: bool,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                entries: Vec::new(),
                ended: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl<T: std::fmt::Debug> Log<T> {
    pub(crate) fn push(&self, entry: T) {
        self.lock().entries.push(entry);
        self.changed.notify_all();
    }

    /// Nothing follows.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// What `wanted` makes of the first entry it takes, those of the past included; `None` if there
    /// is none before the end or the end of `patience`.
    pub(crate) fn find<U>(
        &self,
        patience: Duration,
        mut wanted: impl FnMut(&T) -> Option<U>,
    ) -> Option<U> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        let mut seen = 0;
        loop {
            for entry in &state.entries[seen..] {
                if let Some(found) = wanted(entry) {
                    return Some(found);
                }
            }
            seen = state.entries.len();
            let left = until.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the end; whether it came.
    pub(crate) fn wait_end(&self) -> bool {
        let _ = self.find(PATIENCE, |_| None::<()>);
        self.lock().ended
    }

    /// [`Log::find`], and a failure if there is none.
    #[track_caller]
    pub(crate) fn wait<U>(&self, what: &str, wanted: impl FnMut(&T) -> Option<U>) -> U {
        match self.find(PATIENCE, wanted) {
            Some(found) => found,
            None => panic!("no {what} in:\n{}", self.text()),
        }
    }

    /// Whether there is one now.
    pub(crate) fn has(&self, mut wanted: impl FnMut(&T) -> bool) -> bool {
        self.lock().entries.iter().any(&mut wanted)
    }

    /// All of it, an entry a line.
    pub(crate) fn text(&self) -> String {
        let state = self.lock();
        let lines = state.entries.iter().map(|entry| format!("  {entry:?}"));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
