//! QUIC without manners: any bytes on any stream at any time. One connection, sans I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use masque_core::wire::varint::VarInt as Wire;
use quinn_proto::crypto;
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, ConnectionId, ConnectionIdGenerator,
    DatagramEvent, Dir, Endpoint, EndpointConfig, Event, IdleTimeout, ReadError, Side, StreamEvent,
    StreamId, TransportConfig, VarInt, WriteError,
};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

use super::hear::Ear;
pub use super::hear::Heard;
use super::script::Offer;
use crate::crypto::null::{NullHmac, NullTokenKey};
use crate::seed::Seed;

/// A datagram as large as any path takes.
const MTU: u16 = 1200;

/// What QUIC calls "no application": the largest code it can carry.
const MAX_CODE: VarInt = VarInt::MAX;

/// One end of one QUIC connection that says what it is told.
pub struct Peer {
    endpoint: Endpoint,
    conn: Option<(ConnectionHandle, Connection)>,
    replies: VecDeque<(SocketAddr, Vec<u8>)>,
    /// A server's place for whoever comes.
    open: bool,
    connected: bool,
    mute: bool,
    closed: bool,
    names: BTreeMap<String, StreamId>,
    accepted: u32,
    held: BTreeSet<StreamId>,
    hold_all: bool,
    ear: Ear,
    heard: Vec<Heard>,
    buffer: Vec<u8>,
}

/// Why nothing was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No stream of that name, and none can be opened.
    NoStream,
    /// The subject gives no credit.
    Blocked,
    /// The stream is stopped, finished or reset.
    Over,
}

impl Peer {
    /// A client that connects to `remote`.
    ///
    /// # Errors
    /// quinn-proto's words, if it refuses the address or the name.
    pub fn client(
        now: Instant,
        seed: &Seed,
        crypto: Arc<dyn crypto::ClientConfig>,
        offer: &Offer,
        remote: SocketAddr,
        name: &str,
    ) -> Result<Self, quinn_proto::ConnectError> {
        let mut peer = Self::bare(seed, None);
        let ids = Mutex::new(seed.rng("destination"));
        let mut config = quinn_proto::ClientConfig::new(crypto);
        config
            .transport_config(Arc::new(transport(offer)))
            .token_store(Arc::new(quinn_proto::NoneTokenStore))
            .initial_dst_cid_provider(Arc::new(move || random_id(&ids)));
        peer.conn = Some(peer.endpoint.connect(now, config, remote, name)?);
        Ok(peer)
    }

    /// A server that takes the first who comes.
    #[must_use]
    pub fn server(seed: &Seed, crypto: Arc<dyn crypto::ServerConfig>, offer: &Offer) -> Self {
        let key = NullTokenKey(seed.bytes("token"));
        let mut config = quinn_proto::ServerConfig::new(crypto, Arc::new(key));
        config.transport_config(Arc::new(transport(offer)));
        let mut peer = Self::bare(seed, Some(Arc::new(config)));
        peer.open = true;
        peer
    }

    fn bare(seed: &Seed, server: Option<Arc<quinn_proto::ServerConfig>>) -> Self {
        let mut config = EndpointConfig::new(Arc::new(NullHmac(seed.bytes("reset"))));
        let ids = Arc::new(Mutex::new(seed.rng("ids")));
        config
            .cid_generator(move || Box::new(Ids(ids.clone())))
            .rng_seed(Some(seed.bytes("quic")));
        Self {
            endpoint: Endpoint::new(Arc::new(config), server, true, None),
            conn: None,
            replies: VecDeque::new(),
            open: false,
            connected: false,
            mute: false,
            closed: false,
            names: BTreeMap::new(),
            accepted: 0,
            held: BTreeSet::new(),
            hold_all: false,
            ear: Ear::default(),
            heard: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// A UDP datagram arrives.
    pub fn handle_udp(&mut self, now: Instant, from: SocketAddr, to: Option<IpAddr>, data: &[u8]) {
        if self.mute {
            return;
        }
        self.buffer.clear();
        let data = BytesMut::from(data);
        let event = self
            .endpoint
            .handle(now, from, to, None, data, &mut self.buffer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((own, conn)) = &mut self.conn
                    && *own == handle
                {
                    conn.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.buffer.clear();
                if !self.open {
                    let transmit = self.endpoint.refuse(incoming, &mut self.buffer);
                    let bytes = self.buffer[..transmit.size].to_vec();
                    self.replies.push_back((transmit.destination, bytes));
                } else if let Ok(conn) = self.endpoint.accept(incoming, now, &mut self.buffer, None)
                {
                    self.open = false;
                    self.conn = Some(conn);
                }
            }
            Some(DatagramEvent::Response(transmit)) => {
                let bytes = self.buffer[..transmit.size].to_vec();
                self.replies.push_back((transmit.destination, bytes));
            }
            None => {}
        }
        self.digest();
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.mute {
            return;
        }
        if let Some((_, conn)) = &mut self.conn
            && conn.poll_timeout().is_some_and(|at| at <= now)
        {
            conn.handle_timeout(now);
        }
        self.digest();
    }

    /// QUIC's next deadline.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        if self.mute {
            return None;
        }
        self.conn.as_mut()?.1.poll_timeout()
    }

