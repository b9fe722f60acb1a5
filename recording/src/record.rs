//! What a recording holds, record by record.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use masque_core::endpoint::{
    Accepted, Access, ClientConfig, Command, Config, ConnId, Ecn, Lease, Limits, Origin,
    PortConfig, PortId, RecvMeta, ServerConfig, SocketId, StaticAssignment, Target, Transmit,
    TransportProfile, TunBatch,
};
use masque_core::session::SessionConfig;
use masque_core::wire::fields::FieldList;
use masque_core::wire::offload::VnetHdr;
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;

use crate::codec::{Field, Malformed, Octets, choices, put_bytes, structures, take_bytes, whole};
use crate::digest::Digest;

/// One record of a recording.
pub enum Record<'a> {
    /// The first: how the endpoint was made.
    Start(Box<Start>),
    /// Something the endpoint was told or asked, so long after it was made.
    Input(Duration, Input<'a>),
    /// What it gave.
    Output(Output),
    /// A random number or another thing that does not follow from the inputs, drawn during an input.
    Draw(Draw),
    /// The last: why nothing follows.
    End(End),
}

/// Why a recording ends where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The endpoint was given up.
    Over,
    /// The recording would have become larger than it may.
    Limit,
}

/// How an endpoint was made.
#[derive(Clone)]
pub struct Start {
    /// Which program made the recording, for people.
    pub about: String,
    /// The calendar time.
    pub wall: SystemTime,
    /// The seed of its [`Entropy`](masque_core::endpoint::Entropy).
    pub seed: [u8; 32],
    /// Its configuration without TLS.
    pub setup: Setup,
    /// Its TLS.
    pub tls: Tls,
}

/// A [`Config`] without what cannot be written down: TLS, and a place among shards.
#[derive(Clone, Debug)]
pub struct Setup {
    server: Option<ServerSetup>,
    transport: TransportProfile,
    limits: Limits,
    session: SessionConfig,
    ports: Vec<PortConfig>,
}

#[derive(Clone)]
struct ServerSetup {
    secret: [u8; 32],
    require_identity: bool,
    port: PortId,
    pools: Vec<IpPrefix>,
    gateways: Vec<IpAddr>,
    statics: Vec<StaticAssignment>,
    leases: Vec<Lease>,
    routes: Vec<AddressRange>,
    access: Access,
}

impl fmt::Debug for ServerSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSetup").finish_non_exhaustive()
    }
}

/// What is public of a side's TLS, and how it is set up: with it, and with what was drawn, every
/// handshake happens again. No private key is in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// The cipher suites, in order.
    pub ciphers: Vec<u16>,
    /// The groups of key exchange, in order.
    pub groups: Vec<u16>,
    /// The signature schemes that peers may use, in order.
    pub schemes: Vec<u16>,
    /// The certificates of the other side's authority, DER.
    pub roots: Vec<Vec<u8>>,
    /// Our own certificates, DER; empty for a client without.
    pub chain: Vec<Vec<u8>>,
    /// The algorithm of our own key, as TLS numbers it.
    pub algorithm: u8,
}

impl Setup {
    /// What can be written down of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let server = config.server.as_ref().map(|server| ServerSetup {
            secret: server.secret,
            require_identity: server.require_identity,
            port: server.port,
            pools: server.pools.clone(),
            gateways: server.gateways.clone(),
            statics: server.statics.clone(),
            leases: server.leases.clone(),
            routes: server.routes.clone(),
            access: server.access.clone(),
        });
        Self {
            server,
            transport: config.transport.clone(),
            limits: config.limits.clone(),
            session: config.session.clone(),
            ports: config.ports.clone(),
        }
    }

    /// Whether it is a server's.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.server.is_some()
    }

    /// The configuration again, `crypto` being a server's TLS.
    ///
    /// # Errors
    /// What `crypto` says.
    pub fn config<E>(
        self,
        crypto: impl FnOnce() -> Result<Arc<dyn quinn_proto::crypto::ServerConfig>, E>,
    ) -> Result<Config, E> {
        let server = self.server.map(|server| {
            Ok(ServerConfig {
                crypto: crypto()?,
                secret: server.secret,
                require_identity: server.require_identity,
                port: server.port,
                pools: server.pools,
                gateways: server.gateways,
                statics: server.statics,
                leases: server.leases,
                routes: server.routes,
                access: server.access,
            })
        });
        Ok(Config {
            server: server.transpose()?,
            transport: self.transport,
            limits: self.limits,
            session: self.session,
            ports: self.ports,
            shard: None,
        })
    }
}

