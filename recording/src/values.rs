//! What crosses the surface of an endpoint, as bytes.

use std::net::IpAddr;

use masque_core::H3Code;
use masque_core::endpoint::{
    Accepted, Access, Command, CongestionControl, ConnId, Ecn, Identity, Ipv6Minimum, Lease,
    Limits, Origin, PortConfig, PortId, RecvMeta, SocketId, StaticAssignment, TransportProfile,
    TunnelHandle,
};
use masque_core::session::{AddressRequestPolicy, SessionConfig, TunnelId};
use masque_core::wire::capsule::{CapsuleLimits, RouteAdvertisement};
use masque_core::wire::fields::{Field as FieldLine, FieldList};
use masque_core::wire::offload::VnetHdr;
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::scope::{Scope, Target as ScopeTarget};
use masque_core::wire::template::UriTemplate;

use crate::codec::{Field, Malformed, choices, newtypes, put_bytes, structures, take_bytes};

newtypes! { SocketId PortId ConnId TunnelId Identity H3Code FieldList }

choices! {
    Ecn { 0 => Ect0, 1 => Ect1, 2 => Ce }
    Origin { 0 => Local, 1 => Forwarded }
    CongestionControl { 0 => Cubic, 1 => NewReno, 2 => Bbr, 3 => Fixed(rate), 4 => Tunnel }
    Ipv6Minimum { 0 => Follow, 1 => Require { probes, interval } }
    AddressRequestPolicy { 0 => After(time), 1 => AtOnce, 2 => Never }
    ScopeTarget { 0 => Any, 1 => Prefix(prefix), 2 => Name(name) }
    Command {
        0 => AdvertiseRoutes { tunnel, routes },
        1 => RequestAddresses { tunnel, prefixes },
        2 => AssignAddresses { tunnel, addresses },
        3 => Resolved { tunnel, addresses },
        4 => CloseTunnel { tunnel },
        5 => CloseConnection { conn, code },
        6 => Revoke { identity },
        7 => Rebound { socket },
        8 => HandOver { conn, socket, remote, lost },
        9 => PortMtu { port, mtu },
        10 => Shutdown { grace },
    }
}

structures! {
    TunnelHandle { conn, tunnel }
    RecvMeta { socket, remote, local_ip, ecn, stride }
    Accepted { queued, dropped }
    VnetHdr { flags, gso_type, hdr_len, gso_size, csum_start, csum_offset }
    Scope { target, protocol }
    PortConfig { id, tcp_offload, udp_offload, addresses, mtu }
    Access { client_to_client, gateway, deny }
    StaticAssignment { identity, addresses }
    Lease { identity, addresses, last_used }
    CapsuleLimits { max_value, max_datagram, max_entries }
    TransportProfile {
        congestion, initial_mtu, max_mtu, discover_mtu, ipv6_minimum, idle_timeout, linger,
        keep_alive, initial_rtt, datagram_receive_buffer, datagram_send_buffer,
        stream_receive_window, send_window, initial_window, ack_threshold, max_ack_delay,
    }
    Limits {
        max_connections, max_handshakes, handshakes_per_turn, retry_threshold,
        handshakes_per_source, connections_per_identity, tunnels_per_connection,
        tunnel_queue_bytes, total_queue_bytes, max_routes, icmp_per_second, lease_lifetime,
    }
    SessionConfig {
        templates, extra_protocols, resolve_names, grease, max_field_section, max_tunnels, capsules,
        max_address_requests, max_stream_output, max_unknown_streams, max_burden, burden_period,
        settings_timeout, response_timeout, drain_timeout, address_request, wanted_addresses,
    }
}

impl Field for FieldLine {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.name, out);
        put_bytes(&self.value, out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self {
            name: take_bytes(input)?.to_vec(),
            value: take_bytes(input)?.to_vec(),
        })
    }
}

impl Field for UriTemplate {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.text().as_bytes(), out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Self::parse(&String::take(input)?).map_err(|_| Malformed("no URI template"))
    }
}

impl Field for IpPrefix {
    fn put(&self, out: &mut Vec<u8>) {
        self.address().put(out);
        self.length().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let (address, length) = <(IpAddr, u8)>::take(input)?;
        Self::new(address, length).map_err(|_| Malformed("no prefix"))
    }
}

impl Field for AddressRange {
    fn put(&self, out: &mut Vec<u8>) {
        self.start().put(out);
        self.end().put(out);
        self.protocol().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let (start, end) = <(IpAddr, IpAddr)>::take(input)?;
        Self::new(start, end, u8::take(input)?).map_err(|_| Malformed("no range of addresses"))
    }
}

impl Field for RouteAdvertisement {
    fn put(&self, out: &mut Vec<u8>) {
        self.ranges().len().put(out);
        for range in self.ranges() {
            range.put(out);
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Self::new(Vec::take(input)?).map_err(|_| Malformed("no list of routes"))
    }
}
