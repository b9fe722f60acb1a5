//! Sending and writing over an I/O that refuses on purpose. Whole turns are the conformance suite's.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::time::SystemTime;

use masque_core::endpoint::{
    Config, Entropy, Event, Limits, PortId, RecvMeta, SocketId, Transmit, TransportProfile,
};
use masque_core::session::SessionConfig;
use masque_core::wire::offload::{TunFrame, VnetHdr};

use super::*;
use crate::app::Sockets;

const SOCKET: SocketId = SocketId(0);
const PORT: PortId = PortId(0);

/// Takes everything, unless the script has an error for the next call.
struct Scripted {
    errors: VecDeque<io::Error>,
    gso: bool,
    gso_works: bool,
    datagrams: Vec<Vec<u8>>,
    calls: Vec<usize>,
    frames: usize,
    sockets: Vec<SocketId>,
    /// Datagrams of nobody that wait to be received.
    waiting: usize,
}

impl Scripted {
    fn new() -> Self {
        Self {
            errors: VecDeque::new(),
            gso: true,
            gso_works: true,
            datagrams: Vec::new(),
            calls: Vec::new(),
            frames: 0,
            sockets: vec![SOCKET],
            waiting: 0,
        }
    }

    fn next_error(&mut self) -> io::Result<()> {
        self.errors.pop_front().map_or(Ok(()), Err)
    }
}

impl Sockets for Scripted {
    fn add(&mut self, _: UdpSocket) -> io::Result<SocketId> {
        let id = SocketId(SOCKET.0 + self.sockets.len() as u32);
        self.sockets.push(id);
        Ok(id)
    }

    fn remove(&mut self, socket: SocketId) {
        self.sockets.retain(|id| *id != socket);
    }
}

impl Io for Scripted {
    fn try_recv(&mut self, socket: SocketId, _: &mut [u8]) -> io::Result<(RecvMeta, usize)> {
        self.waiting = self.waiting.checked_sub(1).ok_or(ErrorKind::WouldBlock)?;
        let nobody = RecvMeta {
            socket,
            remote: SocketAddr::from(([127, 0, 0, 1], 0)),
            local_ip: None,
            ecn: None,
            stride: 1,
        };
        Ok((nobody, 1))
    }

    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        assert_eq!(transmit.size, data.len());
        assert!(data.len() <= 65_507);
        self.next_error()?;
        if transmit.segment_size.is_some() && !self.gso_works {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let segment = transmit.segment_size.unwrap_or(data.len());
        self.calls.push(data.len());
        self.datagrams
            .extend(data.chunks(segment).map(<[u8]>::to_vec));
        Ok(())
    }

    fn max_segments(&self, _: SocketId) -> usize {
        if self.gso { 64 } else { 1 }
    }

    fn disable_gso(&mut self, _: SocketId) {
        self.gso = false;
    }

    fn try_read_tun(&mut self, _: PortId, _: &mut [u8]) -> io::Result<(VnetHdr, Range<usize>)> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn try_write_tun(&mut self, _: PortId, _: &TunFrame) -> io::Result<()> {
        self.next_error()?;
        self.frames += 1;
        Ok(())
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.sockets.clone()
    }

    fn ports(&self) -> Vec<PortId> {
        vec![PORT]
    }

    fn generation(&self) -> u64 {
        self.sockets.len() as u64
    }

    fn arm(&mut self, _: Instant, _: Option<Instant>, _: bool) -> io::Result<bool> {
        Ok(false)
    }
}

struct Bench {
    io: Scripted,
    links: Links,
    sender: Sender,
    counters: PumpCounters,
    now: Instant,
}

impl Bench {
    fn new(io: Scripted) -> Self {
        let mut links = Links::default();
        links.sync(&io);
        Self {
            io,
            links,
            sender: Sender::new(&PumpOptions::default()),
            counters: PumpCounters::default(),
            now: Instant::now(),
        }
    }

    fn send(&mut self, data: &[u8], segment: usize) -> bool {
        self.sender.buffer.clear();
        self.sender.buffer.extend_from_slice(data);
        let transmit = Transmit {
            socket: SOCKET,
            destination: SocketAddr::from(([127, 0, 0, 1], 4433)),
            src_ip: None,
            ecn: None,
            size: data.len(),
            segment_size: (data.len() > segment).then_some(segment),
        };
        self.sender.send(
            transmit,
            &mut self.io,
            &mut self.links,
            &mut self.counters,
            self.now,
        )
    }

    fn resume(&mut self) -> bool {
        self.sender
            .resume(&mut self.io, &mut self.links, &mut self.counters, self.now)
    }

