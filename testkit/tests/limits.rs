//! Everything a peer can grow, by a peer that grows it: memory stays under its limits and others keep
//! their throughput. `docs/limits.md` is the list.
//!
//! The tests of this file take turns: they count the bytes of the whole process.

use std::alloc::System;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use masque_core::endpoint::{Counters, DropReason, PortId, Usage};
use masque_testkit::crypto::null::NullClient;
use masque_testkit::hostile::catalogue;
use masque_testkit::hostile::peer::Peer;
use masque_testkit::hostile::report::Verdict;
use masque_testkit::hostile::script::{Offer, Script, Subject};
use masque_testkit::hostile::world::{Hostile, hostile_address, run_all};
use masque_testkit::packet;
use masque_testkit::scenario::{Options, SERVER_NAME, Star, server_address, star};
use masque_testkit::world::{Input, PingPlan, World};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static TURN: Mutex<()> = Mutex::new(());

fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes in use that a region has added.
fn grown(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change
        .bytes_allocated
        .saturating_sub(change.bytes_deallocated)
}

/// From here on the honest clients are measured.
const WARM: Duration = Duration::from_secs(2);
/// Up to here.
const END: Duration = Duration::from_secs(22);

/// Two honest clients that send 1,000 echoes of 1,000 bytes a second each, both ways 8 Mbit/s.
fn honest() -> Options {
    Options {
        clients: 2,
        client_plan: Some(PingPlan {
            rounds: 10_000,
            interval: Duration::from_millis(2),
            size: 1000,
            then_shut_down: None,
        }),
        server_plan: None,
        ..Options::default()
    }
}

fn script(name: &str) -> Arc<Script> {
    let cases = catalogue::all().expect("scripts that can be read");
    let mut cases = cases.into_iter();
    let case = cases.find(|case| case.script.name == name);
    case.expect("a script of that name").script
}

/// What an attack came to.
struct Result {
    /// Bytes of answers the honest clients got.
    throughput: u64,
    /// The most the server held at any time.
    most: Usage,
    /// The most bytes the process had more than before.
    bytes: usize,
    /// The server's counters.
    counters: Counters,
    /// How often the verdict of a script was another than pass.
    unexpected: Vec<String>,
}

fn attacked(
    options: &Options,
    attack: Option<&str>,
    peers: u16,
    disturb: impl Fn(&mut Star),
) -> Result {
    let mut star = star(options).expect("valid");
    star.world.run_until(WARM);
    let server = star.server;
    let before = replies(&star);
    let mut hostiles: Vec<_> = (0..attack.map_or(0, |_| peers))
        .map(|nth| {
            let address = hostile_address(nth);
            star.world.add_stranger(address);
            let script = script(attack.expect("there are peers only with an attack"));
            Hostile::new(&star.world, address, script, Subject::Server)
        })
        .collect();
    let region = Region::new(HEAP);
    disturb(&mut star);
    let (mut most, mut bytes) = (Usage::default(), 0);
    let mut sampled = Duration::ZERO;
    let mut until = |world: &mut World, hostiles: &mut [Hostile], end| {
        run_all(world, hostiles, end, |world| {
            if world.now() > sampled + Duration::from_millis(20) {
                sampled = world.now();
                let usage = world.node(server).endpoint().expect("running").usage();
                most.connections = most.connections.max(usage.connections);
                most.tunnels = most.tunnels.max(usage.tunnels);
                most.addresses = most.addresses.max(usage.addresses);
                most.claims = most.claims.max(usage.claims);
                most.queued_bytes = most.queued_bytes.max(usage.queued_bytes);
                most.handshakes = most.handshakes.max(usage.handshakes);
                most.waiting_handshakes = most.waiting_handshakes.max(usage.waiting_handshakes);
                most.handshake_sources = most.handshake_sources.max(usage.handshake_sources);
                bytes = bytes.max(grown(&region));
            }
            false
        });
    };
    until(&mut star.world, &mut hostiles, END);
    star.world.run_until(END);
    let throughput = replies(&star) - before;
    // The rest of the scripts, for their verdicts.
    until(&mut star.world, &mut hostiles, Duration::from_secs(120));
    let unexpected = hostiles.iter().filter_map(|hostile| {
        let report = hostile.runner.report()?;
        (report.verdict != Verdict::Pass).then(|| format!("{report:?}"))
    });
    Result {
        throughput: throughput * 1000,
        most,
        bytes,
        counters: star
            .world
            .node(server)
            .endpoint()
            .expect("running")
            .counters()
            .clone(),
        unexpected: unexpected.collect(),
    }
}

