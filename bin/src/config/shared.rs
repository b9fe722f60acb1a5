//! What both schemas have in common: the TUN device and QUIC on the path.

use std::path::PathBuf;
use std::time::Duration;

use masque_core::endpoint::{Cipher, CongestionControl, Ipv6Minimum, TransportProfile};
use serde::Deserialize;
use toml::Spanned;

use super::{BitRate, ByteSize, Source, Span};
use crate::exit::Failure;
use crate::tls;

/// `[tun]`: the device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunSection {
    /// Its name, at most 15 characters.
    pub name: Spanned<String>,
    /// Its MTU in bytes. On a client: the most it is ever set to; it follows the tunnel.
    pub mtu: Spanned<u32>,
    /// Whether to use segmentation offload (super-packets) where the kernel can.
    pub offload: bool,
    /// On a server with several shards: whether each has a queue of the device of its own, where the
    /// kernel can. Without, the first shard reads for all.
    pub multi_queue: bool,
    /// On a server with several shards: whether the kernel chooses the queue by the inner destination
    /// (eBPF), where it can. Without, by flows, and the shards hand on the rest.
    pub steering: bool,
    /// Where the journal of changes to the host is kept; left out, `/run/masque`.
    pub run_dir: Option<PathBuf>,
}

impl Default for TunSection {
    fn default() -> Self {
        Self {
            name: Spanned::new(0..0, "masque0".to_owned()),
            mtu: Spanned::new(0..0, 1420),
            offload: true,
            multi_queue: true,
            steering: true,
            run_dir: None,
        }
    }
}

impl TunSection {
    /// Refuses names and sizes the kernel would refuse.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&mut self, source: &Source) -> Result<(), Failure> {
        let name = self.name.get_ref();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 15 || !name.chars().all(legal) || name.starts_with('.') {
            return Err(source.fault(
                &self.name,
                format!("{name:?} is not a device name: 1 to 15 of letters, digits, '-', '_', '.'"),
            ));
        }
        if !(1280..=65_535).contains(self.mtu.get_ref()) {
            return Err(source.fault(
                &self.mtu,
                "the MTU must be 1280 to 65535 bytes (IPv6 needs 1280)",
            ));
        }
        if let Some(folder) = &mut self.run_dir {
            *folder = source.folder().join(&*folder);
        }
        Ok(())
    }
}

/// `congestion`: the controller of the outer connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// RFC 9002.
    NewReno,
    /// quinn-proto's BBR; draws randomness from the operating system.
    Bbr,
    /// A fixed rate: `rate` says which.
    Fixed,
    /// Made for tunnels: by delay, not by loss (docs/congestion.md).
    #[default]
    Tunnel,
}

/// `ipv6_minimum`: what a tunnel does about the 1,280 bytes that IPv6 needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipv6Setting {
    /// Below them it carries IPv4 only.
    #[default]
    Follow,
    /// It asks whether they pass all the way, and ends where they do not.
    Require,
}

impl From<Ipv6Setting> for Ipv6Minimum {
    fn from(setting: Ipv6Setting) -> Self {
        match setting {
            Ipv6Setting::Follow => Self::Follow,
            Ipv6Setting::Require => Self::Require {
                probes: 3,
                interval: Duration::from_secs(1),
            },
        }
    }
}

/// An entry of `ciphers`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub enum CipherName {
    /// AES with a key of 128 bits.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm,
    /// AES with a key of 256 bits.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// What needs no instructions of its own to be fast.
    #[serde(rename = "chacha20-poly1305")]
    Chacha20Poly1305,
}

impl From<CipherName> for Cipher {
    fn from(name: CipherName) -> Self {
        match name {
            CipherName::Aes128Gcm => Self::Aes128Gcm,
            CipherName::Aes256Gcm => Self::Aes256Gcm,
            CipherName::Chacha20Poly1305 => Self::Chacha20Poly1305,
        }
    }
}

/// How long a peer whose network is gone is waited for, beyond the idle timeout.
const LINGER: Duration = Duration::from_secs(90);
/// What is kept for it is memory and a place among the connections.
const LONGEST_LINGER: Duration = Duration::from_secs(3600);

