//! Two masque-core endpoints.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use bytes::BytesMut;
use masque_core::endpoint::{
    Access, ClientConfig, Config, Endpoint, Entropy, Event, Limits, PortConfig, PortId, RecvMeta,
    ServerConfig, SocketId, Target, TransportProfile, TunBatch,
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

impl Tunnel {
    pub(super) fn new(settings: &Settings, now: Instant) -> Result<Self, PipelineError> {
        let keys = Keys::new(settings.cipher)?;
        let template = UriTemplate::parse(TEMPLATE).map_err(PipelineError::set_up)?;
        let (client_at, server_at) = addresses();
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
        let server = ServerConfig {
            crypto: keys.server,
            secret: [7; 32],
            require_identity: true,
            port: PortId(0),
            pools,
            gateways: gateways.clone(),
            statics: Vec::new(),
            leases: Vec::new(),
            routes: Vec::new(),
            access: Access {
                client_to_client: false,
                gateway: false,
                deny: Vec::new(),
            },
        };
        let config = |server: Option<ServerConfig>, templates, addresses| Config {
            server,
            transport: TransportProfile::default(),
            limits: Limits::default(),
            session: SessionConfig {
                templates,
                ..SessionConfig::default()
            },
            shard: None,
            ports: vec![PortConfig {
                id: PortId(0),
                tcp_offload: settings.coalesce,
                udp_offload: settings.coalesce,
                addresses,
                mtu: 1500,
            }],
        };
        let node = |config, seed, peer| -> Result<Node, PipelineError> {
            let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
            let entropy = Entropy::from_seed([seed; 32]);
            Ok(Node {
                endpoint: Endpoint::new(now, wall, config, entropy)
                    .map_err(PipelineError::set_up)?,
                peer,
                batch: TunBatch::default(),
                deadline: None,
            })
        };
        let server_config = config(Some(server), vec![template.clone()], gateways);
        let server = node(server_config, 1, client_at)?;
        let mut client = node(config(None, Vec::new(), Vec::new()), 2, server_at)?;
        client
            .endpoint
            .connect(
                now,
                Target {
                    config: ClientConfig {
                        crypto: keys.client,
                        template,
                        port: PortId(0),
                    },
                    remote: server_at,
                    server_name: SERVER.to_owned(),
                    socket: SocketId(0),
                    scope: Scope::default(),
                    fields: FieldList::default(),
                },
            )
            .map_err(PipelineError::set_up)?;
        Ok(Self {
            client,
            server,
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
}

/// How many packets a frame stands for.
fn packets_in(header: VnetHdr, packet: &[u8]) -> u64 {
    let headers = usize::from(header.hdr_len);
    match usize::from(header.gso_size) {
        0 => 1,
        size => (packet.len().saturating_sub(headers)).div_ceil(size) as u64,
    }
}
