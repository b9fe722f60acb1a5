//! Scripts as data.
//!
//! A file of scripts is TOML with an array of tables `script`; [`Script`] says what stands in each.
//! Steps and pieces of bytes are tables of one key, which says what they are:
//!
//! ```toml
//! [[script]]
//! name = "goaway-in-place-of-settings"
//! about = "The first frame on the control stream is a GOAWAY."
//! requirements = ["9114-6.2.1-02"]
//! against = ["server", "client"]
//! start = "quic"
//! steps = [
//!     { write = { stream = "control", bytes = ["00", { frame = { type = 7, of = ["00"] } }] } },
//!     { closed = { code = 0x10a } },
//! ]
//! ```
//!
//! A stream is named by whoever first uses the name, which opens it: bidirectional if the name begins
//! with `request`, else unidirectional. Towards a client, `request` is the first stream it opened,
//! `request-2` its second. The subject's own streams are `their-control`, `their-encoder` and
//! `their-decoder`.

use serde::{Deserialize, Serialize};

use super::bytes::Piece;

/// A file of scripts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scripts {
    /// The scripts, in order.
    pub script: Vec<Script>,
}

/// The part of the one who is judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// The subject is a server; the script plays the client.
    Server,
    /// The subject is a client; the script plays the server.
    Client,
}

impl Subject {
    /// Its name in files and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// Where the steps begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// QUIC is up; nothing has been said.
    Quic,
    /// Our control and QPACK streams are open and both sides' SETTINGS have come.
    #[default]
    Settings,
    /// As `settings`; and towards a client, its request is here, unanswered. What goes onto `request`
    /// next is a head.
    Head,
    /// A tunnel is open, on the stream `request`.
    Tunnel,
}

/// What a script needs beside QUIC and HTTP/3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The subject's limits are those of our defaults: not asked of others.
    Ours,
    /// Minutes: in virtual time only.
    Virtual,
    /// The URI template has the variables `target` and `ipproto` in its path.
    Scope,
}

/// The transport parameters the script's side offers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offer {
    /// Whether DATAGRAM frames are taken.
    pub datagrams: bool,
    /// How many unidirectional streams the subject may open.
    pub uni_streams: u32,
    /// Bytes per stream that may be on their way.
    pub window: u32,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            datagrams: true,
            uni_streams: 16,
            window: 1 << 20,
        }
    }
}

/// One script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Unique among all scripts.
    pub name: String,
    /// What it does, for whoever reads the table.
    pub about: String,
    /// The ids of the requirements it proves.
    pub requirements: Vec<String>,
    /// Whom it can be run against.
    pub against: Vec<Subject>,
    /// Where its steps begin.
    #[serde(default)]
    pub start: Start,
    /// What it needs.
    #[serde(default)]
    pub needs: Vec<Need>,
    /// The transport parameters offered.
    #[serde(default)]
    pub offer: Offer,
    /// What is done and expected.
    pub steps: Vec<Step>,
}

/// Something done or expected. An expectation takes what it matches: the next one looks at the rest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Writes to a stream.
    Write(Write),
    /// Sends a QUIC DATAGRAM.
    Send(Send),
    /// Resets our side of a stream.
    Reset(Abort),
    /// Asks the subject to stop sending on a stream.
    Stop(Abort),
    /// Closes the connection.
    Close(Close),
    /// Waits so many milliseconds, whatever happens.
    Wait(u64),
    /// Reads a stream no more, or with `all` nothing at all: no credit is given.
    Hold(String),
    /// Sends nothing any more, not even acknowledgements.
    Mute,
    /// Steps taken so often; `#` in the name of a stream is the number of the turn.
    Times(Times),

    /// The connection is closed by the subject.
    Closed(Closed),
    /// The subject resets a stream, stops it, or both.
    Aborted(Aborted),
    /// The subject sends its request (a client), on `request`.
    Asked,
    /// For so many milliseconds the subject (a client) sends no request.
    Unasked(u64),
    /// The subject answers a request.
    Answered(Answered),
    /// A capsule comes.
    Capsule(Capsule),
    /// A datagram comes for a stream, by DATAGRAM frame or capsule.
    Datagram(String),
    /// The subject ends its side of a stream in peace.
    Finished(String),
    /// SETTINGS come, with these values among them.
    Settings(Settings),
    /// GOAWAY comes.
    Goaway(Within),
    /// For so many milliseconds nothing is reset, stopped or closed.
    Quiet(u64),
    /// The connection lives: it is not closed, and a PING is acknowledged.
    Alive,
    /// The tunnel on `request` lives: an ADDRESS_REQUEST is answered.
    TunnelAlive,
    /// For so many milliseconds no stream of this name can be opened: the subject gives no credit.
    Held(Held),
}

/// Bytes for a stream.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The stream.
    pub stream: String,
    /// What.
    pub bytes: Vec<Piece>,
    /// So many bytes at a time, each in a packet of its own; 0 is all at once.
    #[serde(default)]
    pub split: usize,
    /// Milliseconds between those.
    #[serde(default)]
    pub every: u64,
    /// End the stream after it.
    #[serde(default)]
    pub fin: bool,
    /// Go on with the next step when the subject takes no more, or has stopped the stream.
    #[serde(default)]
    pub may_block: bool,
}

