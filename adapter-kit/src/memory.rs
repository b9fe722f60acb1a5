//! TUN devices in memory: no privilege, and the same readiness as a real one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// One end of a device in memory: what one end writes, packet by packet, the other reads. Over a pair
/// of UNIX sequenced-packet sockets, so that a runtime waits for it as for a TUN.
#[derive(Debug)]
pub struct MemoryTun {
    _todo: (),
}

impl MemoryTun {
    /// Two ends, both non-blocking. With `vnet_hdr` every packet has a virtio-net header in front.
    ///
    /// # Errors
    /// What the system says.
    pub fn pair(vnet_hdr: bool) -> io::Result<(Self, Self)> {
        let _ = vnet_hdr;
        unimplemented!()
    }

    /// Whether every packet has a virtio-net header in front.
    #[must_use]
    pub fn vnet_hdr(&self) -> bool {
        unimplemented!()
    }

    /// The next packet, with its header if there is one.
    ///
    /// # Errors
    /// `WouldBlock`; `UnexpectedEof` if the other end is gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let _ = buffer;
        unimplemented!()
    }

    /// Gives the other end a packet, with its header if there is one.
    ///
    /// # Errors
    /// `WouldBlock`; `BrokenPipe` if the other end is gone.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let _ = packet;
        unimplemented!()
    }

    /// Makes [`MemoryTun::recv`] and [`MemoryTun::send`] wait, or not.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        let _ = nonblocking;
        unimplemented!()
    }
}

impl AsFd for MemoryTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}
