use proptest::prelude::*;

use super::*;
use crate::endpoint::tests::moment;

const PREFIX: usize = 2;
const QUANTUM: usize = 6 * 1024;

/// A datagram of `size` bytes that says which flow and which number it is.
fn datagram(flow: u8, number: u32, size: usize, ecn: u8) -> Bytes {
    let mut bytes = vec![0; PREFIX + size.max(28)];
    let packet = &mut bytes[PREFIX..];
    packet[0] = 0x45;
    packet[1] = ecn;
    packet[20] = flow;
    packet[21..25].copy_from_slice(&number.to_be_bytes());
    Bytes::from(bytes)
}

fn read(datagram: &Bytes) -> (u8, u32) {
    let packet = &datagram[PREFIX..];
    (
        packet[20],
        u32::from_be_bytes([packet[21], packet[22], packet[23], packet[24]]),
    )
}

impl TunnelQueue {
    /// Each for itself.
    fn push_each(&mut self, now: Instant, flow: u32, datagrams: impl Iterator<Item = Bytes>) {
        for datagram in datagrams {
            let length = datagram.len();
            self.push(now, flow, datagram, length);
        }
    }

    /// As one super-packet.
    fn push_train(&mut self, now: Instant, flow: u32, datagrams: impl Iterator<Item = Bytes>) {
        let (mut all, mut stride) = (BytesMut::new(), 0);
        for datagram in datagrams {
            stride = stride.max(datagram.len());
            all.extend_from_slice(&datagram);
        }
        self.push(now, flow, all.freeze(), stride);
    }
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Serves `rate` datagrams a millisecond for `time`, while `offered` a millisecond come in.
fn overload(queue: &mut TunnelQueue, start: Instant, time: u64, offered: u32, rate: u32) {
    for at in 0..time {
        let now = start + ms(at);
        queue.push_each(
            now,
            7,
            (0..offered).map(|number| datagram(7, number, 1400, 0)),
        );
        for _ in 0..rate {
            let _ = queue.pop(now, PREFIX, QUANTUM);
        }
    }
}

#[test]
fn a_queue_that_does_not_stand_loses_nothing() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    overload(&mut queue, start, 2_000, 3, 3);
    assert_eq!(queue.take_losses(), Losses::default());
}

#[test]
fn a_burst_shorter_than_the_interval_loses_nothing() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    queue.push_each(start, 1, (0..90).map(|number| datagram(1, number, 1400, 0)));
    let served = (0..95).filter_map(|at| queue.pop(start + ms(at), PREFIX, QUANTUM));
    assert_eq!(
        served.map(|it| read(&it).1).collect::<Vec<_>>(),
        (0..90).collect::<Vec<_>>()
    );
    assert_eq!(queue.take_losses(), Losses::default());
}

#[test]
fn a_standing_queue_loses_packets_and_ever_more_of_them() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    overload(&mut queue, start, 1_000, 2, 1);
    let first = queue.take_losses().dropped;
    overload(&mut queue, start + ms(1_000), 1_000, 2, 1);
    let second = queue.take_losses().dropped;
    assert!(first > 5 && second > first, "{first} then {second}");
}

#[test]
fn a_path_that_loses_packets_itself_is_left_to_teach_its_flows() {
    let first_loss = |lost_per_thousand| {
        let start = moment();
        let mut queue = TunnelQueue::default();
        (1..).find(|at| {
            queue.expect(ms(100), lost_per_thousand);
            overload(&mut queue, start + ms(at * 10), 10, 2, 1);
            queue.has_losses()
        })
    };
    let (clean, lossy) = (first_loss(0), first_loss(20));
    assert!(
        lossy
            .zip(clean)
            .is_some_and(|(lossy, clean)| lossy * 2 > clean * 3)
    );
    // More loss than enough changes nothing.
    assert_eq!(first_loss(5), first_loss(1000));
}