fn replies(star: &Star) -> u64 {
    let clients = star.clients.iter();
    clients.map(|client| star.inner(*client).replies()).sum()
}

/// What honest clients have without an attack, and what they keep under it.
fn keep_nine_tenths(attack: &str, peers: u16, disturb: impl Fn(&mut Star)) -> Result {
    let options = honest();
    let alone = attacked(&options, None, 0, |_| {});
    assert!(alone.throughput > 15_000_000, "{}", alone.throughput);
    let under = attacked(&options, Some(attack), peers, disturb);
    assert!(under.unexpected.is_empty(), "{:?}", under.unexpected);
    let share = under.throughput as f64 / alone.throughput as f64;
    assert!(share >= 0.9, "{attack} leaves {share:.2}");
    let held = under.bytes.saturating_sub(alone.bytes);
    eprintln!(
        "{attack}: {share:.3} left, {held} bytes more, {:?}",
        under.most
    );
    under
}

/// What one hostile connection may cost, its own end of it included.
const PER_PEER: usize = 1 << 20;

fn is_bounded(result: &Result, peers: u16) {
    let limit = usize::from(peers) * PER_PEER + (8 << 20);
    assert!(result.bytes < limit, "{} bytes", result.bytes);
}

#[test]
fn a_byte_a_second_on_each_stream_costs_others_nothing() {
    let _turn = my_turn();
    let under = keep_nine_tenths("attack-slow-loris", 20, |_| {});
    is_bounded(&under, 20);
    assert_eq!(under.most.tunnels, 2, "none of theirs");
}

#[test]
fn tunnels_without_end_end_at_the_limit() {
    let _turn = my_turn();
    let under = keep_nine_tenths("attack-tunnels-without-end", 10, |_| {});
    is_bounded(&under, 10);
    assert_eq!(under.most.tunnels, 2 + 10 * 4, "four each, by the limit");
}

#[test]
fn ten_thousand_address_requests_are_answered_up_to_the_limit() {
    let _turn = my_turn();
    let under = keep_nine_tenths("attack-address-requests", 5, |_| {});
    is_bounded(&under, 5);
    // Two of each honest client; of each hostile one no more than an address of each version per tunnel
    // and what one request may get.
    assert!(under.most.addresses <= 4 + 5 * 4 * 8, "{:?}", under.most);
}

/// Hosts behind the server send 2,000 packets of 1,000 bytes a second to whoever has these addresses.
fn hosts_send(star: &mut Star) {
    let from: IpAddr = "192.0.2.1".parse().expect("a constant");
    for last in 1..40_u8 {
        let to = IpAddr::from([10, 7, 0, last]);
        let packet = packet::udp(
            SocketAddr::new(from, 4000),
            SocketAddr::new(to, 9),
            &[0x5a; 1000],
        );
        for nth in 0..4000_u64 {
            let at = WARM + Duration::from_millis(1000) + Duration::from_micros(nth * 500);
            let (node, port, data) = (star.server, PortId(0), packet.clone());
            star.world.schedule(at, Input::Packet { node, port, data });
        }
    }
}

#[test]
fn peers_that_never_read_cost_a_window_each() {
    let _turn = my_turn();
    let under = keep_nine_tenths("attack-never-reads", 20, |_| {});
    is_bounded(&under, 20);
}

#[test]
fn peers_that_never_acknowledge_cost_a_queue_each_and_all_together_no_more_than_theirs() {
    let _turn = my_turn();
    let mut options = honest();
    options.limits.tunnel_queue_bytes = 256 << 10;
    options.limits.total_queue_bytes = 1 << 20;
    let alone = attacked(&options, None, 0, |_| {});
    let under = attacked(&options, Some("attack-never-acknowledges"), 10, hosts_send);
    assert!(under.unexpected.is_empty(), "{:?}", under.unexpected);
    assert!(under.most.queued_bytes > 256 << 10, "{:?}", under.most);
    assert!(under.most.queued_bytes <= 1 << 20, "{:?}", under.most);
    let share = under.throughput as f64 / alone.throughput as f64;
    assert!(share >= 0.9, "{share:.2} left");
}