/// Something an endpoint is told or asked: a call of the method of that name. Calls that only look
/// (`counters`, `tunnel`, …) leave no trace in it and are not among them.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// `handle_udp`.
    Udp {
        /// What came with it.
        meta: RecvMeta,
        /// The batch.
        data: &'a [u8],
    },
    /// `handle_tun`.
    Tun {
        /// The device.
        port: PortId,
        /// How it is to be segmented.
        header: VnetHdr,
        /// The packet or super-packet.
        data: &'a [u8],
    },
    /// `handle_ip`.
    Ip {
        /// The device.
        port: PortId,
        /// Where it comes from.
        origin: Origin,
        /// The packet.
        data: &'a [u8],
    },
    /// `connect`.
    Connect(Box<Destination>),
    /// `handle_command`.
    Command(Box<Command>),
    /// `handle_timeout`.
    Timeout,
    /// `poll_transmit`, for so many datagrams at most.
    PollTransmit(NonZeroUsize),
    /// `poll_tun`.
    PollTun,
    /// `poll_event`.
    PollEvent,
    /// `poll_timeout`.
    PollTimeout,
    /// `rest`.
    Rest,
}

/// A [`Target`] without TLS.
#[derive(Clone, Debug)]
pub struct Destination {
    template: UriTemplate,
    port: PortId,
    remote: SocketAddr,
    server_name: String,
    socket: SocketId,
    scope: Scope,
    fields: FieldList,
}

impl Destination {
    /// What can be written down of a target.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        Self {
            template: target.config.template.clone(),
            port: target.config.port,
            remote: target.remote,
            server_name: target.server_name.clone(),
            socket: target.socket,
            scope: target.scope.clone(),
            fields: target.fields.clone(),
        }
    }

    /// The target again.
    #[must_use]
    pub fn target(self, crypto: Arc<dyn quinn_proto::crypto::ClientConfig>) -> Target {
        Target {
            config: ClientConfig {
                crypto,
                template: self.template,
                port: self.port,
            },
            remote: self.remote,
            server_name: self.server_name,
            socket: self.socket,
            scope: self.scope,
            fields: self.fields,
        }
    }
}

/// What an endpoint gave in answer to an [`Input`]: short, and different where the bytes differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// The call gives nothing.
    Done,
    /// Packets were taken from a device.
    Accepted(Accepted),
    /// It was done, or refused for this reason.
    Judged(Result<(), String>),
    /// A connection was begun, or refused.
    Connected(Result<ConnId, String>),
    /// Datagrams to send.
    Transmit(Option<Sent>),
    /// Frames for a device.
    Frames(Option<Written>),
    /// An event, in words.
    Event(Option<String>),
    /// When it wants to be called.
    Deadline(Option<Due>),
}

/// Datagrams to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    socket: SocketId,
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    ecn: Option<Ecn>,
    size: usize,
    segment_size: Option<usize>,
    digest: u64,
}

impl Sent {
    /// In short; `data` are the bytes.
    #[must_use]
    pub fn of(transmit: &Transmit, data: &[u8]) -> Self {
        Self {
            socket: transmit.socket,
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            ecn: transmit.ecn,
            size: transmit.size,
            segment_size: transmit.segment_size,
            digest: Digest::of(data),
        }
    }
}

/// Frames for a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    port: PortId,
    frames: usize,
    bytes: usize,
    digest: u64,
}

impl Written {
    /// In short.
    #[must_use]
    pub fn of(batch: &TunBatch) -> Self {
        let mut digest = Digest::default();
        let mut bytes = 0;
        for frame in &batch.frames {
            let frame = frame.with_header();
            bytes += frame.len();
            digest.write(frame);
        }
        Self {
            port: batch.port,
            frames: batch.frames.len(),
            bytes,
            digest: digest.value(),
        }
    }
}

/// When an endpoint wants to be called, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Due {
    /// After the endpoint was made; `Err`: so long before.
    pub at: Result<Duration, Duration>,
    /// Why, in words.
    pub reason: String,
}