    fn write(&mut self, frames: usize, limit: usize) {
        let mut batch = TunBatch {
            port: PORT,
            frames: vec![TunFrame::default(); frames],
        };
        writer::write(
            &mut batch,
            limit,
            &mut self.io,
            &mut self.links,
            &mut self.counters,
        );
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|byte| byte as u8).collect()
}

fn would_block() -> io::Error {
    ErrorKind::WouldBlock.into()
}

fn os(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

#[test]
fn a_batch_that_segmentation_cannot_take_goes_out_one_by_one_and_whole() {
    let mut bench = Bench::new(Scripted {
        gso_works: false,
        ..Scripted::new()
    });
    let data = bytes(10_500);
    assert!(bench.send(&data, 1_000));
    assert_eq!(bench.io.datagrams.len(), 11);
    assert_eq!(bench.io.datagrams.concat(), data);
    assert_eq!(bench.counters.gso_disabled, 1);
    assert_eq!(bench.counters.send_errors, 0);
    assert_eq!(bench.sender.max_segments(&bench.io, &bench.links), 1);
}

#[test]
fn a_destination_that_cannot_be_does_not_turn_segmentation_off() {
    let mut bench = Bench::new(Scripted::new());
    bench.io.errors = [os(libc::EINVAL), os(libc::EINVAL)].into();
    assert!(bench.send(&bytes(3_000), 1_000));
    assert_eq!(bench.counters.gso_disabled, 0);
    assert_eq!(bench.counters.send_errors, 1);
    assert_eq!(bench.sender.max_segments(&bench.io, &bench.links), 64);
}

#[test]
fn what_the_network_refuses_is_counted_and_the_next_batch_goes_out() {
    let refusals = [
        libc::ECONNREFUSED,
        libc::EMSGSIZE,
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EPERM,
    ];
    let mut bench = Bench::new(Scripted::new());
    for (number, code) in (1..).zip(refusals) {
        bench.io.errors = [os(code)].into();
        assert!(bench.send(&bytes(100), 1_200));
        assert_eq!(bench.counters.send_errors, number);
    }
    assert!(bench.io.datagrams.is_empty());
    assert!(bench.send(&bytes(100), 1_200));
    assert_eq!(bench.io.datagrams, [bytes(100)]);
}

#[test]
fn a_blocked_batch_waits_for_its_socket_and_goes_out_once() {
    let mut bench = Bench::new(Scripted::new());
    bench.io.errors = [would_block()].into();
    let data = bytes(3_000);
    assert!(!bench.send(&data, 1_000));
    let source = Source::Socket(SOCKET);
    assert_eq!(bench.links.interest(source), Interest::WRITE);
    assert!(!bench.resume());
    assert!(bench.io.datagrams.is_empty());
    bench.links.ready(source, Interest::WRITE);
    assert!(bench.resume());
    assert_eq!(bench.io.datagrams.concat(), data);
    assert!(bench.resume());
    assert_eq!(bench.io.datagrams.len(), 3);
}

#[test]
fn a_stuck_socket_loses_its_datagrams_and_not_those_of_others() {
    let mut bench = Bench::new(Scripted::new());
    bench.io.errors = [would_block()].into();
    assert!(!bench.send(&bytes(100), 1_000));
    bench.now += PumpOptions::default().send_patience;
    assert!(bench.resume());
    assert_eq!(bench.counters.sends_dropped, 1);
    // From now on without waiting, until it is writable.
    assert!(bench.send(&bytes(100), 1_000));
    assert_eq!(bench.counters.sends_dropped, 2);
    bench.links.ready(Source::Socket(SOCKET), Interest::WRITE);
    assert!(bench.send(&bytes(100), 1_000));
    assert_eq!(bench.io.datagrams.len(), 1);
}

#[test]
fn no_send_is_larger_than_a_udp_datagram_may_be() {
    let mut bench = Bench::new(Scripted::new());
    let data = bytes(64 * 1_452);
    assert!(bench.send(&data, 1_452));
    assert_eq!(bench.io.calls, [45 * 1_452, 19 * 1_452]);
    assert_eq!(bench.io.datagrams.concat(), data);
}

#[test]
fn a_batch_for_a_removed_socket_is_dropped() {
    let mut bench = Bench::new(Scripted::new());
    bench.io.errors = [would_block()].into();
    assert!(!bench.send(&bytes(100), 1_000));
    bench.io.remove(SOCKET);
    bench.links.sync(&bench.io);
    assert!(bench.resume());
    assert_eq!(bench.counters.sends_dropped, 1);
}

/// The pump looks several times in a turn, the adapter once after it.
#[test]
fn a_change_of_sockets_is_told_once_however_often_the_pump_has_seen_it() {
    let mut bench = Bench::new(Scripted::new());
    assert!(bench.links.take_changed());
    bench.io.remove(SOCKET);
    bench.links.sync(&bench.io);
    bench.links.sync(&bench.io);
    assert!(bench.links.take_changed());
    bench.links.sync(&bench.io);
    assert!(!bench.links.take_changed());
}

#[test]
fn frames_wait_for_a_full_device_up_to_the_limit_and_are_written_once() {
    let mut bench = Bench::new(Scripted::new());
    bench.io.errors = [would_block()].into();
    bench.write(10, 6);
    assert_eq!(bench.io.frames, 0);
    assert_eq!(bench.counters.writes_dropped, 4);
    let source = Source::Port(PORT);
    assert_eq!(bench.links.interest(source), Interest::WRITE);
    writer::resume(&mut bench.io, &mut bench.links, &mut bench.counters);
    assert_eq!(bench.io.frames, 0);
    bench.links.ready(source, Interest::WRITE);
    writer::resume(&mut bench.io, &mut bench.links, &mut bench.counters);
    assert_eq!(bench.io.frames, 6);
    bench.write(3, 6);
    assert_eq!(bench.io.frames, 9);
    assert_eq!(bench.counters.writes, 9);
}

#[test]
fn a_frame_the_device_refuses_is_counted_and_the_next_is_written() {
    let mut bench = Bench::new(Scripted::new());
    bench.io.errors = [os(libc::EINVAL), ErrorKind::Interrupted.into()].into();
    bench.write(3, 6);
    assert_eq!(bench.counters.write_errors, 1);
    assert_eq!(bench.io.frames, 2);
}

/// Adds a socket in its first callback, when the turn's sockets are known already.
struct Adds;

impl App for Adds {
    type Message = ();

    fn start(&mut self, cx: &mut Cx<'_>) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        cx.sockets.add(socket).expect("it takes everything");
    }

    fn on_event(&mut self, _: &mut Cx<'_>, _: Event) {}

    fn on_message(&mut self, _: &mut Cx<'_>, (): ()) {}
}

fn pump<A: App>(now: Instant, io: Scripted, app: A) -> Pump<A, Scripted> {
    let config = Config {
        server: None,
        transport: TransportProfile::default(),
        limits: Limits::default(),
        session: SessionConfig::default(),
        shard: None,
        ports: Vec::new(),
    };
    let entropy = Entropy::from_seed([1; 32]);
    let endpoint = Endpoint::new(now, SystemTime::now(), config, entropy).expect("defaults");
    Pump::new(endpoint, io, app).expect("descriptors")
}

#[test]
fn a_socket_that_came_during_a_turn_is_read_in_the_next_without_waiting() {
    let now = Instant::now();
    let mut pump = pump(now, Scripted::new(), Adds);
    assert!(pump.turn(now).expect("no timer").again);
    assert!(!pump.turn(now).expect("no timer").again);
}

/// Receives what waits; gives the deadline of the last turn.
fn settle(pump: &mut Pump<Adds, Scripted>, now: Instant, waiting: u64) -> Option<Instant> {
    pump.io.waiting = usize::try_from(waiting).expect("few");
    pump.ready(Source::Socket(SOCKET), Interest::READ);
    loop {
        let report = pump.turn(now).expect("no timer");
        if !report.again {
            assert_eq!(pump.io.waiting, 0);
            return report.deadline;
        }
    }
}

#[test]
fn memory_is_given_back_once_after_load_and_few_packets_cost_no_wake_up() {
    let start = Instant::now();
    let mut pump = pump(start, Scripted::new(), Adds);
    assert_eq!(settle(&mut pump, start, BUSY - 1), None);
    assert_eq!(settle(&mut pump, start, 1), Some(start + REST));
    assert!(!pump.intake.is_empty());
    // Load goes on.
    let (look, between) = (start + REST, start + REST / 2);
    assert_eq!(settle(&mut pump, between, BUSY), Some(look));
    assert_eq!(settle(&mut pump, look, 0), Some(look + REST));
    assert_eq!(pump.counters.rests, 0);
    // It is over.
    assert_eq!(settle(&mut pump, look, BUSY - 1), Some(look + REST));
    assert_eq!(settle(&mut pump, look + REST, 0), None);
    assert_eq!(pump.counters.rests, 1);
    assert!(pump.intake.is_empty());
    assert_eq!(settle(&mut pump, start + 3 * REST, 0), None);
    assert_eq!(pump.counters.rests, 1);
}
