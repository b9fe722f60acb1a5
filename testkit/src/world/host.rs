//! What surrounds an endpoint: the application that owns it and the hosts behind its TUN.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{Command, Event, PortId, Target, TunnelHandle};
use masque_core::wire::prefix::IpPrefix;

use super::node::NodeId;
use crate::packet::{self, ECHO_PORT, Echo, Packet};

/// What surrounds an endpoint. It has no clock and no randomness; what it does becomes inputs of the
/// world, at their own time.
pub trait Host: Any {
    /// The endpoint says something.
    fn on_event(&mut self, cx: &mut HostCx<'_>, event: &Event) {
        let _ = (cx, event);
    }

    /// The endpoint delivers an IP packet.
    fn on_packet(&mut self, cx: &mut HostCx<'_>, port: PortId, packet: &[u8]) {
        let _ = (cx, port, packet);
    }

    /// A packet that `from`'s host sent beside the tunnels arrives.
    fn on_outside(&mut self, cx: &mut HostCx<'_>, from: NodeId, packet: &[u8]) {
        let _ = (cx, from, packet);
    }

    /// The time asked for by [`HostCx::wake`] has come.
    fn on_wake(&mut self, cx: &mut HostCx<'_>, token: u64) {
        let _ = (cx, token);
    }
}

/// What a host does.
#[derive(Clone)]
pub(super) enum Action {
    Packet(PortId, Vec<u8>),
    Outside(NodeId, Vec<u8>),
    Command(Command),
    Connect(Box<Target>),
    Wake(u64),
}

/// What a host may do in a callback.
pub struct HostCx<'a> {
    /// Virtual time.
    pub now: Duration,
    pub(super) actions: &'a mut Vec<(Duration, Action)>,
}

impl HostCx<'_> {
    /// Sends an IP packet into the endpoint, now.
    pub fn send(&mut self, port: PortId, packet: Vec<u8>) {
        self.actions
            .push((Duration::ZERO, Action::Packet(port, packet)));
    }

    /// Sends an IP packet to another node's host beside the tunnels: over the link, through no
    /// endpoint, now.
    pub fn send_outside(&mut self, to: NodeId, packet: Vec<u8>) {
        self.actions
            .push((Duration::ZERO, Action::Outside(to, packet)));
    }

    /// Gives the endpoint a command after `delay`.
    pub fn command(&mut self, delay: Duration, command: Command) {
        self.actions.push((delay, Action::Command(command)));
    }

    /// Starts a connection after `delay`.
    pub fn connect(&mut self, delay: Duration, target: Target) {
        self.actions
            .push((delay, Action::Connect(Box::new(target))));
    }

    /// Asks for [`Host::on_wake`] after `delay`.
    pub fn wake(&mut self, delay: Duration, token: u64) {
        self.actions.push((delay, Action::Wake(token)));
    }
}

/// Something that runs on the hosts behind one endpoint, beside their echoes.
pub trait App: Any {
    /// The node's addresses are now these (on a client; on a server those of the tunnel that changed).
    fn on_addresses(&mut self, cx: &mut AppCx<'_, '_>, addresses: &[IpPrefix]) {
        let _ = (cx, addresses);
    }

    /// A packet arrived; `false` if it is somebody else's.
    fn on_packet(&mut self, cx: &mut AppCx<'_, '_>, packet: &[u8]) -> bool;

    /// The time asked for by [`AppCx::wake_at`] has come, or an earlier one.
    fn on_wake(&mut self, cx: &mut AppCx<'_, '_>);
}

/// What an [`App`] may do in a callback.
pub struct AppCx<'a, 'b> {
    cx: &'a mut HostCx<'b>,
    token: u64,
}

impl AppCx<'_, '_> {
    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.cx.now
    }

    /// Sends an IP packet into the endpoint, now.
    pub fn send(&mut self, packet: Vec<u8>) {
        self.cx.send(PortId(0), packet);
    }

    /// Asks for [`App::on_wake`] at `at`, or now if that has passed.
    pub fn wake_at(&mut self, at: Duration) {
        let after = at.saturating_sub(self.cx.now);
        self.cx.wake(after, self.token);
    }
}

/// A host that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle;

impl Host for Idle {}

