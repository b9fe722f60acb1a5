//! Real traffic through the kernel's own stack. Each function works in the namespace of its thread.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::process::PATIENCE;

/// The port of [`serve`].
pub(crate) const PORT: u16 = 7000;
const CHUNK: usize = 64 << 10;
/// A length with this bit set asks for data; without it, announces data.
const DOWN: u64 = 1 << 63;

/// A stream of bytes that both sides can make, and that no lost, doubled or moved piece leaves the same.
struct Bytes {
    state: u64,
    left: u64,
}

impl Bytes {
    fn new(length: u64) -> Self {
        Self {
            state: length,
            left: length,
        }
    }

    fn next(&mut self, buffer: &mut [u8]) -> usize {
        let count = usize::try_from(self.left)
            .unwrap_or(CHUNK)
            .min(buffer.len());
        for eight in buffer[..count].chunks_mut(8) {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mixed = (self.state ^ (self.state >> 29)).to_le_bytes();
            eight.copy_from_slice(&mixed[..eight.len()]);
        }
        self.left -= count as u64;
        count
    }
}

fn send(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let mut bytes = Bytes::new(length);
    let mut buffer = vec![0; CHUNK];
    while let count @ 1.. = bytes.next(&mut buffer) {
        stream.write_all(&buffer[..count])?;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let mut bytes = Bytes::new(length);
    let (mut expected, mut found) = (vec![0; CHUNK], vec![0; CHUNK]);
    while let count @ 1.. = bytes.next(&mut expected) {
        stream.read_exact(&mut found[..count])?;
        if found[..count] != expected[..count] {
            return Err(io::Error::other("other bytes than were sent"));
        }
    }
    Ok(())
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Answers transfers over TCP, and every UDP datagram with the source address and hop count it came with, until
/// the process ends.
pub(crate) fn serve() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    for any in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::from(Ipv6Addr::UNSPECIFIED),
    ] {
        let socket = udp(SocketAddr::new(any, PORT));
        thread::spawn(move || {
            while let Ok((seen, from)) = receive_hops(&socket) {
                // A reply that cannot be sent is a reply that does not come.
                let _ = socket.send_to(format!("{} {seen}", from.ip()).as_bytes(), from);
            }
        });
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    patient(&stream)?;
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    match u64::from_be_bytes(head) {
        length if length & DOWN != 0 => send(&mut stream, length & !DOWN),
        length => {
            receive(&mut stream, length)?;
            stream.write_all(&[1])
        }
    }
}

/// A UDP socket, of one IP version only, that tells hop counts.
fn udp(local: SocketAddr) -> UdpSocket {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None).unwrap();
    if local.is_ipv6() {
        socket.set_only_v6(true).unwrap();
        setsockopt(&socket.as_fd(), sockopt::Ipv6RecvHopLimit, &true).unwrap();
    } else {
        setsockopt(&socket.as_fd(), sockopt::Ipv4RecvTtl, &true).unwrap();
    }
    socket.bind(&local.into()).unwrap();
    socket.into()
}

fn receive_hops(socket: &UdpSocket) -> io::Result<(i32, SocketAddr)> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
    use std::os::fd::AsRawFd;
    let mut buffer = [0; 2048];
    let mut parts = [io::IoSliceMut::new(&mut buffer)];
    let mut control = nix::cmsg_space!(i32);
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::empty(),
    )?;
    let from = message.address.ok_or(io::ErrorKind::InvalidData)?;
    let from: SocketAddr = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => std::net::SocketAddrV4::from(*v4).into(),
        (_, Some(v6)) => std::net::SocketAddrV6::from(*v6).into(),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let mut hops = -1;
    for item in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4Ttl(seen) | ControlMessageOwned::Ipv6HopLimit(seen) = item {
            hops = seen;
        }
    }
    Ok((hops, from))
}

/// What a datagram to [`serve`] arrived as: its source, and its hop count (it left with 64). Sent again when
/// no answer comes.
pub(crate) fn seen_as(to: IpAddr) -> (IpAddr, i32) {
    let any = match to {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut buffer = [0; 128];
    for _ in 0..20 {
        socket.send_to(b"?", (to, PORT)).unwrap();
        if let Ok((count, _)) = socket.recv_from(&mut buffer) {
            let text = std::str::from_utf8(&buffer[..count]).unwrap();
            let (from, hops) = text.split_once(' ').unwrap();
            return (from.parse().unwrap(), hops.parse().unwrap());
        }
    }
    panic!("no answer over UDP from {to}");
}

/// Which way a transfer goes, seen from whoever asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// A connection to [`serve`].
pub(crate) fn connect(to: IpAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), PATIENCE)
        .unwrap_or_else(|error| panic!("TCP to {to}: {error}"));
    patient(&stream).unwrap();
    stream
}

/// Moves so many bytes over TCP and compares every one; how long it took.
pub(crate) fn transfer(direction: Direction, to: IpAddr, length: u64) -> Duration {
    let begun = Instant::now();
    resume(&mut connect(to), direction, length);
    begun.elapsed()
}

/// A transfer over a connection that is there already.
pub(crate) fn resume(stream: &mut TcpStream, direction: Direction, length: u64) {
    let result = match direction {
        Direction::Up => stream
            .write_all(&length.to_be_bytes())
            .and_then(|()| send(stream, length))
            .and_then(|()| stream.read_exact(&mut [0])),
        Direction::Down => stream
            .write_all(&(length | DOWN).to_be_bytes())
            .and_then(|()| receive(stream, length)),
    };
    result.unwrap_or_else(|error| panic!("TCP {direction:?}: {error}"));
}

/// One echo request; the time of its answer, `None` if there was none in `patience`.
pub(crate) fn ping_once(to: IpAddr, patience: Duration) -> Option<Duration> {
    static IDENT: AtomicU16 = AtomicU16::new(1);
    let (domain, protocol, kind) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    // For its safe `recv_from`; nothing about it is UDP.
    let socket = UdpSocket::from(socket);
    let ident = IDENT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut message = [kind, 0, 0, 0, ident[0], ident[1], 0, 1, 0x5a, 0x5a];
    let sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    // The kernel fills in the checksum of ICMPv6 itself.
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let begun = Instant::now();
    // No route is no answer.
    socket.send_to(&message, (to, 0)).ok()?;
    let mut buffer = [0; 2048];
    loop {
        let left = patience.checked_sub(begun.elapsed())?;
        socket
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .unwrap();
        let (count, from) = socket.recv_from(&mut buffer).ok()?;
        // A raw IPv4 socket gives the IP header as well.
        let skip = match to {
            IpAddr::V4(_) => usize::from(buffer[0] & 0x0f) * 4,
            IpAddr::V6(_) => 0,
        };
        let reply = if to.is_ipv4() { 0 } else { 129 };
        let answer = buffer.get(skip..count).unwrap_or_default();
        if from.ip() == to && answer.first() == Some(&reply) && answer.get(4..6) == Some(&ident[..])
        {
            return Some(begun.elapsed());
        }
    }
}

/// Pings until an answer comes; panics when none does.
pub(crate) fn ping(to: IpAddr) -> Duration {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(time) = ping_once(to, Duration::from_millis(200)) {
            return time;
        }
        // A missing route fails at once; nothing tells when it is there.
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no echo reply from {to}");
}
