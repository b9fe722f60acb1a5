//! Packets to super-packets.
//!
//! | a packet that | does |
//! |---|---|
//! | continues an open frame of its flow, checksum verified | is appended; a short one, or one with PSH, closes the frame |
//! | could begin one | closes the flow's open frame and opens its own |
//! | is of a flow but fits no frame (no payload, other flags, options, wrong checksum) | closes the flow's open frame and leaves alone |
//! | is no plain TCP or UDP packet | closes the open frames between its two addresses and leaves alone |
//!
//! The first packet of a frame is verified when the second comes: a frame of one packet leaves as
//! it came, and nothing is said about its checksum.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::flow::{Candidate, Key, Seen, follows};
use super::{TCP_CHECKSUM, UDP_CHECKSUM, VnetHdr, flags};
use crate::wire::ip::checksum::Sum;

/// The longest frame: what an IPv4 header can state.
const MAX_PACKET: usize = 65535;
/// As Linux merges and splits UDP (`UDP_GRO_CNT_MAX`).
const MAX_DATAGRAMS: usize = 64;

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

    /// Makes it hold `packet` behind an empty header.
    fn fill(&mut self, packet: &[u8]) {
        self.buffer.clear();
        self.reserve(VnetHdr::LEN + packet.len());
        self.buffer.extend_from_slice(&[0; VnetHdr::LEN]);
        self.buffer.extend_from_slice(packet);
    }

    /// Copies `payload` behind the end.
    #[inline]
    fn append(&mut self, payload: &[u8]) {
        self.reserve(self.buffer.len() + payload.len());
        self.buffer.extend_from_slice(payload);
    }

    /// Makes room for `len` bytes in all, in steps of two that let the buffer be used again.
    #[inline]
    fn reserve(&mut self, len: usize) {
        if self.buffer.capacity() < len {
            let step = len.next_power_of_two().min(VnetHdr::LEN + MAX_PACKET);
            let goal = step.max(len).max(Spare::SMALL);
            self.buffer.reserve_exact(goal - self.buffer.len());
        }
    }

    fn packet_mut(&mut self) -> &mut [u8] {
        self.buffer.get_mut(VnetHdr::LEN..).unwrap_or_default()
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
    flows: usize,
    tcp: bool,
    udp: bool,
    /// Oldest first; at most one per flow.
    open: Vec<Open>,
    /// The frame that a packet was last put into, if it is still there.
    latest: usize,
    done: VecDeque<TunFrame>,
    spare: Spare,
}

/// Stands for the judgement about a frame's first packet: whoever pushes packets gives those that are
/// judged by the same rules the same number. 0 stands for none.
pub type Verdict = u64;

impl Coalescer {
    /// With at most `flows` open frames. `tcp` and `udp` say which the device takes as super-packets;
    /// with neither, every packet leaves alone.
    #[must_use]
    pub fn new(flows: usize, tcp: bool, udp: bool) -> Self {
        Self {
            flows,
            tcp: tcp && flows > 0,
            udp: udp && flows > 0,
            open: Vec::new(),
            latest: 0,
            done: VecDeque::new(),
            spare: Spare::default(),
        }
    }

    /// Takes one whole, valid IP packet (copied). Its IPv4 header checksum is not looked at again:
    /// [`PacketInfo::parse`](crate::wire::ip::PacketInfo::parse) has done that.
    pub fn push(&mut self, packet: &[u8]) {
        self.push_judged(0, packet);
    }

    /// Takes a packet that continues the frame last added to, if that frame began under the same
    /// `verdict`: source, destination, protocol and all else of its headers but lengths, checksums,
    /// IPv4 identification, sequence number and PSH are then those of a packet that was judged before.
    /// The IPv4 header checksum and the transport checksum are verified. `false`, with nothing done, if it
    /// does not: the packet is to be judged and [pushed](Coalescer::push_judged).
    #[inline]
    pub fn follow(&mut self, verdict: Verdict, packet: &[u8]) -> bool {
        let Some(open) = self.open.get_mut(self.latest) else {
            return false;
        };
        if verdict == 0 || open.verdict != verdict {
            return false;
        }
        match open.append(packet) {
            Appended::Open => true,
            Appended::Closed => {
                self.close(self.latest);
                true
            }
            Appended::Refused | Appended::WrongChecksum => false,
        }
    }

    /// What was judged until now says nothing about later packets.
    pub fn forget_verdicts(&mut self) {
        for open in &mut self.open {
            open.verdict = 0;
        }
    }