#[test]
fn a_flow_that_speaks_ecn_is_marked_instead() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    queue.push_each(
        start,
        1,
        (0..1000).map(|number| datagram(1, number, 1400, 2)),
    );
    let out: Vec<Bytes> = (0..400)
        .filter_map(|at| queue.pop(start + ms(at), PREFIX, QUANTUM))
        .collect();
    let losses = queue.take_losses();
    let marked = out.iter().filter(|it| it[PREFIX + 1] & 3 == 3).count();
    assert!(losses.marked > 1 && losses.dropped == 0, "{losses:?}");
    assert_eq!(losses.marked, marked as u64);
    assert_eq!(out.len(), 400);
}

#[test]
fn a_sparse_flow_is_served_at_once_beside_a_standing_one() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    queue.push_each(
        start,
        1,
        (0..500).map(|number| datagram(1, number, 1400, 0)),
    );
    for _ in 0..20 {
        assert!(queue.pop(start, PREFIX, QUANTUM).is_some());
    }
    queue.push_each(start, 2, std::iter::once(datagram(2, 0, 160, 0)));
    assert_eq!(
        read(&queue.pop(start, PREFIX, QUANTUM).expect("queued")).0,
        2
    );
}

#[test]
fn two_standing_flows_share_alike() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    queue.push_each(
        start,
        1,
        (0..2000).map(|number| datagram(1, number, 1400, 0)),
    );
    queue.push_each(
        start,
        2,
        (0..2000).map(|number| datagram(2, number, 700, 0)),
    );
    let mut bytes = [0usize; 3];
    for _ in 0..900 {
        let next = queue.pop(start, PREFIX, QUANTUM).expect("queued");
        bytes[usize::from(read(&next).0)] += next.len();
    }
    let ratio = bytes[1] as f64 / bytes[2] as f64;
    assert!((0.9..1.1).contains(&ratio), "{bytes:?}");
}

#[test]
fn room_is_made_by_the_fattest_flow() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    queue.push_each(
        start,
        1,
        (0..100).map(|number| datagram(1, number, 1400, 0)),
    );
    queue.push_each(start, 2, (0..3).map(|number| datagram(2, number, 1400, 0)));
    assert_eq!(queue.shed(), 50);
    let left: Vec<_> = std::iter::from_fn(|| queue.pop(start, PREFIX, QUANTUM))
        .map(|it| read(&it))
        .collect();
    assert_eq!(left.iter().filter(|it| it.0 == 2).count(), 3);
    assert!(
        left.contains(&(1, 99)) && !left.contains(&(1, 0)),
        "it drops from the head"
    );
    assert_eq!((queue.bytes(), queue.len(), queue.shed()), (0, 0, 0));
}

#[test]
fn an_idle_queue_holds_no_memory() {
    let start = moment();
    let mut queue = TunnelQueue::default();
    queue.push_each(
        start,
        1,
        (0..1000).map(|number| datagram(1, number, 1400, 0)),
    );
    while queue.pop(start, PREFIX, QUANTUM).is_some() {}
    queue.rest(start + ms(999));
    assert!(queue.flows.capacity() > 0, "it may go on in a moment");
    queue.rest(start + ms(1000));
    assert_eq!((queue.flows.capacity(), queue.fresh.capacity()), (0, 0));
    queue.push_each(start + ms(1000), 1, std::iter::once(datagram(1, 0, 100, 0)));
    queue.rest(start + ms(9000));
    assert_eq!(queue.len(), 1, "what waits is kept");
}