/// What TLS drew, or was told by something that cannot be asked again.
#[derive(Clone, PartialEq, Eq)]
pub enum Draw {
    /// Random bytes.
    Random(Option<Vec<u8>>),
    /// An ephemeral key was made.
    Share(Option<Share>),
    /// A key exchange was completed.
    Secret(Completed),
    /// A key exchange was completed, of the hybrid's classical half.
    HybridSecret(Completed),
    /// An ephemeral key was made to fit the peer's, and the exchange completed.
    Exchange(Option<Share>, Completed),
    /// The scheme that our key will sign by.
    Scheme(Option<u16>),
    /// A signature of a message.
    Signature(Signed),
    /// The calendar time in seconds.
    Time(Option<u64>),
}

impl fmt::Debug for Draw {
    /// The kind alone: what is drawn is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Draw {
    /// Its kind.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Random(_) => "random bytes",
            Self::Share(_) => "a key share",
            Self::Secret(_) => "a shared secret",
            Self::HybridSecret(_) => "the shared secret of a hybrid's half",
            Self::Exchange(..) => "a key exchange",
            Self::Scheme(_) => "a signature scheme",
            Self::Signature(_) => "a signature",
            Self::Time(_) => "the time",
        }
    }
}

/// The public half of an ephemeral key.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    /// Its group.
    pub(crate) group: u16,
    /// Its bytes.
    pub(crate) public: Octets,
    /// The classical half of a hybrid, which can be offered alone.
    pub(crate) hybrid: Option<(u16, Octets)>,
}

/// A completed key exchange.
#[derive(Clone, PartialEq, Eq)]
pub struct Completed {
    /// What the peer's share was, in short.
    pub(crate) peer: u64,
    /// The shared secret; `None` if the share was refused.
    pub(crate) secret: Option<Octets>,
}

/// A signature.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// What was signed, in short.
    pub(crate) message: u64,
    /// The signature; `None` if there could be none.
    pub(crate) signature: Option<Octets>,
}

structures! {
    Setup { server, transport, limits, session, ports }
    ServerSetup { secret, require_identity, port, pools, gateways, statics, leases, routes, access }
    Start { about, wall, seed, setup, tls }
    Destination { template, port, remote, server_name, socket, scope, fields }
    Sent { socket, destination, src_ip, ecn, size, segment_size, digest }
    Written { port, frames, bytes, digest }
    Due { at, reason }
    Share { group, public, hybrid }
    Completed { peer, secret }
    Signed { message, signature }
}

choices! {
    End { 0 => Over, 1 => Limit }
    Output {
        0 => Done, 1 => Accepted(count), 2 => Judged(result), 3 => Connected(result),
        4 => Transmit(sent), 5 => Frames(written), 6 => Event(words), 7 => Deadline(due),
    }
}

impl Field for Tls {
    fn put(&self, out: &mut Vec<u8>) {
        let octets = |all: &[Vec<u8>]| -> Vec<Octets> { all.iter().cloned().map(Octets).collect() };
        self.ciphers.put(out);
        self.groups.put(out);
        self.schemes.put(out);
        octets(&self.roots).put(out);
        octets(&self.chain).put(out);
        self.algorithm.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let ciphers = Vec::take(input)?;
        let groups = Vec::take(input)?;
        let schemes = Vec::take(input)?;
        let mut octets = || -> Result<Vec<Vec<u8>>, Malformed> {
            let all = Vec::<Octets>::take(input)?;
            Ok(all.into_iter().map(|one| one.0).collect())
        };
        Ok(Self {
            ciphers,
            groups,
            schemes,
            roots: octets()?,
            chain: octets()?,
            algorithm: u8::take(input)?,
        })
    }
}

impl Field for Draw {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Random(bytes) => {
                out.push(0);
                bytes.is_some().put(out);
                bytes.iter().for_each(|bytes| put_bytes(bytes, out));
            }
            Self::Share(share) => tagged(1, share, out),
            Self::Secret(completed) => tagged(2, completed, out),
            Self::HybridSecret(completed) => tagged(3, completed, out),
            Self::Exchange(share, completed) => {
                tagged(4, share, out);
                completed.put(out);
            }
            Self::Scheme(scheme) => tagged(5, scheme, out),
            Self::Signature(signed) => tagged(6, signed, out),
            Self::Time(time) => tagged(7, time, out),
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            0 => Self::Random(<Option<Octets> as Field>::take(input)?.map(|bytes| bytes.0)),
            1 => Self::Share(Field::take(input)?),
            2 => Self::Secret(Field::take(input)?),
            3 => Self::HybridSecret(Field::take(input)?),
            4 => Self::Exchange(Field::take(input)?, Field::take(input)?),
            5 => Self::Scheme(Field::take(input)?),
            6 => Self::Signature(Field::take(input)?),
            7 => Self::Time(Field::take(input)?),
            _ => return Err(Malformed("an unknown draw")),
        })
    }
}

