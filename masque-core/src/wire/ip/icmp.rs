//! ICMP errors about packets that cannot be forwarded (RFC 792, RFC 1812 §4.3, RFC 4443, RFC 9484 §7.2.1).

use alloc::vec::Vec;
use core::net::IpAddr;

/// What to tell the sender.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IcmpError {
    /// No route: 3/0, 1/0.
    NoRoute,
    /// Forbidden by policy: 3/13, 1/1.
    Prohibited,
    /// Host unreachable beyond the route: 3/1, 1/3.
    AddressUnreachable,
    /// The source is not assigned to the sender: 3/13, 1/5.
    SourcePolicy,
    /// Larger than the MTU: 3/4, 2/0. Never told with less than 576 (IPv4) or 1,280 (IPv6).
    PacketTooBig {
        /// The next hop's MTU in bytes.
        mtu: u32,
    },
    /// The hop limit ran out: 11/0, 3/0.
    TimeExceeded,
}

/// The whole IP packet that carries `error` about `about` from `source`, or `None` where RFC 1122
/// §3.2.2, RFC 1812 §4.3.2.7 and RFC 4443 §2.4 forbid an answer: about ICMP errors, later
/// fragments, non-unicast sources or destinations (Packet Too Big excepted for IPv6 multicast).
#[must_use]
pub fn build(error: IcmpError, source: IpAddr, about: &[u8]) -> Option<Vec<u8>> {
    let _ = (error, source, about);
    unimplemented!()
}
