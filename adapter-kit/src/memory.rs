//! TUN devices in memory: no privilege, and the same readiness as a real one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

/// One end of a device in memory: what one end writes, packet by packet, the other reads. Over a pair
/// of UNIX sequenced-packet sockets, so that a runtime waits for it as for a TUN.
///
/// ```
/// use masque_adapter_kit::memory::MemoryTun;
///
/// let (ours, theirs) = MemoryTun::pair(false)?;
/// ours.send(&[0x45, 0, 0, 20])?;
/// let mut buffer = [0; 1500];
/// assert_eq!(theirs.recv(&mut buffer)?, 4);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct MemoryTun {
    descriptor: OwnedFd,
    vnet_hdr: bool,
}

impl MemoryTun {
    /// Two ends, both non-blocking. With `vnet_hdr` every packet has a virtio-net header in front.
    ///
    /// # Errors
    /// What the system says.
    pub fn pair(vnet_hdr: bool) -> io::Result<(Self, Self)> {
        // Datagram sockets would hold ten packets; these hold as many bytes as their buffer.
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        let end = |descriptor| Self {
            descriptor,
            vnet_hdr,
        };
        Ok((end(one), end(other)))
    }

    /// Whether every packet has a virtio-net header in front.
    #[must_use]
    pub fn vnet_hdr(&self) -> bool {
        self.vnet_hdr
    }

    /// The next packet, with its header if there is one.
    ///
    /// # Errors
    /// `WouldBlock`; `UnexpectedEof` if the other end is gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match recv(&self.descriptor, buffer, RecvFlags::empty())?.0 {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok(length),
        }
    }

    /// Gives the other end a packet, with its header if there is one.
    ///
    /// # Errors
    /// `WouldBlock`; `BrokenPipe` if the other end is gone; `InvalidInput` for an empty packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        // An empty one could not be told from the end.
        if packet.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        send(&self.descriptor, packet, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Makes [`MemoryTun::recv`] and [`MemoryTun::send`] wait, or not.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.descriptor, nonblocking)?)
    }
}

impl AsFd for MemoryTun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_boundaries_and_a_full_device_refuses() {
        let (ours, theirs) = MemoryTun::pair(false).expect("pair");
        let mut sent = 0u32;
        loop {
            let packet = vec![sent as u8; 1 + sent as usize % 2_000];
            match ours.send(&packet) {
                Ok(()) => sent += 1,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        assert!(sent > 50);
        let mut buffer = [0; 4096];
        for number in 0..sent {
            let length = theirs.recv(&mut buffer).expect("packet");
            assert_eq!(length, 1 + number as usize % 2_000);
            assert!(buffer[..length].iter().all(|byte| *byte == number as u8));
        }
        let empty = theirs.recv(&mut buffer).expect_err("empty");
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_gone_end_is_an_error_and_not_a_signal() {
        let (ours, theirs) = MemoryTun::pair(true).expect("pair");
        drop(theirs);
        let read = ours.recv(&mut [0; 64]).expect_err("gone");
        assert_eq!(read.kind(), io::ErrorKind::UnexpectedEof);
        let write = ours.send(&[1]).expect_err("gone");
        assert_eq!(write.kind(), io::ErrorKind::BrokenPipe);
    }
}
