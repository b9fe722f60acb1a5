//! Which addresses each identity last had, kept across restarts.
//!
//! One file, written by one shard: the first. The others tell it whose lease has changed, through a
//! channel that loses nothing, and wake it; what the lease is now stands where all shards can see it.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use masque_adapter_kit::Controller;
use masque_core::endpoint::{Identity, Lease, Shared};

use super::Message;
use crate::exit::Failure;
use crate::files;
use crate::state::State;

/// How long changed leases wait to be written together.
const SAVE_DELAY: Duration = Duration::from_millis(100);

/// A shard's part in keeping leases.
pub(super) enum Leases {
    /// Writes them.
    Keeper(Box<Keeper>),
    /// Tells the one that does.
    Reporter(Reporter),
}

/// Writes the lease file.
pub(super) struct Keeper {
    state: State,
    writer: Writer,
    save_at: Option<Instant>,
    others: Option<Others>,
}

/// What comes from the other shards.
struct Others {
    shared: Shared,
    news: mpsc::Receiver<Identity>,
}

/// Tells the keeper.
#[derive(Clone)]
pub(super) struct Reporter {
    news: mpsc::Sender<Identity>,
    keeper: Option<Controller<Message>>,
}

impl Leases {
    /// For a server of one shard.
    pub(super) fn alone(state: State) -> Self {
        Self::Keeper(Box::new(Keeper::new(state, None)))
    }

    /// For the first of several shards, and for the others.
    pub(super) fn shared(state: State, shared: Shared) -> (Self, Reporter) {
        let (sender, news) = mpsc::channel();
        let keeper = Keeper::new(state, Some(Others { shared, news }));
        let reporter = Reporter {
            news: sender,
            keeper: None,
        };
        (Self::Keeper(Box::new(keeper)), reporter)
    }

    pub(super) fn changed(&mut self, now: Instant, lease: Lease) {
        match self {
            Self::Keeper(keeper) => {
                match &keeper.others {
                    Some(_) => keeper.look_up(&lease.identity),
                    None => keeper.state.set(lease),
                }
                keeper.save_later(now);
            }
            Self::Reporter(reporter) => reporter.tell(lease.identity),
        }
    }

    pub(super) fn ended(&mut self, now: Instant, identity: Identity) {
        match self {
            Self::Keeper(keeper) => {
                match &keeper.others {
                    Some(_) => keeper.look_up(&identity),
                    None => keeper.state.remove(&identity),
                }
                keeper.save_later(now);
            }
            Self::Reporter(reporter) => reporter.tell(identity),
        }
    }

    /// After [`Message::Leases`]: what other shards have told.
    pub(super) fn collect(&mut self, now: Instant) {
        if let Self::Keeper(keeper) = self
            && keeper.collect()
        {
            keeper.save_later(now);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Keeper(keeper) => keeper.save_at,
            Self::Reporter(_) => None,
        }
    }

    pub(super) fn on_deadline(&mut self, now: Instant) {
        if let Self::Keeper(keeper) = self
            && keeper.save_at.is_some_and(|at| at <= now)
        {
            keeper.save_at = None;
            if let Some(text) = keeper.state.changed() {
                keeper.writer.write(text);
            }
        }
    }

    /// Writes what is not written yet; the other shards have ended.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let Self::Keeper(mut keeper) = self else {
            return Ok(());
        };
        keeper.collect();
        if keeper.writer.finish().is_err() {
            keeper.state.mark_dirty();
        }
        keeper.state.save().map_err(|error| {
            let path = keeper.state.leases_path();
            Failure::system(format!("cannot write {}", path.display()), &error)
        })
    }
}

impl Keeper {
    fn new(state: State, others: Option<Others>) -> Self {
        Self {
            writer: Writer::new(state.leases_path()),
            state,
            save_at: None,
            others,
        }
    }

    fn save_later(&mut self, now: Instant) {
        if self.save_at.is_none() {
            self.save_at = Some(now + SAVE_DELAY);
        }
    }

    /// Takes over what all shards know: their news are in no common order.
    fn look_up(&mut self, identity: &Identity) {
        let lease = self
            .others
            .as_ref()
            .and_then(|others| others.shared.lease(identity));
        match lease {
            Some(lease) => self.state.set(lease),
            None => self.state.remove(identity),
        }
    }

    /// `true` if there were news.
    fn collect(&mut self) -> bool {
        let news: Vec<Identity> = match &self.others {
            Some(others) => others.news.try_iter().collect(),
            None => Vec::new(),
        };
        for identity in &news {
            self.look_up(identity);
        }
        !news.is_empty()
    }
}

impl Reporter {
    /// Who is to be woken.
    pub(super) fn to(mut self, keeper: Controller<Message>) -> Leases {
        self.keeper = Some(keeper);
        Leases::Reporter(self)
    }

    fn tell(&self, identity: Identity) {
        // The receiver lives until all shards have ended. A message that is refused is not missed: a
        // keeper that has so many looks at all news with the first, and one that is gone looks last.
        let _ = self.news.send(identity);
        if let Some(keeper) = &self.keeper {
            let _ = keeper.send(Message::Leases);
        }
    }
}

/// Writes lease files on a thread of its own: the loop must not wait for a disk.
struct Writer {
    sender: Option<mpsc::Sender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Writer {
    fn new(path: PathBuf) -> Self {
        let (sender, texts) = mpsc::channel::<Vec<u8>>();
        let thread = std::thread::spawn(move || {
            let mut last = Ok(());
            while let Ok(mut text) = texts.recv() {
                // Each text is the whole file: only the latest counts.
                text = texts.try_iter().last().unwrap_or(text);
                last = files::replace(&path, &text);
                if let Err(error) = &last {
                    tracing::error!(%error, path = %path.display(), "cannot write the leases");
                }
            }
            last
        });
        Self {
            sender: Some(sender),
            thread: Some(thread),
        }
    }

    fn write(&self, text: Vec<u8>) {
        if let Some(sender) = &self.sender {
            // The thread ends only after the sender.
            let _ = sender.send(text);
        }
    }

    /// Waits for what is under way; the result of the last write.
    fn finish(&mut self) -> io::Result<()> {
        self.sender = None;
        match self.thread.take() {
            Some(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the writer panicked"))),
            None => Ok(()),
        }
    }
}