    /// The next UDP datagram to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        if self.mute {
            return None;
        }
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        self.buffer.clear();
        let (_, conn) = self.conn.as_mut()?;
        let transmit = conn.poll_transmit(now, 1, &mut self.buffer)?;
        Some((transmit.destination, self.buffer[..transmit.size].to_vec()))
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether somebody is at the other end, handshake done or not.
    #[must_use]
    pub fn has_subject(&self) -> bool {
        self.conn.is_some()
    }

    /// What was heard and not yet taken. Whoever matches something removes it.
    pub fn heard(&mut self) -> &mut Vec<Heard> {
        &mut self.heard
    }

    /// ACK frames received so far.
    #[must_use]
    pub fn acks(&self) -> u64 {
        self.conn
            .as_ref()
            .map_or(0, |(_, conn)| conn.stats().frame_rx.acks)
    }

    /// The smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.conn
            .as_ref()
            .map_or(Duration::ZERO, |(_, conn)| conn.rtt())
    }

    /// The stream of that name, opened if it is new; `None` while there is no such stream and none
    /// can be opened.
    pub fn stream(&mut self, name: &str) -> Option<u64> {
        Some(number(self.named(name)?))
    }

    fn named(&mut self, name: &str) -> Option<StreamId> {
        let theirs = match name {
            "their-control" => Some(0),
            "their-encoder" => Some(2),
            "their-decoder" => Some(3),
            _ => None,
        };
        if let Some(ty) = theirs {
            let id = self.ear.uni_of(ty)?;
            return Some(StreamId::from(VarInt::from_u64(id).ok()?));
        }
        if let Some(id) = self.names.get(name) {
            return Some(*id);
        }
        let (_, conn) = self.conn.as_mut()?;
        let request = name.starts_with("request");
        if request && conn.side() == Side::Server {
            // The subject opens it.
            return None;
        }
        let dir = if request { Dir::Bi } else { Dir::Uni };
        let id = conn.streams().open(dir)?;
        self.names.insert(name.to_owned(), id);
        Some(id)
    }

    /// Writes what the stream takes of `bytes`; says how many it took.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<usize, Refusal> {
        let id = self.named(name).ok_or(Refusal::NoStream)?;
        let (_, conn) = self.conn.as_mut().ok_or(Refusal::NoStream)?;
        match conn.send_stream(id).write(bytes) {
            Ok(taken) => Ok(taken),
            Err(WriteError::Blocked) => Err(Refusal::Blocked),
            Err(_) => Err(Refusal::Over),
        }
    }

    /// Ends our side of a stream.
    pub fn finish(&mut self, name: &str) {
        if let Some(id) = self.named(name)
            && let Some((_, conn)) = &mut self.conn
        {
            // It may be over.
            let _ = conn.send_stream(id).finish();
        }
    }

    /// Resets our side of a stream.
    pub fn reset(&mut self, name: &str, code: u64) {
        if let Some(id) = self.named(name)
            && let Some((_, conn)) = &mut self.conn
        {
            // It may be over.
            let _ = conn.send_stream(id).reset(varint(code));
        }
    }

    /// Asks the subject to stop sending on a stream.
    pub fn stop(&mut self, name: &str, code: u64) {
        if let Some(id) = self.named(name)
            && let Some((_, conn)) = &mut self.conn
        {
            // It may be over.
            let _ = conn.recv_stream(id).stop(varint(code));
        }
    }

    /// Sends a DATAGRAM frame. `false` if the subject takes none of that size.
    pub fn datagram(&mut self, bytes: Vec<u8>) -> bool {
        let conn = self.conn.as_mut();
        conn.is_some_and(|(_, conn)| conn.datagrams().send(Bytes::from(bytes), false).is_ok())
    }

    /// The quarter stream ID of a stream.
    pub fn quarter(&mut self, name: &str) -> Option<Vec<u8>> {
        let id = self.stream(name)?;
        let mut out = Vec::new();
        Wire::new(id / 4)?.encode(&mut out);
        Some(out)
    }

    /// Closes the connection.
    pub fn close(&mut self, now: Instant, code: u64) {
        if let Some((_, conn)) = &mut self.conn
            && !self.closed
        {
            self.closed = true;
            conn.close(now, varint(code), Bytes::new());
        }
    }

    /// Has the subject acknowledge something.
    pub fn ping(&mut self) {
        if let Some((_, conn)) = &mut self.conn {
            conn.ping();
        }
    }

    /// Reads a stream no more; `all` is every stream, and the datagrams.
    pub fn hold(&mut self, name: &str) {
        if name == "all" {
            self.hold_all = true;
        } else if let Some(id) = self.named(name) {
            self.held.insert(id);
        }
    }

    /// Sends nothing any more and hears nothing.
    pub fn mute(&mut self) {
        self.mute = true;
    }

    fn digest(&mut self) {
        loop {
            let Some((handle, conn)) = &mut self.conn else {
                return;
            };
            let handle = *handle;
            let mut moved = false;
            while let Some(event) = conn.poll_endpoint_events() {
                moved = true;
                if let Some(event) = self.endpoint.handle_event(handle, event) {
                    conn.handle_event(event);
                }
            }
            while let Some((_, conn)) = &mut self.conn
                && let Some(event) = conn.poll()
            {
                moved = true;
                self.take(event);
            }
            if !moved {
                return;
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::ConnectionLost { reason } => {
                let ours = self.closed && reason == ConnectionError::LocallyClosed;
                if !ours {
                    self.closed = true;
                    self.heard.push(closed(&reason));
                }
            }
            Event::Stream(StreamEvent::Opened { dir }) => {
                while let Some((_, conn)) = &mut self.conn
                    && let Some(id) = conn.streams().accept(dir)
                {
                    if dir == Dir::Bi {
                        self.accepted += 1;
                        let name = match self.accepted {
                            1 => "request".to_owned(),
                            nth => format!("request-{nth}"),
                        };
                        self.names.insert(name, id);
                    }
                    self.read(id);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) => self.read(id),
            Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                self.heard.push(Heard::Stopped {
                    stream: number(id),
                    code: error_code.into_inner(),
                });
            }
            Event::DatagramReceived => {
                while let Some((_, conn)) = &mut self.conn
                    && !self.hold_all
                    && let Some(bytes) = conn.datagrams().recv()
                {
                    let Some((quarter, length)) = Wire::decode(&bytes) else {
                        self.heard.push(Heard::Garbled("a datagram".to_owned()));
                        continue;
                    };
                    self.heard.push(Heard::Datagram {
                        stream: quarter.into_inner().saturating_mul(4),
                        payload: bytes[length..].to_vec(),
                    });
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, id: StreamId) {
        if self.hold_all || self.held.contains(&id) {
            return;
        }
        let Some((_, conn)) = &mut self.conn else {
            return;
        };
        let stream = number(id);
        let mut bytes = Vec::new();
        let mut end = None;
        let mut recv = conn.recv_stream(id);
        let Ok(mut chunks) = recv.read(true) else {
            return;
        };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    end = Some(Heard::Finished(stream));
                    break;
                }
                Err(ReadError::Reset(code)) => {
                    let code = code.into_inner();
                    end = Some(Heard::Reset { stream, code });
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        // What credit it frees goes out with the next packet.
        let _ = chunks.finalize();
        if id.dir() == Dir::Uni {
            self.ear.uni(stream, &bytes, &mut self.heard);
        } else {
            self.ear.request(stream, &bytes, &mut self.heard);
        }
        self.heard.extend(end);
    }
}

fn closed(reason: &ConnectionError) -> Heard {
    let code = match reason {
        ConnectionError::ApplicationClosed(close) => Some(close.error_code.into_inner()),
        _ => None,
    };
    let words = match reason {
        ConnectionError::ApplicationClosed(close) => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        other => other.to_string(),
    };
    Heard::Closed { code, words }
}

fn number(id: StreamId) -> u64 {
    VarInt::from(id).into_inner()
}

/// Scripts know no larger codes.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(MAX_CODE)
}

fn transport(offer: &Offer) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::from(VarInt::from_u32(120_000));
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(64))
        .max_concurrent_uni_streams(VarInt::from_u32(offer.uni_streams))
        .stream_receive_window(VarInt::from_u32(offer.window))
        .max_idle_timeout(Some(idle))
        .initial_mtu(MTU)
        .mtu_discovery_config(None)
        .datagram_receive_buffer_size(offer.datagrams.then_some(1 << 20))
        .allow_spin(false);
    config
}

/// Connection IDs from a seed.
struct Ids(Arc<Mutex<ChaCha20Rng>>);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        random_id(&self.0)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn random_id(rng: &Mutex<ChaCha20Rng>) -> ConnectionId {
    let mut bytes = [0; 8];
    let mut rng = rng
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    rng.fill_bytes(&mut bytes);
    ConnectionId::new(&bytes)
}
