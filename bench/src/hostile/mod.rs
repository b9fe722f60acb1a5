//! A server under attack, in memory: its real pump and endpoint between queues like the kernel's.
//!
//! One thread drives everything. The server's turns take the time they take (or what a model says);
//! meanwhile the world goes on without costing any: clients and attackers are as fast as they like, and
//! what finds no room in the server's socket or device is lost. So the one thing that is scarce is the
//! server's processor, which is what clients of one server can take from each other.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | settings, outcome, the loop |
//! | `kernel.rs` | the socket, the device, the clock |
//! | `peer.rs` | the clients |
//! | `costs.rs` | what a first packet costs |
//! | `scripted.rs` | attackers who follow a script |
//! | `hosts.rs` | what the hosts behind the server send |

pub mod costs;
mod hosts;
mod kernel;
mod peer;
mod scripted;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use masque_adapter_kit::{App, Cx, Interest, Pump, Source};
use masque_core::endpoint::{CongestionControl, Event, PortId, SocketId, Usage};

use crate::pipeline::PipelineError;
use hosts::{Download, Flood};
pub use kernel::Clock;
use kernel::{Batch, Kernel, KernelIo, Work, timed};
use peer::{Crypto, Keys, Peer, Role};
use scripted::Scripted;

/// From a client to the server, one way.
const DELAY: Duration = Duration::from_micros(500);
/// How far clients run ahead of each other.
const SLICE: Duration = Duration::from_micros(100);
/// From so long after the start on, everybody counts as connected.
const WARM: Duration = Duration::from_millis(400);
/// How many follow a script.
const SCRIPTED: u8 = 10;

/// Who attacks, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// Nobody: the victim has the server for itself.
    None,
    /// Nobody: another client does what the victim does. The victim's rate is its fair share.
    Companion,
    /// A client sends one valid datagram of its own over and over.
    Replay,
    /// A client sends through its tunnel as if there were no congestion.
    Tunnel,
    /// Datagrams of 64 random bytes from as many addresses as there are.
    Noise,
    /// Hosts behind the server flood an accomplice's address.
    Hosts,
    /// First packets of handshakes from addresses all over the world, never answered.
    Initials,
    /// Clients with certificates that connect, from everywhere, and come back at once.
    Handshakes,
    /// Clients who follow the script of that name.
    Script(&'static str),
}

impl Attack {
    /// Those that attack.
    pub const ALL: [Self; 6] = [
        Self::Replay,
        Self::Tunnel,
        Self::Noise,
        Self::Hosts,
        Self::Initials,
        Self::Handshakes,
    ];

    /// Those whose attackers need little time of the server's: nobody is to notice them.
    pub const SCRIPTS: [Self; 4] = [
        Self::Script("attack-slow-loris"),
        Self::Script("attack-tunnels-without-end"),
        Self::Script("attack-address-requests"),
        Self::Script("attack-never-reads"),
    ];
}

/// What is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The attack.
    pub attack: Attack,
    /// Of [`Attack::Replay`] and [`Attack::Tunnel`], in bits per second.
    pub rate: u64,
    /// Of [`Attack::Noise`] and [`Attack::Hosts`], whose packets come one by one, per second.
    pub packets: u64,
    /// Of [`Attack::Initials`], per second; of [`Attack::Handshakes`], how many clients at once.
    pub handshakes: u32,
    /// How many clients come in the midst of the attack.
    pub newcomers: usize,
    /// Whether the victim downloads.
    pub down: bool,
    /// How the server's time passes.
    pub clock: Clock,
    /// Real TLS, or null crypto: the same bytes in every run.
    pub real_tls: bool,
    /// For how long it is measured.
    pub time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attack: Attack::None,
            rate: 8_000_000_000,
            packets: 300_000,
            handshakes: 5_000,
            newcomers: 0,
            down: false,
            clock: Clock::Measured,
            real_tls: true,
            time: Duration::from_secs(1),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the victim got through, in bits per second.
    pub victim: f64,
    /// Round trips of a third client's echoes beyond what the path takes, sorted; lost ones are the
    /// time they were waited for.
    pub echoes: Vec<Duration>,
    /// How many of them were lost.
    pub lost_echoes: u64,
    /// The longest turn.
    pub longest_turn: Duration,
    /// Turns per second.
    pub turns: f64,
    /// Datagrams that found the socket's buffer full, per second.
    pub lost_datagrams: f64,
    /// Packets that found the device's queue full, per second.
    pub lost_packets: f64,
    /// Handshakes the server completed, per second.
    pub handshakes: f64,
    /// How many of those that came in the midst of it have a tunnel at the end.
    pub newcomers: usize,
    /// What the endpoint held at the end.
    pub usage: Usage,
}

