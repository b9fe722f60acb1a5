//! The real thing: UDP sockets and TUN devices of the system.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::BorrowedFd;

use masque_core::endpoint::{PortId, RecvMeta, SocketId, Transmit};
use masque_core::wire::offload::{TunFrame, VnetHdr};

use crate::app::Sockets;
use crate::io::{Descriptors, Io, Source};
use crate::memory::MemoryTun;
use crate::tun::TunDevice;

/// UDP sockets and TUN devices of the system.
#[derive(Debug, Default)]
pub struct SystemIo {
    _todo: (),
}

impl SystemIo {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Turns GSO off for all sockets, now and later.
    pub fn forbid_gso(&mut self) {
        unimplemented!()
    }

    /// Turns GRO off for sockets added from now on.
    pub fn forbid_gro(&mut self) {
        unimplemented!()
    }

    /// Adds a bound socket (see [`crate::udp::UdpConfig::bind`]); it is made non-blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn add_socket(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        let _ = socket;
        unimplemented!()
    }

    /// Adds a TUN device. Ports count up from 0.
    pub fn add_tun(&mut self, device: TunDevice) -> PortId {
        let _ = device;
        unimplemented!()
    }

    /// Adds one end of a memory device.
    pub fn add_memory(&mut self, device: MemoryTun) -> PortId {
        let _ = device;
        unimplemented!()
    }

    /// The address a socket is bound to.
    #[must_use]
    pub fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        let _ = socket;
        unimplemented!()
    }
}

impl Sockets for SystemIo {
    fn add(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        self.add_socket(socket)
    }

    fn remove(&mut self, socket: SocketId) {
        let _ = socket;
        unimplemented!()
    }
}

impl Io for SystemIo {
    fn try_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> io::Result<(RecvMeta, usize)> {
        let _ = (socket, buffer);
        unimplemented!()
    }

    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        let _ = (transmit, data);
        unimplemented!()
    }

    fn max_segments(&self, socket: SocketId) -> usize {
        let _ = socket;
        unimplemented!()
    }

    fn disable_gso(&mut self, socket: SocketId) {
        let _ = socket;
        unimplemented!()
    }

    fn try_read_tun(
        &mut self,
        port: PortId,
        buffer: &mut [u8],
    ) -> io::Result<(VnetHdr, Range<usize>)> {
        let _ = (port, buffer);
        unimplemented!()
    }

    fn try_write_tun(&mut self, port: PortId, frame: &TunFrame) -> io::Result<()> {
        let _ = (port, frame);
        unimplemented!()
    }

    fn sockets(&self) -> Vec<SocketId> {
        unimplemented!()
    }

    fn ports(&self) -> Vec<PortId> {
        unimplemented!()
    }

    fn generation(&self) -> u64 {
        unimplemented!()
    }
}

impl Descriptors for SystemIo {
    fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>> {
        let _ = source;
        unimplemented!()
    }
}
