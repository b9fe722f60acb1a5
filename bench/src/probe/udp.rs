//! UDP packets at a rate, and how many of them arrive.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg};
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

use super::{CountResult, SendResult, monotonic};
use crate::error::Error;

/// Packets per system call.
const BATCH: usize = 32;
const BUFFERS: usize = 8 << 20;
/// Sequence number and time.
const STAMP: usize = 16;
/// The counter ends so long after the last packet.
const SILENCE: Duration = Duration::from_millis(250);
/// Or so long after its start, if none comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Delays kept for their distribution.
const MAX_DELAYS: usize = 1 << 20;

fn socket(bind: SocketAddr) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind(bind).map_err(Error::system(format!("UDP on {bind}")))?;
    // Losses in the probe's own buffers would be taken for the tunnel's.
    let failed =
        |error: rustix::io::Errno| Error::System("socket buffers".to_owned(), error.into());
    set_socket_recv_buffer_size_force(&socket, BUFFERS).map_err(failed)?;
    set_socket_send_buffer_size_force(&socket, BUFFERS).map_err(failed)?;
    Ok(socket)
}

/// Sends at `rate`, never more than a batch ahead of it.
pub(super) fn send(
    to: SocketAddr,
    size: usize,
    rate: f64,
    length: Duration,
    sleep: bool,
) -> Result<SendResult, Error> {
    let socket = socket(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    socket
        .connect(to)
        .map_err(Error::system(format!("UDP to {to}")))?;
    let mut packets = vec![vec![0x5a; size.max(STAMP)]; BATCH];
    let start = Instant::now();
    let mut sent = 0_u64;
    loop {
        let elapsed = start.elapsed();
        if elapsed >= length {
            break;
        }
        let due = (elapsed.as_secs_f64() * rate) as u64;
        let count = usize::try_from(due.saturating_sub(sent))
            .unwrap_or(BATCH)
            .min(BATCH);
        if count == 0 {
            if sleep {
                thread::sleep(Duration::from_micros(100));
            } else {
                // Whoever waits for this processor gets it.
                thread::yield_now();
            }
            continue;
        }
        let now = monotonic();
        for (nth, packet) in packets.iter_mut().take(count).enumerate() {
            packet[..8].copy_from_slice(&(sent + nth as u64).to_le_bytes());
            packet[8..STAMP].copy_from_slice(&now.to_le_bytes());
        }
        let slices: Vec<_> = packets
            .iter()
            .take(count)
            .map(|packet| [IoSlice::new(packet)])
            .collect();
        let mut controls: Vec<_> = (0..count).map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<_> = slices
            .iter()
            .zip(&mut controls)
            .map(|(slice, control)| MMsgHdr::new(slice, control))
            .collect();
        // What is refused now is due again in a moment.
        sent += sendmmsg(&socket, &mut messages, SendFlags::empty()).unwrap_or(0) as u64;
    }
    Ok(SendResult {
        sent,
        secs: start.elapsed().as_secs_f64(),
    })
}

/// Counts what comes until it falls silent.
pub(super) fn count(listen: SocketAddr) -> Result<(), Error> {
    let socket = socket(listen)?;
    socket
        .set_read_timeout(Some(SILENCE))
        .map_err(Error::system("receive timeout"))?;
    super::print(&"listening")?;
    let mut buffers = vec![[0_u8; 2048]; BATCH];
    let mut delays: Vec<u32> = Vec::with_capacity(MAX_DELAYS);
    let mut result = CountResult::default();
    let mut next = 0;
    let begun = Instant::now();
    loop {
        let lengths = match receive(&socket, &mut buffers) {
            Ok(lengths) => lengths,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if result.received > 0 || begun.elapsed() > PATIENCE {
                    break;
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::System("receiving".to_owned(), error)),
        };
        let now = monotonic();
        for (buffer, _) in buffers
            .iter()
            .zip(lengths)
            .filter(|(_, length)| *length >= STAMP)
        {
            let number = |at: usize| {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&buffer[at..at + 8]);
                u64::from_le_bytes(bytes)
            };
            let (sequence, sent) = (number(0), number(8));
            result.received += 1;
            if sequence < next {
                result.reordered += 1;
            }
            next = next.max(sequence + 1);
            if delays.len() < MAX_DELAYS {
                let micros = now.saturating_sub(sent) / 1000;
                delays.push(u32::try_from(micros).unwrap_or(u32::MAX));
            }
        }
    }
    delays.sort_unstable();
    let at = |share: f64| {
        let index = (delays.len() as f64 * share) as usize;
        let delay = delays.get(index.min(delays.len().saturating_sub(1)));
        f64::from(delay.copied().unwrap_or(0))
    };
    result.delay_p50 = at(0.5);
    result.delay_p99 = at(0.99);
    super::print(&result)
}

/// The lengths of the packets received; waits for the first only.
fn receive(socket: &UdpSocket, buffers: &mut [[u8; 2048]]) -> io::Result<Vec<usize>> {
    let mut headers = MultiHeaders::<()>::preallocate(buffers.len(), None);
    let mut slices: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| [IoSliceMut::new(buffer)])
        .collect();
    let received = recvmmsg(
        socket.as_raw_fd(),
        &mut headers,
        slices.iter_mut(),
        MsgFlags::MSG_WAITFORONE,
        None,
    )
    .map_err(|error: Errno| io::Error::from(error))?;
    Ok(received.map(|message| message.bytes).collect())
}