/// `[transport]`: QUIC on the path. What is left out keeps the default of the core.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransportSection {
    /// The controller.
    pub congestion: Option<Congestion>,
    /// For `congestion = "fixed"`.
    pub rate: Option<Spanned<BitRate>>,
    /// Bytes in flight before the first ACK.
    pub initial_window: Option<Spanned<ByteSize>>,
    /// The round-trip time assumed before the first is measured.
    pub initial_rtt: Option<Spanned<Span>>,
    /// Ask for an ACK only after more than so many packets.
    pub ack_threshold: Option<Spanned<u32>>,
    /// Ask for an ACK after so long at the latest.
    pub max_ack_delay: Option<Spanned<Span>>,
    /// Which ciphers are offered, the best first (client), or accepted (server); left out, all, in an
    /// order that the processor decides.
    pub ciphers: Option<Spanned<Vec<Spanned<CipherName>>>>,
    /// The UDP payload to start with, in bytes.
    pub initial_mtu: Option<Spanned<u16>>,
    /// The largest UDP payload tried, in bytes; left out, what the device's MTU needs.
    pub max_mtu: Option<Spanned<u16>>,
    /// Whether path MTU discovery runs.
    pub discover_mtu: Option<bool>,
    /// What a tunnel does about the 1,280 bytes that IPv6 needs: by QUIC's path MTU alone, or, where HTTP
    /// intermediaries may be on the way, by asking the other end.
    pub ipv6_minimum: Option<Ipv6Setting>,
    /// Close after so long in silence.
    pub idle_timeout: Option<Spanned<Span>>,
    /// Keep a connection for so much longer, with its lease and what waits for it, so that a peer whose
    /// network is gone for a while goes on where it was; `"90s"` if left out. The shorter of both ends'
    /// times holds.
    pub linger: Option<Spanned<Span>>,
    /// Send something after so long in silence; `"0s"` is never.
    pub keep_alive: Option<Spanned<Span>>,
    /// UDP generic segmentation offload, where the kernel can.
    pub gso: Option<bool>,
    /// UDP generic receive offload, where the kernel can.
    pub gro: Option<bool>,
    /// On a server with several shards: whether the kernel chooses the socket by the connection ID, where
    /// it can. Without, by addresses and ports, and the shards hand on the rest.
    pub steering: Option<bool>,
    /// The size of the UDP socket's buffers, each way.
    pub socket_buffer: Option<Spanned<ByteSize>>,
}

impl TransportSection {
    /// The profile for the core.
    ///
    /// # Errors
    /// The first setting that is out of range or contradicts another.
    pub fn profile(&self, source: &Source) -> Result<TransportProfile, Failure> {
        let mut profile = TransportProfile {
            congestion: self.congestion(source)?,
            ..TransportProfile::default()
        };
        self.start(source, &mut profile)?;
        self.acknowledgements(source, &mut profile)?;
        self.sizes(source, &mut profile)?;
        self.silence(source, &mut profile)?;
        Ok(profile)
    }

    fn congestion(&self, source: &Source) -> Result<CongestionControl, Failure> {
        Ok(match (self.congestion.unwrap_or_default(), &self.rate) {
            (Congestion::Fixed, Some(rate)) if rate.get_ref().0 >= 10_000 => {
                CongestionControl::Fixed(rate.get_ref().0)
            }
            (Congestion::Fixed, Some(rate)) => {
                return Err(source.fault(rate, "rate must be at least 10000 bit/s"));
            }
            (Congestion::Fixed, None) => {
                return Err(source
                    .whole("congestion = \"fixed\" needs transport.rate, such as \"100Mbit/s\""));
            }
            (_, Some(rate)) => {
                return Err(source.fault(rate, "rate is only for congestion = \"fixed\""));
            }
            (Congestion::Cubic, None) => CongestionControl::Cubic,
            (Congestion::NewReno, None) => CongestionControl::NewReno,
            (Congestion::Bbr, None) => CongestionControl::Bbr,
            (Congestion::Tunnel, None) => CongestionControl::Tunnel,
        })
    }

    /// What is taken for true before anything is measured.
    fn start(&self, source: &Source, profile: &mut TransportProfile) -> Result<(), Failure> {
        if let Some(window) = &self.initial_window {
            if matches!(profile.congestion, CongestionControl::Fixed(_)) {
                return Err(source.fault(
                    window,
                    "initial_window means nothing with congestion = \"fixed\"",
                ));
            }
            // Two datagrams of the smallest kind; beyond the most no path has that many on the way.
            if !(2_400..=64 << 20).contains(&window.get_ref().0) {
                return Err(source.fault(window, "initial_window must be 2400 bytes to \"64MiB\""));
            }
            profile.initial_window = Some(window.get_ref().0);
        }
        if let Some(rtt) = &self.initial_rtt {
            if !(1..=10_000).contains(&rtt.get_ref().0.as_millis()) {
                return Err(source.fault(rtt, "initial_rtt must be \"1ms\" to \"10s\""));
            }
            profile.initial_rtt = rtt.get_ref().0;
        }
        Ok(())
    }

