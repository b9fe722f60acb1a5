//! The fallback: server and client in this process, over UDP on loopback, devices in memory, and a
//! TCP/IP stack in memory behind each.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use masque_adapter_kit::memory::MemoryTun;
use masque_adapter_kit::{Controller, Offload};
use masque_core::wire::prefix::IpPrefix;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress};

use super::stack::Host;
use super::transfer::{Direction, Incoming, OPENING, Outgoing, opening, parse_opening};
use super::{
    DemoArgs, Files, GATEWAYS, PATIENCE, PORT, Pings, broken, interrupt, judge_pings,
    print_transfer,
};
use crate::app;
use crate::app::list;
use crate::client::{self, ClientApp, Status};
use crate::config::{ClientFile, ServerFile, Source};
use crate::exit::Failure;
use crate::runtime::Runtime;
use crate::server::{self, ServerApp};
use crate::state::State;

/// The MTU of the devices in memory: the least that carries IPv6.
const MTU: usize = 1280;

/// Runs the demo in memory.
pub(super) fn run<R: Runtime>(args: &DemoArgs, folder: &Path) -> Result<(), Failure> {
    interrupt::watch(folder.to_owned())?;
    let socket = UdpSocket::bind("127.0.0.1:0")
        .map_err(|error| Failure::system("cannot bind UDP on loopback", &error))?;
    let listen = socket
        .local_addr()
        .map_err(|error| Failure::system("UDP on loopback", &error))?
        .to_string();
    let files = Files::make(folder, "127.0.0.1")?;
    let tun = format!("[tun]\nmtu = {MTU}\n");
    let (server_tun, server_host) = pair()?;
    let (client_tun, client_host) = pair()?;

    let (stop_server, server) =
        start_server::<R>(&files.server(&listen, &tun)?, socket, server_tun)?;
    println!("  server       {listen}");
    let ended = Arc::new(AtomicBool::new(false));
    let echo = start_host(server_host, Arc::clone(&ended))?;
    let (statuses, status) = mpsc::channel();
    let (stop_client, client) =
        start_client::<R>(&files.client(&listen, &tun)?, client_tun, statuses)?;
    println!("  client       in the same process");

    let mut inner = None;
    let result = traffic(args, client_host, &status, &mut inner);
    // The client first: the server hears it say goodbye.
    stop_client();
    let client = joined(client);
    stop_server();
    let server = joined(server);
    ended.store(true, Ordering::Relaxed);
    let echo = joined(echo);
    // Only now: a device whose other end is gone would end the client.
    drop(inner);
    result.and(client).and(server).and(echo)
}

type Running = thread::JoinHandle<Result<(), Failure>>;

fn joined(thread: Running) -> Result<(), Failure> {
    thread
        .join()
        .unwrap_or_else(|_| Err(broken("a thread panicked")))
}

fn pair() -> Result<(MemoryTun, MemoryTun), Failure> {
    MemoryTun::pair(false)
        .map_err(|error| Failure::system("cannot make a device in memory", &error))
}

/// Something that asks a running loop to end.
type Stop = Box<dyn Fn()>;

fn stopper<M: Send + 'static>(controller: Controller<M>, message: fn() -> M) -> Stop {
    Box::new(move || {
        if controller.send(message()).is_err() {
            controller.stop();
        }
    })
}

/// A pump cannot move between threads once it runs, and its controller is needed here: the thread makes
/// the pump and sends the controller back.
fn start_server<R: Runtime>(
    config: &Path,
    socket: UdpSocket,
    tun: MemoryTun,
) -> Result<(Stop, Running), Failure> {
    let settings = ServerFile::load(&Source::read(config)?)?;
    let (controllers, controller) = mpsc::channel();
    let thread = thread::spawn(move || {
        let (state, _) = State::open(&settings.state_dir)?;
        let config = server::config(&settings, &state, Offload::default())?;
        let mut io = app::system_io(&settings.transport);
        io.add_socket(socket)
            .map_err(|error| Failure::system("cannot use UDP on loopback", &error))?;
        io.add_memory(tun);
        let pump = app::pump(config, io, ServerApp::new(state, None))?;
        controllers
            .send(pump.controller())
            .map_err(|_| broken("nobody waits for the server"))?;
        let pump = R::run(pump).map_err(|error| Failure::internal(error.to_string()))?;
        app::account(std::slice::from_ref(&pump));
        pump.into_parts().2.finish()
    });
    match controller.recv() {
        Ok(controller) => Ok((stopper(controller, || server::Message::Stop), thread)),
        Err(_) => Err(joined(thread).err().unwrap_or_else(|| broken("no server"))),
    }
}