/// What an [`InnerHost`] sends of its own accord.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PingPlan {
    /// How many rounds; a round is one packet to every destination of the same IP version.
    pub rounds: u32,
    /// Between rounds.
    pub interval: Duration,
    /// Bytes of payload after the ICMP or UDP header.
    pub size: usize,
    /// After the last round and this time, [`Command::Shutdown`] with a grace of one second.
    pub then_shut_down: Option<Duration>,
}

/// Inner hosts that answer echoes (ICMP, and UDP on port 7) and send them: alternately ICMP and UDP,
/// over every IP version the tunnel has.
///
/// On a client (`own` empty) the assigned addresses send to `peers`. On a server the addresses
/// `own` send to whatever a client was assigned.
#[derive(Default)]
pub struct InnerHost {
    /// Addresses behind a server's TUN.
    pub own: Vec<IpAddr>,
    /// Whom a client pings.
    pub peers: Vec<IpAddr>,
    /// What to send.
    pub plan: Option<PingPlan>,
    /// When that begins at the earliest.
    pub plan_begins: Duration,
    /// Connect again, so long after a connection was lost.
    pub reconnect: Option<(Duration, Target)>,
    /// Echo requests sent.
    pub sent: u64,
    /// Answers with the right contents, IPv4.
    pub replies_v4: u64,
    /// Answers with the right contents, IPv6.
    pub replies_v6: u64,
    /// Requests answered.
    pub answered: u64,
    /// Packets that were neither: ICMP errors, damaged ones.
    pub others: Vec<Vec<u8>>,
    /// How long answers took.
    pub round_trips: Vec<Duration>,
    /// What else runs here.
    apps: Vec<Box<dyn App>>,
    has: BTreeMap<TunnelHandle, Vec<IpPrefix>>,
    pairs: BTreeMap<TunnelHandle, Vec<(IpAddr, IpAddr)>>,
    outstanding: BTreeMap<u16, (Duration, IpAddr)>,
    started: bool,
    rounds_done: u32,
}

impl InnerHost {
    /// A host that answers for `own`.
    #[must_use]
    pub fn server(own: Vec<IpAddr>) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    /// A host that sends to `peers`.
    #[must_use]
    pub fn client(peers: Vec<IpAddr>) -> Self {
        Self {
            peers,
            ..Self::default()
        }
    }

    /// Runs something else here. Each is woken once by [`super::World::start_apps`].
    pub fn add_app(&mut self, app: Box<dyn App>) {
        self.apps.push(app);
    }

    /// The `nth` thing that runs here, if it is a `T`.
    #[must_use]
    pub fn app<T: App>(&self, nth: usize) -> Option<&T> {
        let app: &dyn Any = &**self.apps.get(nth)?;
        app.downcast_ref()
    }

    /// How many things run here.
    #[must_use]
    pub fn apps(&self) -> usize {
        self.apps.len()
    }

    fn tell_addresses(&mut self, cx: &mut HostCx<'_>, tunnel: TunnelHandle) {
        let addresses: Vec<_> = if self.own.is_empty() {
            self.has.values().rev().flatten().copied().collect()
        } else {
            self.has.get(&tunnel).cloned().unwrap_or_default()
        };
        for (app, token) in self.apps.iter_mut().zip(FIRST_APP..) {
            app.on_addresses(&mut AppCx { cx, token }, &addresses);
        }
    }

    /// All answers.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.replies_v4 + self.replies_v6
    }

    fn data(&self, sequence: u16) -> Vec<u8> {
        let size = self.plan.as_ref().map_or(0, |plan| plan.size);
        let mut data = sequence.to_be_bytes().to_vec();
        data.extend((2..size.max(2)).map(|index| index as u8));
        data
    }

    fn round(&mut self, cx: &mut HostCx<'_>) {
        let pairs: Vec<_> = self.pairs.values().flatten().copied().collect();
        for (source, destination) in pairs {
            // As many sequence numbers as fit: older answers no longer count.
            let sequence = self.sent as u16;
            let data = self.data(sequence);
            let packet = if self.rounds_done.is_multiple_of(2) {
                let echo = Echo {
                    request: true,
                    id: 1,
                    sequence,
                    data,
                };
                packet::icmp_echo(source, destination, &echo)
            } else {
                let from = SocketAddr::new(source, 40_000);
                packet::udp(from, SocketAddr::new(destination, ECHO_PORT), &data)
            };
            self.outstanding.insert(sequence, (cx.now, destination));
            self.sent += 1;
            cx.send(PortId(0), packet);
        }
        self.rounds_done += 1;
    }

    fn take_reply(&mut self, now: Duration, packet: &Packet<'_>) -> bool {
        let data = match (packet::echo_of(packet), packet::udp_of(packet)) {
            (Some(echo), _) if !echo.request => echo.data,
            (_, Some((ECHO_PORT, _, data))) => data.to_vec(),
            _ => return false,
        };
        let Some(sequence) = data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)) else {
            return false;
        };
        let matching = self.outstanding.get(&sequence).copied();
        let Some((sent, peer)) = matching.filter(|_| data == self.data(sequence)) else {
            return false;
        };
        if peer != packet.source {
            return false;
        }
        self.outstanding.remove(&sequence);
        self.round_trips.push(now - sent);
        if peer.is_ipv4() {
            self.replies_v4 += 1;
        } else {
            self.replies_v6 += 1;
        }
        true
    }
}

