//! ICMP echo, so that a kernel answers and nothing of ours is in the way.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{FirstResult, PingResult, monotonic};
use crate::error::Error;

/// How long the last answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts at a first answer.
const FIRST_INTERVAL: Duration = Duration::from_millis(2);

struct Pinger {
    socket: UdpSocket,
    to: SocketAddr,
    ident: u16,
    sent_at: Vec<u64>,
}

impl Pinger {
    fn new(to: Ipv4Addr) -> Result<Self, Error> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
            .map_err(Error::system("raw socket"))?;
        Ok(Self {
            // For its safe `recv`; nothing about it is UDP.
            socket: socket.into(),
            to: SocketAddr::from((to, 0)),
            ident: std::process::id() as u16,
            sent_at: Vec::new(),
        })
    }

    fn send(&mut self) -> io::Result<()> {
        let sequence = self.sent_at.len() as u16;
        self.sent_at.push(monotonic());
        let mut message = [0x5a; 64];
        message[..4].copy_from_slice(&[8, 0, 0, 0]);
        message[4..6].copy_from_slice(&self.ident.to_be_bytes());
        message[6..8].copy_from_slice(&sequence.to_be_bytes());
        let mut sum: u32 = message
            .chunks_exact(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum += sum >> 16;
        message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        self.socket.send_to(&message, self.to).map(drop)
    }

    /// Which request was answered, and when; `None` at `until`.
    fn answer(&self, until: Instant) -> io::Result<Option<(usize, u64)>> {
        let mut buffer = [0; 2048];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let now = monotonic();
            let header = usize::from(buffer[0] & 15) * 4;
            let Some(reply) = buffer[..length].get(header..header + 8) else {
                continue;
            };
            let sequence = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
            if reply[0] == 0
                && reply[4..6] == self.ident.to_be_bytes()
                && sequence < self.sent_at.len()
            {
                return Ok(Some((sequence, now)));
            }
        }
    }
}

/// Pings `count` times, whether answered or not.
pub(super) fn run(to: Ipv4Addr, count: u32, interval: Duration) -> Result<PingResult, Error> {
    let failed = || Error::system(format!("ping {to}"));
    let mut pinger = Pinger::new(to)?;
    let mut result = PingResult::default();
    let mut note = |pinger: &Pinger, until| {
        while result.millis.len() < count as usize
            && let Some((sequence, at)) = pinger.answer(until)?
        {
            let nanos = at.saturating_sub(pinger.sent_at[sequence]);
            result.millis.push(nanos as f64 / 1e6);
        }
        Ok::<_, io::Error>(())
    };
    let begun = Instant::now();
    for nth in 1..=count.min(u32::from(u16::MAX)) {
        // A full queue is a lost ping.
        let _ = pinger.send();
        note(&pinger, begun + interval * nth).map_err(failed())?;
    }
    note(&pinger, Instant::now() + PATIENCE).map_err(failed())?;
    result.sent = count;
    Ok(result)
}

/// Pings until there is an answer.
pub(super) fn first(to: Ipv4Addr, limit: Duration) -> Result<FirstResult, Error> {
    let mut pinger = Pinger::new(to)?;
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let until = Instant::now() + FIRST_INTERVAL;
        // No route yet.
        if pinger.send().is_err() {
            thread::sleep(FIRST_INTERVAL);
            continue;
        }
        if let Ok(Some((_, at))) = pinger.answer(until) {
            return Ok(FirstResult { at: Some(at) });
        }
    }
    Ok(FirstResult::default())
}
