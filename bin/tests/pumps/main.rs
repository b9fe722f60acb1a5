//! The same endpoint run by the pump of each adapter, over an I/O in memory and in virtual time: byte for
//! byte the same.
//!
//! What runtimes differ in (how many turns they make, which thread hears a descriptor) stays in front of
//! the pump; what is behind it depends on the scenario and the seed.

mod io;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use masque_adapter_kit::conformance::packets;
use masque_adapter_kit::{App, Cx, Error, Pump};
use masque_core::endpoint::{ClientConfig, Command, ConnId, Endpoint, Event, SocketId, Target};
use masque_core::wire::fields::FieldList;
use masque_core::wire::offload::VnetHdr;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use masque_testkit::crypto::null::NullClient;
use masque_testkit::packet::{Echo, icmp_echo};
use masque_testkit::scenario::{
    INNER_V4, INNER_V6, Options, SERVER_NAME, TEMPLATE, client_config, client_identity,
    server_address, star,
};
use masque_testkit::world::{InnerHost, WALL};

use io::{Net, PORT, SOCKETS, VirtualIo};

/// What the application does, one after the other.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// An echo over IPv4 and one over IPv6.
    Echo,
    /// Many large packets at once.
    Burst,
    /// A TCP super-packet, as a device with segmentation offload hands it over.
    SuperPacket,
    /// So many datagrams of a thousand are lost from now on.
    Lose(u64),
    /// A NAT gives the socket another port, and the endpoint hears of it.
    Rebind,
    /// Another network: make before break.
    HandOver,
    /// The first network's socket closes.
    Leave,
    ShutDown,
}

/// When, in milliseconds after the tunnel is up.
const SCENARIO: [(u64, Deed); 16] = [
    (10, Deed::Echo),
    (30, Deed::Burst),
    (31, Deed::Echo),
    (200, Deed::Lose(50)),
    (210, Deed::Burst),
    (250, Deed::SuperPacket),
    (600, Deed::Echo),
    (1_500, Deed::Rebind),
    (1_510, Deed::Echo),
    (1_900, Deed::Burst),
    (3_000, Deed::HandOver),
    (3_001, Deed::SuperPacket),
    (4_500, Deed::Leave),
    (4_600, Deed::Burst),
    // Long enough for keep-alives and for the pump to rest.
    (40_000, Deed::Echo),
    (41_000, Deed::ShutDown),
];

struct Traveller {
    net: Rc<RefCell<Net>>,
    target: Target,
    conn: Option<ConnId>,
    /// IPv4 and IPv6.
    addresses: Vec<IpAddr>,
    deeds: VecDeque<(Instant, Deed)>,
    sequence: u16,
}

impl Traveller {
    fn echo(&mut self, size: usize) {
        for source in self.addresses.clone() {
            let destination = if source.is_ipv4() { INNER_V4 } else { INNER_V6 };
            self.sequence += 1;
            let echo = Echo {
                request: true,
                id: 7,
                sequence: self.sequence,
                data: vec![self.sequence as u8; size],
            };
            self.write(VnetHdr::default(), icmp_echo(source, destination, &echo));
        }
    }

    fn write(&self, header: VnetHdr, packet: Vec<u8>) {
        self.net.borrow_mut().outgoing.push_back((header, packet));
    }

    fn perform(&mut self, cx: &mut Cx<'_>, deed: Deed) {
        let mut order = |command| {
            let done = cx.endpoint.handle_command(cx.now, command);
            done.expect("the tunnel is up");
        };
        match deed {
            Deed::Echo => self.echo(56),
            Deed::Burst => (0..20).for_each(|_| self.echo(1_100)),
            Deed::SuperPacket => {
                let source = self.addresses.iter().find(|address| address.is_ipv4());
                let (Some(IpAddr::V4(source)), IpAddr::V4(to)) = (source, INNER_V4) else {
                    panic!("an IPv4 address");
                };
                let bytes = packets::tcp_super(*source, to, 20, 1_000);
                let (header, packet) = bytes.split_first_chunk().expect("a header");
                self.write(VnetHdr::from_bytes(*header), packet.to_vec());
            }
            Deed::Lose(share) => self.net.borrow_mut().loss = share,
            Deed::Rebind => {
                self.net.borrow_mut().rebind(SOCKETS[0]);
                order(Command::Rebound { socket: SOCKETS[0] });
            }
            Deed::HandOver => {
                self.net.borrow_mut().set_open(SOCKETS[1], true);
                order(Command::HandOver {
                    conn: self.conn.expect("the tunnel is up"),
                    socket: SOCKETS[1],
                    remote: None,
                    lost: false,
                });
            }
            Deed::Leave => cx.sockets.remove(SOCKETS[0]),
            Deed::ShutDown => order(Command::Shutdown {
                grace: Duration::from_secs(2),
            }),
        }
    }
}

impl App for Traveller {
    type Message = ();

    fn start(&mut self, cx: &mut Cx<'_>) {
        let target = self.target.clone();
        cx.endpoint.connect(cx.now, target).expect("a good target");
    }

