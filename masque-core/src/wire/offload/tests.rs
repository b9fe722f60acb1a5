use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::ip::{self, PacketInfo};

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

proptest! {
    #[test]
    fn segments_are_those_made_the_slow_way(
        packet in any_packet(payload(20_000)),
        size in prop_oneof![10..1500u16, any::<u16>()],
        prefix in proptest::collection::vec(any::<u8>(), 0..9),
        hop_limit in any::<Option<u8>>(),
        ecn in any::<bool>(),
    ) {
        prop_assume!(packet.payload.len() / usize::from(size.max(1)) < 2000);
        let size = size.max(1);
        let (mut header, bytes) = packet.partial(size);
        // A hint, never trusted.
        header.hdr_len = header.hdr_len.wrapping_mul(size);
        if ecn && packet.tcp {
            header.gso_type |= VnetHdr::GSO_ECN;
        }
        let mut out = BytesMut::from(&b"before"[..]);
        let segments = segment(header, &bytes, &prefix, hop_limit, &mut out).expect("legal");
        prop_assert_eq!(&out[..6], b"before");
        let packets = cut(segments, &prefix, &out[6..]);
        let expected: Vec<_> = packet
            .split(size.into())
            .into_iter()
            .map(|part| Packet { hop_limit: hop_limit.unwrap_or(part.hop_limit), ..part }.on_wire())
            .collect();
        prop_assert_eq!(&packets, &expected);
        for packet in &packets {
            prop_assert!(PacketInfo::parse(packet).is_ok());
        }
        // Without extension headers nothing depends on the partial sum in the packet.
        if packet.v4 || packet.extensions == 0 {
            header.flags = 0;
            let mut again = BytesMut::new();
            segment(header, &packet.on_wire(), &prefix, hop_limit, &mut again).expect("legal");
            prop_assert_eq!(&again[..], &out[6..]);
        }
    }

    #[test]
    fn a_partial_checksum_is_completed(
        packet in any_packet(payload(3000)),
        prefix in proptest::collection::vec(any::<u8>(), 0..9),
        hop_limit in any::<Option<u8>>(),
    ) {
        let (header, bytes) = packet.partial(0);
        let mut out = BytesMut::new();
        let segments = segment(header, &bytes, &prefix, hop_limit, &mut out).expect("legal");
        let expected = Packet { hop_limit: hop_limit.unwrap_or(packet.hop_limit), ..packet }.on_wire();
        prop_assert_eq!(cut(segments, &prefix, &out), vec![expected]);
    }

    #[test]
    fn a_complete_packet_passes_as_it_is(packet in any_packet(payload(3000)), hop_limit in any::<Option<u8>>()) {
        let bytes = packet.on_wire();
        let mut out = BytesMut::new();
        segment(VnetHdr::default(), &bytes, &[], hop_limit, &mut out).expect("legal");
        let expected = Packet { hop_limit: hop_limit.unwrap_or(packet.hop_limit), ..packet }.on_wire();
        prop_assert_eq!(&out[..], &expected[..]);
    }

    #[test]
    fn no_header_makes_segmentation_panic_or_write_half(
        packet in any_packet(payload(300)),
        changes in proptest::collection::vec((0..10usize, any::<u8>()), 0..3),
        damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        keep in any::<Option<Index>>(),
        gso_size in 0..100u16,
    ) {
        let (header, mut bytes) = packet.partial(gso_size);
        let mut header = header.to_bytes();
        for (at, value) in changes {
            header[at] = value;
        }
        for (at, value) in damage {
            let at = at.index(bytes.len().min(80));
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len() + 1));
        }
        let mut out = BytesMut::from(&b"before"[..]);
        match segment(VnetHdr::from_bytes(header), &bytes, b"p", Some(9), &mut out) {
            Ok(segments) => {
                prop_assert_eq!(out.len(), 6 + segments.total);
                prop_assert_eq!(segments.total.div_ceil(segments.stride), segments.count);
                prop_assert!(segments.count <= 2048);
            }
            Err(_) => prop_assert_eq!(&out[..], b"before"),
        }
    }
}

