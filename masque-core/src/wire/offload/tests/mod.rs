//! Packets described, so that what the code does can be done slowly and obviously.

mod coalesce;
mod segment;

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const ACK: u8 = flags::ACK;
const PSH: u8 = flags::PSH;

/// RFC 1071 word by word, of a whole list of parts.
fn slow_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for word in parts.concat().chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or_default());
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A packet described, so that it can be written out slowly and obviously.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    v4: bool,
    tcp: bool,
    host: u8,
    port: u8,
    traffic_class: u8,
    hop_limit: u8,
    identification: u16,
    dont_fragment: bool,
    ip_options: Vec<u8>,
    /// IPv6: destination options headers, eight bytes each, in front of the transport header.
    extensions: usize,
    sequence: u32,
    acknowledgment: u32,
    tcp_flags: u8,
    window: u16,
    tcp_options: Vec<u8>,
    payload: Vec<u8>,
}

impl Packet {
    fn new(v4: bool, tcp: bool, payload: &[u8]) -> Self {
        Self {
            v4,
            tcp,
            host: 1,
            port: 80,
            traffic_class: 0,
            hop_limit: 64,
            identification: 7,
            dont_fragment: true,
            ip_options: Vec::new(),
            extensions: 0,
            sequence: 1000,
            acknowledgment: 9,
            tcp_flags: ACK,
            window: 500,
            tcp_options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    fn addresses(&self) -> (Vec<u8>, Vec<u8>) {
        if self.v4 {
            (vec![192, 0, 2, self.host], vec![198, 51, 100, 2])
        } else {
            (vec![0x20 + self.host; 16], vec![0x31; 16])
        }
    }

    fn pseudo_header(&self, transport_len: usize) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let protocol = if self.tcp { 6 } else { 17 };
        let length = (transport_len as u32).to_be_bytes();
        [&source[..], &destination, &length, &[0, 0, 0, protocol]].concat()
    }

    /// The transport header, its checksum zero.
    fn transport(&self) -> Vec<u8> {
        let mut header = vec![0x1f, 0x90, 0, self.port];
        if self.tcp {
            let words = 5 + self.tcp_options.len() / 4;
            header.extend(self.sequence.to_be_bytes());
            header.extend(self.acknowledgment.to_be_bytes());
            header.extend([(words << 4) as u8, self.tcp_flags]);
            header.extend(self.window.to_be_bytes());
            header.extend([0, 0, 0, 0]);
            header.extend(&self.tcp_options);
        } else {
            header.extend((8 + self.payload.len() as u16).to_be_bytes());
            header.extend([0, 0]);
        }
        header
    }

    fn network(&self, transport_len: usize) -> Vec<u8> {
        let (source, destination) = self.addresses();
        let protocol = if self.tcp { 6 } else { 17 };
        let mut header = Vec::new();
        if self.v4 {
            let length = 20 + self.ip_options.len();
            header.extend([0x40 | (length / 4) as u8, self.traffic_class]);
            header.extend(((length + transport_len) as u16).to_be_bytes());
            header.extend(self.identification.to_be_bytes());
            header.extend([
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                self.hop_limit,
                protocol,
                0,
                0,
            ]);
            header.extend([source, destination].concat());
            header.extend(&self.ip_options);
            let checksum = !slow_sum(&[&header]);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            header.extend([
                0x60 | self.traffic_class >> 4,
                self.traffic_class << 4,
                0,
                0,
            ]);
            header.extend(((8 * self.extensions + transport_len) as u16).to_be_bytes());
            header.extend([
                if self.extensions > 0 { 60 } else { protocol },
                self.hop_limit,
            ]);
            header.extend([source, destination].concat());
            for left in (0..self.extensions).rev() {
                header.extend([if left > 0 { 60 } else { protocol }, 0, 1, 4, 0, 0, 0, 0]);
            }
        }
        header
    }

    fn with_checksum(&self, checksum: impl FnOnce(u16) -> u16, whole: bool) -> Vec<u8> {
        let mut transport = self.transport();
        let length = transport.len() + self.payload.len();
        let pseudo = self.pseudo_header(length);
        let parts: &[&[u8]] = if whole {
            &[&pseudo, &transport, &self.payload]
        } else {
            &[&pseudo]
        };
        let at = if self.tcp { 16 } else { 6 };
        let value = checksum(slow_sum(parts));
        transport[at..at + 2].copy_from_slice(&value.to_be_bytes());
        [self.network(length), transport, self.payload.clone()].concat()
    }

    /// As it goes over the wire.
    fn on_wire(&self) -> Vec<u8> {
        self.with_checksum(
            |sum| {
                if sum == 0xffff && !self.tcp {
                    0xffff
                } else {
                    !sum
                }
            },
            true,
        )
    }

    /// As a TUN gives it, its checksum partial, and the header that says so.
    fn partial(&self, gso_size: u16) -> (VnetHdr, Vec<u8>) {
        let bytes = self.with_checksum(|sum| sum, false);
        let transport = self.network(0).len();
        let header = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: match (gso_size, self.tcp, self.v4) {
                (0, ..) => VnetHdr::GSO_NONE,
                (_, true, true) => VnetHdr::GSO_TCPV4,
                (_, true, false) => VnetHdr::GSO_TCPV6,
                (_, false, _) => VnetHdr::GSO_UDP_L4,
            },
            hdr_len: (transport + self.transport().len()) as u16,
            gso_size,
            csum_start: transport as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        };
        (header, bytes)
    }

    /// The segments, made the slow way.
    fn split(&self, size: usize) -> Vec<Self> {
        let mut parts: Vec<&[u8]> = self.payload.chunks(size).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let segment = |(nth, payload): (usize, &&[u8])| {
            let mut part = self.clone();
            part.payload = payload.to_vec();
            part.identification = self.identification.wrapping_add(nth as u16);
            part.sequence = self.sequence.wrapping_add((nth * size) as u32);
            if nth != last {
                part.tcp_flags &= !(flags::FIN | PSH);
            }
            if nth != 0 {
                part.tcp_flags &= !flags::CWR;
            }
            part
        };
        parts.iter().enumerate().map(segment).collect()
    }
}

fn any_packet(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Packet> {
    let network = (any::<[bool; 3]>(), any::<u8>(), any::<u16>(), 0..3usize);
    let tcp = (
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
        any::<u16>(),
        0..4usize,
    );
    (network, tcp, payload).prop_map(|(network, tcp, payload)| {
        let ([v4, is_tcp, dont_fragment], traffic_class, identification, more) = network;
        Packet {
            traffic_class,
            hop_limit: traffic_class.wrapping_mul(3),
            identification,
            dont_fragment,
            ip_options: vec![1; more * 4],
            extensions: more,
            sequence: tcp.0,
            acknowledgment: tcp.1,
            tcp_flags: tcp.2,
            window: tcp.3,
            tcp_options: vec![1; tcp.4 * 4],
            ..Packet::new(v4, is_tcp, &payload)
        }
    })
}

fn payload(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        (any::<u8>(), 0..most).prop_map(|(first, len)| {
            (0..len)
                .map(|at| (at as u8).wrapping_mul(31).wrapping_add(first))
                .collect()
        }),
    ]
}

/// What `segment` wrote, cut at its strides, without the prefix.
fn cut(segments: Segments, prefix: &[u8], written: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(segments.total, written.len());
    let packets: Vec<Vec<u8>> = written
        .chunks(segments.stride)
        .map(|chunk| {
            chunk
                .strip_prefix(prefix)
                .expect("each has the prefix")
                .to_vec()
        })
        .collect();
    assert_eq!(packets.len(), segments.count);
    packets
}
