//! The seam between the pump and the system: `try_*` operations that never block.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use masque_core::endpoint::{PortId, RecvMeta, SocketId, Transmit};
use masque_core::wire::offload::{TunFrame, VnetHdr};

use crate::app::Sockets;

/// UDP sockets and TUN devices, as non-blocking operations. `ErrorKind::WouldBlock` says that nothing
/// waits (reads) or that nothing fits (writes).
pub trait Io: Sockets {
    /// Receives one batch of UDP datagrams into `buffer`, which holds at least [`UDP_BATCH`] bytes:
    /// what they are, and how many bytes.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> io::Result<(RecvMeta, usize)>;

    /// Sends `data`, which `transmit` describes.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()>;

    /// The most datagrams one send may carry on this socket now (1: no GSO).
    fn max_segments(&self, socket: SocketId) -> usize;

    /// Never use GSO on this socket again: it has failed.
    fn disable_gso(&mut self, socket: SocketId);

    /// Reads one packet or super-packet from a TUN into `buffer`, which holds at least [`TUN_READ`]
    /// bytes: its virtio-net header, and where in `buffer` the packet is.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says. `UnexpectedEof` if the other end is gone.
    fn try_read_tun(
        &mut self,
        port: PortId,
        buffer: &mut [u8],
    ) -> io::Result<(VnetHdr, std::ops::Range<usize>)>;

    /// Writes one frame to a TUN.
    ///
    /// # Errors
    /// `WouldBlock`, or what the system says.
    fn try_write_tun(&mut self, port: PortId, frame: &TunFrame) -> io::Result<()>;

    /// The sockets there are.
    fn sockets(&self) -> Vec<SocketId>;

    /// The devices there are.
    fn ports(&self) -> Vec<PortId>;

    /// Whether a device is never read here, because another pump reads it. It is not waited for.
    fn is_write_only(&self, port: PortId) -> bool {
        let _ = port;
        false
    }

    /// A number that changes whenever a socket or device was added or removed.
    fn generation(&self) -> u64;

    /// What time it is: what a turn begins with. It must not go back.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Nothing is left to do at `now`, and nothing else will be before `deadline`: [`Source::Timer`] is to
    /// become ready then, and not before what it was armed for; or never, without a deadline. Called at
    /// the end of every turn after which the pump may sleep, and once before the first. A deadline that
    /// was armed earlier may stay, if it has not passed: it costs one idle turn, and setting it in every
    /// turn a system call per turn. `fired` says that the timer was seen ready since it was set: then it has
    /// to be set, as a runtime may tell of readiness only once, or late.
    ///
    /// Says whether anything was set.
    ///
    /// # Errors
    /// What the system says.
    fn arm(&mut self, now: Instant, deadline: Option<Instant>, fired: bool) -> io::Result<bool>;
}

/// An [`Io`] whose sockets, devices and timer are descriptors that a runtime can wait for.
pub trait Descriptors: Io {
    /// The descriptor behind a socket, a device or [`Source::Timer`], if there is one.
    fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>>;
}

/// The most bytes one UDP receive can give.
pub const UDP_BATCH: usize = 65_536;

/// The most bytes one read from a TUN can give: a super-packet with its header.
pub const TUN_READ: usize = VnetHdr::LEN + 65_535;

/// Something a pump waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// A UDP socket.
    Socket(SocketId),
    /// A TUN device.
    Port(PortId),
    /// The timer ([`Io::arm`]).
    Timer,
    /// Messages of a [`crate::Controller`].
    Control,
    /// Mail of other shards' pumps ([`crate::mail`]).
    Mail,
}

/// Reading, writing, both or neither: what is waited for, or what is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
}

impl Interest {
    /// To read.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };
    /// To write.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
    };
    /// Both.
    pub const BOTH: Self = Self {
        read: true,
        write: true,
    };

    /// Whether it is neither.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.read && !self.write
    }
}
