//! The IPv6 extension header chain (RFC 8200 §4, RFC 6564, RFC 4302).

use super::PacketError;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const AUTHENTICATION: u8 = 51;
pub(crate) const DESTINATION: u8 = 60;
pub(crate) const MOBILITY: u8 = 135;
pub(crate) const HIP: u8 = 139;
pub(crate) const SHIM6: u8 = 140;

/// More headers than any sender has a use for; bounds the work one packet causes.
const MAX_HEADERS: usize = 16;

/// Where a chain ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    /// The first number that is no extension header; ESP (50) and No Next Header (59) count as such.
    pub(crate) protocol: u8,
    /// Where that header begins, counted from the packet's first byte.
    pub(crate) offset: usize,
    pub(crate) fragment: bool,
    pub(crate) later_fragment: bool,
    /// A routing header of type 0 that still leads somewhere (RFC 5095).
    pub(crate) source_routed: bool,
}

/// Walks the chain of an IPv6 packet whose fixed header says that `next` follows.
///
/// # Errors
/// [`PacketError::ExtensionHeader`] if it is cut, too long, or has Hop-by-Hop options anywhere but first.
#[inline]
pub(crate) fn walk(packet: &[u8], next: u8) -> Result<Chain, PacketError> {
    let chain = Chain {
        protocol: next,
        offset: super::V6_HEADER,
        fragment: false,
        later_fragment: false,
        source_routed: false,
    };
    match next {
        super::TCP | super::UDP | super::ICMPV6 => Ok(chain),
        _ => walk_slowly(packet, chain),
    }
}

#[cold]
fn walk_slowly(packet: &[u8], mut chain: Chain) -> Result<Chain, PacketError> {
    let bad = PacketError::ExtensionHeader;
    for nth in 0..=MAX_HEADERS {
        match chain.protocol {
            HOP_BY_HOP if nth > 0 => return Err(bad),
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION | MOBILITY | HIP
            | SHIM6 => {}
            _ => return Ok(chain),
        }
        // The shortest extension header is eight bytes.
        let header: [u8; 8] = *packet
            .get(chain.offset..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(bad)?;
        let length = match chain.protocol {
            FRAGMENT => 8,
            AUTHENTICATION => 4 * (usize::from(header[1]) + 2),
            _ => 8 * (usize::from(header[1]) + 1),
        };
        let offset = chain.offset + length;
        if offset > packet.len() {
            return Err(bad);
        }
        if chain.protocol == FRAGMENT {
            let word = u16::from_be_bytes([header[2], header[3]]);
            chain.later_fragment = word & 0xfff8 != 0;
            // An atomic fragment (RFC 6946) is a whole packet.
            chain.fragment |= word & 0xfff9 != 0;
        }
        chain.source_routed |= chain.protocol == ROUTING && header[2] == 0 && header[3] != 0;
        chain.protocol = header[0];
        chain.offset = offset;
        if chain.later_fragment {
            return Ok(chain);
        }
    }
    Err(bad)
}