proptest! {
    #[test]
    fn nothing_is_lost_uncounted_or_reordered_within_a_flow(
        operations in prop::collection::vec((0u8..4, 0u8..5, 1usize..20, 0u64..30), 1..300),
    ) {
        let start = moment();
        let mut queue = TunnelQueue::default();
        let (mut now, mut pushed, mut popped, mut shed) = (start, 0u64, 0u64, 0u64);
        let mut next = [0u32; 5];
        let mut last = [None::<u32>; 5];
        for (what, flow, count, wait) in operations {
            now += ms(wait);
            match what {
                0 | 1 => {
                    let from = next[usize::from(flow)];
                    let numbers = from..from + count as u32;
                    next[usize::from(flow)] = numbers.end;
                    pushed += count as u64;
                    let datagrams = numbers.map(|number| datagram(flow, number, 100 * (1 + usize::from(flow)), 0));
                    match what {
                        0 => queue.push_each(now, u32::from(flow), datagrams),
                        _ => queue.push_train(now, u32::from(flow), datagrams),
                    }
                }
                2 => for _ in 0..count {
                    let Some(out) = queue.pop(now, PREFIX, QUANTUM) else { break };
                    let (flow, number) = read(&out);
                    prop_assert!(last[usize::from(flow)].is_none_or(|last| last < number));
                    if number % 7 == 3 {
                        queue.push_front(out);
                        break;
                    }
                    last[usize::from(flow)] = Some(number);
                    popped += 1;
                },
                _ => shed += queue.shed(),
            }
            let dropped = queue.losses.dropped;
            prop_assert_eq!(pushed, popped + shed + dropped + queue.len() as u64);
        }
        while queue.pop(now, PREFIX, QUANTUM).is_some() {}
        prop_assert_eq!((queue.bytes(), queue.len(), queue.by_bucket.len()), (0, 0, 0));
        prop_assert!(queue.flows.len() <= 1);
    }
}

#[test]
fn a_flow_has_its_share_if_it_queues_as_much_as_others_do_on_the_average() {
    let now = moment();
    let mut queue = TunnelQueue::default();
    let packets = |count| std::iter::repeat_n(Bytes::from_static(&[0; 1000]), count);
    queue.push_each(now, 1, packets(30));
    assert!(queue.has_its_share(1));
    queue.push_each(now, 2, packets(2));
    assert!(queue.has_its_share(1) && !queue.has_its_share(2) && !queue.has_its_share(3));
    assert!(!TunnelQueue::default().has_its_share(1));
}

/// What a queue still gives out, without CoDel's judgement getting a chance.
fn drain(queue: &mut TunnelQueue, now: Instant) -> Vec<(u8, u32)> {
    let all = std::iter::from_fn(|| queue.pop(now, PREFIX, QUANTUM));
    all.map(|datagram| read(&datagram)).collect()
}

