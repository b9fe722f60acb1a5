//! Two ends back to back in memory: no system call, no clock, one thread.
//!
//! [`Pipeline`] carries one flow from end to end and waits for nobody: what one end sends, the other
//! takes in the same turn. Time is virtual, so that pacing and timers behave as on a path with a
//! round trip of [`ROUND_TRIP`], and the same settings do the same work in every run.
//!
//! | ends | a packet's way |
//! |---|---|
//! | `tunnel::Tunnel` | `handle_tun` → segmentation, policy, queue → QUIC → AEAD → QUIC → policy, coalescing → `poll_tun` |
//! | `bare::Bare` | quinn-proto alone: a `Bytes` that exists already → QUIC → AEAD → QUIC → dropped |
//!
//! Both get the same transport settings, the same numbers of datagrams of the same size in the same
//! batches, and the same copy where the kernel would copy. What is between them is what masque-core
//! costs.

mod bare;
mod sharded;
mod tls;
mod traffic;
mod tunnel;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use masque_core::endpoint::Shard;
pub use sharded::{Rate, Round, compare};
pub use tls::Cipher;
pub use traffic::{Traffic, Workload};

/// The round trip of the virtual path.
pub const ROUND_TRIP: Duration = Duration::from_micros(100);

/// The largest UDP payload.
const MAX_UDP: usize = 65_507;
/// As the adapters have it: received bytes are cut off the front of a buffer of this size.
const RECEIVE_BUFFER: usize = 128 << 10;
/// Copied in such pieces, because longer ones are copied by one instruction that valgrind counts once
/// per byte.
const PIECE: usize = 1024;
/// Turns without anything new at the far end after which a pipeline counts as broken.
const PATIENCE: u32 = 200_000;

/// What keeps a pipeline from running.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Certificates or TLS settings.
    #[error("TLS: {0}")]
    Tls(String),
    /// An endpoint refuses its settings.
    #[error("set-up: {0}")]
    SetUp(String),
    /// Nothing arrives any more.
    #[error("nothing arrives: {0}")]
    Stuck(String),
}

impl PipelineError {
    pub(crate) fn tls(error: impl std::fmt::Display) -> Self {
        Self::Tls(error.to_string())
    }

    pub(crate) fn set_up(error: impl std::fmt::Display) -> Self {
        Self::SetUp(error.to_string())
    }
}

/// What a pipeline is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The packets.
    pub workload: Workload,
    /// The cipher.
    pub cipher: Cipher,
    /// The inner MTU in bytes. Path MTU discovery from 1,200 to 1,472 bytes of UDP payload leaves the
    /// tunnel 1,411; beyond that the pipeline does not start.
    pub mtu: usize,
    /// Packets or super-packets per turn.
    pub burst: usize,
    /// The most datagrams per transmit.
    pub max_segments: NonZeroUsize,
    /// Whether the device at the far end takes super-packets.
    pub coalesce: bool,
    /// From the server to the client.
    pub down: bool,
    /// The place of the tunnel's server among its shards.
    pub shard: Option<Shard>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workload: Workload::Tcp { segments: 48 },
            cipher: Cipher::default(),
            mtu: 1380,
            burst: 2,
            max_segments: NonZeroUsize::MIN.saturating_add(63),
            coalesce: true,
            down: false,
            shard: None,
        }
    }
}

/// What went through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Inner packets that came out at the far end.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Batches of datagrams the sender made.
    pub transmits: u64,
    /// Batches of datagrams the receiver answered with.
    pub answers: u64,
    /// Turns.
    pub turns: u64,
    /// What came out of the far end in pieces: frames for the device.
    pub frames: u64,
}

/// One end or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Sender,
    Receiver,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Sender => Self::Receiver,
            Self::Receiver => Self::Sender,
        }
    }
}

/// Datagrams in a buffer: how many bytes, and the size of each but the last.
struct Datagrams {
    size: usize,
    stride: usize,
}

