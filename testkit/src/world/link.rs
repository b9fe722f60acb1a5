//! One direction of a path: stages that compose. A packet passes, in this order, the outage, the losses
//! that are listed, the MTU, the queue with its discipline and its ECN marks, the random losses, the
//! delay with its jitter, duplication and corruption.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use masque_core::endpoint::Ecn;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

/// How one direction of a path treats what is sent into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// The propagation delay.
    pub delay: Duration,
    /// Up to so much is added to the delay, evenly spread.
    pub jitter: Duration,
    /// Zero: each packet draws its own jitter. Otherwise jitter follows a line through a new random value
    /// every so often, as radio scheduling does.
    pub jitter_every: Duration,
    /// Whether jitter may let one packet overtake another.
    pub reorder: bool,
    /// Packets lost on the way, per million.
    pub loss: u32,
    /// Losses that come in bursts, besides.
    pub bursts: Option<Bursts>,
    /// Packets that arrive twice, per million.
    pub duplicate: u32,
    /// Packets that arrive with one bit changed, per million.
    pub corrupt: u32,
    /// Bits per second; `None` is without limit.
    pub rate: Option<u64>,
    /// Bytes (IP headers included) that wait for the transmitter; more are dropped at the tail.
    pub queue: usize,
    /// Drops before the queue is full, where packets wait for too long.
    pub codel: Option<CoDel>,
    /// ECN-capable packets that wait for longer are marked; CoDel marks them instead of dropping.
    pub mark: Option<Duration>,
    /// Whether ECN codepoints are erased.
    pub bleach: bool,
    /// The largest IP packet in bytes. Larger ones are dropped: Don't Fragment is set on all.
    pub mtu: usize,
    /// Whether ICMP tells of packets that are too big; a black hole otherwise. Hosts beside the tunnel
    /// hear it. A UDP socket has nothing to hear it with: QUIC finds the MTU by itself (RFC 8899).
    pub icmp: bool,
    /// Whether anything passes.
    pub up: bool,
}

impl Default for LinkConfig {
    /// 10 ms and nothing else: no loss, no jitter, no rate; 1,500 bytes.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            jitter_every: Duration::ZERO,
            reorder: false,
            loss: 0,
            bursts: None,
            duplicate: 0,
            corrupt: 0,
            rate: None,
            queue: 256 << 10,
            codel: None,
            mark: None,
            bleach: false,
            mtu: 1500,
            icmp: true,
            up: true,
        }
    }
}

/// RFC 8289.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoDel {
    /// How long packets may stand in the queue.
    pub target: Duration,
    /// How long they may do so before the first is dropped.
    pub interval: Duration,
}

impl Default for CoDel {
    /// 5 ms and 100 ms (RFC 8289 §4).
    fn default() -> Self {
        Self {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
        }
    }
}

/// The Gilbert-Elliott model: a good state without loss and a bad one, in packets per million.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bursts {
    /// How likely the bad state begins with a packet.
    pub begin: u32,
    /// How likely it ends with one.
    pub end: u32,
    /// How many packets are lost in the bad state.
    pub loss: u32,
}

/// What a link did so far, in packets where not said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStats {
    /// Put into it.
    pub sent: u64,
    /// Came out of it, duplicates included.
    pub arrived: u64,
    /// Lost at random.
    pub lost: u64,
    /// Dropped at the tail of the queue.
    pub queue_full: u64,
    /// Dropped for their size.
    pub too_big: u64,
    /// Dropped because it was down.
    pub down: u64,
    /// Dropped because they were listed.
    pub listed: u64,
    /// Dropped by CoDel.
    pub codel: u64,
    /// Marked "congestion experienced".
    pub marked: u64,
    /// Came out of it a second time.
    pub duplicated: u64,
    /// Came out of it with one bit changed.
    pub corrupted: u64,
    /// Bytes that came out of it, IP headers included.
    pub bytes: u64,
}

/// Why a link drops a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    Down,
    TooBig,
    QueueFull,
    CoDel,
    Listed,
    Random,
}

impl Loss {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Down => "link down",
            Self::TooBig => "larger than the MTU",
            Self::QueueFull => "queue full",
            Self::CoDel => "dropped by CoDel",
            Self::Listed => "lost as listed",
            Self::Random => "lost",
        }
    }
}

