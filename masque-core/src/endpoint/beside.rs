//! What a connection sends to other addresses than its peer's.
//!
//! A PATH_CHALLENGE is answered where it came from, in a datagram of 1,200 bytes, however small it was.
//! quinn-proto answers each: who may send into a connection and can forge addresses would have us send
//! anybody many times what it costs. RFC 9000 §8.2.2 lets an endpoint answer as it may send to any address
//! that is not validated: three times what came from there.

use std::net::SocketAddr;

/// How much more may be sent than was received (RFC 9000 §8.1).
const FACTOR: usize = 3;
/// The most that is saved up.
const MOST: usize = 64 << 10;

/// How many bytes may be sent to addresses that are not the peer's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Beside {
    left: u32,
    /// The peer has moved, and where it was is asked whether it has (RFC 9000 §9.3).
    asks: bool,
}

impl Beside {
    /// A datagram of so many bytes came for the connection.
    pub(super) fn received(&mut self, peer: SocketAddr, from: SocketAddr, bytes: usize) {
        if from != peer {
            let left = (self.left as usize).saturating_add(bytes.saturating_mul(FACTOR));
            self.left = left.min(MOST) as u32;
        }
    }

    /// The peer is at another address now.
    pub(super) fn migrated(&mut self) {
        self.asks = true;
    }

    /// Whether a datagram of so many bytes may be sent there; if so, it is taken for sent.
    pub(super) fn allows(&mut self, peer: SocketAddr, to: SocketAddr, bytes: usize) -> bool {
        if to == peer || std::mem::take(&mut self.asks) {
            return true;
        }
        match (self.left as usize).checked_sub(bytes) {
            Some(left) => {
                self.left = left as u32;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 4433))
    }

    proptest! {
        #[test]
        fn no_more_than_three_times_what_came_goes_elsewhere(
            steps in prop::collection::vec((any::<bool>(), 0u8..4, 0usize..3000), 0..200),
        ) {
            let (mut beside, peer) = (Beside::default(), address(0));
            let (mut came, mut sent) = (0, 0);
            for (comes, host, bytes) in steps {
                let other = address(host);
                if comes {
                    beside.received(peer, other, bytes);
                    came += if host == 0 { 0 } else { bytes };
                } else {
                    let allowed = beside.allows(peer, other, bytes);
                    // A peer's own address needs no proof here: QUIC limits what goes there itself.
                    prop_assert!(allowed || host != 0);
                    sent += if allowed && host != 0 { bytes } else { 0 };
                    prop_assert!(sent <= 3 * came);
                }
            }
        }
    }

    #[test]
    fn what_is_full_size_is_answered_in_full_size() {
        let mut beside = Beside::default();
        for _ in 0..100 {
            beside.received(address(0), address(1), 1200);
            assert!(beside.allows(address(0), address(1), 1200));
        }
    }

    #[test]
    fn where_the_peer_was_is_asked_once() {
        let mut beside = Beside::default();
        beside.migrated();
        assert!(beside.allows(address(0), address(1), 1200));
        assert!(!beside.allows(address(0), address(1), 1200));
    }
}
