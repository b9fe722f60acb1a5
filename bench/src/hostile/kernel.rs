//! What stands between the server's pump and the world: bounded queues, as the kernel has them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use masque_adapter_kit::{Io, Sockets};
use masque_core::endpoint::{PortId, RecvMeta, SocketId, Transmit};
use masque_core::wire::offload::{TunFrame, VnetHdr};

/// What the socket's receive buffer holds: the pump asks for 4 MiB, and the kernel doubles it to make
/// up for its own records.
const SOCKET_BYTES: usize = 8 << 20;
/// What the kernel charges for a datagram beside its bytes.
const RECORD: usize = 768;
/// The device's transmit queue in packets, as adapter-kit sets it.
pub(super) const TUN_PACKETS: usize = 1024;

/// The system calls' share of a turn, where the pump itself is timed: measured on the machine that the
/// figures in docs/performance.md are of.
const RECEIVE: Duration = Duration::from_nanos(1500);
const SEND: Duration = Duration::from_nanos(4300);
const SEND_MORE: Duration = Duration::from_nanos(300);
const READ: Duration = Duration::from_nanos(1000);
const WRITE: Duration = Duration::from_nanos(1500);

/// A batch of datagrams as the server's socket gives it.
pub(super) struct Batch {
    pub(super) from: SocketAddr,
    pub(super) stride: usize,
    pub(super) data: Vec<u8>,
}

/// The queues, and what was lost at them.
#[derive(Default)]
pub(super) struct Kernel {
    socket: VecDeque<Batch>,
    socket_bytes: usize,
    tun: VecDeque<(VnetHdr, Vec<u8>)>,
    /// What the server has sent, and written, since it was last looked at.
    pub(super) sent: Vec<(Transmit, Vec<u8>)>,
    pub(super) written: Vec<(VnetHdr, Vec<u8>)>,
    /// Time that system calls took since it was last looked at.
    pub(super) calls: Duration,
    /// Datagrams and packets that found no room.
    pub(super) lost_datagrams: u64,
    pub(super) lost_packets: u64,
}

impl Kernel {
    /// A batch arrives; what finds no room is lost.
    pub(super) fn arrive(&mut self, mut batch: Batch) {
        let stride = batch.stride.max(1);
        let room = (SOCKET_BYTES.saturating_sub(self.socket_bytes)) / (stride + RECORD);
        let count = batch.data.len().div_ceil(stride);
        if room < count {
            self.lost_datagrams += (count - room) as u64;
            batch.data.truncate(room * stride);
        }
        if !batch.data.is_empty() {
            self.socket_bytes += Self::charge(&batch);
            self.socket.push_back(batch);
        }
    }

    fn charge(batch: &Batch) -> usize {
        batch.data.len() + RECORD * batch.data.len().div_ceil(batch.stride.max(1))
    }

    /// A packet or super-packet is routed to the device.
    pub(super) fn route(&mut self, header: VnetHdr, packet: Vec<u8>) -> bool {
        let fits = self.tun.len() < TUN_PACKETS;
        if fits {
            self.tun.push_back((header, packet));
        } else {
            self.lost_packets += 1;
        }
        fits
    }

    pub(super) fn is_idle(&self) -> bool {
        self.socket.is_empty() && self.tun.is_empty()
    }
}

/// The pump's view of it.
pub(super) struct KernelIo(pub(super) Rc<RefCell<Kernel>>);

impl Sockets for KernelIo {
    fn add(&mut self, _: UdpSocket) -> io::Result<SocketId> {
        Err(ErrorKind::Unsupported.into())
    }

    fn remove(&mut self, _: SocketId) {}
}