/// A QUIC DATAGRAM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// The stream whose quarter ID goes in front; without it, `bytes` are all.
    #[serde(default)]
    pub stream: Option<String>,
    /// What.
    pub bytes: Vec<Piece>,
}

/// A stream and a code.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// The stream.
    pub stream: String,
    /// The application error code.
    pub code: u64,
}

/// A code.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The application error code.
    pub code: u64,
}

/// Steps over and over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Times {
    /// How often.
    pub count: u32,
    /// What.
    pub steps: Vec<Step>,
}

/// The connection is closed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    /// The application error code.
    pub code: u64,
    /// Whether the standard names the code.
    #[serde(default = "yes")]
    pub strict: bool,
    /// Whether the standard leaves it to the subject to notice.
    #[serde(default)]
    pub optional: bool,
    /// Milliseconds until then at most.
    #[serde(default)]
    pub within: Option<u64>,
}

/// A stream is reset, stopped or both.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aborted {
    /// The stream.
    pub stream: String,
    /// The application error code.
    pub code: u64,
    /// Whether the standard names the code.
    #[serde(default = "yes")]
    pub strict: bool,
    /// Whether the standard leaves it to the subject to notice.
    #[serde(default)]
    pub optional: bool,
    /// A status of this one's class in its place (RFC 9114 §4.1.2).
    #[serde(default)]
    pub or_status: Option<u16>,
    /// Milliseconds until then at most.
    #[serde(default)]
    pub within: Option<u64>,
}

/// A response.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// The stream.
    #[serde(default = "request")]
    pub stream: String,
    /// Which statuses it may have; empty is any of 200 to 299.
    #[serde(default)]
    pub status: Vec<u16>,
    /// Fields it has, and what their value contains.
    #[serde(default)]
    pub fields: Vec<(String, String)>,
    /// Fields it does not have.
    #[serde(default)]
    pub without: Vec<String>,
    /// Whether the standard names the status.
    #[serde(default = "yes")]
    pub strict: bool,
    /// Milliseconds until then at most.
    #[serde(default)]
    pub within: Option<u64>,
}

/// A capsule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capsule {
    /// The stream.
    #[serde(default = "request")]
    pub stream: String,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: u64,
    /// ADDRESS_ASSIGN: an entry with this Request ID.
    #[serde(default)]
    pub id: Option<u64>,
    /// ADDRESS_ASSIGN: the entry is a refusal (all zeros, full length), or is not.
    #[serde(default)]
    pub refused: Option<bool>,
    /// Its whole value, in hexadecimal digits.
    #[serde(default)]
    pub value: Option<String>,
    /// Milliseconds until then at most.
    #[serde(default)]
    pub within: Option<u64>,
}

/// SETTINGS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Identifiers and values that are among them.
    #[serde(default)]
    pub with: Vec<(u64, u64)>,
    /// Identifiers that are not.
    #[serde(default)]
    pub without: Vec<u64>,
}

/// A time to wait.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Within {
    /// Milliseconds until then at most.
    #[serde(default)]
    pub within: Option<u64>,
}

/// A stream that cannot be opened.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The stream.
    pub stream: String,
    /// For so many milliseconds.
    pub ms: u64,
}

const fn yes() -> bool {
    true
}

fn request() -> String {
    "request".to_owned()
}

impl Scripts {
    /// Reads a file of scripts.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

impl Step {
    /// Whether it waits for the subject, rather than doing something.
    #[must_use]
    pub const fn expects(&self) -> bool {
        !matches!(
            self,
            Self::Write(_)
                | Self::Send(_)
                | Self::Reset(_)
                | Self::Stop(_)
                | Self::Close(_)
                | Self::Wait(_)
                | Self::Hold(_)
                | Self::Mute
                | Self::Times(_)
        )
    }

    /// The expectation in a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Closed(it) => format!("connection closed with {}", code(it.code)),
            Self::Aborted(it) => format!("{} aborted with {}", it.stream, code(it.code)),
            Self::Asked => "a request".to_owned(),
            Self::Unasked(_) => "no request".to_owned(),
            Self::Answered(it) if it.status.is_empty() => format!("{} answered 2xx", it.stream),
            Self::Answered(it) => format!("{} answered {:?}", it.stream, it.status),
            Self::Capsule(it) => match (it.id, it.refused) {
                (Some(id), Some(true)) => format!("capsule {} refusing request {id}", it.ty),
                (Some(id), _) => format!("capsule {} for request {id}", it.ty),
                _ => format!("capsule {}", it.ty),
            },
            Self::Datagram(stream) => format!("a datagram for {stream}"),
            Self::Finished(stream) => format!("{stream} finished"),
            Self::Settings(it) if it.with.is_empty() => "SETTINGS".to_owned(),
            Self::Settings(it) => format!("SETTINGS with {:x?}", it.with),
            Self::Goaway(_) => "GOAWAY".to_owned(),
            Self::Quiet(_) => "nothing".to_owned(),
            Self::Alive => "connection alive".to_owned(),
            Self::TunnelAlive => "tunnel alive".to_owned(),
            Self::Held(it) => format!("no credit for {}", it.stream),
            _ => String::new(),
        }
    }
}

/// A code of HTTP/3, by its name where it has one.
#[must_use]
pub fn code(code: u64) -> String {
    format!("{}", masque_core::H3Code(code))
}
