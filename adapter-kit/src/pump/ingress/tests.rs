use super::*;

use masque_core::endpoint::SocketId;

fn source(nth: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, nth, 1], 1000))
}

fn batch(from: SocketAddr, count: usize, stride: usize) -> Batch {
    let meta = RecvMeta {
        socket: SocketId(0),
        remote: from,
        local_ip: None,
        ecn: None,
        stride,
    };
    (meta, BytesMut::zeroed(count * stride))
}

fn push(ingress: &mut Ingress, nth: u8, count: usize, stride: usize) {
    let (meta, data) = batch(source(nth), count, stride);
    ingress.push(meta, data);
}

/// What each source was given of `rounds` batches.
fn served(ingress: &mut Ingress, rounds: usize) -> BTreeMap<SocketAddr, usize> {
    let mut served = BTreeMap::new();
    for _ in 0..rounds {
        let (meta, data) = ingress.pop().expect("enough waits");
        *served.entry(meta.remote).or_default() += cost(meta.stride, data.len());
    }
    served
}

#[test]
fn sources_get_equal_time_whatever_the_size_of_what_they_send() {
    let mut ingress = Ingress::default();
    for _ in 0..60 {
        push(&mut ingress, 1, 45, 1452);
    }
    for _ in 0..600 {
        push(&mut ingress, 2, 1, 1200);
        push(&mut ingress, 3, 10, 64);
    }
    let served = served(&mut ingress, 300);
    let most = *served.values().max().expect("three sources");
    let least = *served.values().min().expect("three sources");
    assert_eq!(served.len(), 3);
    assert!(most - least <= 3 * QUANTUM as usize, "{served:?}");
    assert!(least * 10 >= most * 6, "{served:?}");
}

#[test]
fn a_source_that_has_just_begun_comes_first() {
    let mut ingress = Ingress::default();
    for _ in 0..20 {
        push(&mut ingress, 1, 45, 1452);
    }
    served(&mut ingress, 4);
    push(&mut ingress, 2, 1, 100);
    assert_eq!(ingress.pop().expect("it waits").0.remote, source(2));
}

#[test]
fn each_source_keeps_its_order_and_nothing_is_lost_below_the_limit() {
    let mut ingress = Ingress::default();
    let mut sent: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
    for nth in 1..=90 {
        let from = (nth * 7 % 4) as u8;
        push(&mut ingress, from, 1, nth);
        sent.entry(source(from)).or_default().push(nth);
    }
    let mut got: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
    while let Some((meta, data)) = ingress.pop() {
        got.entry(meta.remote).or_default().push(data.len());
    }
    assert_eq!(got, sent);
    assert!(ingress.is_empty() && ingress.cost == 0);
    assert_eq!(ingress.take_dropped(), 0);
}

#[test]
fn who_has_most_waiting_makes_room_for_the_others() {
    let mut ingress = Ingress::default();
    push(&mut ingress, 2, 3, 1200);
    for _ in 0..1000 {
        push(&mut ingress, 1, 45, 1452);
        assert!(ingress.cost <= KNOWN);
    }
    push(&mut ingress, 3, 3, 1200);
    assert!(ingress.take_dropped() > 0);
    let mut small = 0;
    while let Some((meta, data)) = ingress.pop() {
        small += if meta.remote == source(1) {
            0
        } else {
            data.len()
        };
    }
    assert_eq!(small, 2 * 3 * 1200, "they lost nothing");
    assert_eq!(ingress.cost, 0);
}

#[test]
fn strangers_wait_by_network_bounded_and_leave_one_datagram_at_a_time() {
    let mut ingress = Ingress::default();
    for nth in 0..1000u32 {
        let [.., third, fourth] = nth.to_be_bytes();
        // All of one network.
        let from = SocketAddr::from(([192, 0, 2, fourth], 1024 + u16::from(third)));
        let (meta, data) = batch(from, 5, 1200);
        ingress.push_stranger(meta, data);
    }
    let (meta, data) = batch(source(9), 2, 1200);
    ingress.push_stranger(meta, data);
    let waiting: usize = ingress
        .strangers
        .queues
        .values()
        .map(|queue| queue.cost)
        .sum();
    assert!(waiting <= 2 * (BUCKET + cost(1200, 6000)), "{waiting}");
    assert!(ingress.take_dropped() > 4000);
    let first: Vec<_> = (0..4).filter_map(|_| ingress.pop_stranger(true)).collect();
    assert!(first.iter().all(|(_, data)| data.len() == 1200));
    let of_the_other = first.iter().filter(|(meta, _)| meta.remote == source(9));
    assert!(
        of_the_other.count() >= 1,
        "a network has its turn however many another sends"
    );
    while ingress.pop_stranger(true).is_some() {}
    assert!(ingress.is_empty());
}

/// A long header of version 1 with a token of that length: an Initial.
fn initial(token: u8) -> BytesMut {
    let mut data = vec![0xc0, 0, 0, 0, 1, 2, 0, 0, 0, token];
    data.resize(1200, 0);
    data[..].into()
}

fn from(remote: SocketAddr) -> RecvMeta {
    batch(remote, 1, 1200).0
}

#[test]
fn whoever_has_a_token_is_not_behind_a_flood_of_those_without() {
    let mut ingress = Ingress::default();
    for nth in 0..10_000u32 {
        let remote = SocketAddr::from((nth.wrapping_mul(0x9e37_79b1).to_be_bytes(), 1000));
        ingress.push_stranger(from(remote), initial(0));
    }
    let waiting: usize = ingress.unproven.queues.values().map(|it| it.cost).sum();
    assert!(waiting <= BUCKETS as usize * (BUCKET + 2200), "{waiting}");
    let _ = ingress.pop_stranger(true);
    for nth in 1..4 {
        ingress.push_stranger(from(source(nth)), initial(16));
    }
    let proving = |batch: &Batch| batch.1[9] > 0;
    let next: Vec<_> = (0..6).filter_map(|_| ingress.pop_stranger(true)).collect();
    assert_eq!(next.iter().filter(|batch| proving(batch)).count(), 3);
    // Nor do those with tokens keep the others waiting.
    assert_eq!(next.iter().filter(|batch| !proving(batch)).count(), 3);
    ingress.push_stranger(from(source(4)), initial(16));
    let last: Vec<_> = std::iter::from_fn(|| ingress.pop_stranger(false)).collect();
    assert_eq!(last.len(), 1, "no others while there is no time for them");
    assert!(proving(&last[0]) && !ingress.is_empty());
}

#[test]
fn of_a_network_that_proves_nothing_the_newest_comes_first_and_the_oldest_is_lost() {
    let mut ingress = Ingress::default();
    for port in 1000..1100 {
        ingress.push_stranger(from(SocketAddr::from(([192, 0, 2, 1], port))), initial(0));
    }
    let popped = std::iter::from_fn(|| ingress.pop_stranger(true));
    let ports: Vec<_> = popped.map(|(meta, _)| meta.remote.port()).collect();
    let newest: Vec<_> = (1000..1100).rev().take(ports.len()).collect();
    assert_eq!(ports, newest);
    assert_eq!(ingress.take_dropped() as usize, 100 - ports.len());
    assert!(!ports.is_empty() && ports.len() < 100);
}