#[test]
fn a_header_that_contradicts_the_packet_is_refused() {
    let refused = |change: &dyn Fn(&mut VnetHdr, &mut Vec<u8>)| {
        let (mut header, mut bytes) = Packet::new(true, true, &[5; 3000]).partial(1000);
        change(&mut header, &mut bytes);
        segment(header, &bytes, &[], None, &mut BytesMut::new()).err()
    };
    assert_eq!(refused(&|_, _| {}), None);
    let header = Some(SegmentError::Header);
    assert_eq!(refused(&|header, _| header.gso_size = 0), header);
    assert_eq!(
        refused(&|header, _| header.gso_size = 1),
        header,
        "3,000 segments"
    );
    assert_eq!(refused(&|header, _| header.csum_start = 24), header);
    assert_eq!(refused(&|header, _| header.csum_offset = 6), header);
    assert_eq!(
        refused(&|header, _| header.gso_type = VnetHdr::GSO_TCPV6),
        header
    );
    assert_eq!(
        refused(&|header, _| header.gso_type = VnetHdr::GSO_UDP_L4),
        header
    );
    assert_eq!(
        refused(&|_, bytes| bytes.push(0)),
        header,
        "longer than it states"
    );
    assert_eq!(refused(&|_, bytes| bytes[6] = 0x20), header, "a fragment");
    assert_eq!(
        refused(&|_, bytes| bytes[32] = 0x40),
        header,
        "a short TCP header"
    );
    assert_eq!(refused(&|_, bytes| bytes.clear()), header);
    let kind = Some(SegmentError::Type);
    assert_eq!(refused(&|header, _| header.gso_type = 3), kind, "UFO");
    let udp_with_ecn = VnetHdr::GSO_UDP_L4 | VnetHdr::GSO_ECN;
    assert_eq!(refused(&|header, _| header.gso_type = udp_with_ecn), kind);
    let odd = |header: &mut VnetHdr, _: &mut Vec<u8>| {
        (header.gso_type, header.csum_offset) = (VnetHdr::GSO_NONE, 15);
    };
    assert_eq!(refused(&odd), header);
    let outside = |header: &mut VnetHdr, _: &mut Vec<u8>| {
        (header.gso_type, header.csum_offset) = (VnetHdr::GSO_NONE, 3020);
    };
    assert_eq!(refused(&outside), header);
    let inside_ip = |header: &mut VnetHdr, _: &mut Vec<u8>| {
        (header.gso_type, header.csum_start) = (VnetHdr::GSO_NONE, 8);
    };
    assert_eq!(refused(&inside_ip), header);
}

/// A UDP packet whose checksum comes out as zero is sent with 0xffff (RFC 768).
#[test]
fn a_udp_checksum_is_never_zero() {
    for v4 in [true, false] {
        let mut packet = Packet::new(v4, false, &[0, 0]);
        let wire = packet.on_wire();
        let at = packet.network(0).len() + 6;
        // What makes the sum all ones is what the checksum of zeroes is.
        packet.payload = wire[at..at + 2].to_vec();
        for gso_size in [0, 100] {
            let (header, bytes) = packet.partial(gso_size);
            let mut out = BytesMut::new();
            segment(header, &bytes, &[], None, &mut out).expect("legal");
            assert_eq!(out[at..at + 2], [0xff, 0xff]);
        }
    }
}

/// What the kernel makes of `frame`: the packets it stands for.
fn expand(frame: &TunFrame) -> Vec<Vec<u8>> {
    assert_eq!(
        frame.with_header().len(),
        VnetHdr::LEN + frame.packet().len()
    );
    if frame.header() == VnetHdr::default() {
        return vec![frame.packet().to_vec()];
    }
    assert!(frame.packet().len() <= 65535);
    assert_eq!(frame.header().flags, VnetHdr::NEEDS_CSUM);
    assert!(PacketInfo::parse(frame.packet()).is_ok());
    let mut out = BytesMut::new();
    let segments = segment(frame.header(), frame.packet(), &[], None, &mut out).expect("legal");
    assert!(segments.count > 1, "a frame of one packet has no header");
    cut(segments, &[], &out)
}

/// The identification of a packet that must not be fragmented means nothing (RFC 6864 §4).
fn without_identification(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
        let checksum = !slow_sum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

fn drain(coalescer: &mut Coalescer) -> Vec<TunFrame> {
    coalescer.flush();
    let mut frames = Vec::new();
    while let Some(frame) = coalescer.pop() {
        frames.push(frame);
    }
    assert!(coalescer.is_empty());
    frames
}

fn coalesce(packets: &[Vec<u8>]) -> Vec<TunFrame> {
    let mut coalescer = Coalescer::new(8, true, true);
    packets.iter().for_each(|packet| coalescer.push(packet));
    drain(&mut coalescer)
}

/// What a packet does to the flow it is of.
#[derive(Clone, Debug)]
enum Step {
    Data { len: usize },
    Tcp { flags: u8, len: usize },
    Gap,
    WrongChecksum { at: Index, bit: u8 },
    OtherHeader { which: u8 },
    Fragment,
    Extension,
    Icmp,
    Noise(Vec<u8>),
    Flush,
}

fn any_step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        12 => Just(Step::Data { len: 100 }),
        2 => (0..130usize).prop_map(|len| Step::Data { len }),
        2 => Just(Step::Tcp { flags: ACK | PSH, len: 100 }),
        2 => (any::<u8>(), 0..101usize).prop_map(|(flags, len)| Step::Tcp { flags, len }),
        1 => Just(Step::Gap),
        2 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Step::WrongChecksum { at, bit }),
        2 => (0..8u8).prop_map(|which| Step::OtherHeader { which }),
        1 => Just(Step::Fragment),
        1 => Just(Step::Extension),
        1 => Just(Step::Icmp),
        1 => proptest::collection::vec(any::<u8>(), 0..60).prop_map(Step::Noise),
        1 => Just(Step::Flush),
    ];
    (0..6usize, step)
}

