//! What is counted is what happened.

use std::net::{IpAddr, SocketAddr};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use masque_core::endpoint::{Accepted, DropReason, PortId, TunnelInfo};
use masque_core::wire::offload::VnetHdr;
use masque_testkit::hostile::report::Verdict;
use masque_testkit::hostile::script::{Scripts, Subject};
use masque_testkit::hostile::world::{Hostile, hostile_address, run_all};
use masque_testkit::packet::{self, TcpHeader};
use masque_testkit::scenario::{Options, Star, star};
use masque_testkit::world::{NodeId, World};
use proptest::prelude::*;

use super::common::*;

/// A client without DATAGRAM frames that listens.
const LISTENER: &str = r#"
[[script]]
name = "listener"
about = "Packets come in capsules."
requirements = []
against = ["server"]
offer = { datagrams = false }
start = "quic"
steps = [
    { write = { stream = "control", bytes = ["00", { settings = [] }] } },
    { write = { stream = "request", bytes = [{ request = {} }] } },
    { answered = {} },
    { datagram = "request" },
    { wait = 20000 },
]
"#;

fn info(star: &Star, node: NodeId) -> TunnelInfo {
    let endpoint = star.world.node(node).endpoint().expect("running");
    let tunnel = tunnel(star, node).expect("up");
    endpoint.tunnel(tunnel).expect("listed")
}

/// TCP's ACK.
const ACK: u8 = 0x10;

/// What a device with offload gives: a segment to be cut, each part with `size` bytes of payload.
fn super_packet(
    from: IpAddr,
    to: IpAddr,
    said: &TcpHeader<'_>,
    size: usize,
    payload: &[u8],
) -> (VnetHdr, Vec<u8>) {
    let (from, to) = (SocketAddr::new(from, 4000), SocketAddr::new(to, 80));
    let network = if from.is_ipv4() { 20 } else { 40 };
    let header = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        gso_type: match from.is_ipv4() {
            true => VnetHdr::GSO_TCPV4,
            false => VnetHdr::GSO_TCPV6,
        },
        gso_size: u16::try_from(size).expect("a segment"),
        csum_start: network,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    (header, packet::tcp(from, to, said, payload))
}

/// Hands over what a device gives.
fn hand(star: &mut Star, node: NodeId, header: VnetHdr, packet: &[u8]) -> Accepted {
    let taken = star.world.act(node, |endpoint, now| {
        endpoint.handle_tun(now, PortId(0), header, packet)
    });
    taken.expect("running")
}

/// Bytes of the headers of a packet of TCP.
fn headers(packet: &[u8]) -> usize {
    let network = if packet[0] >> 4 == 4 { 20 } else { 40 };
    network + usize::from(packet[network + 12] >> 4) * 4
}

