//! The seam between the pump and the system: `try_*` operations that never block.

use std::io;

use bytes::BytesMut;
use masque_core::endpoint::{PortId, RecvMeta, SocketId, Transmit};
use masque_core::wire::offload::{TunFrame, VnetHdr};

/// UDP sockets and TUN devices, as non-blocking operations. `ErrorKind::WouldBlock` says that nothing
/// waits (reads) or that nothing fits (writes).
pub trait Io {
    /// Receives one batch of UDP datagrams from any socket that has one: appends the bytes to
    /// `buffer`, whose spare capacity is at least [`crate::io::UDP_BATCH`], and says what they are.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_recv(&mut self, socket: SocketId, buffer: &mut BytesMut) -> io::Result<RecvMeta>;

    /// Sends `data`, which `transmit` describes.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()>;

    /// The most datagrams one send may carry on this socket now (1: no GSO).
    fn max_segments(&self, socket: SocketId) -> usize;

    /// Reads one packet or super-packet from a TUN into `buffer`.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_read_tun(&mut self, port: PortId, buffer: &mut [u8]) -> io::Result<(VnetHdr, usize)>;

    /// Writes one frame to a TUN.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_write_tun(&mut self, port: PortId, frame: &TunFrame) -> io::Result<()>;

    /// The sockets there are.
    fn sockets(&self) -> Vec<SocketId>;

    /// The devices there are.
    fn ports(&self) -> Vec<PortId>;
}

/// The most bytes one receive can give.
pub const UDP_BATCH: usize = 65_536;
