//! Two masque-core endpoints.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use masque_core::endpoint::{
    Access, ClientConfig, Config, Endpoint, Entropy, Event, Limits, PortConfig, PortId, RecvMeta,
    ServerConfig, Shared, SocketId, Target, TransportProfile, TunBatch, shard_of,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::offload::VnetHdr;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;

use super::tls::{Keys, SERVER};
use super::traffic::Traffic;
use super::{Datagrams, Delivered, End, Ends, PipelineError, Settings, addresses};

const TEMPLATE: &str = "https://vpn.example/.well-known/masque/ip/{target}/{ipproto}/";
/// A host behind the server.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A client and a server with one tunnel.
pub(super) struct Tunnel {
    client: Node,
    server: Node,
    settings: Settings,
    client_address: Option<Ipv4Addr>,
    traffic: Option<Traffic>,
    segment_length: usize,
}

struct Node {
    endpoint: Endpoint,
    /// Where what it receives comes from.
    peer: SocketAddr,
    batch: TunBatch,
    deadline: Option<Instant>,
}

impl Node {
    fn new(
        config: Config,
        now: Instant,
        seed: u64,
        peer: SocketAddr,
    ) -> Result<Self, PipelineError> {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let entropy = Entropy::from_seed(bytes);
        Ok(Self {
            endpoint: Endpoint::new(now, wall, config, entropy).map_err(PipelineError::set_up)?,
            peer,
            batch: TunBatch::default(),
            deadline: None,
        })
    }
}

impl Tunnel {
    pub(super) fn new(settings: &Settings, now: Instant) -> Result<Self, PipelineError> {
        let id = settings.shard.as_ref().map_or(0, |shard| shard.id.0);
        // Each shard's client has an identity, and with it an address, of its own.
        let keys = Keys::new(settings.cipher, &format!("urn:masque:bench-{id}"))?;
        let (client_at, server_at) = addresses();
        let target = Target {
            config: ClientConfig {
                crypto: keys.client.clone(),
                template: template()?,
                port: PortId(0),
            },
            remote: server_at,
            server_name: SERVER.to_owned(),
            socket: SocketId(0),
            scope: Scope::default(),
            fields: FieldList::default(),
        };
        let mut server = server_config(settings, &keys)?;
        server.shard = settings.shard.clone();
        let seed = seed_of_client(settings, now, &target)?;
        let mut client = Node::new(client_config(settings), now, seed, server_at)?;
        client
            .endpoint
            .connect(now, target)
            .map_err(PipelineError::set_up)?;
        Ok(Self {
            client,
            server: Node::new(server, now, 1, client_at)?,
            settings: settings.clone(),
            client_address: None,
            traffic: None,
            segment_length: 0,
        })
    }

    fn node(&mut self, end: End) -> &mut Node {
        match (end, self.settings.down) {
            (End::Sender, false) | (End::Receiver, true) => &mut self.client,
            (End::Sender, true) | (End::Receiver, false) => &mut self.server,
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Addresses { addresses, .. } => {
                let v4 = addresses.iter().find_map(|prefix| match prefix.address() {
                    IpAddr::V4(v4) => Some(v4),
                    IpAddr::V6(_) => None,
                });
                self.client_address = v4.or(self.client_address);
            }
            Event::Mtu { mtu, .. } if *mtu as usize >= self.settings.mtu => {
                if let (Some(address), None) = (self.client_address, &self.traffic) {
                    let (from, to) = match self.settings.down {
                        false => (address, HOST),
                        true => (HOST, address),
                    };
                    let traffic = Traffic::new(self.settings.workload, self.settings.mtu, from, to);
                    self.segment_length = traffic.segment_length();
                    self.traffic = Some(traffic);
                }
            }
            _ => {}
        }
    }
}

impl Ends for Tunnel {
    fn offer(&mut self, now: Instant) -> u32 {
        let sender = match self.settings.down {
            false => &mut self.client,
            true => &mut self.server,
        };
        let Some(traffic) = &mut self.traffic else {
            return 0;
        };
        let (header, packet) = traffic.next_packet();
        sender
            .endpoint
            .handle_tun(now, PortId(0), header, packet)
            .queued
    }

    fn packet_length(&self) -> usize {
        self.segment_length
    }

    fn receive(&mut self, end: End, now: Instant, stride: usize, data: BytesMut) {
        let node = self.node(end);
        let meta = RecvMeta {
            socket: SocketId(0),
            remote: node.peer,
            local_ip: None,
            ecn: None,
            stride,
        };
        node.endpoint.handle_udp(now, meta, data);
    }

    fn transmit(
        &mut self,
        end: End,
        now: Instant,
        max_segments: NonZeroUsize,
        buffer: &mut Vec<u8>,
    ) -> Option<Datagrams> {
        let node = self.node(end);
        let transmit = node.endpoint.poll_transmit(now, max_segments, buffer)?;
        Some(Datagrams {
            size: transmit.size,
            stride: transmit.segment_size.unwrap_or(transmit.size),
        })
    }