/// The flows of the model: both versions, TCP and UDP, some between the same addresses.
fn flows() -> Vec<Packet> {
    let flow = |v4, tcp, host, port| Packet {
        host,
        port,
        ..Packet::new(v4, tcp, &[])
    };
    vec![
        flow(true, true, 1, 1),
        flow(true, true, 1, 2),
        flow(true, false, 1, 1),
        flow(false, true, 1, 1),
        flow(false, false, 1, 1),
        Packet {
            dont_fragment: false,
            ..flow(true, true, 2, 1)
        },
    ]
}

/// The next packet of `flow`, which it moves on.
fn take_step(flow: &mut Packet, step: &Step, nth: usize) -> Option<Vec<u8>> {
    let mut packet = flow.clone();
    packet.payload = vec![nth as u8; 100];
    let mut change: &mut dyn FnMut(&mut Vec<u8>) = &mut |_| {};
    let (mut damage, mut fragment);
    match step {
        Step::Data { len } => packet.payload.resize(*len, 1),
        Step::Tcp { flags, len } => {
            packet.payload.resize(*len, 1);
            packet.tcp_flags = *flags;
        }
        Step::Gap => packet.sequence = packet.sequence.wrapping_add(100),
        Step::WrongChecksum { at, bit } => {
            let from = packet.network(0).len() + packet.transport().len();
            damage = move |bytes: &mut Vec<u8>| {
                let at = from + at.index(bytes.len() - from);
                bytes[at] ^= 1 << bit;
            };
            change = &mut damage;
        }
        Step::OtherHeader { which: 0 } => packet.hop_limit -= 1,
        Step::OtherHeader { which: 1 } => packet.traffic_class = 3,
        Step::OtherHeader { which: 2 } => packet.identification = 5000,
        Step::OtherHeader { which: 3 } => packet.acknowledgment += 1,
        Step::OtherHeader { which: 4 } => packet.window += 1,
        Step::OtherHeader { which: 5 } => packet.tcp_options = vec![1; 4],
        Step::OtherHeader { which: 6 } => packet.ip_options = vec![1; 4],
        Step::OtherHeader { .. } => packet.dont_fragment = !packet.dont_fragment,
        Step::Fragment => {
            let v4 = packet.v4;
            fragment = move |bytes: &mut Vec<u8>| {
                if v4 {
                    bytes[6] = 0x20;
                    bytes[10..12].fill(0);
                    let checksum = !slow_sum(&[&bytes[..20]]);
                    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
                }
            };
            change = &mut fragment;
        }
        Step::Extension => packet.extensions = 1,
        Step::Icmp => {
            let mut bytes = packet.on_wire();
            let at = if packet.v4 { 9 } else { 6 };
            bytes[at] = if packet.v4 { ip::ICMPV4 } else { ip::ICMPV6 };
            if packet.v4 {
                bytes[10..12].fill(0);
                let checksum = !slow_sum(&[&bytes[..20]]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            return Some(bytes);
        }
        Step::Noise(bytes) => return Some(bytes.clone()),
        Step::Flush => return None,
    }
    flow.sequence = packet.sequence.wrapping_add(packet.payload.len() as u32);
    flow.identification = packet.identification.wrapping_add(1);
    let mut bytes = packet.on_wire();
    change(&mut bytes);
    Some(bytes)
}

/// Packets whose order must hold: those between the same addresses, split by ports where seen.
fn may_share_a_flow(packet: &[u8], flow: &Packet) -> bool {
    let (source, destination) = flow.addresses();
    let addresses = [source, destination].concat();
    match (packet.first().map(|byte| byte >> 4), flow.v4) {
        (Some(4), true) if packet.len() >= 24 => {
            let plain = packet[0] == 0x45 && packet[6] & 0x3f == 0 && matches!(packet[9], 6 | 17);
            let ports =
                !plain || packet[9] == if flow.tcp { 6 } else { 17 } && packet[23] == flow.port;
            packet[12..20] == addresses && ports
        }
        (Some(6), false) if packet.len() >= 44 => {
            let plain = matches!(packet[6], 6 | 17);
            let ports =
                !plain || packet[6] == if flow.tcp { 6 } else { 17 } && packet[43] == flow.port;
            packet[8..40] == addresses && ports
        }
        _ => false,
    }
}

proptest! {
    /// Also: a packet whose checksum is wrong is neither changed nor vouched for, since segmentation
    /// would give it a right one.
    #[test]
    fn segmenting_what_was_coalesced_gives_every_flow_its_packets_in_order(
        steps in proptest::collection::vec(any_step(), 0..80),
        open in 1..8usize,
        tcp in any::<bool>(),
        udp in any::<bool>(),
    ) {
        let mut flows = flows();
        let mut coalescer = Coalescer::new(open, tcp, udp);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (nth, (flow, step)) in steps.iter().enumerate() {
            match take_step(&mut flows[*flow], step, nth) {
                Some(bytes) => {
                    coalescer.push(&bytes);
                    sent.push(bytes);
                }
                None => coalescer.flush(),
            }
            while let Some(frame) = coalescer.pop() {
                if frame.header() != VnetHdr::default() {
                    let allowed = if frame.header().gso_type == VnetHdr::GSO_UDP_L4 { udp } else { tcp };
                    prop_assert!(allowed, "an offload the device does not take");
                }
                got.extend(expand(&frame));
                coalescer.recycle(frame);
            }
        }
        got.extend(drain(&mut coalescer).iter().flat_map(expand));
        for flow in &flows {
            let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets
                    .iter()
                    .filter(|packet| may_share_a_flow(packet, flow))
                    .map(|packet| without_identification(packet.clone()))
                    .collect()
            };
            prop_assert_eq!(of_flow(&got), of_flow(&sent));
        }
        let sorted = |packets: Vec<Vec<u8>>| {
            let mut packets: Vec<_> = packets
                .into_iter()
                .map(|packet| if packet.len() > 20 { without_identification(packet) } else { packet })
                .collect();
            packets.sort();
            packets
        };
        prop_assert_eq!(sorted(got), sorted(sent));
    }

    #[test]
    fn no_bytes_make_coalescing_panic(
        packets in proptest::collection::vec(
            (any_packet(payload(300)), proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3), any::<Index>()),
            0..8,
        ),
    ) {
        let mut coalescer = Coalescer::new(2, true, true);
        for (packet, damage, keep) in packets {
            let mut bytes = packet.on_wire();
            for (at, value) in damage {
                let at = at.index(bytes.len().min(80));
                bytes[at] = value;
            }
            coalescer.push(&bytes);
            coalescer.push(&bytes[..keep.index(bytes.len() + 1)]);
        }
        prop_assert!(drain(&mut coalescer).iter().all(|frame| frame.packet().len() <= 65535));
    }

    #[test]
    fn a_wrong_inner_checksum_is_never_blessed(
        v4 in any::<bool>(),
        tcp in any::<bool>(),
        wrong in proptest::collection::btree_set(0..12usize, 1..6),
        at in any::<Index>(),
        bit in 0..8u8,
    ) {
        let whole = Packet::new(v4, tcp, &[9; 1200]);
        let mut packets: Vec<_> = whole.split(100).iter().map(Packet::on_wire).collect();
        for nth in &wrong {
            let bytes = &mut packets[*nth];
            // Payload, so that it stays a packet of its flow.
            let at = bytes.len() - 1 - at.index(100);
            bytes[at] ^= 1 << bit;
        }
        let frames = coalesce(&packets);
        for nth in &wrong {
            let alone = frames.iter().any(|frame| {
                frame.packet() == packets[*nth] && frame.header() == VnetHdr::default()
            });
            prop_assert!(alone, "packet {nth} left as it came");
        }
        prop_assert_eq!(frames.iter().flat_map(expand).collect::<Vec<_>>(), packets);
    }
}

