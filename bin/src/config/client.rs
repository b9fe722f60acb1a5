//! The client's file.

use std::net::IpAddr;
use std::time::Duration;

use masque_core::endpoint::TransportProfile;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::UriTemplate;
use serde::Deserialize;
use toml::Spanned;

use super::shared::{TransportSection, TunSection};
use super::{Pem, Prefix, Source, Span, Template};
use crate::exit::Failure;
use crate::limits::AcceptPolicy;
use crate::tls::Credentials;

/// The client's file as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFile {
    /// The server's URI template.
    pub url: Spanned<Template>,
    /// Where to send, if not to what the template's host resolves to: `address`, `address:port` or
    /// `name:port`.
    pub connect: Option<Spanned<String>>,
    /// The CA the server's certificate must come from.
    pub ca: Spanned<Pem>,
    /// Our certificate.
    pub certificate: Option<Spanned<Pem>>,
    /// Its private key.
    pub key: Option<Spanned<Pem>>,
    /// Which hosts the tunnel is for: `*`, an address or a prefix.
    #[serde(default)]
    pub target: Option<Spanned<String>>,
    /// Which IP protocol it is for: `*` or a number.
    #[serde(default)]
    pub ipproto: Option<Spanned<String>>,
    /// Prefixes the server may have routed to it; left out, everything that is not forbidden.
    pub accept_routes: Option<Vec<Spanned<Prefix>>>,
    /// Prefixes the server may assign addresses from; left out, everything that is not forbidden.
    pub accept_addresses: Option<Vec<Spanned<Prefix>>>,
    /// Whether routes may cover the local networks.
    #[serde(default)]
    pub allow_lan: bool,
    /// The most routes installed.
    #[serde(default = "default_max_routes")]
    pub max_routes: Spanned<usize>,
    /// The most addresses installed.
    #[serde(default = "default_max_addresses")]
    pub max_addresses: Spanned<usize>,
    /// The firewall mark of our own UDP packets, which never enter the tunnel, and the number of the
    /// routing table for what does. Two clients on one host need two.
    #[serde(default = "default_mark")]
    pub mark: Spanned<u32>,
    /// How long one attempt to connect may take.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: Spanned<Span>,
    /// How to come back.
    #[serde(default)]
    pub reconnect: ReconnectSetting,
    /// The device.
    #[serde(default)]
    pub tun: TunSection,
    /// QUIC on the path.
    #[serde(default)]
    pub transport: TransportSection,
}

/// `reconnect = false`, or a table.
#[derive(Clone, Debug)]
pub enum ReconnectSetting {
    /// On or off.
    Switch(bool),
    /// On, in detail.
    Table(ReconnectSection),
}

impl Default for ReconnectSetting {
    fn default() -> Self {
        Self::Switch(true)
    }
}

impl<'de> Deserialize<'de> for ReconnectSetting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Setting;
        impl<'de> serde::de::Visitor<'de> for Setting {
            type Value = ReconnectSetting;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, false or a table with initial, max and jitter")
            }

            fn visit_bool<E>(self, on: bool) -> Result<ReconnectSetting, E> {
                Ok(ReconnectSetting::Switch(on))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<ReconnectSetting, A::Error> {
                ReconnectSection::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(ReconnectSetting::Table)
            }
        }
        deserializer.deserialize_any(Setting)
    }
}

/// `[reconnect]`: exponential back-off.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconnectSection {
    /// The first wait.
    pub initial: Span,
    /// The longest wait.
    pub max: Span,
    /// How much of each wait is random: 0 to 1.
    pub jitter: f64,
}

impl Default for ReconnectSection {
    fn default() -> Self {
        Self {
            initial: Span(Duration::from_millis(250)),
            max: Span(Duration::from_secs(30)),
            jitter: 0.3,
        }
    }
}

/// The client's configuration, checked.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// The template.
    pub template: UriTemplate,
    /// As it was written.
    pub url: String,
    /// The host to resolve and the port.
    pub connect: (String, u16),
    /// The server's CA, and our certificate.
    pub credentials: Credentials,
    /// What to ask for.
    pub scope: Scope,
    /// What the server may install.
    pub accept: AcceptPolicy,
    /// The firewall mark, and the number of the routing table.
    pub mark: u32,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// How to come back; `None`: not at all.
    pub reconnect: Option<ReconnectSection>,
    /// The device.
    pub tun: TunSection,
    /// QUIC on the path.
    pub profile: TransportProfile,
    /// UDP offload and buffers.
    pub transport: TransportSection,
}

fn default_max_routes() -> Spanned<usize> {
    Spanned::new(0..0, 1024)
}

fn default_max_addresses() -> Spanned<usize> {
    Spanned::new(0..0, 8)
}

/// `masq`, as a number that nobody else is likely to use.
fn default_mark() -> Spanned<u32> {
    Spanned::new(0..0, 0x6d61_7371)
}

fn default_connect_timeout() -> Spanned<Span> {
    Spanned::new(0..0, Span(Duration::from_secs(10)))
}