    /// [`Coalescer::push`] of a packet that was let through by `verdict`, for [`Coalescer::follow`].
    pub fn push_judged(&mut self, verdict: Verdict, packet: &[u8]) {
        if !self.tcp && !self.udp {
            return self.leave_alone(packet);
        }
        match Seen::of(packet) {
            Seen::Flow(key, candidate) => {
                let at = self.open.iter().position(|open| open.key == key);
                let candidate = candidate.filter(|candidate| self.offloads(candidate));
                match (at, candidate) {
                    (Some(at), Some(candidate)) => {
                        self.extend(at, key, candidate, verdict, packet);
                    }
                    (None, Some(candidate)) => self.begin(key, candidate, verdict, packet),
                    (at, None) => {
                        if let Some(at) = at {
                            self.close(at);
                        }
                        self.leave_alone(packet);
                    }
                }
            }
            Seen::Between(addresses) => {
                while let Some(at) = self
                    .open
                    .iter()
                    .position(|open| open.key.is_between(addresses))
                {
                    self.close(at);
                }
                self.leave_alone(packet);
            }
            Seen::Nothing => {
                self.flush();
                self.leave_alone(packet);
            }
        }
    }

    /// Closes all open frames; to be called at the end of a turn, before [`Coalescer::pop`].
    pub fn flush(&mut self) {
        self.done.extend(self.open.drain(..).map(Open::finish));
    }

    /// The next finished frame.
    pub fn pop(&mut self) -> Option<TunFrame> {
        self.done.pop_front()
    }

    /// Gives a written frame's buffer back.
    pub fn recycle(&mut self, frame: TunFrame) {
        self.spare.put(frame);
    }

    /// Frees the buffers kept for reuse, for when nothing has come for a while.
    pub fn rest(&mut self) {
        self.spare = Spare::default();
        self.open.shrink_to_fit();
        self.done.shrink_to_fit();
    }

    /// How many frames are held, open ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len() + self.done.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.done.is_empty()
    }

    fn offloads(&self, candidate: &Candidate) -> bool {
        if candidate.tcp { self.tcp } else { self.udp }
    }

    fn leave_alone(&mut self, packet: &[u8]) {
        let mut frame = self.spare.take(VnetHdr::LEN + packet.len());
        frame.fill(packet);
        self.done.push_back(frame);
    }

    fn begin(&mut self, key: Key, candidate: Candidate, verdict: Verdict, packet: &[u8]) {
        if candidate.push {
            // Nothing may follow it, so it need not wait.
            return self.leave_alone(packet);
        }
        if self.open.len() >= self.flows {
            self.close(0);
        }
        let mut frame = self.spare.take_large();
        frame.fill(packet);
        self.latest = self.open.len();
        self.open.push(Open {
            key,
            verdict,
            base: candidate.pseudo_header(packet, 0),
            frame,
            next: candidate.next_sequence(),
            gso_size: candidate.payload_len(packet),
            first: candidate,
            identification: candidate.identification(packet),
            count: 1,
            verified: false,
        });
    }

    fn extend(
        &mut self,
        at: usize,
        key: Key,
        candidate: Candidate,
        verdict: Verdict,
        packet: &[u8],
    ) {
        let open = &mut self.open[at];
        self.latest = at;
        match open.append(packet) {
            Appended::Open => {}
            Appended::Closed => self.close(at),
            Appended::Refused => {
                self.close(at);
                self.begin(key, candidate, verdict, packet);
            }
            Appended::WrongChecksum => {
                self.close(at);
                self.leave_alone(packet);
            }
        }
    }

    fn close(&mut self, at: usize) {
        let open = self.open.remove(at);
        self.done.push_back(open.finish());
    }
}

/// A frame that may still grow.
#[derive(Debug)]
struct Open {
    key: Key,
    /// What the first packet was let through by.
    verdict: Verdict,
    /// The pseudo-header's sum without the length.
    base: Sum,
    frame: TunFrame,
    first: Candidate,
    gso_size: usize,
    /// TCP: the sequence number that continues it.
    next: u32,
    /// IPv4: of the last packet.
    identification: u16,
    count: usize,
    /// Whether the first packet's checksum is known to hold.
    verified: bool,
}

enum Appended {
    /// And another may follow.
    Open,
    /// And it was the last.
    Closed,
    /// It does not continue this frame.
    Refused,
    /// It would have, but its checksum is wrong.
    WrongChecksum,
}