/// First packets from all over the world, a thousand a second: beyond the threshold each costs a Retry.
#[test]
fn first_packets_from_spoofed_sources_cost_a_retry_each() {
    let _turn = my_turn();
    let flood = |star: &mut Star| {
        let seed = star.world.seed().fork("flood");
        for nth in 0..10_000_u32 {
            let [_, a, b, c] = nth.to_be_bytes();
            let from = SocketAddr::from(([100 + a, b, c, 7], 1000));
            let mut peer = Peer::client(
                Instant::now(),
                &seed.fork(&nth.to_string()),
                NullClient::named("urn:nobody"),
                &Offer::default(),
                server_address(),
                SERVER_NAME,
            )
            .expect("null crypto takes any name");
            let (to, data) = peer.poll_transmit(Instant::now()).expect("an Initial");
            let at = WARM + Duration::from_millis(u64::from(nth));
            star.world.schedule(
                at,
                Input::Datagram {
                    from,
                    to,
                    ecn: None,
                    data,
                },
            );
        }
    };
    let options = honest();
    let alone = attacked(&options, None, 0, |_| {});
    let under = attacked(&options, None, 0, flood);
    let share = under.throughput as f64 / alone.throughput as f64;
    assert!(share >= 0.9, "{share:.2} left");
    let limits = &options.limits;
    assert!(
        under.most.handshakes <= limits.retry_threshold,
        "{:?}",
        under.most
    );
    assert!(under.counters.retries > 9_000, "{:?}", under.counters);
    let extra = under.counters.udp_sent - alone.counters.udp_sent;
    // A Retry for each, and the few packets of the handshakes below the threshold, three tries each.
    assert!(extra < 13_000, "{extra} datagrams for 10,000");
}

/// Stands behind the quarter stream ID of the DATAGRAM frames whose packets [`challenges`] takes.
const FILL: u8 = 0xc7;

/// A packet with a DATAGRAM frame of ours, and nothing else, becomes one of nothing but PATH_CHALLENGE
/// frames, as many as have room.
fn challenges(frames: &mut [u8]) {
    if !matches!(frames, [0x31, _, 0, FILL, ..] | [0x31, _, _, 0, FILL, ..]) {
        return;
    }
    frames.fill(0);
    for (nth, frame) in frames.chunks_exact_mut(9).enumerate() {
        frame.fill(u8::try_from(nth).unwrap_or(u8::MAX));
        frame[0] = 0x1a;
    }
}

/// The same, and nothing is acknowledged.
fn challenges_alone(frames: &mut [u8]) {
    if matches!(frames, [0x02 | 0x03, ..]) {
        frames.fill(0);
    }
    challenges(frames);
}

/// A peer that sends PATH_CHALLENGE frames, and what it gets for them.
struct Challenger {
    peer: Peer,
    own: SocketAddr,
    /// Where else the challenges seem to come from.
    elsewhere: Vec<SocketAddr>,
    /// Bytes and packets of challenges.
    sent: (usize, usize),
    /// What came to each address: bytes and datagrams.
    answered: (usize, usize),
}

impl Challenger {
    fn new(star: &mut Star, elsewhere: u16, acknowledges: bool) -> Self {
        let own = hostile_address(0);
        let elsewhere: Vec<_> = (1..=elsewhere).map(hostile_address).collect();
        for address in elsewhere.iter().chain([&own]) {
            star.world.add_stranger(*address);
        }
        let rewrite = match acknowledges {
            true => challenges,
            false => challenges_alone,
        };
        let crypto = Arc::new(NullClient {
            rewrite: Some(rewrite),
            ..(*NullClient::named("urn:challenger")).clone()
        });
        let peer = Peer::client(
            star.world.instant(),
            &star.world.seed().fork("challenger"),
            crypto,
            &Offer::default(),
            server_address(),
            SERVER_NAME,
        );
        Self {
            peer: peer.expect("null crypto takes any name"),
            own,
            elsewhere,
            sent: (0, 0),
            answered: (0, 0),
        }
    }

