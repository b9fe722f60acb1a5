//! Segmentation and coalescing of super-packets.

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use bytes::BytesMut;
use masque_core::wire::ip::PacketInfo;
use masque_core::wire::offload::{Coalescer, SegmentError, Segments, TunFrame, VnetHdr, segment};

use super::model::{self, ACK, GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CSUM, PSH, Packet};

/// The most segments that come of one super-packet.
const MAX_SEGMENTS: usize = 2048;
/// The most bytes that may come of one super-packet.
const MAX_TOTAL: usize = 4 << 20;

/// Described packets give the segments that are made the slow way; for any bytes at all there is either
/// an error and nothing written, or an output of a bounded size.
pub fn segmenting(data: &[u8]) {
    let _ = try_segmenting(&mut Unstructured::new(data));
}

fn try_segmenting(bytes: &mut Unstructured<'_>) -> Result<()> {
    if bytes.arbitrary()? {
        segment_anything(bytes)
    } else {
        segment_as_described(bytes)
    }
}

fn segment_anything(bytes: &mut Unstructured<'_>) -> Result<()> {
    let header = VnetHdr::from_bytes(bytes.arbitrary()?);
    let hop_limit = bytes.arbitrary()?;
    // Most bytes are no packet at all: take a good one and spoil it, or what there is.
    let packet = if bytes.arbitrary()? {
        let mut packet = Packet::headers(bytes, false)?;
        packet.payload = model::payload(bytes, 2000)?;
        let mut packet = packet.partial();
        for _ in 0..bytes.int_in_range(0..=4)? {
            let at = bytes.choose_index(packet.len())?;
            packet[at] = bytes.arbitrary()?;
        }
        packet.truncate(packet.len() - bytes.choose_index(packet.len())? / 3);
        packet
    } else {
        bytes.bytes(bytes.len())?.to_vec()
    };
    let mut out = BytesMut::from(&b"before"[..]);
    match segment(header, &packet, b"p", hop_limit, &mut out) {
        Ok(Segments {
            count,
            stride,
            total,
        }) => {
            assert_eq!(out.len(), 6 + total);
            assert_eq!(total.div_ceil(stride), count);
            assert!(count <= MAX_SEGMENTS && total <= MAX_TOTAL.max(1 + packet.len()));
        }
        Err(_) => assert_eq!(&out[..], b"before"),
    }
    Ok(())
}

fn segment_as_described(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut packet = Packet::headers(bytes, false)?;
    packet.payload = model::payload(bytes, 65_535 - packet.header_len())?;
    let gso = bytes.arbitrary()?;
    let size: u16 = bytes.arbitrary()?;
    let hop_limit = bytes.arbitrary()?;
    let prefix = bytes.bytes(bytes.len().min(8))?;
    let ecn = bytes.arbitrary::<bool>()? && packet.tcp;
    let mut header = header_of(&packet, if gso { size } else { 0 });
    if gso {
        header.gso_type = gso_type(&packet) | if ecn { VnetHdr::GSO_ECN } else { 0 };
    }
    // A hint, never trusted.
    header.hdr_len = size;

    let mut out = BytesMut::new();
    let made = segment(header, &packet.partial(), prefix, hop_limit, &mut out);
    let each = usize::from(if gso { size } else { u16::MAX });
    if each == 0 || packet.payload.len().div_ceil(each) > MAX_SEGMENTS {
        assert_eq!(made, Err(SegmentError::Header));
        return Ok(());
    }
    let expected: Vec<Vec<u8>> = packet
        .split(each)
        .into_iter()
        .map(|mut part| {
            part.hop_limit = hop_limit.unwrap_or(part.hop_limit);
            [prefix, &part.on_wire()].concat()
        })
        .collect();
    let made = made.expect("a legal packet");
    assert_eq!(made.count, expected.len());
    let parts: Vec<Vec<u8>> = out.chunks(made.stride).map(<[u8]>::to_vec).collect();
    assert_eq!(parts, expected);
    Ok(())
}

/// Any packets in any order: nothing lost, nothing changed, no flow reordered, frames within bounds.
pub fn coalescing(data: &[u8]) {
    let _ = try_coalescing(&mut Unstructured::new(data));
}

