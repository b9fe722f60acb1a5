//! The server's file.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use masque_core::endpoint::{Access, Identity, Limits, StaticAssignment, TransportProfile};
use masque_core::session::SessionConfig;
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::template::UriTemplate;
use serde::Deserialize;
use toml::Spanned;

use super::shared::{TransportSection, TunSection};
use super::{ByteSize, Pem, Prefix, Shards, Source, Span, Template};
use crate::exit::Failure;
use crate::tls::Credentials;

/// The server's file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerFile {
    /// Where to listen: UDP addresses.
    #[serde(default = "default_listen")]
    pub listen: Spanned<Vec<Spanned<SocketAddr>>>,
    /// How many threads share the connections.
    #[serde(default)]
    pub shards: Shards,
    /// The server's certificate and the chain below its root.
    pub certificate: Spanned<Pem>,
    /// Its private key.
    pub key: Spanned<Pem>,
    /// The CA that client certificates must come from.
    pub ca: Spanned<Pem>,
    /// The templates requests are answered under; left out, the default one for every name in the
    /// certificate.
    #[serde(default)]
    pub templates: Vec<Spanned<Template>>,
    /// Where client addresses come from; the first host address of each is the gateway.
    pub pools: Spanned<Vec<Spanned<Prefix>>>,
    /// What clients are told to route here; left out, everything.
    #[serde(default)]
    pub routes: Vec<Spanned<Prefix>>,
    /// Whether clients may reach each other.
    #[serde(default)]
    pub client_to_client: bool,
    /// Whether clients may reach the services of the server itself, at the gateway addresses.
    #[serde(default)]
    pub allow_gateway: bool,
    /// Destinations refused in any case.
    #[serde(default)]
    pub deny: Vec<Spanned<Prefix>>,
    /// Whether clients may ask for tunnels to host names, which the server's resolver looks up; where they
    /// lead is limited as ever.
    #[serde(default = "yes")]
    pub resolve_names: bool,
    /// Whether to translate client addresses to the server's own (nftables).
    #[serde(default = "no")]
    pub nat: Spanned<bool>,
    /// Whether hosts beyond the server may open connections to clients.
    #[serde(default)]
    pub allow_inbound: bool,
    /// Whether to set up forwarding and the packet filter; `false` leaves both to the operator.
    #[serde(default = "yes")]
    pub firewall: bool,
    /// Where leases and the reset secret are kept.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Addresses that belong to an identity.
    #[serde(default, rename = "client")]
    pub clients: Vec<StaticClient>,
    /// The device.
    #[serde(default)]
    pub tun: TunSection,
    /// What clients may use up.
    #[serde(default)]
    pub limits: LimitsSection,
    /// QUIC on the path.
    #[serde(default)]
    pub transport: TransportSection,
}

/// `[[client]]`: addresses of one identity.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticClient {
    /// Whose: the name in the client's certificate.
    pub identity: Spanned<String>,
    /// Host addresses or prefixes, inside the pools or not.
    pub addresses: Spanned<Vec<Spanned<Prefix>>>,
}

/// `[limits]`. What is left out keeps the default of the core.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Connections at once.
    pub connections: Option<Spanned<usize>>,
    /// Handshakes at once.
    pub handshakes: Option<Spanned<usize>>,
    /// From so many handshakes at once on, a Retry; from a sixteenth of them on while tunnels have work to do.
    pub retry_threshold: Option<usize>,
    /// Handshakes at once per source prefix.
    pub handshakes_per_source: Option<Spanned<usize>>,
    /// Connections at once per identity.
    pub connections_per_identity: Option<Spanned<usize>>,
    /// Tunnels at once per connection.
    pub tunnels_per_connection: Option<Spanned<usize>>,
    /// Bytes queued towards one tunnel.
    pub tunnel_queue: Option<Spanned<ByteSize>>,
    /// Bytes queued towards all tunnels.
    pub total_queue: Option<Spanned<ByteSize>>,
    /// Routes one client may advertise.
    pub routes: Option<usize>,
    /// Bytes of a request's fields.
    pub field_section: Option<Spanned<ByteSize>>,
    /// ADDRESS_REQUEST entries of one tunnel.
    pub address_requests: Option<usize>,
    /// What one client may send in vain in ten seconds: unknown frames, capsules that carry no packet,
    /// requests taken back (16 each).
    pub burden: Option<Spanned<u32>>,
    /// ICMP errors per second and tunnel.
    pub icmp_per_second: Option<u32>,
    /// How long an unused lease is kept.
    pub lease_lifetime: Option<Span>,
}