impl Io for KernelIo {
    fn try_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> io::Result<(RecvMeta, usize)> {
        let mut kernel = self.0.borrow_mut();
        kernel.calls += RECEIVE;
        let batch = kernel.socket.pop_front().ok_or(ErrorKind::WouldBlock)?;
        kernel.socket_bytes -= Kernel::charge(&batch);
        buffer[..batch.data.len()].copy_from_slice(&batch.data);
        let meta = RecvMeta {
            socket,
            remote: batch.from,
            local_ip: None,
            ecn: None,
            stride: batch.stride,
        };
        Ok((meta, batch.data.len()))
    }

    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        let mut kernel = self.0.borrow_mut();
        let segments = transmit
            .segment_size
            .map_or(1, |size| data.len().div_ceil(size));
        kernel.calls += SEND + SEND_MORE * segments as u32;
        kernel.sent.push((*transmit, data.to_vec()));
        Ok(())
    }

    fn max_segments(&self, _: SocketId) -> usize {
        64
    }

    fn disable_gso(&mut self, _: SocketId) {}

    fn try_read_tun(
        &mut self,
        _: PortId,
        buffer: &mut [u8],
    ) -> io::Result<(VnetHdr, Range<usize>)> {
        let mut kernel = self.0.borrow_mut();
        kernel.calls += READ;
        let (header, packet) = kernel.tun.pop_front().ok_or(ErrorKind::WouldBlock)?;
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok((header, 0..packet.len()))
    }

    fn try_write_tun(&mut self, _: PortId, frame: &TunFrame) -> io::Result<()> {
        let mut kernel = self.0.borrow_mut();
        kernel.calls += WRITE;
        kernel
            .written
            .push((frame.header(), frame.packet().to_vec()));
        Ok(())
    }

    fn sockets(&self) -> Vec<SocketId> {
        vec![SocketId(0)]
    }

    fn ports(&self) -> Vec<PortId> {
        vec![PortId(0)]
    }

    fn generation(&self) -> u64 {
        0
    }

    /// Whoever makes the turns looks at their deadlines.
    fn arm(&mut self, _: Instant, _: Option<Instant>, _: bool) -> io::Result<bool> {
        Ok(false)
    }
}

/// What a turn took: measured, or added up from what it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// The processor time of the thread, and a fixed time for each system call.
    Measured,
    /// A fixed time for each thing done: the same in every run and on every machine.
    Model,
}

/// What a turn did, as far as the model charges for it.
#[derive(Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) packets: u64,
    /// First flights: a key exchange and a signature.
    pub(super) handshakes: u64,
    /// Second flights: a certificate.
    pub(super) completed: u64,
    pub(super) retries: u64,
}

impl Work {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            received: self.received - before.received,
            sent: self.sent - before.sent,
            packets: self.packets - before.packets,
            handshakes: self.handshakes - before.handshakes,
            completed: self.completed - before.completed,
            retries: self.retries - before.retries,
        }
    }

    /// Of a machine less than half as fast as the one docs/performance.md measures, on which a Retry takes
    /// 5 µs and a first flight 120.
    pub(super) fn takes(self) -> Duration {
        let nanos = self.received * 1000
            + self.sent * 900
            + self.packets * 600
            + self.handshakes * 500_000
            + self.completed * 300_000
            + self.retries * 12_000;
        Duration::from_nanos(nanos)
    }
}

/// The processor time this thread has used.
pub(super) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Runs `turn` and says what it took.
pub(super) fn timed<T>(turn: impl FnOnce() -> T) -> (T, Duration) {
    let before = thread_time();
    let result = turn();
    (result, thread_time().saturating_sub(before))
}

/// Something that happens later.
pub(super) struct Later<T> {
    waiting: VecDeque<(Instant, T)>,
}

impl<T> Default for Later<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }
}

impl<T> Later<T> {
    /// Not before what was put in last.
    pub(super) fn put(&mut self, at: Instant, value: T) {
        self.waiting.push_back((at, value));
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<(Instant, T)> {
        let due = self.waiting.front().is_some_and(|(at, _)| *at <= now);
        if due { self.waiting.pop_front() } else { None }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|(at, _)| *at)
    }
}