/// What came out.
#[derive(Default)]
struct Delivered {
    packets: u64,
    frames: u64,
}

/// A sender and a receiver.
trait Ends {
    /// Puts the next packet or super-packet in; how many packets were taken.
    fn offer(&mut self, now: Instant) -> u32;

    /// The bytes of one packet.
    fn packet_length(&self) -> usize;

    fn receive(&mut self, end: End, now: Instant, stride: usize, data: BytesMut);

    fn transmit(
        &mut self,
        end: End,
        now: Instant,
        max_segments: NonZeroUsize,
        buffer: &mut Vec<u8>,
    ) -> Option<Datagrams>;

    /// What is done before the end sleeps: packets taken out, events looked at, timers run.
    fn settle(&mut self, end: End, now: Instant) -> Delivered;

    /// Whether packets can be offered.
    fn ready(&self) -> bool;

    /// Packets that QUIC has declared lost.
    fn lost(&self) -> u64;

    /// Pieces of mail for other shards.
    fn astray(&self) -> u64 {
        0
    }
}

/// One flow through two ends.
pub struct Pipeline {
    ends: Box<dyn Ends>,
    wire: Wire,
    now: Instant,
    burst: usize,
    max_segments: NonZeroUsize,
    in_flight: u64,
}

/// Copies from a send buffer to a receive buffer, as the kernel does.
struct Wire {
    sent: Vec<u8>,
    received: BytesMut,
}

impl Wire {
    fn carry(&mut self, size: usize) -> BytesMut {
        if self.received.capacity() < MAX_UDP {
            self.received.reserve(RECEIVE_BUFFER);
        }
        for piece in self.sent[..size].chunks(PIECE) {
            self.received.extend_from_slice(piece);
        }
        self.received.split()
    }
}

