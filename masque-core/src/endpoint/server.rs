//! The server's decisions: who gets in, which addresses they get, what they are told to route here.

use std::net::IpAddr;
use std::time::Instant;

use quinn_proto::TimeSource;

use super::client::about;
use super::conn::{Conn, Tunnel};
use super::event::{CloseReason, Event};
use super::fq_codel::TunnelQueue;
use super::owners::Change;
use super::rate::RateLimit;
use super::routes::{RouteTable, scoped};
use super::shard::Notice;
use super::types::TunnelHandle;
use super::{ConnId, Endpoint, Identity};
use crate::error::H3Code;
use crate::session::{Command as SessionCommand, TunnelId, TunnelRequest};
use crate::trace::What;
use crate::wire::capsule::{
    AddressAssign, AddressEntry, AddressRequest, RequestId, RouteAdvertisement,
};
use crate::wire::fields::FieldList;
use crate::wire::prefix::{AddressRange, IpPrefix};
use crate::wire::scope::{Scope, Target};
use crate::wire::stream::Role;

impl Endpoint {
    /// The handshake is complete: reads who the client is, and makes room for it.
    pub(super) fn on_client_connected(&mut self, now: Instant, conn: &mut Conn) {
        let proven = conn.bridge.proven();
        let server = self.server.as_ref();
        if server.is_some_and(|server| server.require_identity) && proven.identity.is_none() {
            self.close(
                now,
                conn,
                CloseReason::NotAuthorised,
                H3Code::REQUEST_REJECTED,
                "no identity",
            );
            return;
        }
        conn.identity = proven.identity;
        self.watch_expiry(now, conn, proven.expires);
        if conn.closing.is_some() {
            return;
        }
        if let Some(identity) = conn.identity.clone() {
            self.replace_oldest(&identity, conn.id);
        }
    }

    /// Closes a connection whose certificate has expired already; otherwise notes when it will.
    pub(super) fn watch_expiry(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        expires: Option<std::time::SystemTime>,
    ) {
        let Some(expires) = expires else { return };
        conn.expires = self.clock.instant_of(expires);
        if expires <= self.clock.now() {
            self.close(
                now,
                conn,
                CloseReason::CertificateExpired,
                H3Code::NO_ERROR,
                "certificate expired",
            );
        }
    }

    /// An identity may have a bounded number of connections, on all shards; the newest stay.
    fn replace_oldest(&mut self, identity: &Identity, newest: ConnId) {
        let allowed = self.limits.connections_per_identity.max(1);
        let oldest: Vec<ConnId> = {
            let all = &mut self.seat.shared.registry().of_identity;
            let all = all.entry(identity.clone()).or_default();
            all.insert(newest);
            let surplus = all.len().saturating_sub(allowed);
            let others = all.iter().copied().filter(|id| *id != newest);
            others.take(surplus).collect()
        };
        for id in oldest {
            match self.elsewhere(id) {
                Some(shard) => self.leave_notice(shard, Notice::Replace(id)),
                None => self.to_replace.push(id),
            }
        }
    }

    /// A connection of an identity has ended.
    pub(super) fn forget_identity(&mut self, conn: &Conn) {
        let Some(identity) = &conn.identity else {
            return;
        };
        let of_identity = &mut self.seat.shared.registry().of_identity;
        if let Some(all) = of_identity.get_mut(identity) {
            all.remove(&conn.id);
            if all.is_empty() {
                of_identity.remove(identity);
            }
        }
    }

    /// A request for a tunnel.
    pub(super) fn on_requested(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        id: TunnelId,
        request: TunnelRequest,
    ) {
        if conn.closing.is_some() || self.shutdown.is_some() {
            self.refuse(conn, id, 503, "masque; error=connection_terminated");
            return;
        }
        if conn.tunnels.len() >= self.limits.tunnels_per_connection {
            self.refuse(conn, id, 429, "masque; error=connection_limit_reached");
            return;
        }
        if let Target::Name(name) = &request.scope.target {
            let name = name.clone();
            return self.want_name(conn, id, request, name);
        }
        let targets = match &request.scope.target {
            Target::Prefix(prefix) => Some(vec![*prefix]),
            Target::Any | Target::Name(_) => None,
        };
        self.grant(now, conn, id, request, targets.as_deref());
    }

