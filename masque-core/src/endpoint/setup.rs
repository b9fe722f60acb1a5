//! quinn-proto's configuration, every value of it on purpose and every random input from [`Entropy`].

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use quinn_proto::congestion::{
    BbrConfig, Controller, ControllerFactory, CubicConfig, NewRenoConfig,
};
use quinn_proto::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, NoneTokenStore, TimeSource, TransportConfig, VarInt, VarIntBoundsExceeded,
};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::cipher;
use super::config::{ClientConfig, CongestionControl, Limits, ServerConfig, TransportProfile};
use super::congestion::TunnelFactory;
use super::entropy::Entropy;
use super::farewell::Sluiced;
use super::shard::ShardId;

#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use aws_lc_rs::{hkdf, hmac};
// quinn-proto takes ring's types where both are on.
#[cfg(feature = "ring")]
use ring::{hkdf, hmac};

/// The length of the connection IDs we choose, in bytes.
pub(super) const CID_LENGTH: usize = 8;

/// How many later packets may be acknowledged before one is declared lost, where loss decides nothing. What
/// was declared lost is told no controller when it arrives after all: 50 ms of jitter let 86 packets overtake
/// one at 20 Mbit/s. But it is better than time alone: what is lost is found one by one then, where time finds
/// all of it at once after a pause, and quinn-proto takes four separate losses found at once for a black hole.
const RELAXED_PACKET_THRESHOLD: u32 = 1024;

/// How many round trips a packet may be late, likewise.
const RELAXED_TIME_THRESHOLD: f32 = 2.25;

/// Request streams at once beside one per tunnel: requests that are refused, tunnels that are ending.
const SPARE_REQUESTS: u32 = 4;
/// The most request streams at once.
const MAX_REQUESTS: u32 = 32;

/// Calendar time as the caller's `now` has it: quinn-proto asks for it when it judges tokens.
#[derive(Debug)]
pub(super) struct WallClock {
    start: Instant,
    wall: SystemTime,
    wall_us: u64,
    elapsed_us: AtomicU64,
}

impl WallClock {
    pub(super) fn new(start: Instant, wall: SystemTime) -> Self {
        Self {
            start,
            wall,
            wall_us: micros_since_epoch(wall),
            elapsed_us: AtomicU64::new(0),
        }
    }

    pub(super) fn set(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start).as_micros();
        self.elapsed_us.store(
            u64::try_from(elapsed).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Microseconds since the Unix epoch.
    #[inline]
    pub(super) fn micros(&self) -> u64 {
        self.wall_us
            .saturating_add(self.elapsed_us.load(Ordering::Relaxed))
    }

    /// The `Instant` at which it is `wall`; `None` if that is past or too far away to express.
    pub(super) fn instant_of(&self, wall: SystemTime) -> Option<Instant> {
        self.start.checked_add(wall.duration_since(self.wall).ok()?)
    }
}

/// Rounded down; 0 before 1970.
pub(super) fn micros_since_epoch(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    u64::try_from(micros).unwrap_or(u64::MAX)
}

impl TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        self.wall + Duration::from_micros(self.elapsed_us.load(Ordering::Relaxed))
    }
}

