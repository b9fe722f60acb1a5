//! TCP by smoltcp, a whole stack with a real congestion response, at both ends of the tunnel.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::wire::prefix::IpPrefix;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::voice::own_address;
use crate::packet::Packet;
use crate::world::{App, AppCx};

const TCP: u8 = 6;
/// A connection whose peer is gone is given up after this.
const PATIENCE: Duration = Duration::from_secs(15);
/// A listener more than there are flows: a client that comes again may do so before the old connection
/// is given up.
const SPARE: usize = 2;

/// What both ends of some TCP flows agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// The address and the TCP port behind the server; flows have one port each from here on.
    pub server: SocketAddr,
    /// How many flows.
    pub flows: u16,
    /// Whether the client sends.
    pub up: bool,
    /// Bytes of each flow; `None` sends until the end.
    pub bytes: Option<u64>,
    /// The MTU of both hosts.
    pub mtu: usize,
    /// Bytes of each buffer.
    pub window: usize,
    /// When it begins.
    pub begin: Duration,
    /// When it ends.
    pub end: Duration,
}

/// What came of a flow, at one end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// Bytes taken by the stack to be sent.
    pub sent: u64,
    /// Bytes that have arrived, in order, over all connections.
    pub received: u64,
    /// Connections there were.
    pub connections: u64,
    /// When the last byte of a flow of so many bytes was there.
    pub done: Option<Duration>,
}

struct Connection {
    handle: SocketHandle,
    flow: usize,
    was_open: bool,
    /// Of this connection: what the bytes are made from.
    sent: u64,
    received: u64,
}

/// One end of some TCP flows.
pub struct Tcp {
    transfer: Transfer,
    is_client: bool,
    own: Option<IpAddr>,
    device: Link,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    flows: Vec<Flow>,
    local_port: u16,
    armed: Option<Duration>,
}

impl Tcp {
    /// The client's end.
    #[must_use]
    pub fn client(transfer: Transfer) -> Self {
        Self::new(transfer, true)
    }

    /// The server's end.
    #[must_use]
    pub fn server(transfer: Transfer) -> Self {
        Self::new(transfer, false)
    }

