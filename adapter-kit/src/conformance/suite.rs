//! The tests.

use std::io;
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use masque_core::endpoint::{Event, PortId, RecvMeta, SocketId, Transmit, TransportProfile};
use masque_core::wire::offload::{TunFrame, VnetHdr};

use super::Runner;
use super::packets;
use super::peers::{Note, OUTSIDE, Order, PATIENCE, Pair, Peer, Setup, Tls, loopback};
use crate::app::Sockets;
use crate::io::{Descriptors, Io, Source};
use crate::system::SystemIo;

/// How many packets are under way at once where none may be lost.
const WINDOW: u64 = 16;

fn quiet() -> TransportProfile {
    TransportProfile {
        keep_alive: None,
        ..TransportProfile::default()
    }
}

/// Sends `count` packets each way, [`WINDOW`] at a time, and has each come out unchanged and in order.
fn cross(pair: &Pair, count: u64) {
    let length = |number: u64| 36 + (number as usize * 37) % 1_200;
    for first in (0..count).step_by(WINDOW as usize) {
        let window = first..count.min(first + WINDOW);
        for number in window.clone() {
            let up = packets::udp(pair.inside, OUTSIDE, number, length(number));
            pair.client.write(&up);
            let down = packets::udp(OUTSIDE, pair.inside, number, length(number));
            pair.server.write(&down);
        }
        for number in window {
            let up = pair.server.read(PATIENCE).expect("a packet upwards");
            let down = pair.client.read(PATIENCE).expect("a packet downwards");
            assert_eq!(
                up,
                packets::udp(pair.inside, OUTSIDE, number, length(number))
            );
            assert_eq!(
                down,
                packets::udp(OUTSIDE, pair.inside, number, length(number))
            );
        }
    }
}

/// Packets of all sizes arrive byte by byte as they were, in order, both ways.
pub fn packets_cross_both_ways_unchanged_and_in_order(runner: impl Runner) {
    let pair = Pair::start(runner, &Setup::default());
    cross(&pair, 400);
    let (server, client) = pair.stop();
    assert!(server.writes >= 400 && client.writes >= 400);
}

/// The same with GSO and GRO forced off.
pub fn packets_cross_without_any_offload(runner: impl Runner) {
    let setup = Setup {
        gso: false,
        gro: false,
        ..Setup::default()
    };
    let pair = Pair::start(runner, &setup);
    cross(&pair, 100);
    pair.stop();
}

/// A TCP super-packet crosses in segments, and its bytes come out whole.
pub fn super_packets_cross_devices_with_a_header(runner: impl Runner) {
    let setup = Setup {
        vnet_hdr: true,
        ..Setup::default()
    };
    let pair = Pair::start(runner, &setup);
    let sent = packets::tcp_super(pair.inside, OUTSIDE, 5, 1_000);
    let (start, payload) = packets::tcp_payload(&sent).expect("just made");
    pair.client.write(&sent);
    let mut received = Vec::new();
    while received.len() < payload.len() {
        let frame = pair.server.read(PATIENCE).expect("a frame");
        let (sequence, bytes) = packets::tcp_payload(&frame).expect("a TCP packet");
        assert_eq!((sequence - start) as usize, received.len());
        received.extend_from_slice(bytes);
    }
    assert_eq!(received, payload);
    pair.stop();
}

/// A device nobody reads fills up; what does not fit is lost in order, and nothing else happens.
pub fn a_device_that_is_not_read_loses_packets_and_stops_nothing(runner: impl Runner) {
    const BURST: u64 = 6_000;
    let pair = Pair::start(runner, &Setup::default());
    for number in 0..BURST {
        pair.client
            .write(&packets::udp(pair.inside, OUTSIDE, number, 1_200));
    }
    // The other direction is not held up.
    pair.server
        .write(&packets::udp(OUTSIDE, pair.inside, 1, 100));
    let down = pair.client.read(PATIENCE).expect("a packet downwards");
    assert_eq!(packets::number(&down), Some(1));
    // The last one shows that all before it have been through.
    let mut last = None;
    let mut received = 0;
    let mut probe = BURST;
    loop {
        match pair.server.read(Duration::from_millis(100)) {
            Some(packet) => {
                let number = packets::number(&packet).expect("unchanged");
                assert!(last < Some(number), "{number} after {last:?}");
                last = Some(number);
                received += 1;
                if number >= BURST {
                    break;
                }
            }
            None => {
                pair.client
                    .write(&packets::udp(pair.inside, OUTSIDE, probe, 100));
                probe += 1;
                assert!(probe < BURST + 200, "the tunnel is dead");
            }
        }
    }
    assert!(received > 100);
    let (server, _) = pair.stop();
    assert!(server.writes_blocked > 0, "the device was never full");
}