    /// Opens a tunnel to `targets`, or to everything there is.
    pub(super) fn grant(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        id: TunnelId,
        request: TunnelRequest,
        targets: Option<&[IpPrefix]>,
    ) {
        let Some(routes) = self.routes_for(targets, request.scope.protocol) else {
            self.refuse(conn, id, 403, "masque; error=destination_ip_prohibited");
            return;
        };
        let handle = TunnelHandle {
            conn: conn.id,
            tunnel: id,
        };
        self.expire_leases();
        let wall = self.clock.now();
        let predecessor = self.redeem(conn, &request);
        let inherited = predecessor.and_then(|old| self.inherit(old, handle));
        // A second tunnel of one connection has addresses of its own; another connection of the
        // same identity takes its addresses over.
        let leased = conn.identity.clone();
        let leased = leased.filter(|_| inherited.is_some() || conn.tunnels.is_empty());
        let given = self
            .seat
            .shared
            .change_leases(|registry| match (inherited, &leased) {
                (Some(addresses), Some(identity)) => {
                    Ok((addresses, registry.book.touch(identity, wall)))
                }
                (_, Some(identity)) => registry.book.lease(identity, wall),
                (_, None) => registry.book.lend().map(|addresses| (addresses, None)),
            });
        let Ok((addresses, changed)) = given else {
            self.refuse(
                conn,
                id,
                503,
                "masque; error=proxy_internal_error; details=\"no address left\"",
            );
            return;
        };
        // What is lent for one tunnel ends with it: there is nothing to hand over.
        if !self.accept_tunnel(conn, id, leased.as_ref()) {
            let book = &mut self.seat.shared.registry().book;
            if leased.is_none() {
                book.give_back(&addresses);
            }
            book.end_reservation(handle);
            return;
        }
        self.events.extend(changed.map(Event::LeaseChanged));
        let lent = match leased {
            Some(_) => Vec::new(),
            None => addresses.clone(),
        };
        let claim = |prefix: &IpPrefix| Change::Claim(*prefix, handle);
        self.change_owners(&addresses.iter().map(claim).collect::<Vec<_>>());
        let routes = match &request.scope.target {
            // RFC 9484 §4.6: of the versions that addresses are assigned of.
            Target::Name(_) => of_versions(routes, &addresses),
            _ => routes,
        };
        let session = conn.bridge.session();
        let assign = unasked(&addresses);
        // The session takes both: it is open, and nothing is queued on it yet.
        let _ = session.handle_command(SessionCommand::AssignAddresses { tunnel: id, assign });
        let _ = session.handle_command(SessionCommand::AdvertiseRoutes {
            tunnel: id,
            routes: routes.clone(),
        });
        // Most clients have one.
        conn.tunnels.reserve_exact(1);
        let mut tunnel = self.new_tunnel(now, handle, request.scope, addresses, lent, routes);
        tunnel.predecessor = predecessor;
        conn.tunnels.push(tunnel);
    }

    pub(super) fn new_tunnel(
        &self,
        now: Instant,
        handle: TunnelHandle,
        scope: Scope,
        addresses: Vec<IpPrefix>,
        lent: Vec<IpPrefix>,
        routes: RouteAdvertisement,
    ) -> Tunnel {
        Tunnel {
            handle,
            header: None,
            scope,
            addresses,
            lent,
            routes: RouteTable::new(routes),
            mtu: 0,
            announced: false,
            probe: None,
            announce_by: None,
            queue: TunnelQueue::default(),
            predecessor: None,
            expected: None,
            icmp: RateLimit::new(self.limits.icmp_per_second, now),
            verdict: 0,
            sent_packets: 0,
            received_packets: 0,
            sent_bytes: 0,
            received_bytes: 0,
        }
    }

    /// ADDRESS_REQUEST: every entry is answered, refusals included, in a full list (RFC 9484 §4.7.2).
    /// A client has no addresses to give: it refuses them all.
    pub(super) fn on_addresses_requested(
        &mut self,
        conn: &mut Conn,
        id: TunnelId,
        request: &AddressRequest,
    ) {
        let Some(tunnel) = conn.tunnel(id) else {
            return;
        };
        let mut entries = match conn.role {
            Role::Server => unasked(&tunnel.addresses).0,
            Role::Client => Vec::new(),
        };
        let mut refused = Vec::new();
        for wanted in request.entries() {
            let grant = entries.iter_mut().find(|entry| {
                entry.request_id == RequestId::default()
                    && entry.prefix.address().is_ipv4() == wanted.prefix.address().is_ipv4()
                    && entry.prefix.length() == wanted.prefix.length()
                    && (wanted.prefix.address().is_unspecified() || wanted.prefix == entry.prefix)
            });
            match grant {
                Some(entry) => entry.request_id = wanted.request_id,
                None => refused.push(AddressEntry {
                    request_id: wanted.request_id,
                    prefix: refusal(wanted),
                }),
            }
        }
        entries.append(&mut refused);
        let command = SessionCommand::AssignAddresses {
            tunnel: id,
            assign: AddressAssign(entries),
        };
        let _ = conn.bridge.session().handle_command(command);
    }