const ROUND: u64 = 0;
/// What wakes the first app; the others follow.
pub(super) const FIRST_APP: u64 = 1;

impl Host for InnerHost {
    fn on_event(&mut self, cx: &mut HostCx<'_>, event: &Event) {
        match event {
            Event::Addresses { tunnel, addresses } => {
                let near = |address: IpAddr| {
                    let far = if self.own.is_empty() {
                        &self.peers
                    } else {
                        &self.own
                    };
                    let same = move |other: &&IpAddr| other.is_ipv4() == address.is_ipv4();
                    far.iter().filter(same).map(move |other| (address, *other))
                };
                let assigned = addresses.iter().filter(|prefix| prefix.is_host());
                let mut pairs: Vec<_> =
                    assigned.flat_map(|prefix| near(prefix.address())).collect();
                if !self.own.is_empty() {
                    for pair in &mut pairs {
                        *pair = (pair.1, pair.0);
                    }
                }
                self.pairs.insert(*tunnel, pairs);
                self.has.insert(*tunnel, addresses.clone());
                self.tell_addresses(cx, *tunnel);
                if self.plan.is_some() && !self.started && !addresses.is_empty() {
                    self.started = true;
                    cx.wake(self.plan_begins.saturating_sub(cx.now), ROUND);
                }
            }
            Event::HandedOver { from, to, .. } => {
                if let Some(pairs) = self.pairs.remove(from) {
                    self.pairs.insert(*to, pairs);
                }
                if let Some(has) = self.has.remove(from) {
                    self.has.insert(*to, has);
                    self.tell_addresses(cx, *to);
                }
            }
            Event::TunnelDown { tunnel, .. } => {
                self.pairs.remove(tunnel);
                self.has.remove(tunnel);
                self.tell_addresses(cx, *tunnel);
            }
            Event::ConnectionClosed { .. } => {
                if let Some((delay, target)) = &self.reconnect {
                    cx.connect(*delay, target.clone());
                }
            }
            _ => {}
        }
    }

    fn on_packet(&mut self, cx: &mut HostCx<'_>, port: PortId, bytes: &[u8]) {
        for (app, token) in self.apps.iter_mut().zip(FIRST_APP..) {
            if app.on_packet(&mut AppCx { cx, token }, bytes) {
                return;
            }
        }
        if let Some(answer) = packet::reply_to(bytes) {
            self.answered += 1;
            cx.send(port, answer);
            return;
        }
        let known = Packet::parse(bytes).is_some_and(|packet| self.take_reply(cx.now, &packet));
        if !known {
            self.others.push(bytes.to_vec());
        }
    }

    fn on_wake(&mut self, cx: &mut HostCx<'_>, token: u64) {
        let nth = token.checked_sub(FIRST_APP);
        let nth = nth.and_then(|nth| usize::try_from(nth).ok());
        if let Some(nth) = nth {
            if let Some(app) = self.apps.get_mut(nth) {
                app.on_wake(&mut AppCx { cx, token });
            }
            return;
        }
        let Some(plan) = self.plan.clone() else {
            return;
        };
        if self.rounds_done < plan.rounds {
            self.round(cx);
            cx.wake(plan.interval, ROUND);
        } else if let Some(linger) = plan.then_shut_down {
            let grace = Duration::from_secs(1);
            cx.command(linger, Command::Shutdown { grace });
        }
    }
}