fn try_coalescing(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut run = Run::new(bytes)?;
    while !bytes.is_empty() {
        let mut packet = if bytes.ratio(1, 4)? {
            let length = bytes.int_in_range(0..=100)?;
            bytes.bytes(length.min(bytes.len()))?.to_vec()
        } else {
            let mut packet = Packet::headers(bytes, bytes.len().is_multiple_of(2))?;
            packet.port = bytes.int_in_range(0..=1)?;
            packet.payload = model::payload(bytes, 300)?;
            packet.on_wire()
        };
        for _ in 0..bytes.int_in_range(0..=2)? {
            if !packet.is_empty() {
                let at = bytes.choose_index(packet.len())?;
                packet[at] = bytes.arbitrary()?;
            }
        }
        mend(&mut packet);
        // Again and again, as what continues a frame is what came before.
        for _ in 0..bytes.int_in_range(1..=3)? {
            run.push(&packet);
        }
    }
    run.finish();
    Ok(())
}

/// A few flows, whose packets mostly continue each other, with all that can come between.
pub fn order(data: &[u8]) {
    let _ = try_order(&mut Unstructured::new(data));
}

fn try_order(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut run = Run::new(bytes)?;
    let mut flows: Vec<Packet> = [
        (true, true, 1, 1),
        (true, true, 1, 2),
        (true, false, 1, 1),
        (false, true, 1, 1),
        (false, false, 1, 1),
        (true, true, 2, 1),
    ]
    .into_iter()
    .map(|(v4, tcp, host, port)| Packet::plain(v4, tcp, host, port))
    .collect();
    flows[5].dont_fragment = false;
    while !bytes.is_empty() {
        let flow = bytes.choose_index(flows.len())?;
        let mut packet = flows[flow].clone();
        let length = if bytes.ratio(3, 4)? {
            100
        } else {
            bytes.int_in_range(0..=130)?
        };
        packet.payload = vec![bytes.arbitrary()?; length];
        let value: u8 = bytes.arbitrary()?;
        let step: u8 = bytes.arbitrary()?;
        match step {
            0 => packet.sequence = packet.sequence.wrapping_add(value.into()),
            1 => packet.acknowledgment = value.into(),
            2 => packet.window = value.into(),
            3 => packet.tcp_options = vec![value; 4],
            4 => packet.ip_options = vec![value; 4],
            5 => packet.extensions = vec![1 + value % 4],
            6 => packet.traffic_class = value,
            7 => packet.hop_limit = value,
            8 => packet.identification = value.into(),
            9 => packet.dont_fragment = !packet.dont_fragment,
            10 => packet.tcp_flags = value,
            11 => packet.urgent = value.into(),
            12 => packet.reserved = value % 16,
            13 => packet.flow_label = value.into(),
            14 => packet.tcp_flags |= PSH,
            15 => packet.tcp_flags = ACK | 0xc0,
            _ => {}
        }
        flows[flow].sequence = packet.sequence.wrapping_add(length as u32);
        flows[flow].identification = packet.identification.wrapping_add(1);
        let mut wire = packet.on_wire();
        match step {
            16 => spoil(&mut wire, packet.network_len(), value),
            17 if packet.v4 => wire[6] = value & 0x3f,
            18 if packet.v4 => wire[9] = value,
            18 => wire[6] = value,
            // Without a checksum: legal over IPv4 only, and the same to us.
            19 if !packet.tcp => {
                let at = packet.network_len() + 6;
                wire[at..at + 2].fill(0);
            }
            20 => run.coalescer.flush(),
            21 => run.collect(),
            _ => {}
        }
        mend(&mut wire);
        run.push(&wire);
    }
    run.finish();
    Ok(())
}

/// What segmentation cuts, coalescing puts together again, byte for byte with its header.
pub fn identity(data: &[u8]) {
    let _ = try_identity(&mut Unstructured::new(data));
}