    /// What a tunnel to `targets` is told that we route; `None` where nothing of it is routed here.
    fn routes_for(
        &self,
        targets: Option<&[IpPrefix]>,
        protocol: Option<u8>,
    ) -> Option<RouteAdvertisement> {
        let everything = |v4: bool| {
            let prefix = if v4 { "0.0.0.0/0" } else { "::/0" };
            prefix
                .parse()
                .ok()
                .map(|prefix| AddressRange::from_prefix(prefix, 0))
        };
        let configured = self
            .server
            .as_ref()
            .map(|server| server.routes.clone())
            .unwrap_or_default();
        let ranges = if configured.is_empty() {
            [true, false]
                .into_iter()
                .filter(|&v4| self.fwd.has_version(v4))
                .filter_map(everything)
                .collect()
        } else {
            configured
        };
        let ranges = match targets {
            None => scoped(&ranges, None, protocol),
            Some(targets) => {
                let of_target = |target| scoped(&ranges, Some(target), protocol);
                targets.iter().copied().flat_map(of_target).collect()
            }
        };
        if ranges.is_empty() {
            None
        } else {
            Some(RouteAdvertisement::from_unordered(ranges))
        }
    }

    pub(super) fn refuse(
        &mut self,
        conn: &mut Conn,
        tunnel: TunnelId,
        status: u16,
        proxy_status: &str,
    ) {
        let mut fields = FieldList::default();
        fields.push("proxy-status", proxy_status);
        // An error means that the request is gone already.
        let _ = conn
            .bridge
            .session()
            .handle_command(SessionCommand::Refuse {
                tunnel,
                status,
                fields,
            });
    }

    /// A tunnel has ended: its addresses fall back to another tunnel of the identity, or to nobody.
    pub(super) fn forget_tunnel(&mut self, conn: &mut Conn, id: TunnelId) -> bool {
        let Some(index) = conn
            .tunnels
            .iter()
            .position(|tunnel| tunnel.handle.tunnel == id)
        else {
            return false;
        };
        let tunnel = conn.tunnels.remove(index);
        self.trace.record(|| {
            let (from, to) = (tunnel.state(), "tunnel down");
            about(tunnel.handle, What::State { from, to })
        });
        self.fwd.queued_bytes = self.fwd.queued_bytes.saturating_sub(tunnel.queue.bytes());
        self.fwd
            .counters
            .drop(super::DropReason::NoTunnel, tunnel.queue.len() as u64);
        if let Some(port) = self.fwd.port_mut(conn.port) {
            port.clients.retain(|client| *client != tunnel.handle);
        }
        if conn.role == Role::Server {
            // Nobody finds the way to this tunnel once its addresses can be another's.
            let release = |prefix: &IpPrefix| Change::Release(*prefix, tunnel.handle);
            self.change_owners(&tunnel.addresses.iter().map(release).collect::<Vec<_>>());
            let wall = self.clock.now();
            self.withdraw(conn.identity.as_ref(), tunnel.handle);
            let identity = conn.identity.as_ref().filter(|_| tunnel.lent.is_empty());
            let touched = self.seat.shared.change_leases(|registry| {
                registry.book.give_back(&tunnel.lent);
                registry.book.end_reservation(tunnel.handle);
                identity.and_then(|identity| registry.book.touch(identity, wall))
            });
            self.events.extend(touched.map(Event::LeaseChanged));
        }
        true
    }
}

/// The routes of the IP versions that there are addresses of.
fn of_versions(routes: RouteAdvertisement, addresses: &[IpPrefix]) -> RouteAdvertisement {
    let assigned = |v4: bool| addresses.iter().any(|it| it.address().is_ipv4() == v4);
    let ranges = routes.ranges().iter();
    let kept = ranges.filter(|range| assigned(range.start().is_ipv4()));
    RouteAdvertisement::from_unordered(kept.copied().collect())
}

/// Entries nobody asked for.
pub(super) fn unasked(addresses: &[IpPrefix]) -> AddressAssign {
    AddressAssign(
        addresses
            .iter()
            .map(|&prefix| AddressEntry {
                request_id: RequestId::default(),
                prefix,
            })
            .collect(),
    )
}

/// All zeros with full length: "no" (RFC 9484 §4.7.1).
fn refusal(wanted: &AddressEntry) -> IpPrefix {
    IpPrefix::host(match wanted.prefix.address() {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    })
}
