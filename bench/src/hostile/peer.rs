//! The clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use masque_core::endpoint::{
    Access, ClientConfig, Config, CongestionControl, Endpoint, Entropy, Event, Identity, Limits,
    PortConfig, PortId, RecvMeta, ServerConfig, SocketId, Target, TransportProfile, TunBatch,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::offload::VnetHdr;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use masque_testkit::crypto::null::{NullClient, NullServer};
use masque_testkit::crypto::{Authority, real};
use masque_testkit::world::WALL;

use super::kernel::Later;
use crate::pipeline::{PipelineError, Traffic, Workload};

pub(super) const SERVER: &str = "vpn.example";
const TEMPLATE: &str = "https://vpn.example/.well-known/masque/ip/{target}/{ipproto}/";
/// A host behind the server.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The inner MTU.
pub(super) const MTU: usize = 1380;
/// Echoes are so far apart.
const ECHOES: Duration = Duration::from_millis(1);
/// What a greedy client keeps queued.
const GREED: usize = 1536 << 10;
const MAX_SEGMENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);

pub(super) fn server_address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 443))
}

/// What a client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Sends as much as congestion control lets it.
    Greedy,
    /// Receives.
    Sink,
    /// Sends a small packet every millisecond.
    Echo,
    /// Sends so many bits per second into its tunnel.
    Flooding(u64),
    /// Nothing.
    Idle,
    /// The same, and comes late.
    Newcomer,
    /// Connects, and then comes back as another.
    Again,
}

pub(super) enum Crypto {
    Null,
    Real,
}

/// Certificates and configurations.
pub(super) struct Keys {
    authority: Option<Authority>,
    template: UriTemplate,
    /// One certificate for all that only come and go.
    passer_by: Arc<dyn quinn_proto::crypto::ClientConfig>,
}

impl Keys {
    pub(super) fn new(crypto: Crypto) -> Result<Self, PipelineError> {
        let authority = match crypto {
            Crypto::Null => None,
            Crypto::Real => Some(real::authority().map_err(PipelineError::tls)?),
        };
        let mut keys = Self {
            authority,
            template: UriTemplate::parse(TEMPLATE).map_err(PipelineError::set_up)?,
            passer_by: NullClient::named("urn:masque:passer-by"),
        };
        keys.passer_by = keys.client("urn:masque:passer-by")?;
        Ok(keys)
    }

    pub(super) fn client(
        &self,
        name: &str,
    ) -> Result<Arc<dyn quinn_proto::crypto::ClientConfig>, PipelineError> {
        Ok(match &self.authority {
            None => NullClient::named(name),
            Some(authority) => authority
                .client(Some(&Identity(name.to_owned())))
                .map_err(PipelineError::tls)?,
        })
    }

    pub(super) fn server(&self, now: Instant) -> Result<Endpoint, PipelineError> {
        self.server_with(now, |_| {})
    }

    pub(super) fn server_with(
        &self,
        now: Instant,
        limit: impl FnOnce(&mut Limits),
    ) -> Result<Endpoint, PipelineError> {
        let crypto: Arc<dyn quinn_proto::crypto::ServerConfig> = match &self.authority {
            None => NullServer::named(SERVER),
            Some(authority) => authority.server(SERVER).map_err(PipelineError::tls)?,
        };
        let gateway = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1));
        let server = ServerConfig {
            crypto,
            secret: [7; 32],
            require_identity: true,
            port: PortId(0),
            pools: vec!["10.7.0.0/16".parse().map_err(PipelineError::set_up)?],
            gateways: vec![gateway],
            statics: Vec::new(),
            leases: Vec::new(),
            routes: Vec::new(),
            access: Access {
                client_to_client: false,
                gateway: false,
                deny: Vec::new(),
            },
        };
        let templates = vec![self.template.clone()];
        let mut config = config(Some(server), templates, CongestionControl::Cubic);
        limit(&mut config.limits);
        endpoint(config, [1; 32], now)
    }
}

fn config(
    server: Option<ServerConfig>,
    templates: Vec<UriTemplate>,
    congestion: CongestionControl,
) -> Config {
    Config {
        shard: None,
        server,
        transport: TransportProfile {
            congestion,
            ..TransportProfile::default()
        },
        limits: Limits {
            // Who comes and goes here has one name, so that there are few certificates to make.
            connections_per_identity: 20_000,
            ..Limits::default()
        },
        session: SessionConfig {
            templates,
            ..SessionConfig::default()
        },
        ports: vec![PortConfig {
            id: PortId(0),
            tcp_offload: true,
            udp_offload: true,
            addresses: Vec::new(),
            mtu: 1500,
        }],
    }
}