    fn new(transfer: Transfer, is_client: bool) -> Self {
        let mut device = Link {
            mtu: transfer.mtu,
            arrived: VecDeque::new(),
            leaving: VecDeque::new(),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = u64::from(transfer.server.port());
        let interface = Interface::new(config, &mut device, Moment::ZERO);
        let mut this = Self {
            transfer,
            is_client,
            own: None,
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            flows: vec![Flow::default(); usize::from(transfer.flows)],
            local_port: 0,
            armed: None,
        };
        let each = if is_client { 1 } else { 1 + SPARE };
        for flow in 0..usize::from(transfer.flows) {
            for _ in 0..each {
                this.add_socket(flow);
            }
        }
        if !is_client {
            this.set_own(Some(transfer.server.ip()));
        }
        this
    }

    fn add_socket(&mut self, flow: usize) {
        let buffer = || tcp::SocketBuffer::new(vec![0; self.transfer.window]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        socket.set_timeout(Some(PATIENCE.into()));
        socket.set_keep_alive(Some((PATIENCE / 3).into()));
        let handle = self.sockets.add(socket);
        self.connections.push(Connection {
            handle,
            flow,
            was_open: false,
            sent: 0,
            received: 0,
        });
    }

    /// What came of each flow so far.
    #[must_use]
    pub fn flows(&self) -> &[Flow] {
        &self.flows
    }

    /// Bytes that have arrived here, of all flows.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.flows.iter().map(|flow| flow.received).sum()
    }

    fn set_own(&mut self, own: Option<IpAddr>) {
        self.own = own;
        self.interface.update_ip_addrs(|list| {
            list.clear();
            if let Some(own) = own {
                // A prefix of length 0: every destination is on the link. The list has room for one.
                let _ = list.push(IpCidr::new(IpAddress::from(own), 0));
            }
        });
    }

    fn sends(&self) -> bool {
        self.transfer.up == self.is_client
    }

    fn port(&self, flow: usize) -> u16 {
        let flow = u16::try_from(flow).unwrap_or(u16::MAX);
        self.transfer.server.port().saturating_add(flow)
    }

    /// Opens what is closed, moves bytes, and lets the stack send, until nothing changes any more.
    fn turn(&mut self, cx: &mut AppCx<'_, '_>) {
        let now = cx.now();
        let moment = Moment::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX));
        let runs = now >= self.transfer.begin && now < self.transfer.end;
        if self.own.is_none() {
            self.device.arrived.clear();
            return;
        }
        for _ in 0..1000 {
            self.open(runs);
            let moved = self.shift(now, runs);
            let polled = self
                .interface
                .poll(moment, &mut self.device, &mut self.sockets);
            while let Some(packet) = self.device.leaving.pop_front() {
                cx.send(packet);
            }
            if !moved && polled == smoltcp::iface::PollResult::None {
                break;
            }
        }
        let delay = self.interface.poll_delay(moment, &self.sockets);
        let next = delay.map(|delay| now + Duration::from(delay).max(Duration::from_micros(1)));
        let begin = (now < self.transfer.begin).then_some(self.transfer.begin);
        let end = (now < self.transfer.end).then_some(self.transfer.end);
        if let Some(at) = [next, begin, end].into_iter().flatten().min()
            && self.armed.is_none_or(|armed| armed <= now || at < armed)
        {
            self.armed = Some(at);
            cx.wake_at(at);
        }
    }

    fn open(&mut self, runs: bool) {
        for index in 0..self.connections.len() {
            let flow = self.connections[index].flow;
            let port = self.port(flow);
            let done = self.flows[flow].done.is_some();
            let socket = self
                .sockets
                .get_mut::<tcp::Socket<'_>>(self.connections[index].handle);
            if socket.is_open() {
                continue;
            }
            let connection = &mut self.connections[index];
            connection.was_open = false;
            connection.sent = 0;
            connection.received = 0;
            if !self.is_client {
                // The port is not 0, which is all that could be wrong.
                let _ = socket.listen(port);
            } else if runs && !done {
                self.local_port = self.local_port % 16_000 + 1;
                let to = (IpAddress::from(self.transfer.server.ip()), port);
                // The address is set and the ports are not 0, which is all that could be wrong.
                let _ = socket.connect(self.interface.context(), to, 40_000 + self.local_port);
            }
        }
    }

    /// Moves bytes into and out of the sockets.
    fn shift(&mut self, now: Duration, runs: bool) -> bool {
        let sends = self.sends();
        let mut moved = false;
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(connection.handle);
            let flow = &mut self.flows[connection.flow];
            if socket.may_send() && !connection.was_open {
                connection.was_open = true;
                flow.connections += 1;
            }
            while socket.can_recv() {
                let begin = connection.received;
                let count = socket.recv(|data| {
                    for (byte, at) in data.iter().zip(begin..) {
                        assert_eq!(*byte, pattern(at), "byte {at} of a flow is another");
                    }
                    (data.len(), data.len())
                });
                let Ok(count @ 1..) = count else { break };
                connection.received += count as u64;
                flow.received += count as u64;
                moved = true;
            }
            let limit = self.transfer.bytes.unwrap_or(u64::MAX);
            let all = connection.received >= limit || (sends && connection.sent >= limit);
            if sends && runs && !all {
                while socket.can_send() && connection.sent < limit {
                    let begin = connection.sent;
                    let most = limit - begin;
                    let count = socket.send(|data| {
                        let most = usize::try_from(most).unwrap_or(usize::MAX).min(data.len());
                        for (byte, at) in data[..most].iter_mut().zip(begin..) {
                            *byte = pattern(at);
                        }
                        (most, most)
                    });
                    let Ok(count @ 1..) = count else { break };
                    connection.sent += count as u64;
                    flow.sent += count as u64;
                    moved = true;
                }
            }
            if connection.was_open && flow.done.is_none() && all && socket.send_queue() == 0 {
                flow.done = Some(now);
            }
            // Who has said everything closes; who hears that has nothing to say.
            let over = (sends && (all || !runs)) || !socket.may_recv();
            if connection.was_open && over && socket.may_send() {
                socket.close();
                moved = true;
            }
        }
        moved
    }
}

impl App for Tcp {
    fn on_addresses(&mut self, cx: &mut AppCx<'_, '_>, addresses: &[IpPrefix]) {
        if !self.is_client {
            return;
        }
        let own = own_address(addresses, self.transfer.server.ip());
        // Connections outlive a tunnel, but not their address.
        if own.is_some() && own != self.own {
            for connection in &self.connections {
                let socket = self.sockets.get_mut::<tcp::Socket<'_>>(connection.handle);
                socket.abort();
            }
            self.set_own(own);
        }
        self.turn(cx);
    }

    fn on_packet(&mut self, cx: &mut AppCx<'_, '_>, bytes: &[u8]) -> bool {
        let Some(packet) = Packet::parse(bytes) else {
            return false;
        };
        let Some([a, b, c, d]) = packet.payload.first_chunk::<4>() else {
            return false;
        };
        let port = match self.is_client {
            true => u16::from_be_bytes([*a, *b]),
            false => u16::from_be_bytes([*c, *d]),
        };
        let first = self.transfer.server.port();
        if packet.protocol != TCP || port < first || port - first >= self.transfer.flows {
            return false;
        }
        self.device.arrived.push_back(bytes.to_vec());
        self.turn(cx);
        true
    }

    fn on_wake(&mut self, cx: &mut AppCx<'_, '_>) {
        self.turn(cx);
    }
}

/// The byte at `at` of a connection.
fn pattern(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

struct Link {
    mtu: usize,
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);

struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Received, Sent<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Received(packet), Sent(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sent<'_>> {
        Some(Sent(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
