//! Two bare quinn-proto connections that send each other DATAGRAM frames.

use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use masque_core::endpoint::TransportProfile;
use quinn_proto::congestion::CubicConfig;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, IdleTimeout,
    MtuDiscoveryConfig, TransportConfig, VarInt,
};

use super::tls::{Keys, SERVER};
use super::traffic::Traffic;
use super::{Datagrams, Delivered, End, Ends, PipelineError, Settings, addresses};

/// Quarter stream ID and context ID stand before each packet in a tunnel.
const DATAGRAM_HEADER: usize = 2;

/// A client and a server.
pub(super) struct Bare {
    sender: Peer,
    receiver: Peer,
    payload: Bytes,
    packet_length: usize,
    /// Datagrams each offer stands for.
    segments: u32,
}

struct Peer {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    /// Where what it receives comes from.
    peer: std::net::SocketAddr,
    scratch: Vec<u8>,
    deadline: Option<Instant>,
}

impl Peer {
    /// Exchanges events with the endpoint.
    fn exchange(&mut self) {
        if let Some((handle, connection)) = &mut self.connection {
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(answer);
                }
            }
        }
    }
}

impl Bare {
    pub(super) fn new(settings: &Settings, now: Instant) -> Result<Self, PipelineError> {
        let keys = Keys::new(settings.cipher, "urn:masque:bench")?;
        let (client_at, server_at) = addresses();
        let transport = Arc::new(transport(&TransportProfile::default())?);
        let peer = |server, seed, peer| {
            let mut config = EndpointConfig::default();
            config.rng_seed(Some([seed; 32]));
            Peer {
                endpoint: Endpoint::new(Arc::new(config), server, true, None),
                connection: None,
                peer,
                scratch: Vec::new(),
                deadline: None,
            }
        };
        let mut server = quinn_proto::ServerConfig::with_crypto(keys.server);
        server.transport_config(Arc::clone(&transport));
        let server = peer(Some(Arc::new(server)), 1, client_at);
        let mut client = peer(None, 2, server_at);
        let mut config = quinn_proto::ClientConfig::new(keys.client);
        config.transport_config(transport);
        client.connection = Some(
            client
                .endpoint
                .connect(now, config, server_at, SERVER)
                .map_err(PipelineError::set_up)?,
        );
        let nobody = Ipv4Addr::UNSPECIFIED;
        let traffic = Traffic::new(settings.workload, settings.mtu, nobody, nobody);
        let packet_length = traffic.segment_length();
        let (sender, receiver) = match settings.down {
            false => (client, server),
            true => (server, client),
        };
        Ok(Self {
            sender,
            receiver,
            payload: Bytes::from(vec![0x45; packet_length + DATAGRAM_HEADER]),
            packet_length,
            segments: traffic.segments(),
        })
    }

    fn peer(&mut self, end: End) -> &mut Peer {
        match end {
            End::Sender => &mut self.sender,
            End::Receiver => &mut self.receiver,
        }
    }
}

impl Ends for Bare {
    fn offer(&mut self, _: Instant) -> u32 {
        let Some((_, connection)) = &mut self.sender.connection else {
            return 0;
        };
        let mut queued = 0;
        for _ in 0..self.segments {
            let sent = connection.datagrams().send(self.payload.clone(), false);
            queued += u32::from(sent.is_ok());
        }
        queued
    }

    fn packet_length(&self) -> usize {
        self.packet_length
    }

    fn receive(&mut self, end: End, now: Instant, stride: usize, mut data: BytesMut) {
        let peer = self.peer(end);
        while !data.is_empty() {
            let datagram = data.split_to(stride.min(data.len()));
            peer.scratch.clear();
            let event =
                peer.endpoint
                    .handle(now, peer.peer, None, None, datagram, &mut peer.scratch);
            match event {
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some((_, connection)) = &mut peer.connection {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    peer.connection = peer
                        .endpoint
                        .accept(incoming, now, &mut peer.scratch, None)
                        .ok();
                }
                Some(DatagramEvent::Response(_)) | None => {}
            }
        }
    }

    fn transmit(
        &mut self,
        end: End,
        now: Instant,
        max_segments: NonZeroUsize,
        buffer: &mut Vec<u8>,
    ) -> Option<Datagrams> {
        let (_, connection) = self.peer(end).connection.as_mut()?;
        let fits = super::MAX_UDP / usize::from(connection.current_mtu());
        let transmit =
            connection.poll_transmit(now, max_segments.get().min(fits).max(1), buffer)?;
        Some(Datagrams {
            size: transmit.size,
            stride: transmit.segment_size.unwrap_or(transmit.size),
        })
    }

    fn settle(&mut self, end: End, now: Instant) -> Delivered {
        let peer = self.peer(end);
        let mut delivered = Delivered::default();
        if let Some((_, connection)) = &mut peer.connection {
            if peer.deadline.is_some_and(|deadline| deadline <= now) {
                connection.handle_timeout(now);
            }
            while connection.poll().is_some() {}
            while let Some(datagram) = connection.datagrams().recv() {
                std::hint::black_box(&datagram);
                delivered.packets += 1;
            }
        }
        peer.exchange();
        peer.deadline = peer
            .connection
            .as_mut()
            .and_then(|(_, connection)| connection.poll_timeout());
        delivered
    }

    fn ready(&self) -> bool {
        let wanted = self.payload.len() + 16;
        let connection = self.sender.connection.as_ref();
        connection.is_some_and(|(_, connection)| {
            !connection.is_handshaking() && usize::from(connection.current_mtu()) > wanted + 32
        })
    }

    fn lost(&self) -> u64 {
        [&self.sender, &self.receiver]
            .into_iter()
            .filter_map(|peer| peer.connection.as_ref())
            .map(|(_, connection)| connection.stats().path.lost_packets)
            .sum()
    }
}

/// What masque-core sets up of the same profile.
fn transport(profile: &TransportProfile) -> Result<TransportConfig, PipelineError> {
    let idle = IdleTimeout::try_from(profile.idle_timeout).map_err(PipelineError::set_up)?;
    let mut discovery = MtuDiscoveryConfig::default();
    discovery
        .upper_bound(profile.max_mtu)
        .interval(Duration::from_secs(600));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(32))
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(profile.keep_alive)
        .stream_receive_window(VarInt::from_u32(profile.stream_receive_window))
        .receive_window(VarInt::from_u32(profile.stream_receive_window * 4))
        .send_window(profile.send_window)
        .initial_rtt(profile.initial_rtt)
        .initial_mtu(profile.initial_mtu)
        .min_mtu(1200)
        .crypto_buffer_size(16 << 10)
        .allow_spin(false)
        .datagram_receive_buffer_size(Some(profile.datagram_receive_buffer))
        .datagram_send_buffer_size(profile.datagram_send_buffer)
        .enable_segmentation_offload(true)
        .mtu_discovery_config(Some(discovery))
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    Ok(config)
}