    fn acknowledgements(
        &self,
        source: &Source,
        profile: &mut TransportProfile,
    ) -> Result<(), Failure> {
        if let Some(threshold) = &self.ack_threshold {
            // A peer that says nothing for a whole window stops the sender.
            if *threshold.get_ref() > 1_000 {
                return Err(source.fault(threshold, "ack_threshold must be 0 to 1000 packets"));
            }
            profile.ack_threshold = Some(*threshold.get_ref());
        }
        if let Some(delay) = &self.max_ack_delay {
            if !(1..=1_000).contains(&delay.get_ref().0.as_millis()) {
                return Err(source.fault(delay, "max_ack_delay must be \"1ms\" to \"1s\""));
            }
            profile.max_ack_delay = Some(delay.get_ref().0);
        }
        Ok(())
    }

    fn sizes(&self, source: &Source, profile: &mut TransportProfile) -> Result<(), Failure> {
        for mtu in [&self.initial_mtu, &self.max_mtu].into_iter().flatten() {
            if *mtu.get_ref() < 1200 {
                return Err(source.fault(mtu, "QUIC needs UDP payloads of at least 1200 bytes"));
            }
        }
        if let Some(mtu) = &self.initial_mtu {
            profile.initial_mtu = *mtu.get_ref();
        }
        match &self.max_mtu {
            Some(mtu) if *mtu.get_ref() < profile.initial_mtu => {
                return Err(source.fault(
                    mtu,
                    format!("max_mtu is below initial_mtu ({})", profile.initial_mtu),
                ));
            }
            Some(mtu) => profile.max_mtu = *mtu.get_ref(),
            None => {}
        }
        if let Some(discover) = self.discover_mtu {
            profile.discover_mtu = discover;
        }
        profile.ipv6_minimum = self.ipv6_minimum.unwrap_or_default().into();
        Ok(())
    }

    fn silence(&self, source: &Source, profile: &mut TransportProfile) -> Result<(), Failure> {
        if let Some(idle) = &self.idle_timeout {
            if idle.get_ref().0.as_secs() < 1 {
                return Err(source.fault(idle, "idle_timeout must be at least \"1s\""));
            }
            profile.idle_timeout = idle.get_ref().0;
        }
        let too_long = |it: &&Spanned<Span>| it.get_ref().0 > LONGEST_LINGER;
        if let Some(linger) = self.linger.as_ref().filter(too_long) {
            return Err(source.fault(linger, "linger must be at most \"1h\""));
        }
        profile.linger = self.linger.as_ref().map_or(LINGER, |it| it.get_ref().0);
        if let Some(keep_alive) = &self.keep_alive {
            profile.keep_alive = Some(keep_alive.get_ref().0).filter(|span| !span.is_zero());
        }
        match profile.keep_alive {
            Some(keep_alive) if keep_alive >= profile.idle_timeout => match &self.keep_alive {
                Some(setting) => {
                    return Err(source.fault(setting, "keep_alive must be below idle_timeout"));
                }
                None => profile.keep_alive = Some(profile.idle_timeout / 3),
            },
            _ => {}
        }
        Ok(())
    }

    /// The ciphers, the best first.
    ///
    /// # Errors
    /// None at all, or one twice.
    pub fn ciphers(&self, source: &Source) -> Result<Vec<Cipher>, Failure> {
        let Some(list) = &self.ciphers else {
            return Ok(tls::default_ciphers());
        };
        let mut ciphers: Vec<Cipher> = Vec::new();
        for entry in list.get_ref() {
            let cipher = Cipher::from(*entry.get_ref());
            if ciphers.contains(&cipher) {
                return Err(source.fault(entry, format!("{cipher} is listed twice")));
            }
            ciphers.push(cipher);
        }
        if ciphers.is_empty() {
            return Err(source.fault(list, "ciphers needs at least one entry"));
        }
        Ok(ciphers)
    }

    /// The size of the UDP socket's buffers in bytes.
    #[must_use]
    pub fn socket_buffer(&self) -> usize {
        self.socket_buffer
            .as_ref()
            .and_then(|size| usize::try_from(size.get_ref().0).ok())
            .unwrap_or(4 << 20)
    }
}
