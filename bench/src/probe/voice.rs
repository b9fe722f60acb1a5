//! Small packets at a steady pace, both ways, and how long each took.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{monotonic, sleep_until};
use crate::error::Error;

/// Number, time of sending, and what a codec's packet has besides.
const SIZE: usize = 160;
/// The number of a packet that only says where its sender is.
const HELLO: u64 = u64::MAX;
/// Between two of those.
const HELLO_INTERVAL: Duration = Duration::from_millis(50);
/// So long after the end packets may still arrive.
const GRACE: Duration = Duration::from_secs(2);

/// What a talk is like.
#[derive(Clone, Debug, Args)]
pub struct VoiceArgs {
    /// Whom to talk to, or where to listen.
    pub address: SocketAddr,
    /// When it begins, on the monotonic clock in nanoseconds.
    #[arg(long)]
    pub begin: u64,
    /// How long it lasts.
    #[arg(long)]
    pub secs: f64,
    /// Milliseconds between two packets.
    #[arg(long)]
    pub every: f64,
}

/// What one end sent, and what it heard of the other.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct VoiceResult {
    /// Packets sent.
    pub sent: u32,
    /// Heard from the other end: number, milliseconds from the beginning until it was sent, delay in
    /// milliseconds; in order of arrival.
    pub heard: Vec<(u32, f64, f64)>,
    /// Heard more than once.
    pub doubled: u32,
}

/// Talks to whoever says hello.
pub(super) fn serve(args: &VoiceArgs) -> Result<(), Error> {
    let socket = socket(args.address)?;
    super::print(&"listening")?;
    talk(args, socket, OnceLock::new())
}

/// Says hello until it begins, then talks.
pub(super) fn run(args: &VoiceArgs) -> Result<(), Error> {
    let socket = socket(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    talk(args, socket, OnceLock::from(args.address))
}

fn socket(bind: SocketAddr) -> Result<UdpSocket, Error> {
    UdpSocket::bind(bind).map_err(Error::system(format!("UDP on {bind}")))
}

fn talk(args: &VoiceArgs, socket: UdpSocket, peer: OnceLock<SocketAddr>) -> Result<(), Error> {
    let failed = || Error::system("voice");
    let peer = Arc::new(peer);
    let end = args.begin + Duration::from_secs_f64(args.secs).as_nanos() as u64;
    let speaker = {
        let (socket, peer) = (socket.try_clone().map_err(failed())?, Arc::clone(&peer));
        let (begin, every) = (args.begin, args.every);
        thread::spawn(move || speak(&socket, &peer, begin, end, every))
    };
    let mut result = VoiceResult::default();
    listen(args, &socket, &peer, end, &mut result).map_err(failed())?;
    let sent = speaker.join();
    result.sent = sent.map_err(|_| Error::Probe("the speaker panicked".to_owned()))?;
    super::print(&result)
}

fn speak(socket: &UdpSocket, peer: &OnceLock<SocketAddr>, begin: u64, end: u64, every: f64) -> u32 {
    let say = |number: u64| {
        let mut packet = [0; SIZE];
        packet[..8].copy_from_slice(&number.to_le_bytes());
        packet[8..16].copy_from_slice(&monotonic().to_le_bytes());
        if let Some(peer) = peer.get() {
            // Where there is no way for it now it is lost, as any other.
            let _ = socket.send_to(&packet, peer);
        }
    };
    while monotonic() + (HELLO_INTERVAL.as_nanos() as u64) < begin {
        say(HELLO);
        thread::sleep(HELLO_INTERVAL);
    }
    let mut sent = 0;
    loop {
        let due = begin + (f64::from(sent) * every * 1e6) as u64;
        if due >= end {
            return sent;
        }
        sleep_until(due);
        say(u64::from(sent));
        sent += 1;
    }
}

fn listen(
    args: &VoiceArgs,
    socket: &UdpSocket,
    peer: &OnceLock<SocketAddr>,
    end: u64,
    result: &mut VoiceResult,
) -> io::Result<()> {
    let number = |bytes: &[u8], at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(number)
    };
    let mut seen = vec![false; (args.secs * 1e3 / args.every) as usize + 2];
    let last = end + GRACE.as_nanos() as u64;
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    while monotonic() < last {
        let Ok((SIZE, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let now = monotonic();
        let _ = peer.set(from);
        let (nth, sent) = (number(&buffer, 0), number(&buffer, 8));
        match seen.get_mut(usize::try_from(nth).unwrap_or(usize::MAX)) {
            Some(true) => result.doubled += 1,
            Some(seen) => {
                *seen = true;
                let millis = |nanos: u64| (nanos / 1000) as f64 / 1e3;
                result.heard.push((
                    nth as u32,
                    millis(sent.saturating_sub(args.begin)),
                    millis(now.saturating_sub(sent)),
                ));
            }
            None => {}
        }
    }
    Ok(())
}
