//! A cheap client: an endpoint with one connection, and what it has seen.

use std::net::IpAddr;
use std::time::Duration;

use masque_core::endpoint::{CloseReason, Endpoint, Target, TunBatch};

/// One client of a fleet.
pub struct Client {
    pub(super) endpoint: Endpoint,
    pub(super) target: Target,
    pub(super) deadline: Option<Duration>,
    pub(super) batch: TunBatch,
    /// The addresses of its tunnel; none while it has no tunnel.
    pub addresses: Vec<IpAddr>,
    /// When it last connected.
    pub asked: Option<Duration>,
    /// When its tunnel was last told of with addresses.
    pub up: Option<Duration>,
    /// How often its tunnel came up.
    pub times_up: u32,
    /// Bytes of inner packets that reached it.
    pub received: u64,
    /// The round trips of its echoes.
    pub echoes: Vec<Duration>,
    /// Why its connections ended.
    pub ends: Vec<CloseReason>,
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, target: Target) -> Self {
        Self {
            endpoint,
            target,
            deadline: None,
            batch: TunBatch::default(),
            addresses: Vec::new(),
            asked: None,
            up: None,
            times_up: 0,
            received: 0,
            echoes: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Whether its tunnel is up and has addresses.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.up.is_some()
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Option<IpAddr> {
        self.addresses.iter().copied().find(IpAddr::is_ipv4)
    }
}
