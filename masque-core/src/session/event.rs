//! What a session tells.

use alloc::string::String;

use bytes::Bytes;

use super::TunnelId;
use crate::error::{H3Code, WireErrorKind};
use crate::wire::capsule::{AddressAssign, AddressRequest, RouteAdvertisement};
use crate::wire::fields::FieldList;
use crate::wire::scope::Scope;
use crate::wire::settings::Settings;

/// A request for a tunnel, as sent or as received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TunnelRequest {
    /// `:authority`: the proxy, as the template has it.
    pub authority: String,
    /// `:path`: the expanded template.
    pub path: String,
    /// `:protocol`; normally `connect-ip`.
    pub protocol: String,
    /// The scope; parsed from the path by a server, informative in a client.
    pub scope: Scope,
    /// Further fields (authorization and the like).
    pub fields: FieldList,
}

/// What a session tells its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The peer's SETTINGS came: HTTP/3 is up.
    PeerSettings(Settings),
    /// A well-formed request whose path matches a template (server); to be answered by
    /// [`super::Command::Accept`], [`super::Command::AcceptWith`] or [`super::Command::Refuse`].
    Requested {
        /// The new tunnel.
        tunnel: TunnelId,
        /// What is asked.
        request: TunnelRequest,
    },
    /// Fields of a 2xx beside the status and `Capsule-Protocol`; [`Event::Established`] follows. Only
    /// where there are any (client).
    ResponseFields {
        /// The tunnel.
        tunnel: TunnelId,
        /// The fields, names in lower case, as they came.
        fields: FieldList,
    },
    /// The tunnel is open: the 2xx was received (client) or sent (server).
    Established {
        /// The tunnel.
        tunnel: TunnelId,
        /// The status.
        status: u16,
    },
    /// The peer answered with an error status (client).
    Refused {
        /// The tunnel, which has ended.
        tunnel: TunnelId,
        /// The status.
        status: u16,
        /// The value of `proxy-status`, if it was there and is printable.
        proxy_status: Option<String>,
    },
    /// ADDRESS_ASSIGN: the full list.
    AddressesAssigned {
        /// The tunnel.
        tunnel: TunnelId,
        /// What we now have; refusals are entries too.
        assign: AddressAssign,
    },
    /// ADDRESS_REQUEST: each entry is to be answered in an ADDRESS_ASSIGN.
    AddressesRequested {
        /// The tunnel.
        tunnel: TunnelId,
        /// What is wanted.
        request: AddressRequest,
    },
    /// ROUTE_ADVERTISEMENT: the full list.
    RoutesAdvertised {
        /// The tunnel.
        tunnel: TunnelId,
        /// What the peer routes.
        routes: RouteAdvertisement,
    },
    /// An IP packet that came in a DATAGRAM capsule.
    Packet {
        /// The tunnel.
        tunnel: TunnelId,
        /// The whole packet, not judged.
        packet: Bytes,
    },
    /// A tunnel has ended.
    TunnelEnded {
        /// The tunnel.
        tunnel: TunnelId,
        /// Why.
        end: TunnelEnd,
    },
    /// The peer takes no further requests.
    GoAway,
    /// The HTTP/3 connection has ended; nothing follows.
    Ended(SessionEnd),
}

/// Why a tunnel ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TunnelEnd {
    /// The peer ended its sending part (FIN).
    Finished,
    /// The peer reset it or asked us to stop.
    ResetByPeer {
        /// Its error code.
        code: u64,
    },
    /// The peer broke a rule, and we aborted the stream.
    Violation(WireErrorKind),
    /// No response in time.
    TimedOut,
    /// Rejected before it was processed (H3_REQUEST_REJECTED or GOAWAY): it may be asked for again elsewhere.
    Rejected,
    /// The peer's SETTINGS do not allow CONNECT-IP.
    Unsupported,
    /// We ended it.
    Local,
    /// The connection ended.
    ConnectionEnded,
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// The peer broke a rule of the connection; it is being closed with that code.
    Violation(WireErrorKind),
    /// No SETTINGS in time.
    SettingsTimeout,
    /// A local command, with this code.
    Local(H3Code),
    /// QUIC said that it is gone.
    Transport,
}