fn endpoint(config: Config, seed: [u8; 32], now: Instant) -> Result<Endpoint, PipelineError> {
    let wall = SystemTime::UNIX_EPOCH + WALL;
    Endpoint::new(now, wall, config, Entropy::from_seed(seed)).map_err(PipelineError::set_up)
}

/// One client.
pub(super) struct Peer {
    pub(super) endpoint: Endpoint,
    pub(super) address: SocketAddr,
    pub(super) role: Role,
    /// Its address in the tunnel.
    pub(super) inner: Option<Ipv4Addr>,
    /// What is on its way to it.
    pub(super) inbox: Later<(usize, Vec<u8>)>,
    batch: TunBatch,
    deadline: Option<Instant>,
    /// When it does something of its own accord.
    wakes: Option<Instant>,
    traffic: Option<Traffic>,
    wide: bool,
    over: bool,
    number: u32,
    sent_echoes: Vec<u32>,
    echoes: Vec<u32>,
    arrived: Vec<Vec<u8>>,
}

impl Peer {
    pub(super) fn new(
        keys: &Keys,
        nth: usize,
        address: SocketAddr,
        role: Role,
        congestion: CongestionControl,
        now: Instant,
    ) -> Result<Self, PipelineError> {
        let mut seed = [2; 32];
        if let SocketAddr::V4(v4) = address {
            seed[..4].copy_from_slice(&v4.ip().octets());
            seed[4..6].copy_from_slice(&v4.port().to_be_bytes());
        }
        let mut endpoint = endpoint(config(None, Vec::new(), congestion), seed, now)?;
        let crypto = match role {
            Role::Again => keys.passer_by.clone(),
            _ => keys.client(&format!("urn:masque:{nth}"))?,
        };
        endpoint
            .connect(now, target(keys, crypto))
            .map_err(PipelineError::set_up)?;
        Ok(Self {
            endpoint,
            address,
            role,
            inner: None,
            inbox: Later::default(),
            batch: TunBatch::default(),
            deadline: Some(now),
            wakes: None,
            traffic: None,
            wide: false,
            over: false,
            number: 0,
            sent_echoes: Vec::new(),
            echoes: Vec::new(),
            arrived: Vec::new(),
        })
    }

    /// The first datagram of a client nobody hears of again.
    pub(super) fn first_packet(
        keys: &Keys,
        nth: u32,
        now: Instant,
    ) -> Result<Vec<u8>, PipelineError> {
        let mut seed = [3; 32];
        seed[..4].copy_from_slice(&nth.to_be_bytes());
        let mut endpoint = endpoint(
            config(None, Vec::new(), CongestionControl::Cubic),
            seed,
            now,
        )?;
        endpoint
            .connect(now, target(keys, keys.passer_by.clone()))
            .map_err(PipelineError::set_up)?;
        let mut packet = Vec::new();
        let _ = endpoint.poll_transmit(now, NonZeroUsize::MIN, &mut packet);
        Ok(packet)
    }

    /// When it has something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.inbox.next(), self.deadline, self.wakes]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether it has had what it came for.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Another address in another network.
    pub(super) fn elsewhere(&self) -> SocketAddr {
        match self.address {
            SocketAddr::V4(v4) => {
                let next = u32::from(*v4.ip()).wrapping_add(0x0001_0100);
                let first = 11 + (next >> 24) % 90;
                let ip = Ipv4Addr::from((next & 0x00ff_ffff) | first << 24);
                SocketAddr::from((ip, v4.port().wrapping_add(1).max(1024)))
            }
            SocketAddr::V6(_) => self.address,
        }
    }

    /// Takes in what has come, does what is due.
    pub(super) fn run(&mut self, now: Instant) {
        while let Some((_, (stride, data))) = self.inbox.take(now) {
            let meta = RecvMeta {
                socket: SocketId(0),
                remote: server_address(),
                local_ip: None,
                ecn: None,
                stride,
            };
            self.endpoint
                .handle_udp(now, meta, BytesMut::from(&data[..]));
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.endpoint.handle_timeout(now);
        }
        while let Some(event) = self.endpoint.poll_event() {
            self.on_event(&event, now);
        }
        self.work(now);
        while self.endpoint.poll_tun(&mut self.batch) {
            for frame in &self.batch.frames {
                match self.role {
                    Role::Echo => self.echoes.extend(number_of(frame.packet())),
                    Role::Sink => self.arrived.push(frame.packet().to_vec()),
                    _ => {}
                }
            }
        }
    }