/// The server's configuration, checked.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Where to listen; `[::]` takes IPv4 as well.
    pub listen: Vec<SocketAddr>,
    /// How many threads share the connections.
    pub shards: NonZeroU16,
    /// Certificate, key and the clients' CA.
    pub credentials: Credentials,
    /// The templates requests are answered under, with their texts.
    pub templates: Vec<(String, UriTemplate)>,
    /// Where client addresses come from.
    pub pools: Vec<IpPrefix>,
    /// The server's own address in each pool, in the same order.
    pub gateways: Vec<IpAddr>,
    /// What clients are told to route here.
    pub routes: Vec<AddressRange>,
    /// Addresses that belong to an identity.
    pub statics: Vec<StaticAssignment>,
    /// What clients may reach.
    pub access: Access,
    /// Whether they may ask for host names.
    pub resolve_names: bool,
    /// Whether to translate addresses.
    pub nat: bool,
    /// Whether hosts beyond the server may open connections to clients.
    pub inbound: bool,
    /// Whether to set up forwarding and the packet filter.
    pub firewall: bool,
    /// Where leases and the reset secret are kept.
    pub state_dir: PathBuf,
    /// The device.
    pub tun: TunSection,
    /// What clients may use up.
    pub limits: Limits,
    /// HTTP/3 and capsules, without the templates.
    pub session: SessionConfig,
    /// QUIC on the path.
    pub profile: TransportProfile,
    /// UDP offload and buffers.
    pub transport: TransportSection,
}

fn default_listen() -> Spanned<Vec<Spanned<SocketAddr>>> {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 443));
    Spanned::new(0..0, vec![Spanned::new(0..0, any)])
}

fn yes() -> bool {
    true
}

fn no() -> Spanned<bool> {
    Spanned::new(0..0, false)
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/masque")
}

/// The path every server of ours answers under, and the registered one of RFC 9484 §3.
pub const DEFAULT_PATH: &str = "/.well-known/masque/ip/{target}/{ipproto}/";

impl ServerFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(source: &Source) -> Result<ServerSettings, Failure> {
        source.parse::<Self>()?.validate(source)
    }

    /// Refuses what is wrong together.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(mut self, source: &Source) -> Result<ServerSettings, Failure> {
        self.tun.validate(source)?;
        let profile = self.transport.profile(source)?;
        if *self.nat.get_ref() && !self.firewall {
            return Err(source.fault(&self.nat, "nat = true needs firewall = true"));
        }
        let listen = listen(source, &self.listen)?;
        let (pools, gateways) = pools(source, &self.pools)?;
        let statics = statics(source, &self.clients, &gateways)?;
        let routes = routes(source, &self.routes)?;
        let limits = self.limits.limits(source)?;
        let session = self.limits.session(source)?;
        let ciphers = self.transport.ciphers(source)?;
        let own = (&self.certificate, &self.key);
        let credentials = Credentials::load(source, &self.ca, Some(own))?.with_ciphers(ciphers);
        let templates = match self.templates.is_empty() {
            false => self
                .templates
                .into_iter()
                .map(|template| template.into_inner())
                .map(|template| (template.text, template.template))
                .collect(),
            true => default_templates(source, &self.certificate, &credentials, &listen)?,
        };
        let access = Access {
            client_to_client: self.client_to_client,
            gateway: self.allow_gateway,
            deny: self.deny.iter().map(|deny| deny.get_ref().0).collect(),
        };
        let state_dir = source.folder().join(&self.state_dir);
        Ok(ServerSettings {
            listen,
            shards: self.shards.0,
            credentials,
            templates,
            pools,
            gateways,
            routes,
            statics,
            access,
            resolve_names: self.resolve_names,
            nat: self.nat.into_inner(),
            inbound: self.allow_inbound,
            firewall: self.firewall,
            state_dir,
            tun: self.tun,
            limits,
            session,
            profile,
            transport: self.transport,
        })
    }
}