    fn on_event(&mut self, cx: &mut Cx<'_>, event: Event) {
        self.net.borrow_mut().note(format_args!("event {event:?}"));
        match event {
            Event::Addresses { tunnel, addresses } => {
                self.conn = Some(tunnel.conn);
                self.addresses = addresses.iter().map(|prefix| prefix.address()).collect();
                if self.deeds.is_empty() {
                    let at = |after| cx.now + Duration::from_millis(after);
                    self.deeds = SCENARIO.map(|(after, deed)| (at(after), deed)).into();
                }
            }
            Event::ShutdownComplete => cx.stop(),
            _ => {}
        }
    }

    fn on_message(&mut self, _: &mut Cx<'_>, (): ()) {}

    fn deadline(&self) -> Option<Instant> {
        self.deeds.front().map(|(at, _)| *at)
    }

    fn on_deadline(&mut self, cx: &mut Cx<'_>) {
        if let Some((_, deed)) = self.deeds.pop_front() {
            self.net.borrow_mut().note(format_args!("deed {deed:?}"));
            self.perform(cx, deed);
        }
    }
}

type Virtual = Pump<Traveller, VirtualIo>;

/// Every datagram, packet and event with its time, and every transition of the client and of the server.
fn trace(seed: u64, run: fn(Virtual) -> Result<Virtual, Error>) -> String {
    let mut options = Options {
        seed,
        clients: 0,
        server_plan: None,
        trace: true,
        ..Options::default()
    };
    options.transport.keep_alive = Some(Duration::from_secs(5));
    let mut star = star(&options).expect("a good configuration");
    let server = star.server;
    // Whoever steps in for a node must say so: the world's own checks know nothing of this one.
    star.world.act(server, |_, _| ());
    let (start, entropy) = (star.world.instant(), star.world.seed().entropy("the pump"));
    let net = Rc::new(RefCell::new(Net::new(star.world, seed)));
    let mut config = client_config(&options);
    config.ports[0].tcp_offload = true;
    let wall = SystemTime::UNIX_EPOCH + WALL;
    let mut endpoint = Endpoint::new(start, wall, config, entropy).expect("a good configuration");
    endpoint.set_tracing(true);
    let app = Traveller {
        net: Rc::clone(&net),
        target: Target {
            config: ClientConfig {
                crypto: NullClient::named(&client_identity(0).0),
                template: UriTemplate::parse(TEMPLATE).expect("a constant"),
                port: PORT,
            },
            remote: server_address(),
            server_name: SERVER_NAME.to_owned(),
            socket: SocketId(0),
            scope: Scope::default(),
            fields: FieldList::default(),
        },
        conn: None,
        addresses: Vec::new(),
        deeds: VecDeque::new(),
        sequence: 0,
    };
    let pump = Pump::new(endpoint, VirtualIo::new(Rc::clone(&net)), app);
    let pump = run(pump.expect("descriptors are left")).expect("it stops in peace");
    let counters = pump.counters().clone();
    let (mut endpoint, io, app) = pump.into_parts();
    drop((io, app));
    let net = Rc::into_inner(net).expect("nobody else has it");
    let (mut log, world) = net.into_inner().into_log();
    let inner: &InnerHost = world.node(server).host().expect("of the star");
    log.push(format!(
        "received {} sent {} read {} wrote {} answered {} others {}",
        counters.receives,
        counters.sends,
        counters.reads,
        counters.writes,
        inner.answered,
        inner.others.len(),
    ));
    log.extend(endpoint.take_trace().iter().map(ToString::to_string));
    log.extend(world.trace().lines().iter().cloned());
    log.join("\n")
}

/// The first line that differs: whole traces would fill the screen.
fn difference<'a>(one: &'a str, other: &'a str) -> Option<(usize, &'a str, &'a str)> {
    let longest = one.lines().count().max(other.lines().count());
    let line = |text: &'a str, at| text.lines().nth(at).unwrap_or("(the end)");
    (0..longest)
        .map(|at| (at, line(one, at), line(other, at)))
        .find(|(_, one, other)| one != other)
}

#[test]
fn every_runtime_and_every_run_gives_the_same_trace() {
    let first = trace(1, masque_adapter_mio::run);
    // It is the scenario that is meant.
    for part in [
        "event TunnelUp",
        "event Migrated",
        "event HandedOver",
        "event ShutdownComplete",
        "lost ",
        "delivered ",
    ] {
        assert!(
            first.contains(part),
            "no {part:?} in {} lines",
            first.lines().count()
        );
    }
    for (name, other) in [
        ("mio again", trace(1, masque_adapter_mio::run)),
        ("smol", trace(1, masque_adapter_smol::run)),
        ("smol again", trace(1, masque_adapter_smol::run)),
        ("tokio", trace(1, masque_adapter_tokio::run)),
        ("tokio again", trace(1, masque_adapter_tokio::run)),
    ] {
        assert_eq!(difference(&first, &other), None, "{name}");
    }
}

#[test]
fn another_seed_gives_another_trace() {
    let one = trace(1, masque_adapter_tokio::run);
    let other = trace(2, masque_adapter_tokio::run);
    assert!(difference(&one, &other).is_some());
}