/// Connection IDs from a seed. A lock, because the same generator serves the factory quinn-proto
/// wants and the IDs clients invent for their servers; neither is on the path of a packet.
struct SeededIds {
    rng: Arc<Mutex<ChaCha20Rng>>,
    shard: ShardId,
    shards: NonZeroU16,
}

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = random_id(&self.rng);
        id[0] = of_shard(id[0], self.shard, self.shards);
        id
    }

    fn cid_len(&self) -> usize {
        CID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn random_id(rng: &Mutex<ChaCha20Rng>) -> ConnectionId {
    let mut bytes = [0; CID_LENGTH];
    let mut rng = rng
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    rng.fill_bytes(&mut bytes);
    ConnectionId::new(&bytes)
}

/// The byte next below `random`, or the first above it, that is congruent to `shard`: by it datagrams
/// find their shard.
fn of_shard(random: u8, shard: ShardId, shards: NonZeroU16) -> u8 {
    let (random, shards) = (u16::from(random), shards.get());
    let byte = random - random % shards + shard.0;
    u8::try_from(byte).unwrap_or_else(|_| (byte - shards) as u8)
}

/// The endpoint's configuration: connection IDs, reset keys and random numbers from one seed.
pub(super) fn endpoint_config(
    entropy: &Entropy,
    secret: [u8; 32],
    shard: ShardId,
    shards: NonZeroU16,
) -> EndpointConfig {
    let ids = Arc::new(Mutex::new(entropy.fork("cid")));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
    config
        .cid_generator(move || {
            Box::new(SeededIds {
                rng: ids.clone(),
                shard,
                shards,
            })
        })
        .rng_seed(Some(entropy.bytes("quic")))
        .grease_quic_bit(true)
        .min_reset_interval(Duration::from_millis(20));
    config
}

/// The server's configuration.
pub(super) fn server_config(
    server: &ServerConfig,
    profile: &TransportProfile,
    limits: &Limits,
    clock: Arc<WallClock>,
) -> Result<quinn_proto::ServerConfig, &'static str> {
    let token_key =
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"masque retry token").extract(&server.secret);
    let mut config = quinn_proto::ServerConfig::new(
        cipher::watched_server(server.crypto.clone()),
        Arc::new(token_key),
    );
    let mut tokens = quinn_proto::ValidationTokenConfig::default();
    tokens.sent(0);
    config
        .transport_config(Arc::new(transport_config(
            profile,
            // Each that might be opened has a place in QUIC's tables all the time.
            u32::try_from(limits.tunnels_per_connection)
                .unwrap_or(u32::MAX)
                .saturating_add(SPARE_REQUESTS)
                .min(MAX_REQUESTS),
            // A client that sends keep-alives, as ours do, is answered; only where one does not is it
            // the server that asks, before the connection times out.
            profile
                .keep_alive
                .map(|every| (every * 2).min(profile.idle_timeout / 2).max(every)),
        )?))
        .time_source(clock)
        .validation_token_config(tokens)
        .retry_token_lifetime(Duration::from_secs(15))
        .max_incoming(limits.max_handshakes)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(4 << 20)
        .migration(true);
    Ok(config)
}

/// A client's configuration.
pub(super) fn client_config(
    client: &ClientConfig,
    profile: &TransportProfile,
    ids: Arc<Mutex<ChaCha20Rng>>,
) -> Result<quinn_proto::ClientConfig, &'static str> {
    let mut config = quinn_proto::ClientConfig::new(cipher::watched_client(client.crypto.clone()));
    config
        .transport_config(Arc::new(transport_config(profile, 0, profile.keep_alive)?))
        .token_store(Arc::new(NoneTokenStore))
        .initial_dst_cid_provider(Arc::new(move || random_id(&ids)));
    Ok(config)
}

/// A receiver need not acknowledge at once because packets are out of order, unless by so many.
const RELAXED_ACK_THRESHOLD: u32 = 16;

