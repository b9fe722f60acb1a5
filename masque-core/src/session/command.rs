//! What a session can be told, and how it is set up.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::TunnelId;
use crate::error::H3Code;
use crate::wire::capsule::{AddressAssign, CapsuleLimits, RouteAdvertisement};
use crate::wire::fields::FieldList;
use crate::wire::prefix::IpPrefix;
use crate::wire::template::UriTemplate;

/// How a session behaves. Every limit bounds something the peer could otherwise grow.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The templates a server answers under; a request whose path matches none gets 404.
    pub templates: Vec<UriTemplate>,
    /// `:protocol` tokens a server takes beside `connect-ip`.
    pub extra_protocols: Vec<String>,
    /// Whether a server's owner resolves host names: a request for one is then told of like every other,
    /// and to be answered once the addresses are known. Otherwise it is refused with 502 and
    /// `dns_error` (RFC 9484 §4.1).
    pub resolve_names: bool,
    /// A number that names a reserved setting for peers to ignore (RFC 9114 §7.2.4.1). `None` sends none;
    /// an endpoint then draws one.
    pub grease: Option<u32>,
    /// The largest field section taken, announced in SETTINGS; bytes as RFC 9114 §4.2.2 counts.
    pub max_field_section: usize,
    /// The most tunnels at once (pending ones included); further requests get H3_REQUEST_REJECTED.
    pub max_tunnels: usize,
    /// Limits of received capsules.
    pub capsules: CapsuleLimits,
    /// The most Request IDs remembered per tunnel (they must never repeat); one more
    /// ADDRESS_REQUEST closes the tunnel with H3_EXCESSIVE_LOAD.
    pub max_address_requests: usize,
    /// The most bytes queued for one stream before the session stops reading that stream.
    pub max_stream_output: usize,
    /// The most streams of unknown type alive at once.
    pub max_unknown_streams: usize,
    /// The most the peer may send in vain within [`Self::burden_period`]: unknown frames and streams,
    /// empty DATA frames, capsules other than DATAGRAM (whatever they change), requests it takes back, which count 16 each.
    /// More closes the connection with H3_EXCESSIVE_LOAD.
    pub max_burden: u32,
    /// The period.
    pub burden_period: Duration,
    /// How long the peer may take to send SETTINGS.
    pub settings_timeout: Duration,
    /// How long a response may take.
    pub response_timeout: Duration,
    /// How long tunnels may live on after our GOAWAY.
    pub drain_timeout: Duration,
    /// When a client asks for addresses.
    pub address_request: AddressRequestPolicy,
    /// What a client asks for, if it does: an all-zero address means any of that length.
    pub wanted_addresses: Vec<IpPrefix>,
}

/// When a client sends ADDRESS_REQUEST. Some servers end the tunnel on it, and all assign unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressRequestPolicy {
    /// Only when no ADDRESS_ASSIGN has come for so long after the response.
    After(Duration),
    /// With the request, before the response.
    AtOnce,
    /// Never.
    Never,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            templates: Vec::new(),
            extra_protocols: Vec::new(),
            resolve_names: false,
            grease: None,
            max_field_section: 16 << 10,
            max_tunnels: 16,
            capsules: CapsuleLimits::default(),
            max_address_requests: 1024,
            max_stream_output: 64 << 10,
            max_unknown_streams: 16,
            max_burden: 4096,
            burden_period: Duration::from_secs(10),
            settings_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(5),
            address_request: AddressRequestPolicy::After(Duration::from_millis(500)),
            wanted_addresses: Vec::new(),
        }
    }
}

/// What a session can be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Answer a request with 200.
    Accept {
        /// The requested tunnel.
        tunnel: TunnelId,
    },
    /// Answer a request with 200 and further fields; [`CommandError::Limit`] where the peer takes no
    /// field section of that size, and the request still waits.
    AcceptWith {
        /// The requested tunnel.
        tunnel: TunnelId,
        /// The fields: none of them a pseudo-header, names in lower case.
        fields: FieldList,
    },
    /// Answer a request with an error status, and end the stream.
    Refuse {
        /// The requested tunnel.
        tunnel: TunnelId,
        /// 300 to 599.
        status: u16,
        /// Further fields, `proxy-status` among them (RFC 9209).
        fields: FieldList,
    },
    /// Send ADDRESS_ASSIGN: the full list.
    AssignAddresses {
        /// The tunnel.
        tunnel: TunnelId,
        /// What the peer now has.
        assign: AddressAssign,
    },
    /// Send ADDRESS_REQUEST, with fresh Request IDs.
    RequestAddresses {
        /// The tunnel.
        tunnel: TunnelId,
        /// What is wanted.
        prefixes: Vec<IpPrefix>,
    },
    /// Send ROUTE_ADVERTISEMENT: the full list.
    AdvertiseRoutes {
        /// The tunnel.
        tunnel: TunnelId,
        /// What we route.
        routes: RouteAdvertisement,
    },
    /// Send an IP packet in a DATAGRAM capsule; dropped (with [`CommandError::Blocked`]) while the
    /// stream is blocked.
    SendPacket {
        /// The tunnel.
        tunnel: TunnelId,
        /// The whole packet.
        packet: Bytes,
    },
    /// End a tunnel.
    CloseTunnel {
        /// The tunnel.
        tunnel: TunnelId,
        /// How.
        how: CloseHow,
    },
    /// Send GOAWAY, take no new tunnels, close when the last has ended or the drain time is over.
    Shutdown,
    /// Close the connection now.
    Close {
        /// Why.
        code: H3Code,
        /// In words.
        reason: &'static str,
    },
}

/// How a tunnel is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseHow {
    /// FIN, after what is queued.
    Finish,
    /// Reset and stop, now. H3_REQUEST_REJECTED is for servers, and for requests not yet accepted.
    Abort(H3Code),
}

/// Local misuse or pressure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandError {
    /// No such tunnel, or it has ended.
    #[error("no such tunnel")]
    UnknownTunnel,
    /// The command is not for this role.
    #[error("not for this role")]
    Role,
    /// The tunnel is not in a state for it.
    #[error("not in this state")]
    State,
    /// A limit is reached.
    #[error("limit reached")]
    Limit,
    /// The stream is blocked and its queue is full.
    #[error("stream blocked")]
    Blocked,
    /// The connection is closing or shut down.
    #[error("connection closing")]
    Closing,
}