    /// The next datagrams.
    pub(super) fn transmit(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        let mut buffer = Vec::new();
        let sent = self.endpoint.poll_transmit(now, MAX_SEGMENTS, &mut buffer);
        let Some(sent) = sent else {
            self.deadline = self.endpoint.poll_timeout().map(|deadline| deadline.at);
            return None;
        };
        buffer.truncate(sent.size);
        Some((sent.segment_size.unwrap_or(sent.size), buffer))
    }

    pub(super) fn take_sent_echoes(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.sent_echoes)
    }

    pub(super) fn take_echoes(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.echoes)
    }

    pub(super) fn take_arrived(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.arrived)
    }

    fn on_event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Addresses { addresses, .. } => {
                self.inner = addresses.iter().find_map(|prefix| match prefix.address() {
                    IpAddr::V4(v4) => Some(v4),
                    IpAddr::V6(_) => None,
                });
                self.over = self.role == Role::Again;
                self.wakes = Some(now);
            }
            Event::Mtu { mtu, .. } => self.wide = *mtu as usize >= MTU,
            Event::ConnectionClosed { .. } => self.over = self.role == Role::Again,
            _ => {}
        }
    }

    fn work(&mut self, now: Instant) {
        let (Some(inner), Some(wakes)) = (self.inner, self.wakes) else {
            return;
        };
        let due = wakes <= now;
        let port = PortId(0);
        match self.role {
            Role::Greedy if self.wide => {
                let workload = Workload::Tcp { segments: 20 };
                let traffic = self
                    .traffic
                    .get_or_insert_with(|| Traffic::new(workload, MTU, inner, HOST));
                while self.endpoint.usage().queued_bytes < GREED {
                    let (header, packet) = traffic.next_packet();
                    let _ = self.endpoint.handle_tun(now, port, header, packet);
                }
                self.wakes = Some(now + Duration::from_millis(1));
            }
            Role::Echo if due => {
                self.number += 1;
                let packet = udp(inner, HOST, &self.number.to_be_bytes());
                let _ = self
                    .endpoint
                    .handle_tun(now, port, VnetHdr::default(), &packet);
                self.sent_echoes.push(self.number);
                self.wakes = Some(wakes.max(now - ECHOES) + ECHOES);
            }
            Role::Flooding(rate) if due && self.wide => {
                let packet = udp(inner, HOST, &[0x5a; MTU - 28]);
                let each = Duration::from_nanos(MTU as u64 * 8_000_000_000 / rate);
                let mut next = wakes.max(now.checked_sub(Duration::from_millis(2)).unwrap_or(now));
                while next <= now {
                    let _ = self
                        .endpoint
                        .handle_tun(now, port, VnetHdr::default(), &packet);
                    next += each;
                }
                self.wakes = Some(next);
            }
            _ if due => self.wakes = Some(now + Duration::from_millis(1)),
            _ => {}
        }
    }
}

fn target(keys: &Keys, crypto: Arc<dyn quinn_proto::crypto::ClientConfig>) -> Target {
    Target {
        config: ClientConfig {
            crypto,
            template: keys.template.clone(),
            port: PortId(0),
        },
        remote: server_address(),
        server_name: SERVER.to_owned(),
        socket: SocketId(0),
        scope: Scope::default(),
        fields: FieldList::default(),
    }
}

/// An IPv4 packet with UDP without a checksum.
pub(super) fn udp(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = 28 + payload.len();
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet[20..24].copy_from_slice(&[0x1b, 0x58, 0x1b, 0x58]);
    packet[24..26].copy_from_slice(&((length - 20) as u16).to_be_bytes());
    let mut sum: u32 = packet[..20]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// The same packet on its way back: the checksum stays right, as addresses only change places.
pub(super) fn answer(packet: &[u8]) -> Vec<u8> {
    let mut back = packet.to_vec();
    if let (Some(source), Some(destination)) = (packet.get(12..16), packet.get(16..20)) {
        back[12..16].copy_from_slice(destination);
        back[16..20].copy_from_slice(source);
    }
    back
}

fn number_of(packet: &[u8]) -> Option<u32> {
    packet
        .get(28..)?
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
}
