//! The hosts at both ends: bulk flows and voice, through the tunnel and beside it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{Event, PortId};

use super::control::ControlKind;
use super::flow::{Ack, Receiver, Segment, Sender};
use crate::packet::{self, Packet};
use crate::scenario::INNER_V4;
use crate::world::{Host, HostCx, NodeId};

/// Between two packets of voice.
pub const VOICE_EVERY: Duration = Duration::from_millis(20);
/// The UDP payload of one.
const VOICE_BYTES: usize = 160;
/// What TCP and IP take of a packet, timestamps included.
const HEADERS: usize = 52;

const DATA: u8 = 1;
const ACK: u8 = 2;
const VOICE: u8 = 3;

/// Which end a host is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Behind the client.
    Client,
    /// Behind the server.
    Server,
}

/// How a packet travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Through the tunnel.
    Tunnel,
    /// Beside it, over the same link.
    Outside,
}

/// A bulk flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BulkPlan {
    /// How it travels.
    pub way: Way,
    /// Who sends.
    pub from: End,
    /// Its control.
    pub control: ControlKind,
    /// The size of its packets with IP header.
    pub size: usize,
    /// When it begins.
    pub begin: Duration,
}

/// Voice both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VoicePlan {
    /// How it travels.
    pub way: Way,
    /// When it begins.
    pub begin: Duration,
    /// When it ends.
    pub end: Duration,
}

struct Bulk {
    plan: BulkPlan,
    sender: Option<Sender>,
    receiver: Receiver,
    bytes: u64,
}

/// What a host has heard of the other's voice.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Packets sent by this host.
    pub sent: u64,
    /// One-way delays of what arrived, with the time of sending.
    pub delays: Vec<(Duration, Duration)>,
}

/// The hosts behind one endpoint.
pub struct TrafficHost {
    end: End,
    peer: NodeId,
    address: Option<IpAddr>,
    flows: Vec<Bulk>,
    voice: Option<VoicePlan>,
    next_voice: Duration,
    heard: Heard,
    armed: Option<Duration>,
}

impl TrafficHost {
    /// Hosts at this end, of the node whose only link leads to `peer`.
    #[must_use]
    pub fn new(end: End, peer: NodeId) -> Self {
        Self {
            end,
            peer,
            address: None,
            flows: Vec::new(),
            voice: None,
            next_voice: Duration::MAX,
            heard: Heard::default(),
            armed: None,
        }
    }