/// When a packet arrives, and again when it is duplicated, and which bit is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Passage {
    pub(super) at: Duration,
    pub(super) again: Option<Duration>,
    pub(super) flip: Option<u64>,
    pub(super) ecn: Option<Ecn>,
}

pub(super) struct Link {
    pub(super) config: LinkConfig,
    pub(super) stats: LinkStats,
    rng: ChaCha20Rng,
    knots: Knots,
    in_burst: bool,
    /// Packets that are lost, by their number: the first that was put in is number 1.
    pub(super) listed: BTreeSet<u64>,
    codel: CoDelState,
    /// Until when the transmitter is busy with what it has.
    busy_until: Duration,
    last_arrival: Duration,
}

/// The random values jitter follows a line through, and the interval they stand at the ends of.
struct Knots {
    rng: ChaCha20Rng,
    interval: u64,
    ends: [u64; 2],
}

impl Knots {
    fn new(mut rng: ChaCha20Rng) -> Self {
        let ends = [rng.next_u64(), rng.next_u64()];
        Self {
            rng,
            interval: 0,
            ends,
        }
    }

    /// The value at `at`, as a share of `u64::MAX`. Time does not go back.
    fn at(&mut self, at: Duration, every: Duration) -> u64 {
        let every = every.as_nanos().max(1);
        let interval = u64::try_from(at.as_nanos() / every).unwrap_or(u64::MAX);
        while self.interval < interval {
            self.interval += 1;
            self.ends = [self.ends[1], self.rng.next_u64()];
        }
        let part = at.as_nanos() % every;
        let [from, to] = self.ends.map(|end| u128::from(end) / every);
        u64::try_from(from * (every - part) + to * part).unwrap_or(u64::MAX)
    }
}

impl Link {
    pub(super) fn new(config: LinkConfig, rng: ChaCha20Rng) -> Self {
        Self {
            config,
            stats: LinkStats::default(),
            knots: Knots::new({
                let mut other = rng.clone();
                other.set_stream(rng.get_stream().wrapping_add(1));
                other
            }),
            in_burst: false,
            listed: BTreeSet::new(),
            codel: CoDelState::default(),
            rng,
            busy_until: Duration::ZERO,
            last_arrival: Duration::ZERO,
        }
    }

    /// Puts an IP packet of `size` bytes in at `now`.
    pub(super) fn send(
        &mut self,
        now: Duration,
        size: usize,
        ecn: Option<Ecn>,
    ) -> Result<Passage, Loss> {
        self.stats.sent += 1;
        let result = self.pass(now, size, ecn);
        match &result {
            Ok(passage) => {
                let copies = 1 + u64::from(passage.again.is_some());
                self.stats.arrived += copies;
                self.stats.duplicated += copies - 1;
                self.stats.corrupted += u64::from(passage.flip.is_some());
                self.stats.bytes += copies * size as u64;
            }
            Err(Loss::Down) => self.stats.down += 1,
            Err(Loss::TooBig) => self.stats.too_big += 1,
            Err(Loss::QueueFull) => self.stats.queue_full += 1,
            Err(Loss::CoDel) => self.stats.codel += 1,
            Err(Loss::Listed) => self.stats.listed += 1,
            Err(Loss::Random) => self.stats.lost += 1,
        }
        result
    }

    /// How long a packet put in at `now` would wait for the transmitter.
    pub(super) fn backlog(&self, now: Duration) -> Duration {
        self.busy_until.saturating_sub(now)
    }

    fn pass(&mut self, now: Duration, size: usize, mut ecn: Option<Ecn>) -> Result<Passage, Loss> {
        // Always the same number of draws: one setting does not shift another's luck.
        let draws: [u64; 6] = std::array::from_fn(|_| self.rng.next_u64());
        let config = self.config;
        if !config.up {
            return Err(Loss::Down);
        }
        if self.listed.remove(&self.stats.sent) {
            return Err(Loss::Listed);
        }
        if size > config.mtu {
            return Err(Loss::TooBig);
        }
        let sent = self.transmit(now, size, &mut ecn)?;
        if config.bleach {
            ecn = None;
        }
        let happens = |draw: u64, per_million: u32| draw % 1_000_000 < u64::from(per_million);
        let mut lost = happens(draws[0], config.loss);
        if let Some(bursts) = config.bursts {
            // The upper half of a draw whose lower half has decided nothing but the arrival.
            let turns = if self.in_burst {
                bursts.end
            } else {
                bursts.begin
            };
            self.in_burst ^= happens(draws[3] >> 32, turns);
            lost |= self.in_burst && happens(draws[5] >> 32, bursts.loss);
        }
        if lost {
            return Err(Loss::Random);
        }
        let at = self.arrival(sent, draws[1]);
        let again = happens(draws[2], config.duplicate).then(|| self.arrival(sent, draws[3]));
        let flip = happens(draws[4], config.corrupt).then_some(draws[5]);
        Ok(Passage {
            at,
            again,
            flip,
            ecn,
        })
    }