#[test]
fn packets_that_continue_each_other_become_one_frame() {
    for (v4, tcp) in [(true, true), (false, true), (true, false), (false, false)] {
        let options = if tcp { vec![1; 12] } else { Vec::new() };
        let whole = Packet {
            tcp_options: options,
            tcp_flags: ACK | PSH,
            ..Packet::new(v4, tcp, &[3; 4_700])
        };
        let packets: Vec<_> = whole.split(500).iter().map(Packet::on_wire).collect();
        let frames = coalesce(&packets);
        let (header, bytes) = whole.partial(500);
        assert_eq!(frames.len(), 1);
        assert_eq!(
            (frames[0].header(), frames[0].packet()),
            (header, &bytes[..])
        );
    }
}

#[test]
fn interleaved_flows_are_merged_apart() {
    let mut packets = Vec::new();
    for part in 0..20 {
        for (port, tcp) in [(1, true), (2, true), (3, false)] {
            let whole = Packet {
                port,
                ..Packet::new(true, tcp, &[port; 2000])
            };
            packets.push(whole.split(100)[part].on_wire());
        }
    }
    let frames = coalesce(&packets);
    assert_eq!(
        frames
            .iter()
            .map(|frame| expand(frame).len())
            .collect::<Vec<_>>(),
        [20; 3]
    );
}

