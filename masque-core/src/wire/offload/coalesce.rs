//! Packets to super-packets.

use alloc::vec::Vec;

use super::VnetHdr;

/// A packet or super-packet for a TUN, with its virtio-net header in front.
///
/// The buffer always begins with [`VnetHdr::LEN`] bytes for the header, so that a device with
/// `vnet_hdr` writes it in one piece and one without writes [`TunFrame::packet`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TunFrame {
    buffer: Vec<u8>,
}

impl TunFrame {
    /// Header and packet.
    #[must_use]
    pub fn with_header(&self) -> &[u8] {
        &self.buffer
    }

    /// The packet alone.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.buffer.get(VnetHdr::LEN..).unwrap_or_default()
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> VnetHdr {
        self.buffer
            .first_chunk()
            .map_or_else(VnetHdr::default, |bytes| VnetHdr::from_bytes(*bytes))
    }
}

/// Collects packets of one turn into frames.
///
/// Packets of one flow leave in the order they came; a packet that cannot be merged closes its
/// flow's frame. At most `flows` frames are open at once; the oldest leaves first when another is
/// needed. Buffers given back by [`Coalescer::recycle`] are used again, so that a
/// steady state allocates nothing.
#[derive(Debug)]
pub struct Coalescer {
    _todo: (),
}

impl Coalescer {
    /// With at most `flows` open frames. `tcp` and `udp` say which the device takes as super-packets;
    /// with neither, every packet leaves alone.
    #[must_use]
    pub fn new(flows: usize, tcp: bool, udp: bool) -> Self {
        let _ = (flows, tcp, udp);
        unimplemented!()
    }

    /// Takes one whole, valid IP packet (copied).
    pub fn push(&mut self, packet: &[u8]) {
        let _ = packet;
        unimplemented!()
    }

    /// Closes all open frames; to be called at the end of a turn, before [`Coalescer::pop`].
    pub fn flush(&mut self) {
        unimplemented!()
    }

    /// The next finished frame.
    pub fn pop(&mut self) -> Option<TunFrame> {
        unimplemented!()
    }

    /// Gives a written frame's buffer back.
    pub fn recycle(&mut self, frame: TunFrame) {
        let _ = frame;
        unimplemented!()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
}