fn tagged(number: u8, value: &impl Field, out: &mut Vec<u8>) {
    out.push(number);
    value.put(out);
}

impl Input<'_> {
    /// The method it is a call of.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Udp { .. } => "handle_udp",
            Self::Tun { .. } => "handle_tun",
            Self::Ip { .. } => "handle_ip",
            Self::Connect(_) => "connect",
            Self::Command(_) => "handle_command",
            Self::Timeout => "handle_timeout",
            Self::PollTransmit(_) => "poll_transmit",
            Self::PollTun => "poll_tun",
            Self::PollEvent => "poll_event",
            Self::PollTimeout => "poll_timeout",
            Self::Rest => "rest",
        }
    }

    /// Whether something is told, not asked for.
    #[must_use]
    pub const fn is_told(&self) -> bool {
        matches!(
            self,
            Self::Udp { .. }
                | Self::Tun { .. }
                | Self::Ip { .. }
                | Self::Connect(_)
                | Self::Command(_)
                | Self::Timeout
        )
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Udp { meta, data } => {
                tagged(0, meta, out);
                put_bytes(data, out);
            }
            Self::Tun { port, header, data } => {
                tagged(1, port, out);
                header.put(out);
                put_bytes(data, out);
            }
            Self::Ip { port, origin, data } => {
                tagged(2, port, out);
                origin.put(out);
                put_bytes(data, out);
            }
            Self::Connect(destination) => tagged(3, &**destination, out),
            Self::Command(command) => tagged(4, &**command, out),
            Self::Timeout => out.push(5),
            Self::PollTransmit(max) => tagged(6, max, out),
            Self::PollTun => out.push(7),
            Self::PollEvent => out.push(8),
            Self::PollTimeout => out.push(9),
            Self::Rest => out.push(10),
        }
    }
}

impl<'a> Input<'a> {
    fn take(input: &mut &'a [u8]) -> Result<Self, Malformed> {
        Ok(match u8::take(input)? {
            0 => Self::Udp {
                meta: Field::take(input)?,
                data: take_bytes(input)?,
            },
            1 => Self::Tun {
                port: Field::take(input)?,
                header: Field::take(input)?,
                data: take_bytes(input)?,
            },
            2 => Self::Ip {
                port: Field::take(input)?,
                origin: Field::take(input)?,
                data: take_bytes(input)?,
            },
            3 => Self::Connect(Box::new(Field::take(input)?)),
            4 => Self::Command(Box::new(Field::take(input)?)),
            5 => Self::Timeout,
            6 => Self::PollTransmit(Field::take(input)?),
            7 => Self::PollTun,
            8 => Self::PollEvent,
            9 => Self::PollTimeout,
            10 => Self::Rest,
            _ => return Err(Malformed("an unknown input")),
        })
    }
}

const START: u8 = 0;
const INPUT: u8 = 1;
const OUTPUT: u8 = 2;
const DRAW: u8 = 3;
const END: u8 = 4;

impl<'a> Record<'a> {
    /// Reads one from its bytes, without the length in front.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = bytes.split_first().ok_or(Malformed("an empty record"))?;
        Ok(match *kind {
            START => Self::Start(Box::new(whole(rest)?)),
            INPUT => {
                let at = Duration::from_nanos(u64::take(&mut rest)?);
                let input = Input::take(&mut rest)?;
                if !rest.is_empty() {
                    return Err(Malformed("something follows it"));
                }
                Self::Input(at, input)
            }
            OUTPUT => Self::Output(whole(rest)?),
            DRAW => Self::Draw(whole(rest)?),
            END => Self::End(whole(rest)?),
            _ => return Err(Malformed("an unknown kind of record")),
        })
    }

    /// Appends it, without the length in front.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Start(start) => tagged(START, &**start, out),
            Self::Input(at, input) => put_input(*at, input, out),
            Self::Output(output) => tagged(OUTPUT, output, out),
            Self::Draw(draw) => tagged(DRAW, draw, out),
            Self::End(end) => tagged(END, end, out),
        }
    }
}

pub(crate) fn put_input(at: Duration, input: &Input<'_>, out: &mut Vec<u8>) {
    // Good for 584 years.
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    tagged(INPUT, &nanos, out);
    input.put(out);
}