impl ClientFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(source: &Source) -> Result<ClientSettings, Failure> {
        source.parse::<Self>()?.validate(source)
    }

    /// Refuses what is wrong together.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(mut self, source: &Source) -> Result<ClientSettings, Failure> {
        self.tun.validate(source)?;
        let profile = self.transport.profile(source)?;
        let scope = self.scope(source)?;
        let reconnect = self.reconnect(source)?;
        let connect = self.connect(source)?;
        let accept = self.accept(source)?;
        // The mark is the number of the routing table, too; the first 255 are the system's.
        if *self.mark.get_ref() < 256 {
            return Err(source.fault(&self.mark, "mark must be at least 256"));
        }
        let connect_timeout = self.connect_timeout.get_ref().0;
        if connect_timeout < Duration::from_secs(1) {
            return Err(source.fault(
                &self.connect_timeout,
                "connect_timeout must be at least \"1s\"",
            ));
        }
        let own = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(certificate), None) => {
                return Err(source.fault(certificate, "certificate is given without key"));
            }
            (None, Some(key)) => {
                return Err(source.fault(key, "key is given without certificate"));
            }
        };
        let ciphers = self.transport.ciphers(source)?;
        let credentials = Credentials::load(source, &self.ca, own)?.with_ciphers(ciphers);
        let url = self.url.into_inner();
        Ok(ClientSettings {
            template: url.template,
            url: url.text,
            connect,
            credentials,
            scope,
            accept,
            mark: self.mark.into_inner(),
            connect_timeout,
            reconnect,
            tun: self.tun,
            profile,
            transport: self.transport,
        })
    }

    fn scope(&self, source: &Source) -> Result<Scope, Failure> {
        let text = |setting: &Option<Spanned<String>>| {
            setting.as_ref().map(|setting| setting.get_ref().clone())
        };
        let (target, protocol) = (text(&self.target), text(&self.ipproto));
        if let Some(setting) = &self.target {
            Scope::parse(target.as_deref(), None).map_err(|_| {
                source.fault(
                    setting,
                    "target is \"*\", an address, a prefix or a host name",
                )
            })?;
        }
        if let Some(setting) = &self.ipproto {
            Scope::parse(None, protocol.as_deref())
                .map_err(|_| source.fault(setting, "ipproto is \"*\" or a number from 0 to 255"))?;
        }
        Scope::parse(target.as_deref(), protocol.as_deref())
            .map_err(|error| source.whole(format!("target and ipproto: {error}")))
    }

    fn reconnect(&self, source: &Source) -> Result<Option<ReconnectSection>, Failure> {
        let section = match &self.reconnect {
            ReconnectSetting::Switch(false) => return Ok(None),
            ReconnectSetting::Switch(true) => ReconnectSection::default(),
            ReconnectSetting::Table(section) => section.clone(),
        };
        if section.initial.0.is_zero() || section.max < section.initial {
            return Err(source.whole("reconnect: initial must be above 0 and max not below it"));
        }
        if !(0.0..=1.0).contains(&section.jitter) {
            return Err(source.whole("reconnect: jitter must be 0 to 1"));
        }
        Ok(Some(section))
    }

    fn connect(&self, source: &Source) -> Result<(String, u16), Failure> {
        let template = &self.url.get_ref().template;
        let Some(setting) = &self.connect else {
            return Ok((template.host().to_owned(), template.port()));
        };
        let text = setting.get_ref();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok((address.to_string(), template.port()));
        }
        if let Ok(address) = text.parse::<std::net::SocketAddr>() {
            return Ok((address.ip().to_string(), address.port()));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains([':', '[', ']', '/']) => port
                .parse()
                .map(|port| (host.to_owned(), port))
                .map_err(|_| source.fault(setting, format!("{port:?} is not a port"))),
            _ => Err(source.fault(
                setting,
                "connect is \"address\", \"address:port\" or \"name:port\"",
            )),
        }
    }

    fn accept(&self, source: &Source) -> Result<AcceptPolicy, Failure> {
        for (setting, most) in [(&self.max_routes, 4096), (&self.max_addresses, 64)] {
            if !(1..=most).contains(setting.get_ref()) {
                return Err(source.fault(setting, format!("must be 1 to {most}")));
            }
        }
        let list = |entries: &Option<Vec<Spanned<Prefix>>>| match entries {
            Some(entries) => entries.iter().map(|entry| entry.get_ref().0).collect(),
            None => everything(),
        };
        Ok(AcceptPolicy {
            routes: list(&self.accept_routes),
            addresses: list(&self.accept_addresses),
            allow_lan: self.allow_lan,
            max_routes: *self.max_routes.get_ref(),
            max_addresses: *self.max_addresses.get_ref(),
        })
    }
}

/// All of IPv4 and all of IPv6.
fn everything() -> Vec<IpPrefix> {
    [
        IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    ]
    .into_iter()
    .filter_map(|address| IpPrefix::new(address, 0).ok())
    .collect()
}
