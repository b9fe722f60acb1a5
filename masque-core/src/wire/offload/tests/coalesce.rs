use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::ip::{self, PacketInfo};

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
        2 => (0..9u8).prop_map(|which| Step::OtherHeader { which }),
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
        tcp_options: vec![1; 4],
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
        Step::OtherHeader { which: 5 } => packet.tcp_options = vec![1; 8],
        Step::OtherHeader { which: 6 } => packet.ip_options = vec![1; 4],
        Step::OtherHeader { which: 7 } => packet.tcp_options = vec![1, 1, 1, 0],
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

    /// What follows without being judged again is exactly what would have been merged, damaged
    /// headers and interleaved flows included, and only under the verdict it began with.
    #[test]
    fn following_gives_the_frames_that_pushing_gives(
        steps in proptest::collection::vec(
            (any_step(), 1..3u64, proptest::option::weighted(0.1, (0..60usize, 0..8u8))),
            0..80,
        ),
        open in 1..4usize,
    ) {
        let mut flows = flows();
        let (mut slow, mut fast) = (Coalescer::new(open, true, true), Coalescer::new(open, true, true));
        for (nth, ((flow, step), verdict, damage)) in steps.iter().enumerate() {
            let Some(mut bytes) = take_step(&mut flows[*flow], step, nth) else {
                fast.forget_verdicts();
                continue;
            };
            if let Some((at, bit)) = damage
                && let Some(byte) = bytes.get_mut(*at)
            {
                *byte ^= 1 << bit;
            }
            let judged = PacketInfo::parse(&bytes).is_ok();
            let followed = fast.follow(*verdict, &bytes);
            prop_assert!(judged || !followed, "a packet that is none follows nothing");
            if judged {
                slow.push(&bytes);
                if !followed {
                    fast.push_judged(*verdict, &bytes);
                }
            }
        }
        prop_assert_eq!(drain(&mut fast), drain(&mut slow));
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
fn nothing_follows_under_another_verdict_or_none() {
    let packets: Vec<_> = Packet::new(true, true, &[9; 400])
        .split(100)
        .iter()
        .map(Packet::on_wire)
        .collect();
    let mut coalescer = Coalescer::new(8, true, true);
    assert!(!coalescer.follow(7, &packets[0]));
    coalescer.push_judged(7, &packets[0]);
    coalescer.push_judged(7, &packets[1]);
    assert!(!coalescer.follow(8, &packets[2]));
    assert!(!coalescer.follow(0, &packets[2]));
    assert!(coalescer.follow(7, &packets[2]));
    coalescer.forget_verdicts();
    assert!(!coalescer.follow(7, &packets[3]));
    coalescer.push_judged(7, &packets[3]);
    assert_eq!(drain(&mut coalescer).len(), 1);
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

#[test]
fn a_rest_frees_no_packet() {
    let whole = Packet::new(true, true, &[3; 30_000]);
    let parts: Vec<_> = whole.split(1000).iter().map(Packet::on_wire).collect();
    let frames = |rests: bool| {
        let mut coalescer = Coalescer::new(4, true, true);
        for part in &parts {
            coalescer.push(part);
            if rests {
                coalescer.rest();
            }
        }
        drain(&mut coalescer)
    };
    assert_eq!(frames(true), frames(false));
}