fn listen(
    source: &Source,
    listen: &Spanned<Vec<Spanned<SocketAddr>>>,
) -> Result<Vec<SocketAddr>, Failure> {
    let entries = listen.get_ref();
    if entries.is_empty() {
        return Err(source.fault(listen, "listen needs at least one address"));
    }
    if entries.len() > 16 {
        return Err(source.fault(listen, "at most 16 addresses to listen on"));
    }
    for (index, entry) in entries.iter().enumerate() {
        if entry.get_ref().port() == 0 {
            return Err(source.fault(entry, "port 0 is no port to listen on"));
        }
        if entries[..index]
            .iter()
            .any(|other| other.get_ref() == entry.get_ref())
        {
            return Err(source.fault(entry, format!("{} is listed twice", entry.get_ref())));
        }
    }
    for entry in entries {
        let address = entry.get_ref();
        let wildcard = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, address.port()));
        if address.is_ipv4() && entries.iter().any(|other| *other.get_ref() == wildcard) {
            return Err(source.fault(
                entry,
                format!("{wildcard} takes IPv4 as well; leave {address} out"),
            ));
        }
    }
    Ok(entries.iter().map(|entry| *entry.get_ref()).collect())
}

fn pools(
    source: &Source,
    list: &Spanned<Vec<Spanned<Prefix>>>,
) -> Result<(Vec<IpPrefix>, Vec<IpAddr>), Failure> {
    let entries = list.get_ref();
    if entries.is_empty() {
        return Err(source.fault(list, "pools needs at least one prefix"));
    }
    let mut pools: Vec<IpPrefix> = Vec::new();
    let mut gateways = Vec::new();
    for entry in entries {
        let pool = entry.get_ref().0;
        let (least, most) = match pool.address() {
            IpAddr::V4(_) => (8, 30),
            IpAddr::V6(_) => (16, 126),
        };
        if !(least..=most).contains(&pool.length()) {
            return Err(source.fault(
                entry,
                format!("a pool of this kind has a prefix length of {least} to {most}: network, gateway and clients must fit"),
            ));
        }
        if let Some(forbidden) = crate::limits::never_routable(&pool) {
            return Err(source.fault(entry, format!("a pool cannot be {forbidden}")));
        }
        if let Some(other) = pools
            .iter()
            .find(|other| other.covers(&pool) || pool.covers(other))
        {
            return Err(source.fault(entry, format!("pool {pool} overlaps pool {other}")));
        }
        pools.push(pool);
        gateways.push(gateway_of(&pool));
    }
    Ok((pools, gateways))
}

/// The first host address of a pool: the one after the network address.
#[must_use]
pub fn gateway_of(pool: &IpPrefix) -> IpAddr {
    match pool.address() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) | 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) | 1).into()),
    }
}

fn statics(
    source: &Source,
    clients: &[StaticClient],
    gateways: &[IpAddr],
) -> Result<Vec<StaticAssignment>, Failure> {
    let mut taken: Vec<(IpPrefix, &str)> = Vec::new();
    let mut statics: Vec<StaticAssignment> = Vec::new();
    for client in clients {
        let identity = client.identity.get_ref();
        if identity.is_empty() || identity.len() > 255 {
            return Err(source.fault(&client.identity, "an identity has 1 to 255 characters"));
        }
        if statics.iter().any(|other| other.identity.0 == *identity) {
            return Err(source.fault(
                &client.identity,
                format!("identity {identity:?} has two [[client]] entries"),
            ));
        }
        let entries = client.addresses.get_ref();
        if entries.is_empty() {
            return Err(source.fault(&client.addresses, "addresses needs at least one entry"));
        }
        for entry in entries {
            let prefix = entry.get_ref().0;
            if let Some(forbidden) = crate::limits::never_routable(&prefix) {
                return Err(source.fault(entry, format!("a client cannot be {forbidden}")));
            }
            if let Some(gateway) = gateways.iter().find(|gateway| prefix.contains(**gateway)) {
                return Err(source.fault(
                    entry,
                    format!("{prefix} contains {gateway}, the gateway address of a pool"),
                ));
            }
            if let Some((other, owner)) = taken
                .iter()
                .find(|(other, _)| other.covers(&prefix) || prefix.covers(other))
            {
                return Err(source.fault(
                    entry,
                    format!("{prefix} overlaps {other}, which belongs to {owner:?}"),
                ));
            }
            taken.push((prefix, identity));
        }
        statics.push(StaticAssignment {
            identity: Identity(identity.clone()),
            addresses: entries.iter().map(|entry| entry.get_ref().0).collect(),
        });
    }
    Ok(statics)
}

