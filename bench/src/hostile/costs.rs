//! What a first packet costs the server, by what becomes of it: the figures behind the model.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use masque_core::endpoint::{Limits, RecvMeta, SocketId};

use super::kernel::timed;
use super::peer::{Crypto, Keys, Peer};
use crate::pipeline::PipelineError;

/// So many first packets are answered alike.
const PACKETS: u32 = 500;

/// What may become of a first packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A connection, and a first flight: its key exchange and signature.
    Handshake,
    /// A Retry.
    Retry,
    /// A refusal.
    Refusal,
    /// None: it cannot be decrypted.
    Nothing,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Handshake, Self::Retry, Self::Refusal, Self::Nothing];

    fn limit(self, limits: &mut Limits) {
        limits.retry_threshold = match self {
            Self::Retry => 0,
            _ => usize::MAX,
        };
        limits.handshakes_per_source = usize::MAX;
        limits.max_handshakes = usize::MAX;
        if self == Self::Refusal {
            limits.max_connections = 0;
        }
    }
}

/// The processor time of the endpoint per first packet, with the answer made; system calls not counted. A
/// tenth of the packets comes before those that are measured.
///
/// # Errors
/// [`PipelineError`] if no endpoint can be set up.
pub fn of_first_packet(answer: Answer) -> Result<Duration, PipelineError> {
    let now = Instant::now();
    let keys = Keys::new(Crypto::Real)?;
    let mut server = keys.server_with(now, |limits| answer.limit(limits))?;
    let mut total = Duration::ZERO;
    let mut buffer = Vec::new();
    for nth in 0..PACKETS + PACKETS / 10 {
        let mut packet = Peer::first_packet(&keys, nth, now)?;
        if answer == Answer::Nothing {
            // Its tag is wrong.
            if let Some(byte) = packet.last_mut() {
                *byte ^= 1;
            }
        }
        let meta = RecvMeta {
            socket: SocketId(0),
            remote: SocketAddr::from((nth.wrapping_mul(0x9e37_79b1).to_be_bytes(), 1000)),
            local_ip: None,
            ecn: None,
            stride: packet.len(),
        };
        let data = packet[..].into();
        let ((), took) = timed(|| {
            server.handle_udp(now, meta, data);
            loop {
                buffer.clear();
                let sent = server.poll_transmit(now, NonZeroUsize::MIN, &mut buffer);
                if sent.is_none() {
                    break;
                }
            }
        });
        // A turn without work for tunnels: there is time for the next.
        let _ = server.poll_timeout();
        if nth >= PACKETS / 10 {
            total += took;
        }
    }
    let counters = server.counters();
    let seen = (counters.handshakes, counters.retries, counters.refused);
    let as_expected = match answer {
        Answer::Handshake => matches!(seen, (1.., 0, 0)),
        Answer::Retry => matches!(seen, (0, 1.., 0)),
        Answer::Refusal => matches!(seen, (0, 0, 1..)),
        Answer::Nothing => seen == (0, 0, 0),
    };
    if !as_expected {
        return Err(PipelineError::Stuck(format!("{answer:?}: {seen:?}")));
    }
    Ok(total / PACKETS)
}