impl Open {
    /// Appends `packet` if it would be the next segment of the same super-packet: all of its headers that
    /// segmentation does not rewrite are those of the first.
    #[inline]
    fn append(&mut self, packet: &[u8]) -> Appended {
        let first = self.frame.packet();
        let header_len = self.first.header_len;
        let Some(payload) = packet.len().checked_sub(header_len) else {
            return Appended::Refused;
        };
        let fits = payload != 0 && payload <= self.gso_size && first.len() + payload <= MAX_PACKET;
        let same =
            fits && match (self.first.v4, self.first.tcp) {
                (true, true) => follows::tcp_v4(first, packet, header_len, self.next),
                (true, false) => follows::udp_v4(first, packet),
                (false, true) => follows::tcp_v6(first, packet, header_len, self.next),
                (false, false) => follows::udp_v6(first, packet),
            } && (!self.first.v4 || follows::identification(packet, self.identification));
        if !same {
            return Appended::Refused;
        }
        if !self.verified {
            if !self.adds_up(first) {
                return Appended::Refused;
            }
            self.verified = true;
        }
        if !self.adds_up(packet) {
            return Appended::WrongChecksum;
        }
        self.take(packet)
    }

    /// Whether the transport checksum of a packet of this flow holds.
    #[inline]
    fn adds_up(&self, packet: &[u8]) -> bool {
        let transport = &packet[self.first.transport..];
        self.base
            .add_u16(transport.len() as u16)
            .add(transport)
            .is_valid()
    }

    /// Appends what was found to be next.
    #[inline]
    fn take(&mut self, packet: &[u8]) -> Appended {
        let payload = &packet[self.first.header_len..];
        let push = self.first.tcp && packet[self.first.transport + 13] & flags::PSH != 0;
        self.frame.append(payload);
        self.count += 1;
        self.next = self.next.wrapping_add(payload.len() as u32);
        self.identification = self.first.identification(packet);
        if push {
            let at = self.first.transport + 13;
            self.frame.packet_mut()[at] |= flags::PSH;
        }
        let full = !self.first.tcp && self.count == MAX_DATAGRAMS;
        if push || full || payload.len() < self.gso_size {
            Appended::Closed
        } else {
            Appended::Open
        }
    }

    /// A frame of many gets its header; a frame of one stays what came.
    fn finish(mut self) -> TunFrame {
        if self.count == 1 {
            return self.frame;
        }
        let Candidate {
            v4, tcp, transport, ..
        } = self.first;
        let packet = self.frame.packet_mut();
        let length = packet.len() as u16;
        let transport_len = length - transport as u16;
        if v4 {
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            packet[10..12].fill(0);
            let checksum = Sum::default().add(&packet[..transport]).checksum();
            packet[10..12].copy_from_slice(&checksum);
        } else {
            packet[4..6].copy_from_slice(&transport_len.to_be_bytes());
        }
        let partial = self.first.pseudo_header(packet, transport_len).fold();
        let offset = if tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        packet[transport + offset..transport + offset + 2].copy_from_slice(&partial);
        if !tcp {
            packet[transport + 4..transport + 6].copy_from_slice(&transport_len.to_be_bytes());
        }
        let header = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: match (tcp, v4) {
                (true, true) => VnetHdr::GSO_TCPV4,
                (true, false) => VnetHdr::GSO_TCPV6,
                (false, _) => VnetHdr::GSO_UDP_L4,
            },
            hdr_len: self.first.header_len as u16,
            gso_size: self.gso_size as u16,
            csum_start: transport as u16,
            csum_offset: offset as u16,
        };
        self.frame.buffer[..VnetHdr::LEN].copy_from_slice(&header.to_bytes());
        self.frame
    }
}

/// Buffers to use again, small and large apart, so that single small packets do not hold the ones
/// that have grown.
#[derive(Debug, Default)]
struct Spare {
    small: Vec<TunFrame>,
    large: Vec<TunFrame>,
}

impl Spare {
    /// Bytes of the shortest buffer; an Internet packet fits.
    const SMALL: usize = 2048;
    /// 2 MiB at most.
    const MAX_SMALL: usize = 1024;
    /// 4 MiB at most.
    const MAX_LARGE: usize = 64;

    /// For a frame of `len` bytes that will not grow.
    fn take(&mut self, len: usize) -> TunFrame {
        let fitting = if len <= Self::SMALL {
            &mut self.small
        } else {
            &mut self.large
        };
        fitting.pop().unwrap_or_default()
    }

    fn take_large(&mut self) -> TunFrame {
        let large = self.large.pop().or_else(|| self.small.pop());
        large.unwrap_or_default()
    }

    fn put(&mut self, frame: TunFrame) {
        let (list, most) = match frame.buffer.capacity() {
            0 => return,
            1..=Self::SMALL => (&mut self.small, Self::MAX_SMALL),
            _ => (&mut self.large, Self::MAX_LARGE),
        };
        if list.len() < most && frame.buffer.capacity() <= VnetHdr::LEN + MAX_PACKET {
            list.push(frame);
        }
    }
}