fn routes(source: &Source, routes: &[Spanned<Prefix>]) -> Result<Vec<AddressRange>, Failure> {
    let mut sorted: Vec<IpPrefix> = Vec::new();
    for entry in routes {
        let route = entry.get_ref().0;
        if let Some(other) = sorted
            .iter()
            .find(|other| other.covers(&route) || route.covers(other))
        {
            return Err(source.fault(entry, format!("route {route} overlaps route {other}")));
        }
        sorted.push(route);
    }
    // ROUTE_ADVERTISEMENT is ordered by version, then by address (RFC 9484 §4.7.3).
    sorted.sort_by_key(|route| (route.address().is_ipv6(), route.address()));
    Ok(sorted
        .into_iter()
        .map(|route| AddressRange::from_prefix(route, 0))
        .collect())
}

fn default_templates(
    source: &Source,
    certificate: &Spanned<Pem>,
    credentials: &Credentials,
    listen: &[SocketAddr],
) -> Result<Vec<(String, UriTemplate)>, Failure> {
    let names = credentials.server_names();
    if names.is_empty() {
        return Err(source
            .fault(
                certificate,
                "the certificate names no DNS name or IP address, and no templates are given",
            )
            .help("issue one with `masque pki issue --server NAME`, or set templates"));
    }
    let mut ports: Vec<u16> = listen.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut templates = Vec::new();
    for name in &names {
        for port in &ports {
            let text = default_template(name, *port);
            let template = UriTemplate::parse(&text).map_err(|error| {
                source.fault(
                    certificate,
                    format!("no template can be made for the name {name:?}: {error}"),
                )
            })?;
            templates.push((text, template));
        }
    }
    Ok(templates)
}

/// The default template of a server called `name` at `port`.
#[must_use]
pub fn default_template(name: &str, port: u16) -> String {
    match name.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("https://[{address}]:{port}{DEFAULT_PATH}"),
        _ => format!("https://{name}:{port}{DEFAULT_PATH}"),
    }
}

impl LimitsSection {
    fn limits(&self, source: &Source) -> Result<Limits, Failure> {
        let mut limits = Limits::default();
        let counts = [
            (&self.connections, &mut limits.max_connections),
            (&self.handshakes, &mut limits.max_handshakes),
            (
                &self.handshakes_per_source,
                &mut limits.handshakes_per_source,
            ),
            (
                &self.connections_per_identity,
                &mut limits.connections_per_identity,
            ),
            (
                &self.tunnels_per_connection,
                &mut limits.tunnels_per_connection,
            ),
        ];
        for (setting, limit) in counts {
            if let Some(setting) = setting {
                if *setting.get_ref() == 0 {
                    return Err(source.fault(setting, "a limit of 0 would refuse everything"));
                }
                *limit = *setting.get_ref();
            }
        }
        let queues = [
            (&self.tunnel_queue, &mut limits.tunnel_queue_bytes),
            (&self.total_queue, &mut limits.total_queue_bytes),
        ];
        for (setting, limit) in queues {
            if let Some(setting) = setting {
                *limit = usize::try_from(setting.get_ref().0)
                    .ok()
                    .filter(|size| *size >= 64 << 10)
                    .ok_or_else(|| source.fault(setting, "a queue has at least 64KiB"))?;
            }
        }
        if let Some(threshold) = self.retry_threshold {
            limits.retry_threshold = threshold;
        }
        if let Some(routes) = self.routes {
            limits.max_routes = routes;
        }
        if let Some(rate) = self.icmp_per_second {
            limits.icmp_per_second = rate;
        }
        if let Some(lifetime) = self.lease_lifetime {
            limits.lease_lifetime = lifetime.0.max(Duration::from_secs(1));
        }
        Ok(limits)
    }

    fn session(&self, source: &Source) -> Result<SessionConfig, Failure> {
        let mut session = SessionConfig::default();
        if let Some(size) = &self.field_section {
            session.max_field_section = usize::try_from(size.get_ref().0)
                .ok()
                .filter(|size| (1 << 10..=1 << 20).contains(size))
                .ok_or_else(|| source.fault(size, "field_section must be 1KiB to 1MiB"))?;
        }
        if let Some(requests) = self.address_requests {
            session.max_address_requests = requests;
        }
        if let Some(burden) = &self.burden {
            if *burden.get_ref() < 256 {
                return Err(source.fault(burden, "honest clients need a burden of 256"));
            }
            session.max_burden = *burden.get_ref();
        }
        Ok(session)
    }
}
