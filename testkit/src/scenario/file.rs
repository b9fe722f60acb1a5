//! Scenarios as TOML: who is there, how they are linked, what crosses, what happens, what must come of it.
//!
//! ```toml
//! name = "handover"
//! about = "A call goes on while its phone leaves the Wi-Fi."
//! seed = 1                # unless another is given; decides everything
//! crypto = "null"         # null, seeded or real
//! length = "20s"
//! profile = "wifi"        # of every client that names none
//!
//! [server]                # all of it optional
//! client-to-client = false
//! shards = 1
//! congestion = "tunnel"   # of both sides: cubic, newreno, bbr, tunnel
//!
//! [[client]]
//! name = "phone"
//! [client.up]             # changes the profile in one direction; [client.link] in both
//! loss = 1.5              # per cent
//!
//! [[traffic]]
//! kind = "voice"          # echo, voice, tcp
//! client = "phone"        # all clients if not said
//! begin = "1s"
//!
//! [[event]]
//! at = "5s"
//! do = "address"          # the client has another address
//! gap = "300ms"
//!
//! [[expect]]
//! what = "voice-lost"     # a metric; see `Run::metrics`
//! max = 0.05
//! ```
//!
//! Times are a number and a unit: `us`, `ms`, `s`, `min`, `h`. Unknown keys are errors.

use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::str::FromStr;
use std::time::Duration;

use masque_core::WireErrorKind;
use masque_core::wire::prefix::IpPrefix;
use serde::Deserialize;

use super::Crypto;
use crate::world::{Bursts, CoDel, LinkConfig};

/// Why there is no such scenario.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    /// It is no TOML, or has keys or values that there are not.
    #[error(transparent)]
    Toml(#[from] toml::de::Error),
    /// It contradicts itself.
    #[error("{0}")]
    Wrong(String),
    /// Certificates or configurations cannot be made.
    #[error(transparent)]
    Tls(#[from] crate::crypto::TlsError),
}

/// A scenario as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScenarioFile {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// Decides every random choice, unless another is given.
    #[serde(default)]
    pub seed: u64,
    /// How packets are protected.
    #[serde(default)]
    pub crypto: Crypto,
    /// How long it goes on.
    #[serde(default = "ten_seconds")]
    pub length: Span,
    /// The path of every client that names none.
    #[serde(default = "lan")]
    pub profile: String,
    /// The server, and what both sides have in common.
    #[serde(default)]
    pub server: ServerPart,
    /// The clients; one if there is no word of them.
    #[serde(default, rename = "client")]
    pub clients: Vec<ClientPart>,
    /// What crosses the tunnels.
    #[serde(default)]
    pub traffic: Vec<TrafficPart>,
    /// What happens.
    #[serde(default, rename = "event")]
    pub events: Vec<EventPart>,
    /// What must come of it.
    #[serde(default, rename = "expect")]
    pub expects: Vec<ExpectPart>,
}

/// The server, and what both sides have in common.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServerPart {
    /// Whether clients may reach each other.
    pub client_to_client: bool,
    /// How many shards; 1 if not said.
    pub shards: Option<u16>,
    /// The congestion control of both sides.
    pub congestion: Option<CongestionName>,
    /// How long a connection lives without a packet, on both sides.
    pub idle_timeout: Option<Span>,
    /// How often a silent connection says something, on both sides.
    pub keep_alive: Option<Span>,
}

/// A congestion control by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CongestionName {
    /// RFC 9438.
    Cubic,
    /// RFC 9002.
    Newreno,
    /// quinn-proto's BBR: no two runs are alike.
    Bbr,
    /// The one made for tunnels.
    Tunnel,
}

/// One or more clients.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ClientPart {
    /// Its name; `client-N` if not said. With `count`, a number is put behind it.
    pub name: Option<String>,
    /// How many; 1 if not said.
    pub count: Option<usize>,
    /// Its path.
    pub profile: Option<String>,
    /// Changes its path both ways.
    pub link: LinkPart,
    /// Changes its path to the server.
    pub up: LinkPart,
    /// Changes its path from the server.
    pub down: LinkPart,
    /// A NAT in front of it.
    pub nat: Option<NatPart>,
    /// When it connects first; at once if not said.
    pub connect: Span,
    /// It connects again so long after having lost its connection.
    pub reconnect: Option<Span>,
}