fn start_client<R: Runtime>(
    config: &Path,
    tun: MemoryTun,
    statuses: mpsc::Sender<Status>,
) -> Result<(Stop, Running), Failure> {
    let settings = ClientFile::load(&Source::read(config)?)?;
    let (controllers, controller) = mpsc::channel();
    let thread = thread::spawn(move || {
        let config = client::config(&settings, Offload::default());
        let mut io = app::system_io(&settings.transport);
        io.add_memory(tun);
        let app = ClientApp::new(settings, None, Some(statuses))?;
        let mut pump = app::pump(config, io, app)?;
        let controller = pump.controller();
        pump.app_mut().set_controller(controller.clone());
        controllers
            .send(controller)
            .map_err(|_| broken("nobody waits for the client"))?;
        let pump = R::run(pump).map_err(|error| Failure::internal(error.to_string()))?;
        app::account(std::slice::from_ref(&pump));
        pump.into_parts().2.finish()
    });
    match controller.recv() {
        Ok(controller) => Ok((stopper(controller, || client::Message::Stop), thread)),
        Err(_) => Err(joined(thread).err().unwrap_or_else(|| broken("no client"))),
    }
}

/// How many transfers there are: each has a listening socket of its own, because a closed one lingers.
const TRANSFERS: usize = 4;

/// The host behind the server: answers echo requests and transfers until `ended`.
fn start_host(tun: MemoryTun, ended: Arc<AtomicBool>) -> Result<Running, Failure> {
    let addresses: Vec<IpAddr> = GATEWAYS
        .iter()
        .filter_map(|gateway| gateway.parse().ok())
        .collect();
    let mut host = Host::new(tun, MTU, &addresses)?;
    Ok(thread::spawn(move || {
        let mut transfers = Vec::new();
        for _ in 0..TRANSFERS {
            let handle = host.tcp();
            host.sockets
                .get_mut::<tcp::Socket<'_>>(handle)
                .listen(PORT)
                .map_err(|error| broken(format!("listen: {error}")))?;
            transfers.push((handle, Answering::Opening));
        }
        while !ended.load(Ordering::Relaxed) {
            host.step();
            let mut moved = false;
            for (handle, answering) in &mut transfers {
                let socket = host.sockets.get_mut::<tcp::Socket<'_>>(*handle);
                moved |= answering.go_on(socket)?;
            }
            if !moved {
                host.wait(Duration::from_millis(50))?;
            }
        }
        Ok(())
    }))
}

/// The answering side of a transfer.
enum Answering {
    Opening,
    Receiving(Incoming),
    Sending(Outgoing, Vec<u8>),
    Closing,
}

impl Answering {
    /// Does what can be done; whether anything was.
    fn go_on(&mut self, socket: &mut tcp::Socket<'_>) -> Result<bool, Failure> {
        let failed = |error: &dyn std::fmt::Display| broken(format!("TCP: {error}"));
        match self {
            Self::Opening if socket.recv_queue() >= OPENING => {
                let mut head = [0; OPENING];
                socket
                    .recv_slice(&mut head)
                    .map_err(|error| failed(&error))?;
                *self = match parse_opening(head) {
                    (Direction::Up, length) => Self::Receiving(Incoming::new(length)?),
                    (Direction::Down, length) => Self::Sending(Outgoing::new(length)?, Vec::new()),
                };
                Ok(true)
            }
            Self::Receiving(incoming) => {
                let moved = drain(socket, incoming)?;
                if let Some(right) = incoming.verdict() {
                    socket
                        .send_slice(&[u8::from(right)])
                        .map_err(|error| failed(&error))?;
                    socket.close();
                    *self = Self::Closing;
                    return Ok(true);
                }
                Ok(moved)
            }
            Self::Sending(outgoing, rest) => {
                let moved = feed(socket, outgoing, rest)?;
                if moved == Fed::Finished {
                    socket.close();
                    *self = Self::Closing;
                }
                Ok(moved != Fed::Blocked)
            }
            Self::Opening | Self::Closing => Ok(false),
        }
    }
}