impl Pipeline {
    /// Two masque-core endpoints with a tunnel between them, up and warm.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn tunnel(settings: &Settings) -> Result<Self, PipelineError> {
        Self::new(settings, |now| {
            Ok(Box::new(tunnel::Tunnel::new(settings, now)?))
        })
    }

    /// Two bare quinn-proto connections.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn bare(settings: &Settings) -> Result<Self, PipelineError> {
        Self::new(settings, |now| {
            Ok(Box::new(bare::Bare::new(settings, now)?))
        })
    }

    fn new(
        settings: &Settings,
        make: impl FnOnce(Instant) -> Result<Box<dyn Ends>, PipelineError>,
    ) -> Result<Self, PipelineError> {
        let now = Instant::now();
        let mut pipeline = Self {
            ends: make(now)?,
            wire: Wire {
                sent: Vec::with_capacity(MAX_UDP),
                received: BytesMut::new(),
            },
            now,
            burst: settings.burst.max(1),
            max_segments: settings.max_segments,
            in_flight: 0,
        };
        let mut passed = Passed::default();
        for _ in 0..PATIENCE {
            if pipeline.ends.ready() {
                // Past slow start and path MTU discovery.
                pipeline.advance(50_000)?;
                return Ok(pipeline);
            }
            pipeline.exchange(&mut passed);
        }
        Err(PipelineError::Stuck("the handshake".to_owned()))
    }

    /// Runs until `packets` more have come out at the far end, and says what passed.
    ///
    /// Not inlined: a profiler that counts between its entry and its exit sees the steady state only.
    ///
    /// # Errors
    /// [`PipelineError::Stuck`] if packets are lost.
    #[inline(never)]
    pub fn run(&mut self, packets: u64) -> Result<Passed, PipelineError> {
        self.advance(packets)
    }

    fn advance(&mut self, packets: u64) -> Result<Passed, PipelineError> {
        let mut passed = Passed::default();
        let mut idle = 0;
        while passed.packets < packets {
            let before = passed.packets;
            self.turn(&mut passed);
            idle = if passed.packets == before {
                idle + 1
            } else {
                0
            };
            if idle > PATIENCE {
                let lost = self.ends.lost();
                return Err(PipelineError::Stuck(format!(
                    "{} packets under way, {lost} QUIC packets lost",
                    self.in_flight
                )));
            }
        }
        passed.bytes = passed.packets * self.ends.packet_length() as u64;
        Ok(passed)
    }

    /// The bytes of one inner packet.
    #[must_use]
    pub fn packet_length(&self) -> usize {
        self.ends.packet_length()
    }

    /// QUIC packets declared lost: none, unless something is wrong.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.ends.lost()
    }

    /// Pieces of mail for other shards: none, as each client is where it belongs.
    #[must_use]
    pub fn astray(&self) -> u64 {
        self.ends.astray()
    }

    fn turn(&mut self, passed: &mut Passed) {
        // What is under way is bounded, so that no queue ever drops.
        let bound = self.burst as u64 * 64 * 2;
        for _ in 0..self.burst {
            if self.in_flight >= bound {
                break;
            }
            self.in_flight += u64::from(self.ends.offer(self.now));
        }
        self.exchange(passed);
    }

    fn exchange(&mut self, passed: &mut Passed) {
        passed.turns += 1;
        passed.transmits += self.carry(End::Sender, passed);
        self.now += ROUND_TRIP / 2;
        passed.answers += self.carry(End::Receiver, passed);
        self.now += ROUND_TRIP / 2;
    }

    /// Moves what `from` has to send; how many batches.
    fn carry(&mut self, from: End, passed: &mut Passed) -> u64 {
        let mut batches = 0;
        self.note(from, passed);
        loop {
            self.wire.sent.clear();
            let sent = self
                .ends
                .transmit(from, self.now, self.max_segments, &mut self.wire.sent);
            let Some(sent) = sent else { break };
            batches += 1;
            let data = self.wire.carry(sent.size);
            let arrival = self.now + ROUND_TRIP / 2;
            self.ends.receive(from.other(), arrival, sent.stride, data);
        }
        self.note(from.other(), passed);
        batches
    }

    fn note(&mut self, end: End, passed: &mut Passed) {
        let arrival = match end {
            End::Sender => self.now,
            End::Receiver => self.now + ROUND_TRIP / 2,
        };
        let delivered = self.ends.settle(end, arrival);
        passed.packets += delivered.packets;
        passed.frames += delivered.frames;
        self.in_flight = self.in_flight.saturating_sub(delivered.packets);
    }
}

/// Where both ends are.
fn addresses() -> (SocketAddr, SocketAddr) {
    (
        SocketAddr::from(([198, 51, 100, 1], 50_000)),
        SocketAddr::from(([203, 0, 113, 1], 443)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    type Make = fn(&Settings) -> Result<Pipeline, PipelineError>;

    #[test]
    fn what_goes_in_comes_out_whichever_way_and_nothing_is_lost() {
        let udp = Workload::Udp { payload: 64 };
        for make in [Pipeline::tunnel as Make, Pipeline::bare] {
            for (workload, down) in [(Settings::default().workload, false), (udp, true)] {
                let settings = Settings {
                    workload,
                    down,
                    ..Settings::default()
                };
                let mut pipeline = make(&settings).expect("both ends are ours");
                let passed = pipeline.run(5_000).expect("nothing is lost in memory");
                assert!(passed.packets >= 5_000, "{passed:?}");
                assert_eq!(pipeline.lost(), 0);
            }
        }
    }

    #[test]
    fn a_tcp_flow_leaves_in_super_packets_only_if_the_device_takes_them() {
        for coalesce in [true, false] {
            let settings = Settings {
                coalesce,
                ..Settings::default()
            };
            let mut pipeline = Pipeline::tunnel(&settings).expect("both ends are ours");
            let passed = pipeline.run(4_800).expect("nothing is lost in memory");
            let each = passed.packets / passed.frames;
            assert_eq!(each > 20, coalesce, "{passed:?}");
        }
    }
}