/// Changes of a path. What is not said stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LinkPart {
    /// The propagation delay.
    pub delay: Option<Span>,
    /// Up to so much more.
    pub jitter: Option<Span>,
    /// Whether one packet may overtake another.
    pub reorder: Option<bool>,
    /// Random losses in per cent.
    pub loss: Option<f64>,
    /// Losses in bursts.
    pub bursts: Option<BurstsPart>,
    /// Packets lost, by their number on the link; the first is number 1.
    pub lose: Vec<u64>,
    /// Packets that arrive twice, in per cent.
    pub duplicate: Option<f64>,
    /// Packets with a changed bit, in per cent.
    pub corrupt: Option<f64>,
    /// Megabits per second; 0 is without limit.
    pub mbit: Option<f64>,
    /// The queue in bytes.
    pub queue: Option<usize>,
    /// Whether the queue is managed by CoDel with its usual constants.
    pub codel: Option<bool>,
    /// Marks ECN-capable packets that wait for longer.
    pub mark: Option<Span>,
    /// Whether ECN codepoints are erased.
    pub bleach: Option<bool>,
    /// The largest IP packet in bytes.
    pub mtu: Option<usize>,
    /// Whether ICMP tells of larger ones.
    pub icmp: Option<bool>,
    /// Whether anything passes.
    pub up: Option<bool>,
}

/// Gilbert and Elliott's model, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BurstsPart {
    /// How likely a burst begins with a packet.
    pub begin: f64,
    /// How likely it ends with one.
    pub end: f64,
    /// How many packets it takes.
    pub loss: f64,
}

/// A NAT (RFC 4787).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NatPart {
    /// What a mapping depends on besides the inner address; nothing if not said.
    pub mapping: crate::world::Dependence,
    /// From whom packets are let in; from anybody if not said.
    pub filtering: crate::world::Dependence,
    /// How long a mapping lives without a packet from inside; 2 minutes if not said.
    pub expiry: Option<Span>,
}

/// Something that crosses the tunnels.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrafficPart {
    /// What.
    pub kind: TrafficKind,
    /// Whose; all clients' if not said.
    pub client: Option<String>,
    /// When it begins; at once if not said.
    #[serde(default)]
    pub begin: Span,
    /// When it ends; with the scenario if not said.
    pub end: Option<Span>,
    /// Between two packets (echo: 100 ms; voice: 20 ms).
    pub every: Option<Span>,
    /// Bytes of payload (echo: 64; voice: 160).
    pub size: Option<usize>,
    /// Which end sends (tcp, echo).
    #[serde(default)]
    pub from: From,
    /// How many flows (tcp).
    pub flows: Option<u16>,
    /// Bytes of each flow (tcp); until the end if not said.
    pub bytes: Option<u64>,
    /// The MTU of the hosts (tcp); 1,280 bytes if not said.
    pub mtu: Option<usize>,
    /// Over IPv6 (voice, tcp).
    #[serde(default)]
    pub ipv6: bool,
}

/// What crosses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficKind {
    /// ICMP and UDP echoes over both IP versions.
    Echo,
    /// A constant rate both ways.
    Voice,
    /// TCP by smoltcp.
    Tcp,
}

/// Which end sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// The client.
    #[default]
    Client,
    /// A host behind the server.
    Server,
}

/// Something that happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EventPart {
    /// When.
    pub at: Span,
    /// Again and again after this.
    pub every: Option<Span>,
    /// What.
    #[serde(rename = "do")]
    pub what: EventKind,
    /// To which client; to all if not said.
    pub client: Option<String>,
    /// How long nothing passes (`address`, `outage`).
    #[serde(default)]
    pub gap: Span,
    /// The new address (`address`); one of another network if not said.
    pub to: Option<SocketAddr>,
    /// Whether the endpoint is told (`address`); yes if not said.
    #[serde(default = "yes")]
    pub tell: bool,
    /// The new path (`link`, `address`).
    pub profile: Option<String>,
    /// Changes it (`link`, `address`).
    #[serde(default)]
    pub link: LinkPart,
    /// More addresses (`assign`).
    #[serde(default)]
    pub addresses: Vec<PrefixText>,
    /// Whether those it has stay (`assign`); yes if not said.
    #[serde(default = "yes")]
    pub keep: bool,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The client has another address, after a gap or without one.
    Address,
    /// Nothing passes for `gap`.
    Outage,
    /// The path changes.
    Link,
    /// The NAT in front of the client forgets everything.
    NatRebind,
    /// The server assigns addresses.
    Assign,
    /// The server closes the tunnel.
    CloseTunnel,
    /// The client closes its connections.
    Disconnect,
    /// The client connects (again).
    Connect,
    /// The client starts anew, without a word.
    RestartClient,
    /// The server starts anew, without a word, remembering its leases.
    RestartServer,
    /// The server shuts down.
    ShutDown,
}

