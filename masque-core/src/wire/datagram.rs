//! HTTP Datagrams (RFC 9297 §2.1) and context IDs (RFC 9484 §5).

use super::stream::StreamId;
use super::varint::VarInt;
use crate::error::{WireError, WireErrorKind};

/// A Context ID (RFC 9484 §5): 0 is a whole IP packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ContextId(pub VarInt);

impl ContextId {
    /// The payload is an IP packet.
    pub const IP_PACKET: Self = Self(VarInt::from_u32(0));
}

/// The request stream a QUIC DATAGRAM belongs to, and where its HTTP Datagram payload begins.
///
/// # Errors
/// [`WireErrorKind::QuarterStreamId`] if it is cut or above 2^60-1.
pub fn open(datagram: &[u8]) -> Result<(StreamId, usize), WireError> {
    let bad = WireError::new(WireErrorKind::QuarterStreamId, 0);
    let (quarter, len) = VarInt::decode(datagram).ok_or(bad)?;
    let id = VarInt::new(quarter.into_inner() << 2)
        .filter(|_| quarter.into_inner() < 1 << 60)
        .ok_or(bad)?;
    Ok((StreamId::new(id), len))
}

/// The context ID at the front of an HTTP Datagram payload and how long it is; `None` if it is cut
/// (such a datagram is dropped: the RFC names no error).
#[must_use]
pub fn open_context(payload: &[u8]) -> Option<(ContextId, usize)> {
    VarInt::decode(payload).map(|(id, len)| (ContextId(id), len))
}

/// What stands before the IP packet in a QUIC DATAGRAM: quarter stream ID and context ID 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatagramHeader {
    bytes: [u8; 9],
    len: u8,
}

impl DatagramHeader {
    /// For IP packets on request stream `stream`.
    #[must_use]
    pub fn ip_packet(stream: StreamId) -> Self {
        let mut bytes = [0; 9];
        let quarter = VarInt::new(stream.into_inner() >> 2).unwrap_or_default();
        let mut rest = &mut bytes[..];
        quarter.encode(&mut rest);
        Self {
            bytes,
            len: quarter.encoded_len() as u8 + 1,
        }
    }

    /// What follows this header in a datagram, if the datagram begins with it. A peer may also write the
    /// same numbers longer.
    #[must_use]
    #[inline]
    pub fn strip<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        match self.len {
            2 => {
                let (front, rest) = datagram.split_first_chunk::<2>()?;
                (front == self.bytes.first_chunk()?).then_some(rest)
            }
            _ => datagram.strip_prefix(self.as_slice()),
        }
    }

    /// The bytes, 2 to 9 of them.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests;
