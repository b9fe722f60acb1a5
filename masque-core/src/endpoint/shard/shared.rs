//! What the shards of one server have in common.
//!
//! Locked on the events of a connection's life only, never for a packet: each endpoint has a copy
//! of who owns which prefix, and brings it up to date when a counter shows that it is behind. The
//! two locks are never held together.
//!
//! An endpoint is still a function of its inputs: what the others have written here is one of them,
//! and the order of calls on the endpoints of a server decides what each of them finds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::{MAX_SHARDS, ShardId, home};
use crate::endpoint::admit::Crowd;
use crate::endpoint::config::{Config, Lease};
use crate::endpoint::owners::{Change, Owners};
use crate::endpoint::pool::AddressBook;
use crate::endpoint::setup::micros_since_epoch;
use crate::endpoint::token::Tokens;
use crate::endpoint::types::{ConnId, Identity, TunnelHandle};

/// So many changes are kept for endpoints that are behind; one that is further behind copies all.
const MAX_LOG: usize = 1024;

/// What the shards of one server have in common: addresses and leases, who owns which prefix, and
/// what [`super::super::Limits`] count. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    shards: NonZeroU16,
    next_id: AtomicU64,
    registry: Mutex<Registry>,
    /// When the next lease can expire, in microseconds since the Unix epoch.
    next_expiry: AtomicU64,
    board: Mutex<Board>,
    /// How many changes the board has seen.
    changes: AtomicU64,
    /// Per shard: whether notices wait for it.
    noticed: Vec<AtomicBool>,
}

/// Who is here, and with which addresses.
pub(in crate::endpoint) struct Registry {
    pub(in crate::endpoint) book: AddressBook,
    /// The connections of each identity that have not ended.
    pub(in crate::endpoint) of_identity: BTreeMap<Identity, BTreeSet<ConnId>>,
    pub(in crate::endpoint) crowd: Crowd,
    pub(in crate::endpoint) tokens: Tokens,
}

/// What shards tell each other: changes to all, notices to one.
struct Board {
    owners: Owners,
    /// The latest changes, all of which `owners` has.
    log: VecDeque<Change>,
    notices: Vec<Vec<Notice>>,
}

/// What one shard wants another to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::endpoint) enum Notice {
    /// Its identity has newer connections.
    Replace(ConnId),
    /// Its identity is no longer welcome.
    Revoke(ConnId),
    /// The queue of one tunnel goes to another.
    Yield(TunnelHandle, TunnelHandle),
}