/// What went down and up, in packets and in bytes, is what the end it came from and the end it came to say.
fn both_ends_count(star: &Star, sent: [u64; 2], bytes: [u64; 2]) -> Result<(), TestCaseError> {
    let (client, server) = (star.client(), star.server);
    for (way, (from, to)) in [(server, client), (client, server)].into_iter().enumerate() {
        let (there, here) = (info(star, from), info(star, to));
        let expected = (sent[way], bytes[way]);
        prop_assert_eq!((there.sent_packets, there.sent_bytes), expected);
        prop_assert_eq!((here.received_packets, here.received_bytes), expected);
        prop_assert_eq!(counters(star, from).packets_in, sent[way]);
        prop_assert_eq!(counters(star, to).packets_out, sent[way]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_taken_at_one_end_are_packets_given_out_at_the_other(
        packets in proptest::collection::vec((any::<bool>(), any::<bool>(), 1..1000usize), 1..40)
    ) {
        let mut star = up(&quiet());
        let (client, server) = (star.client(), star.server);
        let (mut sent, mut bytes) = ([0, 0], [0, 0]);
        for (up, v4, size) in packets {
            let (host, guest) = (inner(v4), address(&star, client, v4));
            let (from, packet) = match up {
                true => (client, datagram(guest, host, size)),
                false => (server, datagram(host, guest, size)),
            };
            sent[usize::from(up)] += 1;
            bytes[usize::from(up)] += packet.len() as u64;
            send_later(&mut star, from, packet);
        }
        run(&mut star, 3_000);
        both_ends_count(&star, sent, bytes)?;
        prop_assert_eq!(received(&mut star, client).len() as u64, sent[0]);
        prop_assert_eq!(received(&mut star, server).len() as u64, sent[1]);
    }

    /// Where the device's packets may be fragmented (RFC 791 §3.2).
    #[test]
    fn fragments_taken_at_one_end_are_fragments_given_out_at_the_other(
        sizes in proptest::collection::vec(1_500..9_000usize, 1..10)
    ) {
        let mut star = up(&quiet());
        let (client, server) = (star.client(), star.server);
        for size in &sizes {
            let packet = datagram(address(&star, client, true), inner(true), *size);
            send_later(&mut star, client, may_fragment(packet));
        }
        run(&mut star, 3_000);
        let pieces = received(&mut star, server);
        prop_assert!(pieces.len() >= 2 * sizes.len(), "{}", pieces.len());
        let count = pieces.len() as u64;
        let bytes = pieces.iter().map(|it| it.len() as u64).sum();
        let (there, here) = (info(&star, client), info(&star, server));
        prop_assert_eq!((there.sent_packets, there.sent_bytes), (count, bytes));
        prop_assert_eq!((here.received_packets, here.received_bytes), (count, bytes));
        prop_assert_eq!(counters(&star, client).packets_in, sizes.len() as u64);
        prop_assert_eq!(counters(&star, server).packets_out, count);
    }

    /// Segments that the far end makes super-packets of again are counted one by one.
    #[test]
    fn super_packets_of_tcp_are_counted_by_the_segment_at_both_ends(
        batches in proptest::collection::vec(
            (any::<bool>(), any::<bool>(), 0..=10usize, 20..300usize, 4..40usize, any::<proptest::sample::Index>()), 1..10
        )
    ) {
        let mut star = up(&Options { offload: true, ..quiet() });
        let (client, server) = (star.client(), star.server);
        let (mut sent, mut bytes) = ([0, 0], [0, 0]);
        let mut next = 0u32;
        for (up, v4, words, size, segments, last) in batches {
            let (host, guest) = (inner(v4), address(&star, client, v4));
            let (from, to) = if up { (guest, host) } else { (host, guest) };
            let (here, there) = if up { (client, server) } else { (server, client) };
            let payload: Vec<_> = (0..size * (segments - 1) + 1 + last.index(size)).map(|it| it as u8).collect();
            let said = TcpHeader { sequence: next, flags: ACK, options: &[1; 40][..4 * words] };
            let (header, packet) = super_packet(from, to, &said, size, &payload);
            next = next.wrapping_add(u32::try_from(payload.len()).expect("short"));
            let all = Accepted { queued: segments as u32, dropped: 0 };
            prop_assert_eq!(hand(&mut star, here, header, &packet), all);
            sent[usize::from(up)] += segments as u64;
            bytes[usize::from(up)] += (headers(&packet) * segments + payload.len()) as u64;
            run(&mut star, 200);
            let frames = received(&mut star, there);
            prop_assert!(frames.len() < segments, "{} of {}", frames.len(), segments);
            let arrived: Vec<_> = frames.iter().flat_map(|it| it[headers(it)..].to_vec()).collect();
            prop_assert_eq!(arrived, payload);
        }
        both_ends_count(&star, sent, bytes)?;
    }

    /// With whatever options, segments of the tunnel MTU go and one byte more is refused.
    #[test]
    fn super_packets_of_tcp_that_are_too_large_are_counted_by_the_segment(
        v4: bool, words in 0..=10usize, segments in 1..40usize, more in 0..2usize, short in any::<proptest::sample::Index>()
    ) {
        let mut star = up(&quiet());
        let client = star.client();
        let from = address(&star, client, v4);
        let said = TcpHeader { flags: ACK, options: &[1; 40][..4 * words], ..TcpHeader::default() };
        let around = if v4 { 40 } else { 60 } + 4 * words;
        let size = info(&star, client).mtu as usize - around + more;
        // The first is whole.
        let last = if segments == 1 { size } else { 1 + short.index(size) };
        let payload = vec![0x5a; size * (segments - 1) + last];
        let (header, packet) = super_packet(from, inner(v4), &said, size, &payload);
        let before = dropped(&star, client, DropReason::TooBig);
        let taken = hand(&mut star, client, header, &packet);
        let count = segments as u32;
        let (queued, refused) = if more == 0 { (count, 0) } else { (0, count) };
        prop_assert_eq!(taken, Accepted { queued, dropped: refused });
        prop_assert_eq!(dropped(&star, client, DropReason::TooBig) - before, u64::from(refused));
    }

    /// To a peer without DATAGRAM frames (RFC 9297 §3.5).
    #[test]
    fn a_tunnel_of_capsules_counts_what_it_takes_and_what_it_drops(
        batches in proptest::collection::vec((1..=50usize, any::<bool>()), 1..12)
    ) {
        let mut star = star(&Options { clients: 0, ..quiet() }).expect("valid");
        let server = star.server;
        let address_of_peer = hostile_address(0);
        star.world.add_stranger(address_of_peer);
        let script = Scripts::parse(LISTENER).expect("a script").script.remove(0);
        let mut peer = Hostile::new(&star.world, address_of_peer, Arc::new(script), Subject::Server);
        let mut go_on = |world: &mut World, millis| {
            let until = world.now() + Duration::from_millis(millis);
            run_all(world, slice::from_mut(&mut peer), until, |_| false);
            peer.runner.report().map(|report| report.verdict)
        };
        go_on(&mut star.world, 1_000);
        let (handle, to) = (tunnel(&star, server).expect("up"), address(&star, server, true));
        let (mut handed, mut queued, mut dropped_of_them) = (0, 0, 0);
        for (segments, pause) in batches {
            let packet = datagram(inner(true), to, 1000 * segments);
            let header = VnetHdr { gso_type: VnetHdr::GSO_UDP_L4, gso_size: 1000, ..VnetHdr::default() };
            let taken = star.world.act(server, |endpoint, now| endpoint.handle_tun(now, PortId(0), header, &packet));
            let taken = taken.expect("running");
            handed += segments as u64;
            queued += u64::from(taken.queued);
            dropped_of_them += u64::from(taken.dropped);
            if pause {
                go_on(&mut star.world, 300);
            }
        }
        let info = star.world.node(server).endpoint().expect("running").tunnel(handle).expect("up");
        prop_assert!(queued > 0, "the stream was empty");
        prop_assert_eq!(counters(&star, server).packets_in, queued);
        prop_assert_eq!((info.sent_packets, info.sent_bytes), (queued, queued * 1028));
        prop_assert_eq!(handed, queued + dropped(&star, server, DropReason::QueueFull));
        prop_assert!(dropped_of_them <= handed - queued);
        prop_assert_eq!(go_on(&mut star.world, 30_000), Some(Verdict::Pass), "they come");
    }
}

#[test]
fn what_is_too_large_is_refused_where_it_comes_in_and_counted_packet_by_packet() {
    let mut star = up(&quiet());
    let (client, from) = (star.client(), address(&star, star.client(), true));
    let mtu = info(&star, client).mtu as usize;
    let plain = |size| (VnetHdr::default(), datagram(from, inner(true), size));
    // IP and UDP have 28 bytes.
    let fits = (mtu - 28).min(1400);
    for (payload, segment, segments) in [
        (fits, 0, 1),
        (3_000, 0, 1),
        (20_000, 2_000, 10),
        (20_001, 2_000, 11),
    ] {
        let (mut header, packet) = plain(payload);
        if segment > 0 {
            header.gso_type = VnetHdr::GSO_UDP_L4;
            header.gso_size = segment;
        }
        let before = dropped(&star, client, DropReason::TooBig);
        let took = star.world.act(client, |endpoint, now| {
            endpoint.handle_tun(now, PortId(0), header, &packet)
        });
        let refused = if payload == fits { 0 } else { segments };
        let expected = Accepted {
            queued: u32::from(payload == fits),
            dropped: refused,
        };
        assert_eq!(took, Some(expected), "{payload} bytes by {segment}");
        let counted = dropped(&star, client, DropReason::TooBig) - before;
        assert_eq!(counted, u64::from(refused), "{payload} bytes by {segment}");
    }
}

#[test]
fn marks_that_are_counted_are_marks_that_arrive() {
    let mut options = quiet();
    options.link.rate = Some(2_000_000);
    let mut star = up(&options);
    let (client, server) = (star.client(), star.server);
    let mut packet = datagram(address(&star, client, false), inner(false), 1000);
    // ECT(0) in the traffic class (RFC 3168 §5).
    packet[1] |= 2 << 4;
    for _ in 0..400 {
        send_later(&mut star, client, packet.clone());
    }
    run(&mut star, 5_000);
    let arrived = received(&mut star, server);
    let marked = arrived.iter().filter(|it| it[1] >> 4 & 3 == 3).count();
    assert!(marked > 1, "the queue stood: {marked} of {}", arrived.len());
    assert_eq!(counters(&star, client).congestion_marked, marked as u64);
}