proptest! {
    #[test]
    fn after_a_gap_each_flow_keeps_its_newest_and_those_leave_first(
        pushes in prop::collection::vec((0..4_u8, 0..5_000_u64), 0..60),
    ) {
        let start = moment();
        let mut pushes = pushes;
        pushes.sort_by_key(|(_, at)| *at);
        let mut queue = TunnelQueue::default();
        for (number, (flow, at)) in (0..).zip(&pushes) {
            let packet = std::iter::once(datagram(*flow, number, 200, 0));
            queue.push_each(start + ms(*at), u32::from(*flow), packet);
        }
        let now = start + ms(5_000);
        let dropped = queue.freshen(now);
        let mut kept = Vec::new();
        let mut first = 0;
        for flow in 0..4 {
            let of_flow = (0..).zip(&pushes).filter(|(_, it)| it.0 == flow);
            let of_flow: Vec<(u32, u64)> = of_flow.map(|(number, it)| (number, it.1)).collect();
            let young = of_flow.iter().filter(|(_, at)| 5_000 - at <= 1_000).count();
            let from = of_flow.len() - young.max(2).min(of_flow.len());
            // A flow of which nothing newer is there.
            if of_flow.len() - from <= 2 && young < of_flow.len() {
                first += of_flow.len() - from;
            }
            kept.extend(of_flow[from..].iter().map(|(number, _)| (flow, *number)));
        }
        prop_assert_eq!(dropped as usize, pushes.len() - kept.len());
        prop_assert_eq!(queue.len(), kept.len());
        prop_assert_eq!(queue.bytes(), kept.len() * (200 + PREFIX));
        let out = drain(&mut queue, now);
        let old = |number: u32| 5_000 - pushes[number as usize].1 > 1_000;
        prop_assert!(out[first..].iter().all(|(_, number)| !old(*number)), "old ones first");
        let mut out = out;
        out.sort_unstable();
        kept.sort_unstable();
        prop_assert_eq!(out, kept);
        prop_assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_is_parked_appended_and_given_another_prefix_is_all_there_and_counted(
        here in prop::collection::vec((0..4_u8, 0..4_u32), 0..20),
        there in prop::collection::vec((0..4_u8, 0..4_u32), 0..20),
        prefix in prop::collection::vec(any::<u8>(), PREFIX..=PREFIX),
    ) {
        let now = moment();
        // None in a train is one that is too large.
        let fill = |plan: &[(u8, u32)], from: u32, all: &mut Vec<(u8, u32, bool)>| {
            let mut queue = TunnelQueue::default();
            let mut number = from;
            for (flow, count) in plan {
                match count {
                    0 => queue.park(datagram(*flow, number, 1400, 0)),
                    _ => queue.push_train(
                        now,
                        u32::from(*flow),
                        (number..number + count).map(|number| datagram(*flow, number, 200, 0)),
                    ),
                }
                let numbers = number..number + (*count).max(1);
                number = numbers.end;
                all.extend(numbers.map(|number| (*flow, number, *count == 0)));
            }
            queue
        };
        let mut all = Vec::new();
        let mut queue = fill(&here, 0, &mut all);
        // One that has begun to leave is changed as well.
        let begun = queue.pop(now, PREFIX, QUANTUM).map(|it| read(&it));
        all.retain(|(flow, number, _)| Some((*flow, *number)) != begun);
        queue.append(fill(&there, 100, &mut all));
        queue.change_prefix(PREFIX, &prefix);
        prop_assert_eq!(queue.len(), all.len());
        queue.unpark(1000);
        let small = std::iter::from_fn(|| queue.pop(now, PREFIX, QUANTUM)).collect::<Vec<_>>();
        prop_assert!(small.iter().all(|it| it.len() < 1000 && it[..PREFIX] == prefix[..]));
        prop_assert_eq!(queue.has_parked(1402), queue.len() > 0);
        queue.unpark(usize::MAX);
        let large = drain(&mut queue, now);
        let of_size = |wanted: bool| {
            let those = all.iter().filter(move |it| it.2 == wanted);
            those.map(|(flow, number, _)| (*flow, *number)).collect::<Vec<_>>()
        };
        prop_assert_eq!(large, of_size(true), "the order they were parked in");
        let mut small: Vec<_> = small.iter().map(read).collect();
        let mut expected = of_size(false);
        small.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(small, expected);
        prop_assert_eq!((queue.bytes(), queue.len()), (0, 0));
    }
}

/// The flows that leave, in their order, while each of two has trains of 40 datagrams waiting.
fn order(quantum: usize, pops: usize) -> Vec<u8> {
    let now = moment();
    let mut queue = TunnelQueue::default();
    for flow in [1, 2] {
        for train in 0..20 {
            let numbers = train * 40..(train + 1) * 40;
            let size = 700 * usize::from(flow);
            queue.push_train(
                now,
                u32::from(flow),
                numbers.map(|number| datagram(flow, number, size, 0)),
            );
        }
    }
    let out = std::iter::from_fn(|| queue.pop(now, PREFIX, quantum));
    out.take(pops).map(|it| read(&it).0).collect()
}

#[test]
fn on_a_fast_path_a_super_packet_that_has_begun_leaves_whole() {
    let out = order(30_000, 400);
    let turns: Vec<_> = out.chunk_by(|one, other| one == other).collect();
    let whole = turns.iter().rev().skip(1).all(|turn| turn.len() % 40 == 0);
    assert!(whole, "{out:?}");
    assert!(turns.len() > 4, "both are served: {out:?}");
}

#[test]
fn on_a_slow_path_a_packet_of_a_super_packet_is_a_turn() {
    let out = order(0, 100);
    let longest = out.chunk_by(|one, other| one == other).map(<[u8]>::len);
    // Of the smaller ones two are worth one of the others.
    assert!(longest.max() <= Some(3), "{out:?}");
}

#[test]
fn what_a_turn_borrows_for_a_super_packet_is_paid_back() {
    for quantum in [0, 10_000, 30_000, 90_000] {
        let out = order(quantum, 1_000);
        let bytes = |flow: u8| {
            let count = out.iter().filter(|it| **it == flow).count();
            count * (PREFIX + 700 * usize::from(flow))
        };
        let apart = bytes(1).abs_diff(bytes(2));
        assert!(
            apart <= 3 * quantum.max(30_000),
            "{apart} bytes with {quantum}"
        );
    }
}