    fn settle(&mut self, end: End, now: Instant) -> Delivered {
        let node = self.node(end);
        if node.deadline.is_some_and(|deadline| deadline <= now) {
            node.endpoint.handle_timeout(now);
        }
        let mut delivered = Delivered::default();
        while node.endpoint.poll_tun(&mut node.batch) {
            for frame in &node.batch.frames {
                delivered.frames += 1;
                delivered.packets += packets_in(frame.header(), frame.packet());
            }
        }
        // Nobody is there to take it; it is counted.
        while node.endpoint.poll_mail().is_some() {}
        while let Some(event) = self.node(end).endpoint.poll_event() {
            self.on_event(&event);
        }
        let node = self.node(end);
        node.deadline = node.endpoint.poll_timeout().map(|deadline| deadline.at);
        delivered
    }

    fn ready(&self) -> bool {
        self.traffic.is_some()
    }

    fn lost(&self) -> u64 {
        [&self.client, &self.server]
            .into_iter()
            .flat_map(|node| {
                let endpoint = &node.endpoint;
                endpoint
                    .connections()
                    .filter_map(|conn| endpoint.connection(conn))
            })
            .map(|info| info.lost_packets)
            .sum()
    }

    fn astray(&self) -> u64 {
        self.server.endpoint.counters().mail_sent
    }
}

fn template() -> Result<UriTemplate, PipelineError> {
    UriTemplate::parse(TEMPLATE).map_err(PipelineError::set_up)
}

fn client_config(settings: &Settings) -> Config {
    Config {
        server: None,
        transport: TransportProfile::default(),
        limits: Limits::default(),
        session: SessionConfig::default(),
        ports: vec![PortConfig {
            id: PortId(0),
            tcp_offload: settings.coalesce,
            udp_offload: settings.coalesce,
            addresses: Vec::new(),
            mtu: 1500,
        }],
        shard: None,
    }
}

fn server_config(settings: &Settings, keys: &Keys) -> Result<Config, PipelineError> {
    let pools = ["10.7.0.0/24", "fd00:7::/64"]
        .into_iter()
        .map(str::parse)
        .collect::<Result<Vec<_>, _>>()
        .map_err(PipelineError::set_up)?;
    let gateways: Vec<IpAddr> = ["10.7.0.1", "fd00:7::1"]
        .into_iter()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(PipelineError::set_up)?;
    let mut config = client_config(settings);
    config.session.templates = vec![template()?];
    config.ports[0].addresses.clone_from(&gateways);
    config.server = Some(ServerConfig {
        crypto: keys.server.clone(),
        secret: [7; 32],
        require_identity: true,
        port: PortId(0),
        pools,
        gateways,
        statics: Vec::new(),
        leases: Vec::new(),
        routes: Vec::new(),
        access: Access {
            client_to_client: false,
            gateway: false,
            deny: Vec::new(),
        },
    });
    Ok(config)
}

/// What the shards of a server have in common.
pub(super) fn shared(settings: &Settings, shards: NonZeroU16) -> Result<Shared, PipelineError> {
    let keys = Keys::new(settings.cipher, "urn:masque:nobody")?;
    Ok(Shared::new(&server_config(settings, &keys)?, shards))
}

/// A seed with which the client's first connection ID leads to the shard at hand: what the kernel
/// does by looking at it, the bench does by choosing it.
fn seed_of_client(
    settings: &Settings,
    now: Instant,
    target: &Target,
) -> Result<u64, PipelineError> {
    let first = 2;
    let Some(shard) = &settings.shard else {
        return Ok(first);
    };
    let leads_there = |seed: u64| -> Result<bool, PipelineError> {
        let mut node = Node::new(client_config(settings), now, seed, target.remote)?;
        let endpoint = &mut node.endpoint;
        endpoint
            .connect(now, target.clone())
            .map_err(PipelineError::set_up)?;
        let mut packet = Vec::new();
        let sent = endpoint.poll_transmit(now, NonZeroUsize::MIN, &mut packet);
        Ok(sent.is_some() && shard_of(&packet, shard.shared.shards()) == shard.id)
    };
    for seed in first..10_000 {
        if leads_there(seed)? {
            return Ok(seed);
        }
    }
    Err(PipelineError::SetUp("no client for this shard".to_owned()))
}

/// How many packets a frame stands for.
fn packets_in(header: VnetHdr, packet: &[u8]) -> u64 {
    let headers = usize::from(header.hdr_len);
    match usize::from(header.gso_size) {
        0 => 1,
        size => (packet.len().saturating_sub(headers)).div_ceil(size) as u64,
    }
}