fn try_identity(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut packet = Packet::headers(bytes, true)?;
    packet.payload = model::payload(bytes, 65_535 - packet.header_len())?;
    let size = bytes.int_in_range(1..=3000u16)?;
    let count = packet.payload.len().div_ceil(size.into());
    let most = if packet.tcp { MAX_SEGMENTS } else { 64 };
    if !(2..=most).contains(&count) {
        return Ok(());
    }
    let (header, whole) = (header_of(&packet, size), packet.partial());
    let mut out = BytesMut::new();
    let made = segment(header, &whole, &[], None, &mut out).expect("a legal packet");
    let mut coalescer = Coalescer::new(1, true, true);
    for part in out.chunks(made.stride) {
        coalescer.push(part);
    }
    coalescer.flush();
    let frame = coalescer.pop().expect("all that was pushed");
    assert_eq!((frame.header(), frame.packet()), (header, &whole[..]));
    assert_eq!(coalescer.pop(), None);
    Ok(())
}

/// A packet whose checksum is wrong leaves alone, as it came, and nothing is said about it.
pub fn checksums(data: &[u8]) {
    let _ = try_checksums(&mut Unstructured::new(data));
}

fn try_checksums(bytes: &mut Unstructured<'_>) -> Result<()> {
    let mut packet = Packet::headers(bytes, true)?;
    let size = bytes.int_in_range(1..=200)?;
    packet.payload = model::payload(bytes, size * 20)?;
    let good: Vec<Vec<u8>> = packet.split(size).iter().map(Packet::on_wire).collect();
    let mut pushed = good.clone();
    while !bytes.is_empty() {
        let nth = bytes.choose_index(pushed.len())?;
        spoil(&mut pushed[nth], packet.network_len(), bytes.arbitrary()?);
    }
    let mut coalescer = Coalescer::new(2, true, true);
    pushed.iter().for_each(|packet| coalescer.push(packet));
    coalescer.flush();
    let mut alone = BTreeSet::new();
    let mut got = Vec::new();
    while let Some(frame) = coalescer.pop() {
        if frame.header() == VnetHdr::default() {
            alone.insert(frame.packet().to_vec());
        }
        got.extend(expand(&frame));
    }
    for packet in &pushed {
        assert!(is_right(packet) || alone.contains(packet), "it was blessed");
    }
    let same = |packets: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
        packets.into_iter().map(without_identification).collect()
    };
    // Whatever was damaged, ports included, no frame has been kept back or changed.
    let (mut got, mut pushed) = (same(got), same(pushed));
    got.sort();
    pushed.sort();
    assert_eq!(got, pushed);
    Ok(())
}

/// A coalescer, what went into it, and what came out.
struct Run {
    coalescer: Coalescer,
    tcp: bool,
    udp: bool,
    pushed: Vec<Vec<u8>>,
    got: Vec<Vec<u8>>,
}

impl Run {
    fn new(bytes: &mut Unstructured<'_>) -> Result<Self> {
        let [tcp, udp] = bytes.arbitrary()?;
        let flows = bytes.int_in_range(0..=6)?;
        Ok(Self {
            coalescer: Coalescer::new(flows, tcp, udp),
            tcp,
            udp,
            pushed: Vec::new(),
            got: Vec::new(),
        })
    }

    /// What is no valid packet must only not panic: whoever pushes it has looked at it before.
    fn push(&mut self, packet: &[u8]) {
        if PacketInfo::parse(packet).is_ok() {
            self.coalescer.push(packet);
            self.pushed.push(packet.to_vec());
        } else {
            let mut other = Coalescer::new(2, true, true);
            other.push(packet);
            other.push(packet);
            other.flush();
        }
    }

    fn collect(&mut self) {
        while let Some(frame) = self.coalescer.pop() {
            let header = frame.header();
            if header != VnetHdr::default() {
                let allowed = match header.gso_type {
                    GSO_UDP => self.udp,
                    _ => self.tcp,
                };
                assert!(allowed, "an offload the device does not take");
            }
            assert!(frame.packet().len() <= 65_535);
            self.got.extend(expand(&frame));
            self.coalescer.recycle(frame);
        }
    }

