//! Super-packet to packets.

use bytes::BytesMut;

use super::VnetHdr;

/// Why a super-packet cannot be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SegmentError {
    /// The virtio-net header points outside the packet or contradicts it.
    #[error("virtio-net header contradicts the packet")]
    Header,
    /// An offload type that was never asked for.
    #[error("unknown offload type")]
    Type,
}

/// What [`segment`] wrote: `count` packets of `stride` bytes, the last perhaps shorter, each with
/// `prefix.len()` bytes in front (included in `stride`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// How many packets.
    pub count: usize,
    /// Bytes from the start of one to the start of the next.
    pub stride: usize,
    /// Bytes written in all.
    pub total: usize,
}

/// Appends to `out` the packets that `packet` stands for, each preceded by `prefix`: lengths, IPv4
/// identification and checksum, TCP sequence numbers and flags (FIN and PSH on the last, CWR on the
/// first only), UDP lengths, and transport checksums complete; `hop_limit`, if given, is written into
/// each. One pass over the payload. With [`VnetHdr::GSO_NONE`] it is one packet whose checksum is
/// completed if partial.
///
/// # Errors
/// [`SegmentError`]; `out` is then as before.
pub fn segment(
    header: VnetHdr,
    packet: &[u8],
    prefix: &[u8],
    hop_limit: Option<u8>,
    out: &mut BytesMut,
) -> Result<Segments, SegmentError> {
    let _ = (header, packet, prefix, hop_limit, out);
    unimplemented!()
}