impl Notice {
    pub(in crate::endpoint) fn conn(self) -> ConnId {
        match self {
            Self::Replace(conn) | Self::Revoke(conn) => conn,
            Self::Yield(from, _) => from.conn,
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("shards", &self.0.shards)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// For a server of `shards` shards (more than [`MAX_SHARDS`] are as many), of which each has this
    /// configuration: its pools, leases and static assignments, and its limits, are those of all.
    #[must_use]
    pub fn new(config: &Config, shards: NonZeroU16) -> Self {
        let shards = shards.min(NonZeroU16::new(MAX_SHARDS).unwrap_or(shards));
        let lifetime = config.limits.lease_lifetime;
        let book = match &config.server {
            Some(server) => AddressBook::new(
                &server.pools,
                &server.gateways,
                &server.statics,
                &server.leases,
                lifetime,
            ),
            None => AddressBook::new(&[], &[], &[], &[], lifetime),
        };
        Self(Arc::new(Inner {
            shards,
            next_id: AtomicU64::new(0),
            next_expiry: AtomicU64::new(micros(book.next_expiry())),
            registry: Mutex::new(Registry {
                book,
                of_identity: BTreeMap::new(),
                crowd: Crowd::default(),
                tokens: Tokens::default(),
            }),
            board: Mutex::new(Board {
                owners: Owners::default(),
                log: VecDeque::new(),
                notices: vec![Vec::new(); usize::from(shards.get())],
            }),
            changes: AtomicU64::new(0),
            noticed: (0..shards.get()).map(|_| AtomicBool::new(false)).collect(),
        }))
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> NonZeroU16 {
        self.0.shards
    }

    /// On which shard a connection is: commands about it go there.
    #[must_use]
    pub fn home(&self, conn: ConnId) -> ShardId {
        home(conn, self.0.shards)
    }

    /// The lease of an identity as it is now. Events about leases come out of the shards in no common
    /// order: what is to be kept across restarts is what stands here.
    #[must_use]
    pub fn lease(&self, identity: &Identity) -> Option<Lease> {
        self.registry().book.leased(identity)
    }

    /// Every lease as it is now, in the order of identities.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.registry().book.leases().cloned().collect()
    }

    /// An ID nobody has had, of a connection on `shard`: the newer, the greater, on all shards.
    pub(in crate::endpoint) fn next_id(&self, shard: ShardId) -> ConnId {
        let number = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        ConnId(number * u64::from(self.0.shards.get()) + u64::from(shard.0))
    }

    pub(in crate::endpoint) fn registry(&self) -> MutexGuard<'_, Registry> {
        let registry = &self.0.registry;
        registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the leases, and notes when the next one can expire.
    pub(in crate::endpoint) fn change_leases<T>(
        &self,
        change: impl FnOnce(&mut Registry) -> T,
    ) -> T {
        let mut registry = self.registry();
        let changed = change(&mut registry);
        let next = micros(registry.book.next_expiry());
        self.0.next_expiry.store(next, Ordering::Relaxed);
        changed
    }

    /// Whether a lease may have expired by now, in microseconds since the Unix epoch.
    #[inline]
    pub(in crate::endpoint) fn may_expire(&self, now: u64) -> bool {
        now >= self.0.next_expiry.load(Ordering::Relaxed)
    }

    /// Whether somebody else has written something for `shard`, which has seen so many changes.
    pub(in crate::endpoint) fn has_news(&self, shard: ShardId, seen: u64) -> bool {
        self.0.changes.load(Ordering::Acquire) != seen
            || self.0.noticed[usize::from(shard.0)].load(Ordering::Acquire)
    }

    /// Makes changes known to all shards, at once, and brings the caller's copy up to date.
    pub(in crate::endpoint) fn announce(
        &self,
        changes: &[Change],
        owners: &mut Owners,
        seen: &mut u64,
    ) {
        let mut board = self.board();
        for change in changes {
            board.owners.apply(*change);
            board.log.push_back(*change);
        }
        let surplus = board.log.len().saturating_sub(MAX_LOG);
        board.log.drain(..surplus);
        let total = self.0.changes.load(Ordering::Relaxed) + changes.len() as u64;
        self.0.changes.store(total, Ordering::Release);
        board.copy_to(owners, seen, total);
    }

    /// Brings the caller's copy up to date and gives the notices for its shard.
    pub(in crate::endpoint) fn catch_up(
        &self,
        shard: ShardId,
        owners: &mut Owners,
        seen: &mut u64,
    ) -> Vec<Notice> {
        let mut board = self.board();
        board.copy_to(owners, seen, self.0.changes.load(Ordering::Relaxed));
        let at = usize::from(shard.0);
        self.0.noticed[at].store(false, Ordering::Release);
        std::mem::take(&mut board.notices[at])
    }

    /// How many prefixes lead to tunnels.
    pub(in crate::endpoint) fn prefixes(&self) -> usize {
        self.board().owners.len()
    }

    /// Leaves a notice for the shard of its connection.
    pub(in crate::endpoint) fn leave(&self, notice: Notice) {
        let at = usize::from(self.home(notice.conn()).0);
        let mut board = self.board();
        board.notices[at].push(notice);
        self.0.noticed[at].store(true, Ordering::Release);
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        let board = &self.0.board;
        board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// Brings a copy that has `seen` so many of all changes up to date.
    fn copy_to(&self, owners: &mut Owners, seen: &mut u64, total: u64) {
        let behind = usize::try_from(total - *seen).unwrap_or(usize::MAX);
        match self.log.len().checked_sub(behind) {
            Some(from) => {
                let missed = self.log.range(from..);
                missed.for_each(|change| owners.apply(*change));
            }
            None => owners.clone_from(&self.owners),
        }
        *seen = total;
    }
}

fn micros(at: Option<SystemTime>) -> u64 {
    at.map_or(u64::MAX, micros_since_epoch)
}