    fn finish(mut self) {
        self.coalescer.flush();
        self.collect();
        assert!(self.coalescer.is_empty());
        let same = |packets: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
            packets.into_iter().map(without_identification).collect()
        };
        let (got, pushed) = (same(self.got), same(self.pushed));
        let keys: BTreeSet<(Vec<u8>, Option<Vec<u8>>)> =
            pushed.iter().map(|packet| key(packet)).collect();
        for (addresses, ports) in keys {
            let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                let shares = |packet: &&Vec<u8>| {
                    let (a, p) = key(packet);
                    a == addresses && (p == ports || p.is_none())
                };
                packets.iter().filter(shares).cloned().collect()
            };
            assert_eq!(of_flow(&got), of_flow(&pushed), "a flow's order");
        }
        let sorted = |mut packets: Vec<Vec<u8>>| {
            packets.sort();
            packets
        };
        assert_eq!(
            sorted(got),
            sorted(pushed),
            "nothing lost, doubled or changed"
        );
    }
}

/// Addresses, and protocol and ports where they are in the usual place.
fn key(packet: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (addresses, plain, protocol, header) = if packet[0] >> 4 == 4 {
        let plain = packet[0] == 0x45 && packet[6] & 0x3f == 0 && packet[7] == 0;
        (&packet[12..20], plain, packet[9], 20)
    } else {
        (&packet[8..40], true, packet[6], 40)
    };
    let ports = packet.get(header..header + 4);
    let ports = ports.filter(|_| plain && [6, 17].contains(&protocol));
    (
        addresses.to_vec(),
        ports.map(|ports| [&[protocol], ports].concat()),
    )
}

/// What a frame stands for.
fn expand(frame: &TunFrame) -> Vec<Vec<u8>> {
    let header = frame.header();
    if header == VnetHdr::default() {
        return vec![frame.packet().to_vec()];
    }
    let mut out = BytesMut::new();
    let made = segment(header, frame.packet(), &[], None, &mut out).expect("our own header");
    assert!(made.count > 1, "a frame of one packet has no header");
    out.chunks(made.stride).map(<[u8]>::to_vec).collect()
}

fn gso_type(packet: &Packet) -> u8 {
    match (packet.tcp, packet.v4) {
        (true, true) => GSO_TCPV4,
        (true, false) => GSO_TCPV6,
        (false, _) => GSO_UDP,
    }
}

fn header_of(packet: &Packet, size: u16) -> VnetHdr {
    VnetHdr {
        flags: NEEDS_CSUM,
        gso_type: if size == 0 { 0 } else { gso_type(packet) },
        hdr_len: packet.header_len() as u16,
        gso_size: size,
        csum_start: packet.network_len() as u16,
        csum_offset: if packet.tcp { 16 } else { 6 },
    }
}

/// Flips a bit at or behind `from`.
fn spoil(packet: &mut [u8], from: usize, value: u8) {
    let length = packet.len() - from;
    let at = from + usize::from(value >> 3) % length;
    packet[at] ^= 1 << (value & 7);
}

/// Whether a plain packet's transport checksum holds.
fn is_right(packet: &[u8]) -> bool {
    let (v4, protocol) = match packet[0] >> 4 {
        4 => (true, packet[9]),
        _ => (false, packet[6]),
    };
    let (addresses, transport) = if v4 {
        (&packet[12..20], &packet[20..])
    } else {
        (&packet[8..40], &packet[40..])
    };
    let length = (transport.len() as u32).to_be_bytes();
    let all = [addresses, &length, &[0, 0, 0, protocol], transport].concat();
    model::slow_sum(&all) == 0xffff
}

/// Makes the checksum of an IPv4 header right.
fn mend(packet: &mut [u8]) {
    let length = usize::from(packet.first().copied().unwrap_or_default() & 15) * 4;
    if packet.first().is_some_and(|byte| byte >> 4 == 4) && (20..=packet.len()).contains(&length) {
        packet[10..12].fill(0);
        let checksum = !model::slow_sum(&packet[..length]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The identification of a packet that must not be fragmented means nothing (RFC 6864 §4).
fn without_identification(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] == 0x45 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        mend(&mut packet);
    }
    packet
}