    /// When the last bit has left.
    fn transmit(
        &mut self,
        now: Duration,
        size: usize,
        ecn: &mut Option<Ecn>,
    ) -> Result<Duration, Loss> {
        let Some(rate) = self.config.rate else {
            return Ok(now);
        };
        let rate = u128::from(rate.max(1));
        let waiting = self.busy_until.saturating_sub(now).as_nanos() * rate / 8_000_000_000;
        if waiting + size as u128 > self.config.queue as u128 {
            return Err(Loss::QueueFull);
        }
        // First in, first out: when this packet will leave is known, and with it what CoDel will think
        // of it then, having thought of all packets before it.
        let leaves = self.busy_until.max(now);
        let wait = leaves - now;
        let too_long = self
            .config
            .codel
            .is_some_and(|config| self.codel.drops(config, leaves, wait, size));
        let mark = self.config.mark.filter(|_| ecn.is_some());
        if mark.is_some_and(|above| too_long || wait > above) {
            *ecn = Some(Ecn::Ce);
            self.stats.marked += 1;
        } else if too_long {
            return Err(Loss::CoDel);
        }
        let nanos = u64::try_from(size as u128 * 8_000_000_000 / rate).unwrap_or(u64::MAX);
        self.busy_until = self.busy_until.max(now) + Duration::from_nanos(nanos);
        Ok(self.busy_until)
    }

    fn arrival(&mut self, sent: Duration, draw: u64) -> Duration {
        let spread = u64::try_from(self.config.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = if self.config.jitter_every.is_zero() {
            draw % spread.saturating_add(1).max(1)
        } else {
            let share = self.knots.at(sent, self.config.jitter_every);
            u64::try_from((u128::from(share) * u128::from(spread)) >> 64).unwrap_or(spread)
        };
        let jitter = Duration::from_nanos(jitter);
        let at = sent + self.config.delay + jitter;
        if self.config.reorder {
            at
        } else {
            self.last_arrival = self.last_arrival.max(at);
            self.last_arrival
        }
    }
}

/// What CoDel remembers (RFC 8289 §5).
#[derive(Default)]
struct CoDelState {
    first_above: Option<Duration>,
    dropping: bool,
    next: Duration,
    count: u32,
    last_count: u32,
}

impl CoDelState {
    /// Whether the packet that leaves at `now` after having waited for `wait` is to be dropped.
    fn drops(&mut self, config: CoDel, now: Duration, wait: Duration, size: usize) -> bool {
        // Only the packet itself is left in the queue: nothing stands.
        let above = wait >= config.target && size > 0;
        let ripe = if above {
            let first = *self.first_above.get_or_insert(now + config.interval);
            now >= first
        } else {
            self.first_above = None;
            false
        };
        let control = |count: u32| config.interval.div_f64(f64::from(count.max(1)).sqrt());
        if self.dropping {
            if !ripe {
                self.dropping = false;
                return false;
            }
            if now < self.next {
                return false;
            }
            self.count += 1;
            self.next += control(self.count);
            return true;
        }
        if !ripe {
            return false;
        }
        self.dropping = true;
        let recent = now.saturating_sub(self.next) < config.interval * 16;
        let delta = self.count.saturating_sub(self.last_count);
        self.count = if recent && delta > 1 { delta } else { 1 };
        self.last_count = self.count;
        self.next = now + control(self.count);
        true
    }
}

/// The bytes of the outer IP and UDP headers.
pub(super) fn overhead(address: SocketAddr) -> usize {
    if address.is_ipv4() { 28 } else { 48 }
}

#[cfg(test)]
mod tests;
