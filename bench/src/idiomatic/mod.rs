//! The tunnel as it is usually written on an async runtime, to hold the pump against: a task that
//! receives per socket, one that reads per device, one that writes per device, one that sends per
//! connection, and one that owns the endpoint, with a channel between any two and a packet in each
//! message. No GSO, no GRO, no super-packets, a deadline by the runtime's own timer.
//!
//! Endpoint, application, certificates and host networking are the same as everywhere else, so what
//! differs is the style. `masque-idiomatic-tokio` and `masque-idiomatic-smol` are whole programs, with
//! the command line of the others.

pub mod smol;
pub mod tokio;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::time::Instant;

use bytes::BytesMut;
use masque_adapter_kit::{App, Cx, Descriptors, Io, Pump, Sockets, Source, SystemIo, Taped};
use masque_core::endpoint::{PortId, RecvMeta, SocketId, TunBatch};
use masque_core::wire::offload::VnetHdr;

/// How many messages wait in a channel.
const CHANNEL: usize = 1024;
/// More than any packet of an Internet path.
const BUFFER: usize = 2048;

/// To the task with the endpoint.
#[derive(Debug)]
enum Input {
    Datagram(SocketId, SocketAddr, BytesMut),
    Packet(PortId, Vec<u8>),
    Stop,
}

/// From the task with the endpoint.
#[derive(Debug)]
enum Output {
    Datagram(SocketId, SocketAddr, Vec<u8>),
    Packet(PortId, Vec<u8>),
}

/// What the task with the endpoint owns.
struct Core<A: App> {
    endpoint: Taped,
    app: A,
    batch: TunBatch,
    stop: bool,
}

impl<A: App> Core<A> {
    fn start(&mut self, sockets: &mut dyn Sockets) {
        self.with_app(sockets, |app, cx| app.start(cx));
    }

    /// Takes one message, or notices that time has passed.
    fn take(&mut self, input: Option<Input>, sockets: &mut dyn Sockets) {
        let now = Instant::now();
        match input {
            Some(Input::Datagram(socket, remote, data)) => {
                let meta = RecvMeta {
                    socket,
                    remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
                    local_ip: None,
                    ecn: None,
                    stride: data.len().max(1),
                };
                if !data.is_empty() {
                    self.endpoint.handle_udp(now, meta, data);
                }
            }
            Some(Input::Packet(port, packet)) => {
                let none = VnetHdr::default();
                let _ = self.endpoint.handle_tun(now, port, none, &packet);
            }
            Some(Input::Stop) => self.stop = true,
            None => {
                self.endpoint.handle_timeout(now);
                if self.app.deadline().is_some_and(|deadline| deadline <= now) {
                    self.with_app(sockets, |app, cx| app.on_deadline(cx));
                }
            }
        }
    }

    /// The next packet or datagram; events are told on the way.
    fn next(&mut self, sockets: &mut dyn Sockets) -> Option<Output> {
        loop {
            if let Some(frame) = self.batch.frames.pop() {
                return Some(Output::Packet(self.batch.port, frame.packet().to_vec()));
            }
            if self.endpoint.poll_tun(&mut self.batch) {
                // From the back, so that popping gives them in order.
                self.batch.frames.reverse();
                continue;
            }
            let mut data = Vec::new();
            let one = NonZeroUsize::MIN;
            if let Some(transmit) = self.endpoint.poll_transmit(Instant::now(), one, &mut data) {
                data.truncate(transmit.size);
                return Some(Output::Datagram(
                    transmit.socket,
                    transmit.destination,
                    data,
                ));
            }
            let event = self.endpoint.poll_event()?;
            self.with_app(sockets, |app, cx| app.on_event(cx, event));
        }
    }

    fn deadline(&mut self) -> Option<Instant> {
        let endpoint = self.endpoint.poll_timeout().map(|deadline| deadline.at);
        endpoint.into_iter().chain(self.app.deadline()).min()
    }

    fn with_app(&mut self, sockets: &mut dyn Sockets, call: impl FnOnce(&mut A, &mut Cx<'_>)) {
        let mut cx = Cx::new(Instant::now(), &mut self.endpoint, sockets, &mut self.stop);
        call(&mut self.app, &mut cx);
    }
}

/// Endpoint and application of a pump, and its sockets and devices as descriptors of our own.
struct Parts<A: App> {
    core: Core<A>,
    io: SystemIo,
    sockets: Vec<(SocketId, OwnedFd)>,
    ports: Vec<(PortId, OwnedFd)>,
}

impl<A: App> Parts<A> {
    fn of(pump: Pump<A>) -> io::Result<Self> {
        let (endpoint, io, app) = pump.into_parts();
        let copy = |source| {
            let descriptor = io.descriptor(source).ok_or(io::ErrorKind::NotFound)?;
            descriptor.try_clone_to_owned()
        };
        let sockets = io.sockets().into_iter();
        let sockets = sockets.map(|id| Ok((id, copy(Source::Socket(id))?)));
        let sockets = sockets.collect::<io::Result<_>>()?;
        let ports = io.ports().into_iter();
        let ports = ports.map(|id| Ok((id, copy(Source::Port(id))?)));
        let ports = ports.collect::<io::Result<_>>()?;
        let core = Core {
            endpoint: endpoint.into(),
            app,
            batch: TunBatch::default(),
            stop: false,
        };
        Ok(Self {
            core,
            io,
            sockets,
            ports,
        })
    }
}

/// Puts it together again, for whoever wants the application back.
fn pump<A: App>(core: Core<A>, io: SystemIo) -> io::Result<Pump<A>> {
    Pump::new(core.endpoint, io, core.app)
}

/// An IPv6 socket sends to an IPv4 address as a mapped one.
fn as_sent(local: SocketAddr, destination: SocketAddr) -> SocketAddr {
    match destination.ip() {
        IpAddr::V4(address) if local.is_ipv6() => {
            SocketAddrV6::new(address.to_ipv6_mapped(), destination.port(), 0, 0).into()
        }
        _ => destination,
    }
}