#[test]
fn a_frame_ends_where_64_kib_or_64_datagrams_do() {
    let counts = |tcp, len: usize| {
        let whole = Packet::new(false, tcp, &[]);
        let packets: Vec<_> = (0..130)
            .map(|nth| {
                let sequence = nth * len as u32;
                Packet {
                    sequence,
                    payload: vec![1; len],
                    ..whole.clone()
                }
                .on_wire()
            })
            .collect();
        let frames = coalesce(&packets);
        frames
            .iter()
            .map(|frame| expand(frame).len())
            .collect::<Vec<_>>()
    };
    assert_eq!(counts(true, 1000), [65, 65]);
    assert_eq!(counts(true, 600), [109, 21]);
    assert_eq!(counts(false, 100), [64, 64, 2]);
}

#[test]
fn the_oldest_frame_leaves_when_another_is_needed() {
    let mut coalescer = Coalescer::new(2, true, true);
    for port in [1, 2, 3] {
        coalescer.push(
            &Packet {
                port,
                ..Packet::new(true, true, &[1; 10])
            }
            .on_wire(),
        );
    }
    let first = coalescer.pop().expect("only two stay open");
    assert_eq!(first.packet()[23], 1);
    assert_eq!(coalescer.pop(), None);
    assert!(!coalescer.is_empty());
    let rest = drain(&mut coalescer);
    assert_eq!(
        rest.iter()
            .map(|frame| frame.packet()[23])
            .collect::<Vec<_>>(),
        [2, 3]
    );
}

#[test]
fn a_udp_packet_without_checksum_leaves_alone() {
    let mut packet = Packet::new(true, false, &[1; 10]).on_wire();
    packet[26..28].fill(0);
    let frames = coalesce(&[packet.clone(), packet.clone()]);
    assert_eq!(
        frames.iter().map(TunFrame::packet).collect::<Vec<_>>(),
        [&packet[..]; 2]
    );
}

#[test]
fn recycled_buffers_are_used_again() {
    let mut coalescer = Coalescer::new(4, true, true);
    let whole = Packet::new(true, true, &[3; 30_000]);
    let mut packets: Vec<_> = whole.split(1000).iter().map(Packet::on_wire).collect();
    packets.extend(
        Packet::new(true, true, &[])
            .split(1)
            .iter()
            .map(Packet::on_wire),
    );
    packets.push(Packet::new(false, false, &[1; 5000]).on_wire());
    let mut round = || {
        packets.iter().for_each(|packet| coalescer.push(packet));
        let frames = drain(&mut coalescer);
        let buffers: BTreeSet<_> = frames
            .iter()
            .map(|frame| frame.with_header().as_ptr())
            .collect();
        frames
            .into_iter()
            .for_each(|frame| coalescer.recycle(frame));
        buffers
    };
    round();
    let warm = round();
    for _ in 0..10 {
        assert_eq!(round(), warm);
    }
}

#[test]
fn a_recycled_buffer_brings_nothing_along() {
    let mut coalescer = Coalescer::new(4, true, true);
    let whole = Packet::new(true, true, &[3; 30_000]);
    whole
        .split(1000)
        .iter()
        .for_each(|part| coalescer.push(&part.on_wire()));
    drain(&mut coalescer)
        .into_iter()
        .for_each(|frame| coalescer.recycle(frame));
    let single = Packet::new(true, true, &[4; 900]).on_wire();
    coalescer.push(&single);
    let frames = drain(&mut coalescer);
    assert_eq!(
        frames[0].with_header(),
        [&[0; VnetHdr::LEN][..], &single].concat()
    );
}