/// What must come of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExpectPart {
    /// The metric.
    pub what: String,
    /// Whose; the sum or the worst of all clients if not said.
    pub client: Option<String>,
    /// At least.
    pub min: Option<f64>,
    /// At most.
    pub max: Option<f64>,
}

/// A time as `20ms`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time: a number and us, ms, s, min or h");
        let unit = text.find(|char: char| char.is_ascii_alphabetic());
        let (number, unit) = text.split_at(unit.ok_or_else(wrong)?);
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let seconds = match unit {
            "us" => number / 1e6,
            "ms" => number / 1e3,
            "s" => number,
            "min" => number * 60.0,
            "h" => number * 3600.0,
            _ => return Err(wrong()),
        };
        // A day: what is longer is a mistake, and may overflow a timer.
        if !(0.0..=86_400.0).contains(&seconds) {
            return Err(format!("{text:?} is out of range"));
        }
        // Whole microseconds: what traces show.
        Ok(Self(Duration::from_micros((seconds * 1e6).round() as u64)))
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// An address or prefix as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct PrefixText(pub IpPrefix);

impl TryFrom<String> for PrefixText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let prefix = text.parse().map(Self);
        prefix.map_err(|error: WireErrorKind| format!("{text:?}: {error}"))
    }
}

fn ten_seconds() -> Span {
    Span(Duration::from_secs(10))
}

fn lan() -> String {
    "lan".to_owned()
}

const fn yes() -> bool {
    true
}

impl ScenarioFile {
    /// Reads TOML.
    ///
    /// # Errors
    /// [`FileError::Toml`].
    pub fn parse(text: &str) -> Result<Self, FileError> {
        Ok(toml::from_str(text)?)
    }

    /// Reads a file. A scenario without a name is called as its file.
    ///
    /// # Errors
    /// [`FileError::Io`] or [`FileError::Toml`].
    pub fn read(path: &FilePath) -> Result<Self, FileError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| FileError::Io(name, error))?;
        let mut this = Self::parse(&text)?;
        if this.name.is_empty()
            && let Some(stem) = path.file_stem()
        {
            this.name = stem.to_string_lossy().into_owned();
        }
        Ok(this)
    }
}

impl LinkPart {
    /// Changes what it speaks of.
    pub fn apply(&self, config: &mut LinkConfig) {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut config.delay, self.delay.map(|span| span.0));
        set(&mut config.jitter, self.jitter.map(|span| span.0));
        set(&mut config.reorder, self.reorder);
        set(&mut config.loss, self.loss.map(per_million));
        set(&mut config.duplicate, self.duplicate.map(per_million));
        set(&mut config.corrupt, self.corrupt.map(per_million));
        set(&mut config.queue, self.queue);
        set(&mut config.bleach, self.bleach);
        set(&mut config.mtu, self.mtu);
        set(&mut config.icmp, self.icmp);
        set(&mut config.up, self.up);
        if let Some(bursts) = self.bursts {
            config.bursts = Some(Bursts {
                begin: per_million(bursts.begin),
                end: per_million(bursts.end),
                loss: per_million(bursts.loss),
            });
        }
        if let Some(mbit) = self.mbit {
            config.rate = (mbit > 0.0).then(|| ((mbit * 1e6) as u64).max(1));
        }
        if let Some(codel) = self.codel {
            config.codel = codel.then(CoDel::default);
        }
        if let Some(mark) = self.mark {
            config.mark = Some(mark.0);
        }
    }
}

/// Saturates: less than nothing is nothing, more than all is all.
fn per_million(per_cent: f64) -> u32 {
    (per_cent * 10_000.0).round() as u32
}
