//! Traffic through the kernel's own TCP/IP stack.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::transfer::{Direction, Incoming, OPENING, Outgoing, opening, parse_opening};
use super::{PATIENCE, Pings, broken};
use crate::exit::Failure;

/// Serves transfers in this thread's network namespace until the process ends.
pub(super) fn serve(port: u16) -> Result<(), Failure> {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let listener = TcpListener::bind(any)
        .map_err(|error| Failure::system(format!("cannot listen on TCP {any}"), &error))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = answer(stream) {
                tracing::warn!(%error, "transfer");
            }
        }
    });
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    patient(&stream)?;
    let mut head = [0; OPENING];
    stream.read_exact(&mut head)?;
    let other = |failure: Failure| io::Error::other(failure.message);
    match parse_opening(head) {
        (Direction::Up, length) => {
            let right = receive(&mut stream, Incoming::new(length).map_err(other)?)?;
            stream.write_all(&[u8::from(right)])
        }
        (Direction::Down, length) => send(&mut stream, Outgoing::new(length).map_err(other)?),
    }
}

/// One transfer; how long it took.
pub(super) fn transfer(
    direction: Direction,
    to: SocketAddr,
    length: u64,
) -> Result<Duration, Failure> {
    let failed = |error: io::Error| broken(format!("TCP {direction} {to}: {error}"));
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(failed)?;
    patient(&stream).map_err(failed)?;
    stream
        .write_all(&opening(direction, length))
        .map_err(failed)?;
    let right = match direction {
        Direction::Up => {
            send(&mut stream, Outgoing::new(length)?).map_err(failed)?;
            let mut verdict = [0];
            stream.read_exact(&mut verdict).map_err(failed)?;
            verdict == [1]
        }
        Direction::Down => receive(&mut stream, Incoming::new(length)?).map_err(failed)?,
    };
    match right {
        true => Ok(begun.elapsed()),
        false => Err(broken(format!("TCP {direction} {to}: wrong checksum"))),
    }
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn send(stream: &mut TcpStream, mut data: Outgoing) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match data.fill(&mut buffer) {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

fn receive(stream: &mut TcpStream, mut data: Incoming) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Some(right) = data.verdict() {
            return Ok(right);
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => data.take(&buffer[..count]),
        }
    }
}

/// Sends echo requests one after the other and waits for each answer.
pub(super) fn ping(to: IpAddr, count: u16) -> Result<Pings, Failure> {
    let failed = |error: io::Error| Failure::system(format!("ping {to}"), &error);
    let (domain, protocol, request) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(failed)?;
    // For its safe `recv_from`; nothing about it is UDP.
    let socket = UdpSocket::from(socket);
    let ident = std::process::id() as u16;
    let mut pings = Pings::default();
    for sequence in 1..=count {
        let message = echo(request, ident, sequence);
        let begun = Instant::now();
        socket
            .send_to(&message, SocketAddr::new(to, 0))
            .map_err(failed)?;
        pings.sent += 1;
        if await_reply(&socket, to, &message, begun).map_err(failed)? {
            pings.times.push(begun.elapsed());
        }
    }
    Ok(pings)
}

/// An echo request (RFC 792, RFC 4443 §4.1). The kernel fills in the checksum of ICMPv6.
fn echo(kind: u8, ident: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(&ident.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(&[0x5a; 48]);
    let mut sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to 16 bits above.
    let checksum = !(sum as u16);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

fn await_reply(socket: &UdpSocket, from: IpAddr, sent: &[u8], begun: Instant) -> io::Result<bool> {
    let patience = Duration::from_secs(2);
    let reply = if from.is_ipv4() { 0 } else { 129 };
    let mut buffer = [0; 2048];
    loop {
        let Some(left) = patience
            .checked_sub(begun.elapsed())
            .filter(|left| !left.is_zero())
        else {
            return Ok(false);
        };
        socket.set_read_timeout(Some(left))?;
        let (count, sender) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        // A raw IPv4 socket gives the IP header as well.
        let skip = match (from, buffer.first()) {
            (IpAddr::V4(_), Some(first)) => usize::from(first & 0x0f) * 4,
            _ => 0,
        };
        let Some(message) = buffer[..count].get(skip..) else {
            continue;
        };
        if sender.ip() == from
            && message.first() == Some(&reply)
            && message.get(4..8) == sent.get(4..8)
        {
            return Ok(true);
        }
    }
}