/// QUIC on the path. Our HTTP/3 needs three unidirectional streams each way, and a client's request
/// streams; a peer may open a few more of unknown types before it meets the limit.
fn transport_config(
    profile: &TransportProfile,
    requests: u32,
    keep_alive: Option<Duration>,
) -> Result<TransportConfig, &'static str> {
    let too_long = |_: VarIntBoundsExceeded| "idle timeout too long";
    let idle = profile.idle_timeout.saturating_add(profile.linger);
    let idle = IdleTimeout::try_from(idle).map_err(too_long)?;
    if !(1200..=65_507).contains(&profile.initial_mtu) {
        return Err("initial_mtu must be 1200 to 65507");
    }
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(requests))
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .stream_receive_window(VarInt::from_u32(profile.stream_receive_window))
        .receive_window(VarInt::from_u32(
            profile.stream_receive_window.saturating_mul(4),
        ))
        .send_window(profile.send_window)
        .send_fairness(true)
        .initial_rtt(profile.initial_rtt)
        .initial_mtu(profile.initial_mtu)
        .min_mtu(1200)
        .crypto_buffer_size(16 << 10)
        .allow_spin(false)
        .datagram_receive_buffer_size(Some(profile.datagram_receive_buffer.max(64 << 10)))
        .datagram_send_buffer_size(profile.datagram_send_buffer)
        .enable_segmentation_offload(true)
        .congestion_controller_factory(Arc::new(Sluiced(controller(profile))));
    if profile.congestion.is_relaxed() {
        config
            .packet_threshold(RELAXED_PACKET_THRESHOLD)
            .time_threshold(RELAXED_TIME_THRESHOLD);
    }
    config.mtu_discovery_config(profile.discover_mtu.then(|| {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery
            .upper_bound(profile.max_mtu)
            .minimum_change(8)
            // quinn-proto takes four separate losses found at once for a black hole, as the tail of any
            // full queue makes them: soon after such a verdict it is put to the test again.
            .black_hole_cooldown(Duration::from_millis(100))
            .interval(Duration::from_secs(600));
        discovery
    }));
    let relaxed = profile.congestion.is_relaxed();
    if relaxed || profile.ack_threshold.is_some() || profile.max_ack_delay.is_some() {
        let mut frequency = AckFrequencyConfig::default();
        frequency.max_ack_delay(profile.max_ack_delay);
        if relaxed {
            // docs/congestion.md, "What comes too late is dropped".
            frequency.reordering_threshold(VarInt::from_u32(RELAXED_ACK_THRESHOLD));
        }
        if let Some(threshold) = profile.ack_threshold {
            frequency.ack_eliciting_threshold(VarInt::from_u32(threshold));
        }
        config.ack_frequency_config(Some(frequency));
    }
    Ok(config)
}

fn controller(profile: &TransportProfile) -> Arc<dyn ControllerFactory + Send + Sync> {
    let window = profile.initial_window;
    match profile.congestion {
        CongestionControl::Cubic => {
            let mut config = CubicConfig::default();
            if let Some(window) = window {
                config.initial_window(window);
            }
            Arc::new(config)
        }
        CongestionControl::NewReno => {
            let mut config = NewRenoConfig::default();
            if let Some(window) = window {
                config.initial_window(window);
            }
            Arc::new(config)
        }
        CongestionControl::Bbr => {
            let mut config = BbrConfig::default();
            if let Some(window) = window {
                config.initial_window(window);
            }
            Arc::new(config)
        }
        CongestionControl::Tunnel => Arc::new(TunnelFactory { window }),
        CongestionControl::Fixed(bits_per_second) => Arc::new(FixedFactory { bits_per_second }),
    }
}

/// Makes controllers whose window is a given rate times the round-trip time, whatever is lost.
struct FixedFactory {
    bits_per_second: u64,
}

impl ControllerFactory for FixedFactory {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let bytes_per_second = self.bits_per_second / 8;
        let floor = 16 * u64::from(current_mtu);
        Box::new(Fixed {
            bytes_per_second,
            window: floor.max(bytes_per_second / 10),
            floor,
        })
    }
}

#[derive(Clone)]
struct Fixed {
    bytes_per_second: u64,
    window: u64,
    floor: u64,
}

impl Controller for Fixed {
    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, rtt: &quinn_proto::RttEstimator) {
        let micros = u64::try_from(rtt.get().as_micros()).unwrap_or(u64::MAX);
        // A quarter more than the product keeps the rate up while ACKs are on their way.
        let window = self.bytes_per_second.saturating_mul(micros) / 800_000;
        self.window = window.max(self.floor);
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.floor = 16 * u64::from(new_mtu);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.window
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::shard::MAX_SHARDS;
    use super::*;

    #[test]
    fn the_first_byte_of_an_id_names_the_shard() {
        for shards in (1..=MAX_SHARDS).filter_map(NonZeroU16::new) {
            for shard in (0..shards.get()).map(ShardId) {
                for random in 0..=u8::MAX {
                    let byte = of_shard(random, shard, shards);
                    assert_eq!(u16::from(byte) % shards, shard.0);
                }
            }
        }
        assert!((0..=u8::MAX).all(|byte| of_shard(byte, ShardId(0), NonZeroU16::MIN) == byte));
    }
}