/// Says `WouldBlock` to every third send.
struct Stutter {
    io: SystemIo,
    sends: u64,
}

impl Sockets for Stutter {
    fn add(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        self.io.add(socket)
    }

    fn remove(&mut self, socket: SocketId) {
        self.io.remove(socket);
    }
}

impl Io for Stutter {
    fn try_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> io::Result<(RecvMeta, usize)> {
        self.io.try_recv(socket, buffer)
    }

    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        self.sends += 1;
        if self.sends.is_multiple_of(3) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.io.try_send(transmit, data)
    }

    fn max_segments(&self, socket: SocketId) -> usize {
        self.io.max_segments(socket)
    }

    fn disable_gso(&mut self, socket: SocketId) {
        self.io.disable_gso(socket);
    }

    fn try_read_tun(
        &mut self,
        port: PortId,
        buffer: &mut [u8],
    ) -> io::Result<(VnetHdr, Range<usize>)> {
        self.io.try_read_tun(port, buffer)
    }

    fn try_write_tun(&mut self, port: PortId, frame: &TunFrame) -> io::Result<()> {
        self.io.try_write_tun(port, frame)
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.io.sockets()
    }

    fn ports(&self) -> Vec<PortId> {
        self.io.ports()
    }

    fn generation(&self) -> u64 {
        self.io.generation()
    }

    fn arm(&mut self, now: Instant, deadline: Option<Instant>, fired: bool) -> io::Result<bool> {
        self.io.arm(now, deadline, fired)
    }
}

impl Descriptors for Stutter {
    fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>> {
        self.io.descriptor(source)
    }
}

/// A blocked send waits for writability, and goes out then.
pub fn a_socket_that_blocks_now_and_then_loses_nothing(runner: impl Runner) {
    let pair = Pair::start_with(runner, &Setup::default(), |io| Stutter { io, sends: 0 });
    cross(&pair, 100);
    let (_, client) = pair.stop();
    assert!(client.sends_blocked > 10);
    assert_eq!(client.sends_dropped, 0);
}

/// With keep-alive shorter than the idle timeout, a connection nobody uses stays.
pub fn the_loop_keeps_an_idle_connection_alive(runner: impl Runner) {
    let setup = Setup {
        transport: TransportProfile {
            keep_alive: Some(Duration::from_millis(100)),
            idle_timeout: Duration::from_millis(500),
            ..TransportProfile::default()
        },
        ..Setup::default()
    };
    let pair = Pair::start(runner, &setup);
    pair.client.order(Order::Deadline(Duration::from_secs(2)));
    pair.client.wait("deadline", |note| match note {
        Note::Deadline(..) => Some(()),
        Note::Event(event @ Event::ConnectionClosed { .. }) => panic!("{event:?}"),
        _ => None,
    });
    assert!(
        !pair
            .server
            .has(|note| matches!(note, Note::Event(Event::ConnectionClosed { .. })))
    );
    cross(&pair, 5);
    pair.stop();
}

/// With nothing but its timer to go by, a client notices that the server says nothing any more.
pub fn the_loop_notices_by_itself_that_the_peer_is_gone(runner: impl Runner) {
    let setup = Setup {
        transport: TransportProfile {
            idle_timeout: Duration::from_millis(600),
            ..quiet()
        },
        ..Setup::default()
    };
    let pair = Pair::start(runner, &setup);
    // Without its socket the server goes on, deaf and dumb.
    pair.server.order(Order::RemoveSocket(SocketId(0)));
    for peer in [&pair.client, &pair.server] {
        peer.wait("end of the connection", |note| {
            matches!(note, Note::Event(Event::ConnectionClosed { .. })).then_some(())
        });
    }
    pair.stop();
}

fn alone(runner: impl Runner) -> Peer {
    Peer::start(runner, &Setup::default(), None, |io| io)
}