    /// Whether the tunnel has an address.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.address.is_some()
    }

    /// Sets what is to happen. The node must be woken afterwards, with any token. Both ends get the
    /// same plans.
    pub fn plan(&mut self, flows: &[BulkPlan], voice: Option<VoicePlan>) {
        self.flows = flows
            .iter()
            .map(|plan| Bulk {
                plan: *plan,
                sender: None,
                receiver: Receiver::default(),
                bytes: 0,
            })
            .collect();
        self.voice = voice;
        let phase = match self.end {
            End::Client => Duration::ZERO,
            End::Server => VOICE_EVERY / 2,
        };
        self.next_voice = voice.map_or(Duration::MAX, |voice| voice.begin + phase);
    }

    /// Bytes of a flow that have arrived here, each once, headers not counted.
    #[must_use]
    pub fn delivered(&self, flow: usize) -> u64 {
        self.flows[flow].bytes
    }

    /// The voice heard and sent here.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// The window of a flow's sender in packets, and what it sent again.
    #[must_use]
    pub fn sender(&self, flow: usize) -> Option<(f64, u64)> {
        let sender = self.flows[flow].sender.as_ref()?;
        Some((sender.window(), sender.retransmitted()))
    }

    /// The smoothed round trip of a flow that is sent from here.
    #[must_use]
    pub fn round_trip(&self, flow: usize) -> Option<Duration> {
        self.flows[flow].sender.as_ref()?.round_trip()
    }

    fn send(&self, cx: &mut HostCx<'_>, way: Way, port: u16, payload: &[u8]) {
        let client = self.address.filter(|_| way == Way::Tunnel);
        let client = SocketAddr::new(
            client.unwrap_or(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 100))),
            port,
        );
        let server = SocketAddr::new(INNER_V4, port);
        let packet = match self.end {
            End::Client => packet::udp(client, server, payload),
            End::Server => packet::udp(server, client, payload),
        };
        match way {
            Way::Tunnel => cx.send(PortId(0), packet),
            Way::Outside => cx.send_outside(self.peer, packet),
        }
    }

    fn send_segment(&self, cx: &mut HostCx<'_>, flow: usize, segment: Segment) {
        let plan = self.flows[flow].plan;
        let mut payload = vec![0; plan.size - 28];
        payload[0] = DATA;
        for (index, value) in [segment.number, segment.transmission, nanos(segment.at)]
            .into_iter()
            .enumerate()
        {
            payload[1 + index * 8..9 + index * 8].copy_from_slice(&value.to_be_bytes());
        }
        self.send(cx, plan.way, port(flow), &payload);
    }

    fn send_ack(&self, cx: &mut HostCx<'_>, flow: usize, ack: &Ack) {
        let mut payload = vec![ACK];
        for value in [ack.next, ack.transmission, nanos(ack.at), ack.duplicates] {
            payload.extend(value.to_be_bytes());
        }
        payload.push(u8::from(ack.marked));
        for (first, end) in &ack.blocks {
            // Relative, to be as small as TCP's.
            let first = u32::try_from(first - ack.next).unwrap_or(u32::MAX);
            let end = u32::try_from(end - ack.next).unwrap_or(u32::MAX);
            payload.extend(first.to_be_bytes());
            payload.extend(end.to_be_bytes());
        }
        self.send(cx, self.flows[flow].plan.way, port(flow), &payload);
    }

    fn pump(&mut self, cx: &mut HostCx<'_>, flow: usize) {
        let now = cx.now;
        while let Some(segment) = self.flows[flow]
            .sender
            .as_mut()
            .and_then(|sender| sender.poll(now))
        {
            self.send_segment(cx, flow, segment);
        }
        if let Some(at) = self.deadline(flow, now) {
            self.arm(cx, at);
        }
    }

    fn deadline(&self, flow: usize, now: Duration) -> Option<Duration> {
        let flow = &self.flows[flow];
        let begins =
            (flow.plan.from == self.end && flow.sender.is_none()).then_some(flow.plan.begin);
        let sends = flow.sender.as_ref().and_then(|sender| sender.deadline(now));
        [begins, sends, flow.receiver.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn arm(&mut self, cx: &mut HostCx<'_>, at: Duration) {
        if self.armed.is_none_or(|armed| at < armed) {
            self.armed = Some(at);
            cx.wake(at.saturating_sub(cx.now), 0);
        }
    }

    fn take(&mut self, cx: &mut HostCx<'_>, packet: &[u8]) {
        let marked = packet.get(1).is_some_and(|byte| byte & 3 == 3);
        let Some(parsed) = Packet::parse(packet) else {
            return;
        };
        let Some((_, port, payload)) = packet::udp_of(&parsed) else {
            self.take_icmp(&parsed);
            return;
        };
        let value = |index: usize| {
            let bytes = payload.get(1 + index * 8..9 + index * 8);
            bytes
                .and_then(|bytes| bytes.try_into().ok())
                .map(u64::from_be_bytes)
        };
        let flow = usize::from(port.saturating_sub(FIRST_PORT));
        match payload.first() {
            Some(&VOICE) => {
                if let Some(at) = value(0) {
                    let at = Duration::from_nanos(at);
                    self.heard.delays.push((at, cx.now - at));
                }
            }
            Some(&DATA) if flow < self.flows.len() => {
                let (Some(number), Some(transmission), Some(at)) = (value(0), value(1), value(2))
                else {
                    return;
                };
                let segment = Segment {
                    number,
                    transmission,
                    at: Duration::from_nanos(at),
                };
                let bulk = &mut self.flows[flow];
                let before = bulk.receiver.arrived();
                let ack = bulk.receiver.on_segment(cx.now, segment, marked);
                if bulk.receiver.arrived() > before {
                    bulk.bytes += packet.len().saturating_sub(HEADERS) as u64;
                }
                if let Some(ack) = ack {
                    self.send_ack(cx, flow, &ack);
                }
                self.pump(cx, flow);
            }
            Some(&ACK) if flow < self.flows.len() => {
                let (Some(next), Some(transmission), Some(at), Some(duplicates)) =
                    (value(0), value(1), value(2), value(3))
                else {
                    return;
                };
                let blocks = payload.get(34..).unwrap_or_default().chunks_exact(8);
                let blocks = blocks.map(|block| {
                    let half = |at: usize| {
                        u64::from(u32::from_be_bytes([
                            block[at],
                            block[at + 1],
                            block[at + 2],
                            block[at + 3],
                        ]))
                    };
                    (next + half(0), next + half(4))
                });
                let ack = Ack {
                    next,
                    transmission,
                    at: Duration::from_nanos(at),
                    duplicates,
                    marked: payload.get(33) == Some(&1),
                    blocks: blocks.collect(),
                };
                if let Some(sender) = &mut self.flows[flow].sender {
                    sender.on_ack(cx.now, &ack);
                }
                self.pump(cx, flow);
            }
            _ => {}
        }
    }

    /// Fragmentation Needed (RFC 792, RFC 1191): smaller packets from now on.
    fn take_icmp(&mut self, packet: &Packet<'_>) {
        if packet.protocol == 1
            && let [3, 4, _, _, _, _, high, low, ..] = packet.payload
        {
            let mtu = usize::from(u16::from_be_bytes([*high, *low]));
            for flow in &mut self.flows {
                if flow.plan.way == Way::Tunnel && mtu > 200 {
                    flow.plan.size = flow.plan.size.min(mtu);
                }
            }
        }
    }

    fn speak(&mut self, cx: &mut HostCx<'_>) {
        while let Some(voice) = self.voice
            && self.next_voice <= cx.now
        {
            if cx.now >= voice.end {
                self.next_voice = Duration::MAX;
                return;
            }
            let mut payload = vec![0; VOICE_BYTES];
            payload[0] = VOICE;
            payload[1..9].copy_from_slice(&nanos(cx.now).to_be_bytes());
            self.heard.sent += 1;
            self.send(cx, voice.way, VOICE_PORT, &payload);
            self.next_voice += VOICE_EVERY;
        }
    }
}

const FIRST_PORT: u16 = 10_000;
const VOICE_PORT: u16 = 9_000;

fn port(flow: usize) -> u16 {
    FIRST_PORT + u16::try_from(flow).unwrap_or(u16::MAX - FIRST_PORT)
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl Host for TrafficHost {
    fn on_event(&mut self, _: &mut HostCx<'_>, event: &Event) {
        if let Event::Addresses { addresses, .. } = event {
            let v4 = addresses.iter().find(|prefix| prefix.address().is_ipv4());
            self.address = v4.map(|prefix| prefix.address());
        }
    }

    fn on_packet(&mut self, cx: &mut HostCx<'_>, _: PortId, packet: &[u8]) {
        self.take(cx, packet);
    }

    fn on_outside(&mut self, cx: &mut HostCx<'_>, _: NodeId, packet: &[u8]) {
        self.take(cx, packet);
    }

    fn on_wake(&mut self, cx: &mut HostCx<'_>, _: u64) {
        let now = cx.now;
        if self.armed.is_some_and(|at| at <= now) {
            self.armed = None;
        }
        self.speak(cx);
        for flow in 0..self.flows.len() {
            let bulk = &mut self.flows[flow];
            if bulk.plan.from == self.end && bulk.sender.is_none() && bulk.plan.begin <= now {
                bulk.sender = Some(Sender::new(bulk.plan.control, now));
            }
            if let Some(ack) = bulk.receiver.on_timer(now) {
                self.send_ack(cx, flow, &ack);
            }
            let probe = self.flows[flow]
                .sender
                .as_mut()
                .and_then(|sender| sender.on_timer(now));
            if let Some(segment) = probe {
                self.send_segment(cx, flow, segment);
            }
            self.pump(cx, flow);
        }
        if self.next_voice < Duration::MAX {
            self.arm(cx, self.next_voice);
        }
    }
}