    /// Until then the peer sends a packet of `size` bytes of frames every millisecond.
    fn run(&mut self, star: &mut Star, until: Duration, size: usize) {
        let mut next = 0;
        while star.world.now() < until {
            let now = star.world.instant();
            if self.peer.is_connected() {
                // An empty SETTINGS frame on a control stream.
                if self.sent.1 == 0 {
                    self.peer.write("control", &[0, 4, 0]).expect("credit");
                }
                let mut datagram = vec![FILL; size];
                datagram[0] = 0;
                // Without acknowledgements of the server's there is a time when no more goes out.
                let _ = self.peer.datagram(datagram);
            }
            self.peer.handle_timeout(now);
            while let Some((to, data)) = self.peer.poll_transmit(now) {
                let frames = 1 + 8 + usize::from(data[0] & 3) + 1;
                let mut from = self.own;
                if data[0] & 0x80 == 0 && data[frames] == 0x1a {
                    self.sent = (self.sent.0 + data.len(), self.sent.1 + 1);
                    if !self.elsewhere.is_empty() {
                        from = self.elsewhere[next % self.elsewhere.len()];
                        next += 1;
                    }
                }
                star.world.send_as_stranger(from, to, data);
            }
            let then = star.world.now() + Duration::from_millis(1);
            star.world.run_until(then);
            // Whoever has the other addresses tells the peer what comes there, so that it goes on.
            for address in self.elsewhere.clone().into_iter().chain([self.own]) {
                while let Some((from, data)) = star.world.take_letter(address) {
                    if self.elsewhere.is_empty() || address != self.own {
                        self.answered = (self.answered.0 + data.len(), self.answered.1 + 1);
                    }
                    let now = star.world.instant();
                    self.peer.handle_udp(now, from, None, &data);
                }
            }
        }
    }
}

/// A peer floods PATH_CHALLENGE frames, from its own address or from others, small packets or full ones,
/// and acknowledges the answers or not.
#[test]
fn path_challenges_cost_no_memory_and_no_more_answers_than_packets() {
    let _turn = my_turn();
    let options = honest();
    let alone = attacked(&options, None, 0, |_| {});
    for (elsewhere, size, acknowledges) in [
        (0, 1100, true),
        (0, 1100, false),
        (40, 1100, true),
        (40, 1100, false),
        (1, 40, true),
    ] {
        let mut star = star(&options).expect("valid");
        star.world.run_until(WARM);
        let before = replies(&star);
        let mut peer = Challenger::new(&mut star, elsewhere, acknowledges);
        let region = Region::new(HEAP);
        let end = WARM + Duration::from_secs(4);
        peer.run(&mut star, end, size);
        let bytes = grown(&region);
        let case = format!("{elsewhere} addresses, {size} bytes, acknowledged: {acknowledges}");
        let (sent, answered) = (peer.sent, peer.answered);
        eprintln!("{case}: {sent:?} sent, {answered:?} back, {bytes} bytes held");
        assert!(sent.1 > 500, "{case}: {sent:?}");
        assert!(bytes < PER_PEER + (8 << 20), "{case}: {bytes} bytes");
        // However many challenges a packet has: one answer, and an acknowledgement.
        assert!(
            answered.1 <= 2 * sent.1 + 50,
            "{case}: {answered:?} for {sent:?}"
        );
        if elsewhere > 0 {
            // RFC 9000 §8.2.2: no more than may be sent to any address that proves nothing.
            assert!(
                answered.0 <= 3 * sent.0,
                "{case}: {answered:?} for {sent:?}"
            );
            assert!(
                !acknowledges || answered.1 > 100,
                "{case}: some are answered"
            );
        }
        if size == 40 {
            let endpoint = star.world.node(star.server).endpoint();
            let counters = endpoint.expect("running").counters();
            assert!(counters.dropped(DropReason::Unproven) > 0, "{counters:?}");
        }
        // For as long as the attack lasts, what the honest clients have without it.
        let share = (replies(&star) - before) as f64 * 1000.0 * 5.0 / alone.throughput as f64;
        assert!(share >= 0.9, "{case}: {share:.2} left");
    }
}