fn drain(socket: &mut tcp::Socket<'_>, incoming: &mut Incoming) -> Result<bool, Failure> {
    let mut moved = false;
    while socket.can_recv() {
        let count = socket
            .recv(|bytes| {
                incoming.take(bytes);
                (bytes.len(), bytes.len())
            })
            .map_err(|error| broken(format!("TCP: {error}")))?;
        moved |= count > 0;
    }
    Ok(moved)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fed {
    Blocked,
    Some,
    Finished,
}

/// Sends as much as fits; `rest` keeps what was taken from `outgoing` and did not.
fn feed(
    socket: &mut tcp::Socket<'_>,
    outgoing: &mut Outgoing,
    rest: &mut Vec<u8>,
) -> Result<Fed, Failure> {
    let mut fed = Fed::Blocked;
    while socket.can_send() {
        if rest.is_empty() {
            rest.resize(32 << 10, 0);
            let count = outgoing.fill(rest);
            rest.truncate(count);
            if count == 0 {
                return Ok(Fed::Finished);
            }
        }
        let count = socket
            .send_slice(rest)
            .map_err(|error| broken(format!("TCP: {error}")))?;
        rest.drain(..count);
        fed = Fed::Some;
    }
    Ok(fed)
}

fn traffic(
    args: &DemoArgs,
    tun: MemoryTun,
    status: &mpsc::Receiver<Status>,
    inner: &mut Option<Host>,
) -> Result<(), Failure> {
    let (mut addresses, mut routes, mut mtu) = (Vec::new(), None, None);
    while addresses.is_empty() || routes.is_none() || mtu.is_none() {
        match status.recv_timeout(PATIENCE) {
            Ok(Status::Addresses(list)) => addresses = list,
            Ok(Status::Routes(list)) => routes = Some(list),
            Ok(Status::Mtu(size)) => mtu = Some(size),
            Ok(Status::Up | Status::Down) => {}
            Err(_) => return Err(broken("the tunnel did not come up")),
        }
    }
    println!("  addresses    {}", list(&addresses));
    println!("  routes       {}", list(&routes.unwrap_or_default()));
    println!("  MTU          {}", mtu.unwrap_or_default());
    let ours: Vec<IpAddr> = addresses.iter().map(IpPrefix::address).collect();
    let host = inner.insert(Host::new(tun, MTU, &ours)?);
    for gateway in GATEWAYS {
        let to: IpAddr = gateway.parse().map_err(|_| broken(gateway))?;
        let from = ours
            .iter()
            .find(|address| address.is_ipv4() == to.is_ipv4())
            .ok_or_else(|| broken(format!("no address to reach {gateway} from")))?;
        judge_pings(gateway, &ping(host, *from, to, args.pings)?)?;
    }
    let mut local = 50_000;
    for gateway in GATEWAYS {
        let to: IpAddr = gateway.parse().map_err(|_| broken(gateway))?;
        for direction in [Direction::Up, Direction::Down] {
            local += 1;
            let bytes = args.mib << 20;
            let time = transfer(host, direction, to, local, bytes)?;
            print_transfer(direction, gateway, bytes, time);
        }
    }
    Ok(())
}

fn transfer(
    host: &mut Host,
    direction: Direction,
    to: IpAddr,
    local: u16,
    length: u64,
) -> Result<Duration, Failure> {
    let failed = |error: &dyn std::fmt::Display| broken(format!("TCP {direction} {to}: {error}"));
    let begun = Instant::now();
    let handle = host.tcp();
    host.connect(handle, (to, PORT), local)?;
    let mut outgoing = Outgoing::new(match direction {
        Direction::Up => length,
        Direction::Down => 0,
    })?;
    let mut rest = opening(direction, length).to_vec();
    let mut incoming = Incoming::new(length)?;
    let mut verdict = None;
    let mut moved_at = Instant::now();
    while verdict.is_none() {
        host.step();
        let socket = host.sockets.get_mut::<tcp::Socket<'_>>(handle);
        if !socket.is_open() {
            return Err(failed(&"the connection was reset"));
        }
        let mut moved = match direction {
            Direction::Down if rest.is_empty() => false,
            _ => feed_opening_or_data(socket, &mut outgoing, &mut rest, direction)?,
        };
        if direction == Direction::Down {
            moved |= drain(socket, &mut incoming)?;
            verdict = incoming.verdict();
        } else if socket.can_recv() {
            let mut answer = [0];
            socket
                .recv_slice(&mut answer)
                .map_err(|error| failed(&error))?;
            verdict = Some(answer == [1]);
        }
        if moved {
            moved_at = Instant::now();
            continue;
        }
        if moved_at.elapsed() > PATIENCE {
            return Err(failed(&"nothing moves"));
        }
        if verdict.is_none() {
            host.wait(Duration::from_millis(50))?;
        }
    }
    let time = begun.elapsed();
    host.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
    host.step();
    match verdict {
        Some(true) => Ok(time),
        _ => Err(failed(&"wrong checksum")),
    }
}

fn feed_opening_or_data(
    socket: &mut tcp::Socket<'_>,
    outgoing: &mut Outgoing,
    rest: &mut Vec<u8>,
    direction: Direction,
) -> Result<bool, Failure> {
    if direction == Direction::Up {
        return Ok(feed(socket, outgoing, rest)? == Fed::Some);
    }
    if !socket.can_send() {
        return Ok(false);
    }
    let count = socket
        .send_slice(rest)
        .map_err(|error| broken(format!("TCP: {error}")))?;
    rest.drain(..count);
    Ok(count > 0)
}

/// Sends echo requests one after the other and waits for each answer.
fn ping(host: &mut Host, from: IpAddr, to: IpAddr, count: u16) -> Result<Pings, Failure> {
    const IDENT: u16 = 0x6d71;
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket
        .bind(icmp::Endpoint::Ident(IDENT))
        .map_err(|error| broken(format!("ping: {error}")))?;
    let handle = host.sockets.add(socket);
    let mut pings = Pings::default();
    for sequence in 1..=count {
        let begun = Instant::now();
        let request = request(from, to, IDENT, sequence);
        host.sockets
            .get_mut::<icmp::Socket<'_>>(handle)
            .send_slice(&request, IpAddress::from(to))
            .map_err(|error| broken(format!("ping: {error}")))?;
        pings.sent += 1;
        while begun.elapsed() < Duration::from_secs(2) {
            host.step();
            if answered(host, handle, sequence) {
                pings.times.push(begun.elapsed());
                break;
            }
            host.wait(Duration::from_millis(50))?;
        }
    }
    host.sockets.remove(handle);
    Ok(pings)
}

fn request(from: IpAddr, to: IpAddr, ident: u16, seq_no: u16) -> Vec<u8> {
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    let data = &[0x5a; 48];
    match (from, to) {
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let repr = Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            };
            let mut bytes = vec![0; repr.buffer_len()];
            let mut packet = Icmpv6Packet::new_unchecked(&mut bytes);
            repr.emit(&from, &to, &mut packet, &checksums);
            bytes
        }
        _ => {
            let repr = Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            };
            let mut bytes = vec![0; repr.buffer_len()];
            repr.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &checksums);
            bytes
        }
    }
}

/// The sequence number stands at the same place in both versions (RFC 792, RFC 4443 §4.2).
fn answered(host: &mut Host, handle: SocketHandle, sequence: u16) -> bool {
    let socket = host.sockets.get_mut::<icmp::Socket<'_>>(handle);
    while let Ok((message, _)) = socket.recv() {
        let reply = matches!(message.first(), Some(0 | 129));
        if reply && message.get(6..8) == Some(&sequence.to_be_bytes()[..]) {
            return true;
        }
    }
    false
}
