//! What both schemas have in common: the TUN device and QUIC on the path.

use std::path::PathBuf;

use masque_core::endpoint::{CongestionControl, TransportProfile};
use serde::Deserialize;
use toml::Spanned;

use super::{ByteSize, Source, Span};
use crate::exit::Failure;

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
            mtu: Spanned::new(0..0, 1400),
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
    #[default]
    Cubic,
    /// RFC 9002.
    NewReno,
    /// quinn-proto's BBR.
    Bbr,
    /// A fixed rate: `rate` says which.
    Fixed,
}

/// `[transport]`: QUIC on the path. What is left out keeps the default of the core.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransportSection {
    /// The controller.
    pub congestion: Option<Congestion>,
    /// Bits per second, for `congestion = "fixed"`.
    pub rate: Option<Spanned<u64>>,
    /// The UDP payload to start with, in bytes.
    pub initial_mtu: Option<Spanned<u16>>,
    /// The largest UDP payload tried, in bytes.
    pub max_mtu: Option<Spanned<u16>>,
    /// Whether path MTU discovery runs.
    pub discover_mtu: Option<bool>,
    /// Close after so long in silence.
    pub idle_timeout: Option<Spanned<Span>>,
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
        let congestion = match (self.congestion.unwrap_or_default(), &self.rate) {
            (Congestion::Fixed, Some(rate)) if *rate.get_ref() >= 10_000 => {
                CongestionControl::Fixed(*rate.get_ref())
            }
            (Congestion::Fixed, Some(rate)) => {
                return Err(source.fault(rate, "rate is in bits per second and at least 10000"));
            }
            (Congestion::Fixed, None) => {
                return Err(
                    source.whole("congestion = \"fixed\" needs transport.rate, in bits per second")
                );
            }
            (_, Some(rate)) => {
                return Err(source.fault(rate, "rate is only for congestion = \"fixed\""));
            }
            (Congestion::Cubic, None) => CongestionControl::Cubic,
            (Congestion::NewReno, None) => CongestionControl::NewReno,
            (Congestion::Bbr, None) => CongestionControl::Bbr,
        };
        let mut profile = TransportProfile {
            congestion,
            ..TransportProfile::default()
        };
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
            None => profile.max_mtu = profile.max_mtu.max(profile.initial_mtu),
        }
        if let Some(discover) = self.discover_mtu {
            profile.discover_mtu = discover;
        }
        if let Some(idle) = &self.idle_timeout {
            if idle.get_ref().0.as_secs() < 1 {
                return Err(source.fault(idle, "idle_timeout must be at least \"1s\""));
            }
            profile.idle_timeout = idle.get_ref().0;
        }
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
        Ok(profile)
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