/// Deadlines, from microseconds on, are served after their time.
pub fn deadlines_of_the_application_come_and_never_early(runner: impl Runner) {
    let peer = alone(runner);
    for micros in [0, 10, 700, 1_300, 20_000] {
        peer.order(Order::Deadline(Duration::from_micros(micros)));
        let (asked, served) = peer.wait("deadline", |note| match note {
            Note::Deadline(asked, served) => Some((asked, served)),
            _ => None,
        });
        assert!(served >= asked);
        assert!(served - asked < PATIENCE);
    }
    peer.stop();
}

/// Messages arrive without any other cause to wake, in order.
pub fn messages_wake_an_idle_loop_and_keep_their_order(runner: impl Runner) {
    let peer = alone(runner);
    let mut next = 0;
    for burst in [1, 1, 50, 1, 1_000] {
        for number in next..next + burst {
            peer.order(Order::Echo(number));
        }
        for number in next..next + burst {
            let echo = peer.wait("echo", |note| match note {
                Note::Echo(number) => Some(number),
                _ => None,
            });
            assert_eq!(echo, number);
        }
        next += burst;
    }
    peer.stop();
}

/// Without any connection a loop makes no turns but those it is asked for.
pub fn an_idle_loop_sleeps(runner: impl Runner) {
    let peer = alone(runner);
    peer.order(Order::Deadline(Duration::from_millis(500)));
    peer.wait("deadline", |note| {
        matches!(note, Note::Deadline(..)).then_some(())
    });
    let counters = peer.stop();
    assert!(counters.turns <= 12, "{} turns", counters.turns);
}

/// An open tunnel that nobody uses, without keep-alive, costs next to nothing.
pub fn an_idle_tunnel_sleeps(runner: impl Runner) {
    let setup = Setup {
        transport: quiet(),
        ..Setup::default()
    };
    let pair = Pair::start(runner, &setup);
    pair.client.order(Order::Deadline(Duration::from_secs(2)));
    pair.client.wait("deadline", |note| {
        matches!(note, Note::Deadline(..)).then_some(())
    });
    let (server, client) = pair.stop();
    // Handshake, SETTINGS, the request, the search for the MTU and their acknowledgements.
    assert!(server.turns <= 150, "{} turns of the server", server.turns);
    assert!(client.turns <= 150, "{} turns of the client", client.turns);
}

/// A stop from another thread ends loops with and without work at once.
pub fn the_loop_stops_at_once_when_told_from_outside(runner: impl Runner) {
    let idle = alone(runner);
    let begin = Instant::now();
    idle.stop();
    let pair = Pair::start(runner, &Setup::default());
    for number in 0..500 {
        pair.client
            .write(&packets::udp(pair.inside, OUTSIDE, number, 1_000));
    }
    pair.stop();
    assert!(begin.elapsed() < PATIENCE);
}

/// When the other end of its device is gone the application hears of it.
pub fn the_loop_stops_when_its_device_is_gone(runner: impl Runner) {
    let mut peer = alone(runner);
    peer.tun = None;
    let port = peer.wait("loss of the device", |note| match note {
        Note::PortLost(port) => Some(port),
        _ => None,
    });
    assert_eq!(port, PortId(0));
    peer.join();
}

/// A socket that is added while the loop runs carries a connection; one that is removed is closed.
pub fn sockets_come_and_go_while_the_loop_runs(runner: impl Runner) {
    let tls = Tls::new();
    let setup = Setup::default();
    let server = Peer::start(runner, &setup, Some(tls.server()), |io| io);
    let client = Peer::start(runner, &setup, None, |io| io);
    // The first turn is over: adapters look at all sources after it anyway.
    client.order(Order::Echo(0));
    client.wait("echo", |note| matches!(note, Note::Echo(0)).then_some(()));
    // Its port number is free again once the loop and the reactor have let go of it.
    client.order(Order::RemoveSocket(SocketId(0)));
    client.order(Order::AddSocket(loopback()));
    let added = client.wait("socket", |note| match note {
        Note::Socket(id) => Some(id),
        _ => None,
    });
    assert_ne!(added, SocketId(0));
    client.order(Order::Connect(Box::new(tls.target(server.address, added))));
    let inside = client.address_inside();
    let until = Instant::now() + PATIENCE;
    while UdpSocket::bind(client.address).is_err() {
        assert!(Instant::now() < until, "the removed socket is still open");
        std::thread::yield_now();
    }
    let pair = Pair {
        server,
        client,
        inside,
    };
    cross(&pair, 50);
    pair.stop();
}
