//! What goes through the pipeline: one flow of IPv4, as a TUN with or without offload would read it.

use std::net::Ipv4Addr;

use masque_core::wire::offload::VnetHdr;

const IPV4: usize = 20;
const UDP: usize = 8;
/// With timestamps, as Linux sends it.
const TCP: usize = 32;
/// The longest super-packet.
const MAX_PACKET: usize = 65_535;

/// The kind of packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Workload {
    /// TCP super-packets of so many segments, each filling the MTU.
    Tcp {
        /// Segments in each.
        segments: usize,
    },
    /// UDP packets with so many bytes of payload, one by one.
    Udp {
        /// Bytes of payload.
        payload: usize,
    },
}

/// Makes the packets, one after the other.
#[derive(Debug)]
pub struct Traffic {
    /// The one packet, changed in place.
    packet: Vec<u8>,
    header: VnetHdr,
    segments: u32,
    segment_length: usize,
    tcp: bool,
    sequence: u32,
    step: u32,
}

impl Traffic {
    /// A flow from `source` to `destination` whose packets fit `mtu`, which is at least 576.
    #[must_use]
    pub fn new(workload: Workload, mtu: usize, source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let (tcp, headers, segments, part) = match workload {
            Workload::Tcp { segments } => {
                let part = mtu - IPV4 - TCP;
                let most = (MAX_PACKET - IPV4 - TCP) / part;
                (true, IPV4 + TCP, segments.clamp(1, most), part)
            }
            Workload::Udp { payload } => (false, IPV4 + UDP, 1, payload.clamp(1, mtu - IPV4 - UDP)),
        };
        let length = headers + segments * part;
        let mut packet = vec![0; length];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = if tcp { 6 } else { 17 };
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&destination.octets());
        let checksum = !fold(0, &packet[..IPV4]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet[IPV4..IPV4 + 4].copy_from_slice(&[0xc0, 0x00, 0x14, 0x51]);
        if tcp {
            // Offset 8 words, ACK, some window; NOP, NOP, timestamps.
            packet[IPV4 + 12..IPV4 + 16].copy_from_slice(&[0x80, 0x10, 0x01, 0xf6]);
            packet[IPV4 + 20..IPV4 + 24].copy_from_slice(&[1, 1, 8, 10]);
        } else {
            packet[IPV4 + 4..IPV4 + 6].copy_from_slice(&((length - IPV4) as u16).to_be_bytes());
        }
        // Something that compresses and sums to nothing special, the same in every run.
        let mut state = 0x9e37_79b9_u32;
        for byte in &mut packet[headers..] {
            state = state.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            *byte = (state >> 24) as u8;
        }
        let offset = if tcp { 16 } else { 6 };
        let pseudo = (length - IPV4) as u32 + u32::from(packet[9]);
        let partial = fold(pseudo, &packet[12..20]);
        packet[IPV4 + offset..IPV4 + offset + 2].copy_from_slice(&partial.to_be_bytes());
        let several = segments > 1;
        Self {
            packet,
            header: VnetHdr {
                flags: VnetHdr::NEEDS_CSUM,
                gso_type: if several {
                    VnetHdr::GSO_TCPV4
                } else {
                    VnetHdr::GSO_NONE
                },
                hdr_len: if several { headers as u16 } else { 0 },
                gso_size: if several { part as u16 } else { 0 },
                csum_start: IPV4 as u16,
                csum_offset: offset as u16,
            },
            segments: segments as u32,
            segment_length: headers + part,
            tcp,
            sequence: 0,
            step: (segments * part) as u32,
        }
    }

    /// The next packet or super-packet, with its virtio-net header: the transport checksum is partial.
    pub fn next_packet(&mut self) -> (VnetHdr, &[u8]) {
        if self.tcp {
            self.packet[IPV4 + 4..IPV4 + 8].copy_from_slice(&self.sequence.to_be_bytes());
            self.sequence = self.sequence.wrapping_add(self.step);
        }
        (self.header, &self.packet)
    }

    /// How many packets one stands for.
    #[must_use]
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// The bytes of each of them.
    #[must_use]
    pub fn segment_length(&self) -> usize {
        self.segment_length
    }
}

/// The one's complement sum of big-endian words (RFC 1071).
fn fold(start: u32, bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum = words.fold(start, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