impl Outcome {
    /// The echo that so many of a hundred were faster than.
    #[must_use]
    pub fn echo(&self, percent: usize) -> Duration {
        let at = (self.echoes.len() * percent / 100).min(self.echoes.len().saturating_sub(1));
        self.echoes.get(at).copied().unwrap_or_default()
    }
}

/// Counts what it is told.
#[derive(Default)]
struct Counting {
    connected: u64,
}

impl App for Counting {
    type Message = ();

    fn start(&mut self, _: &mut Cx<'_>) {}

    fn on_event(&mut self, _: &mut Cx<'_>, event: Event) {
        self.connected += u64::from(matches!(event, Event::Connected { .. }));
    }

    fn on_message(&mut self, _: &mut Cx<'_>, (): ()) {}
}

struct World {
    settings: Settings,
    keys: Keys,
    kernel: Rc<RefCell<Kernel>>,
    pump: Pump<Counting, KernelIo>,
    now: Instant,
    start: Instant,
    peers: Vec<Peer>,
    by_address: BTreeMap<SocketAddr, usize>,
    scripted: Vec<Scripted>,
    up: BTreeMap<(Instant, u64), Batch>,
    order: u64,
    downloads: Vec<(usize, Download)>,
    flood: Option<Flood>,
    /// When each echo left, by its number.
    echoes: BTreeMap<u32, Instant>,
    outcome: Outcome,
    victim_bytes: u64,
    measuring: bool,
}

/// Runs the server under attack.
///
/// # Errors
/// [`PipelineError`] if it cannot be set up, or nobody gets connected.
pub fn run(settings: &Settings) -> Result<Outcome, PipelineError> {
    let mut world = World::new(settings)?;
    let begin = world.start + WARM;
    while world.now < begin {
        world.step()?;
    }
    world.begin()?;
    // The attack needs a moment to fill what it can fill.
    let settled = world.now + settings.time / 4;
    while world.now < settled {
        world.step()?;
    }
    for _ in 0..settings.newcomers {
        world.join(Role::Newcomer, CongestionControl::Cubic)?;
    }
    world.measuring = true;
    let from = world.now;
    let begun = world.marks();
    while world.now < from + settings.time {
        world.step()?;
    }
    Ok(world.end(from, begun))
}

impl World {
    fn new(settings: &Settings) -> Result<Self, PipelineError> {
        let crypto = match settings.real_tls {
            true => Crypto::Real,
            false => Crypto::Null,
        };
        let keys = Keys::new(crypto)?;
        let start = Instant::now();
        let kernel = Rc::new(RefCell::new(Kernel::default()));
        let endpoint = keys.server(start)?;
        let pump = Pump::new(endpoint, KernelIo(kernel.clone()), Counting::default())
            .map_err(PipelineError::set_up)?;
        let mut world = Self {
            settings: settings.clone(),
            keys,
            kernel,
            pump,
            now: start,
            start,
            peers: Vec::new(),
            by_address: BTreeMap::new(),
            scripted: Vec::new(),
            up: BTreeMap::new(),
            order: 0,
            downloads: Vec::new(),
            flood: None,
            echoes: BTreeMap::new(),
            outcome: Outcome::default(),
            victim_bytes: 0,
            measuring: false,
        };
        let busy = if settings.down {
            Role::Sink
        } else {
            Role::Greedy
        };
        world.join(busy, CongestionControl::Cubic)?;
        world.join(Role::Echo, CongestionControl::Cubic)?;
        match settings.attack {
            Attack::Companion => world.join(busy, CongestionControl::Cubic)?,
            Attack::Tunnel => {
                world.join(Role::Idle, CongestionControl::Fixed(settings.rate))?;
            }
            Attack::Replay | Attack::Hosts => {
                world.join(Role::Idle, CongestionControl::Cubic)?;
            }
            _ => {}
        }
        Ok(world)
    }

    fn join(&mut self, role: Role, congestion: CongestionControl) -> Result<(), PipelineError> {
        let nth = self.peers.len();
        let host = u8::try_from(nth % 200).unwrap_or_default();
        let network = (nth / 200) as u8;
        let address = SocketAddr::from(([198, 51 + network, host, 10], 40_000));
        let peer = Peer::new(&self.keys, nth, address, role, congestion, self.now)?;
        self.by_address.insert(address, nth);
        self.peers.push(peer);
        Ok(())
    }

    /// Everybody is connected: downloads and the attack begin.
    fn begin(&mut self) -> Result<(), PipelineError> {
        for (nth, peer) in self.peers.iter().enumerate() {
            if peer.inner.is_none() {
                return Err(PipelineError::Stuck(format!(
                    "client {nth} is not connected"
                )));
            }
        }
        let sinks: Vec<(usize, Ipv4Addr)> = self
            .peers
            .iter()
            .enumerate()
            .filter(|(_, peer)| peer.role == Role::Sink)
            .filter_map(|(nth, peer)| Some((nth, peer.inner?)))
            .collect();
        for (nth, inner) in sinks {
            self.downloads.push((nth, Download::new(inner)));
        }
        let attacker = self.peers.last_mut();
        self.flood = match (self.settings.attack, attacker) {
            (Attack::Replay, Some(peer)) => Some(Flood::replay(peer, self.now, self.settings.rate)),
            (Attack::Noise, _) => Some(Flood::noise(self.now, self.settings.packets)),
            (Attack::Hosts, Some(peer)) => peer
                .inner
                .map(|inner| Flood::hosts(inner, self.now, self.settings.packets)),
            (Attack::Initials, _) => {
                let many = self.settings.handshakes;
                let seconds = (self.settings.time * 5 / 4).as_secs_f64();
                let packets = (0..(f64::from(many) * seconds) as u32)
                    .map(|nth| Peer::first_packet(&self.keys, nth, self.now))
                    .collect::<Result<Vec<_>, _>>()?;
                Some(Flood::initials(packets, self.now, many))
            }
            (Attack::Tunnel, Some(peer)) => {
                peer.role = Role::Flooding(self.settings.rate);
                None
            }
            _ => None,
        };
        if let Attack::Script(name) = self.settings.attack {
            let all = (0..SCRIPTED).map(|nth| Scripted::new(&self.keys, name, nth, self.now));
            self.scripted = all.collect::<Result<_, _>>()?;
        }
        if self.settings.attack == Attack::Handshakes {
            for _ in 0..self.settings.handshakes.min(400) {
                self.join(Role::Again, CongestionControl::Cubic)?;
            }
        }
        Ok(())
    }

    fn work(&self) -> Work {
        let counters = self.pump.endpoint().counters();
        Work {
            received: counters.udp_received,
            sent: counters.udp_sent,
            packets: counters.packets_in + counters.packets_out,
            handshakes: counters.handshakes,
            completed: self.pump.app().connected,
            retries: counters.retries + counters.refused,
        }
    }

    fn marks(&self) -> (u64, u64, u64, u64, u64) {
        let kernel = self.kernel.borrow();
        (
            self.victim_bytes,
            self.pump.counters().turns,
            kernel.lost_datagrams,
            kernel.lost_packets,
            self.pump.app().connected,
        )
    }

    /// One turn of the server, and what the world does meanwhile.
    fn step(&mut self) -> Result<(), PipelineError> {
        self.arrivals(self.now);
        if !self.kernel.borrow().is_idle() {
            self.pump.ready(Source::Socket(SocketId(0)), Interest::READ);
            self.pump.ready(Source::Port(PortId(0)), Interest::READ);
        }
        let (before, now) = (self.work(), self.now);
        let (report, cpu) = timed(|| self.pump.turn(now));
        let report = report.map_err(PipelineError::set_up)?;
        let took = match self.settings.clock {
            Clock::Measured => cpu,
            Clock::Model => self.work().since(before).takes(),
        };
        let took = took + std::mem::take(&mut self.kernel.borrow_mut().calls);
        let end = now + took.max(Duration::from_micros(2));
        if self.measuring {
            self.outcome.longest_turn = self.outcome.longest_turn.max(took);
        }
        self.outputs(end);
        self.world_until(end)?;
        self.now = end;
        if !report.again && self.kernel.borrow().is_idle() {
            let next = self.next_event(report.deadline);
            // Nothing is so far away that the world could be skipped.
            let next = next.clamp(end, end + Duration::from_millis(1));
            self.world_until(next)?;
            self.now = next;
        }
        Ok(())
    }

    fn next_event(&mut self, deadline: Option<Instant>) -> Instant {
        let (now, far) = (self.now, self.now + Duration::from_millis(1));
        let scripted = self.scripted.iter_mut().filter_map(|it| it.next(now)).min();
        let peers = self.peers.iter().filter_map(Peer::next);
        let up = self.up.keys().next().map(|(at, _)| *at);
        let flood = self.flood.as_ref().map(|flood| flood.next);
        let all = peers.chain(up).chain(flood).chain(deadline).chain(scripted);
        all.min().unwrap_or(far).min(far)
    }

    fn arrivals(&mut self, until: Instant) {
        while let Some(entry) = self.up.first_entry() {
            if entry.key().0 > until {
                break;
            }
            self.kernel.borrow_mut().arrive(entry.remove());
        }
    }

    /// What the server has put out takes effect at the end of its turn.
    fn outputs(&mut self, end: Instant) {
        let (sent, written) = {
            let mut kernel = self.kernel.borrow_mut();
            (
                std::mem::take(&mut kernel.sent),
                std::mem::take(&mut kernel.written),
            )
        };
        for (transmit, data) in sent {
            if let Some(&nth) = self.by_address.get(&transmit.destination) {
                let stride = transmit.segment_size.unwrap_or(data.len());
                self.peers[nth].inbox.put(end + DELAY, (stride, data));
                continue;
            }
            let mut scripted = self.scripted.iter_mut();
            if let Some(it) = scripted.find(|it| it.address == transmit.destination) {
                let stride = transmit.segment_size.unwrap_or(data.len());
                it.inbox.put(end + DELAY, (stride, data));
            }
        }
        for (_, packet) in written {
            let Some(source) = packet.get(12..16) else {
                continue;
            };
            if self.peers[0]
                .inner
                .is_some_and(|inner| inner.octets() == source)
            {
                self.victim_bytes += packet.len() as u64;
            }
            if self.peers[1]
                .inner
                .is_some_and(|inner| inner.octets() == source)
            {
                // The host answers at once.
                let back = peer::answer(&packet);
                let _ = self.kernel.borrow_mut().route(Default::default(), back);
            }
        }
    }

    /// Everybody but the server runs until then.
    fn world_until(&mut self, until: Instant) -> Result<(), PipelineError> {
        let mut now = self.now;
        while now < until {
            now = until.min(now + SLICE);
            for nth in 0..self.peers.len() {
                self.run_peer(nth, now)?;
            }
            for scripted in &mut self.scripted {
                if scripted.next(now).is_some_and(|at| at <= now) {
                    for data in scripted.run(now) {
                        self.order += 1;
                        let (from, stride) = (scripted.address, data.len());
                        let batch = Batch { from, stride, data };
                        self.up.insert((now + DELAY, self.order), batch);
                    }
                }
            }
            for (nth, download) in &mut self.downloads {
                let arrived = self.peers[*nth].take_arrived();
                let bytes = download.arrived(now, arrived);
                if *nth == 0 {
                    self.victim_bytes += bytes;
                }
                download.send(now, &mut self.kernel.borrow_mut());
            }
            if let Some(flood) = &mut self.flood {
                flood.run(now, &mut self.kernel.borrow_mut());
            }
            self.arrivals(now);
        }
        Ok(())
    }

    fn run_peer(&mut self, nth: usize, now: Instant) -> Result<(), PipelineError> {
        let peer = &mut self.peers[nth];
        if peer.is_over() {
            // Comes back under another name and from another address.
            self.by_address.remove(&peer.address);
            let address = peer.elsewhere();
            let again = Peer::new(
                &self.keys,
                nth,
                address,
                Role::Again,
                CongestionControl::Cubic,
                now,
            )?;
            self.by_address.insert(address, nth);
            self.peers[nth] = again;
            return Ok(());
        }
        if peer.next().is_some_and(|at| at > now) {
            return Ok(());
        }
        peer.run(now);
        for number in peer.take_sent_echoes() {
            self.echoes.insert(number, now);
        }
        for number in peer.take_echoes() {
            if let Some(left) = self.echoes.remove(&number).filter(|_| self.measuring) {
                let beyond = (now - left).saturating_sub(2 * DELAY);
                self.outcome.echoes.push(beyond);
            }
        }
        while let Some((stride, data)) = peer.transmit(now) {
            self.order += 1;
            let batch = Batch {
                from: peer.address,
                stride,
                data,
            };
            self.up.insert((now + DELAY, self.order), batch);
        }
        Ok(())
    }

    fn end(mut self, from: Instant, begun: (u64, u64, u64, u64, u64)) -> Outcome {
        let seconds = (self.now - from).as_secs_f64();
        let ended = self.marks();
        let per_second = |end: u64, begin: u64| (end - begin) as f64 / seconds;
        let mut outcome = std::mem::take(&mut self.outcome);
        // What was sent in time and is not back yet counts as late as it is.
        for left in self.echoes.values().filter(|left| **left >= from) {
            let waited = (self.now - *left).saturating_sub(2 * DELAY);
            if waited > Duration::from_millis(20) {
                outcome.lost_echoes += 1;
                outcome.echoes.push(waited);
            }
        }
        outcome.echoes.sort_unstable();
        outcome.victim = per_second(ended.0, begun.0) * 8.0;
        outcome.turns = per_second(ended.1, begun.1);
        outcome.lost_datagrams = per_second(ended.2, begun.2);
        outcome.lost_packets = per_second(ended.3, begun.3);
        outcome.handshakes = per_second(ended.4, begun.4);
        let peers = self.peers.iter();
        let newcomers = peers.filter(|peer| peer.role == Role::Newcomer);
        outcome.newcomers = newcomers.filter(|peer| peer.inner.is_some()).count();
        outcome.usage = self.pump.endpoint().usage();
        outcome
    }
}

#[cfg(test)]
mod tests;
