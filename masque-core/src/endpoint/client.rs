//! What a client does with what the server says; and the tunnel MTU, which both roles follow.

use std::time::{Duration, Instant};

use super::conn::{Conn, tunnel_mtu};
use super::event::Event;
use super::types::TunnelHandle;
use super::{ConnId, ConnectError, Endpoint, Target};
use crate::error::H3Code;
use crate::session::{CloseHow, Command as SessionCommand, TunnelId};
use crate::trace::{Layer, TraceEvent, What};
use crate::wire::capsule::{AddressAssign, RouteAdvertisement};
use crate::wire::prefix::IpPrefix;
use crate::wire::scope::Scope;
use crate::wire::stream::Role;

impl Endpoint {
    /// Connects to a server and asks it for a tunnel.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent then.
    pub fn connect(&mut self, now: Instant, target: Target) -> Result<ConnId, ConnectError> {
        self.advance(now);
        let profile = self.profile.clone();
        self.begin(now, target, &profile, None)
    }

    pub(super) fn on_server_connected(&mut self, now: Instant, conn: &mut Conn) {
        let proven = conn.bridge.proven();
        conn.identity = proven.identity;
        self.watch_expiry(now, conn, proven.expires);
        self.heir_connected(now, conn);
    }

    /// The tunnel is open, on either side.
    pub(super) fn on_established(&mut self, now: Instant, conn: &mut Conn, id: TunnelId) {
        let handle = TunnelHandle {
            conn: conn.id,
            tunnel: id,
        };
        if conn.role == Role::Client {
            let scope = conn.asked.clone();
            let tunnel = self.new_tunnel(
                now,
                handle,
                scope,
                Vec::new(),
                Vec::new(),
                RouteAdvertisement::default(),
            );
            conn.tunnels.reserve_exact(1);
            conn.tunnels.push(tunnel);
            let is_heir = conn.is_heir();
            if let Some(port) = self.fwd.port_mut(conn.port).filter(|_| !is_heir) {
                port.clients.push(handle);
            }
        }
        let header = conn.bridge.session().datagram_header(id);
        let rtt = conn.bridge.stats().path.rtt;
        let Some(tunnel) = conn.tunnel_mut(id) else {
            return;
        };
        self.trace.record(|| {
            let (from, to) = ("tunnel none", "tunnel established");
            about(handle, What::State { from, to })
        });
        tunnel.header = header;
        // Three round trips are enough for one probe of the path MTU to come back.
        tunnel.announce_by = Some(now + rtt * 3 + Duration::from_millis(100));
        self.succeed(now, conn, id);
        self.update_mtu(now, conn);
    }

    /// ADDRESS_ASSIGN: the full list replaces what we had; refusals are not addresses.
    pub(super) fn on_assigned(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        id: TunnelId,
        assign: &AddressAssign,
    ) {
        if conn.role != Role::Client {
            // A client that assigns us addresses is a site of its own: nothing here uses them yet.
            return;
        }
        let Some(tunnel) = conn.tunnel_mut(id) else {
            return;
        };
        let addresses: Vec<IpPrefix> = assign
            .0
            .iter()
            .filter(|entry| !entry.is_refusal())
            .map(|entry| entry.prefix)
            .collect();
        tunnel.addresses = addresses;
        if tunnel.announced {
            let (handle, addresses) = (tunnel.handle, tunnel.addresses.clone());
            self.events.push_back(Event::Addresses {
                tunnel: handle,
                addresses,
            });
        }
        self.update_mtu(now, conn);
    }

    /// ROUTE_ADVERTISEMENT: the full list replaces what the peer routed before.
    pub(super) fn on_routes(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        id: TunnelId,
        routes: RouteAdvertisement,
    ) {
        if routes.ranges().len() > self.limits.max_routes {
            let how = CloseHow::Abort(H3Code::EXCESSIVE_LOAD);
            let _ = conn
                .bridge
                .session()
                .handle_command(SessionCommand::CloseTunnel { tunnel: id, how });
            return;
        }
        let role = conn.role;
        let Some(tunnel) = conn.tunnel_mut(id) else {
            return;
        };
        if role == Role::Client {
            tunnel.routes = super::routes::RouteTable::new(routes.clone());
        }
        if tunnel.announced {
            let handle = tunnel.handle;
            self.events.push_back(Event::Routes {
                tunnel: handle,
                routes,
            });
        }
        self.update_mtu(now, conn);
    }

    /// Follows the path: compares what a tunnel carries with what it carried, and tells of a change.
    ///
    /// A new tunnel is told of once the first probe of the path has shown that it carries IPv6, or a
    /// few round trips have passed without: nobody then sees an MTU that lasts one round trip.
    pub(super) fn update_mtu(&mut self, now: Instant, conn: &mut Conn) {
        if conn.tunnels.is_empty() {
            return;
        }
        let max = conn.bridge.max_datagram();
        let device = self
            .fwd
            .port(conn.port)
            .map_or(1500, |port| port.config.mtu);
        let is_heir = conn.is_heir();
        let round_trip = conn.bridge.round_trip();
        let trace = &mut self.trace;
        for tunnel in &mut conn.tunnels {
            tunnel.expected = tunnel.expected.map(|it| it.over(round_trip));
            let Some(announce_by) = tunnel.announce_by else {
                continue;
            };
            let mtu = match (tunnel.header, max) {
                (Some(header), Some(max)) => tunnel_mtu(max, header.as_slice().len()),
                (Some(_), None) => {
                    tunnel.announce_by = None;
                    continue;
                }
                (None, _) => device,
            };
            if mtu != tunnel.mtu {
                trace.record(|| about(tunnel.handle, mtu_changed(tunnel.mtu, mtu)));
            }
            if tunnel.announced {
                // While the path may turn out to carry what the last one did, that is what was told.
                let told = tunnel.expected.map_or(tunnel.mtu, |it| it.mtu);
                tunnel.mtu = mtu;
                if tunnel.may_carry(now) > mtu {
                    continue;
                }
                tunnel.expected = None;
                if mtu != told {
                    self.events.push_back(Event::Mtu {
                        tunnel: tunnel.handle,
                        mtu,
                    });
                }
                continue;
            }
            tunnel.mtu = mtu;
            if is_heir {
                continue;
            }
            let mtu = mtu.max(tunnel.may_carry(now));
            if mtu >= 1280 || now >= announce_by || conn.role == Role::Server {
                tunnel.announced = true;
                trace.record(|| {
                    let (from, to) = ("tunnel established", "tunnel up");
                    about(tunnel.handle, What::State { from, to })
                });
                let handle = tunnel.handle;
                let scope: Scope = tunnel.scope.clone();
                self.events.push_back(Event::TunnelUp {
                    tunnel: handle,
                    identity: conn.identity.clone().filter(|_| conn.role == Role::Server),
                    scope,
                });
                self.events.push_back(Event::Mtu {
                    tunnel: handle,
                    mtu,
                });
                if !tunnel.addresses.is_empty() {
                    self.events.push_back(Event::Addresses {
                        tunnel: handle,
                        addresses: tunnel.addresses.clone(),
                    });
                }
                if !tunnel.routes.advertised().ranges().is_empty() {
                    let routes = tunnel.routes.advertised().clone();
                    self.events.push_back(Event::Routes {
                        tunnel: handle,
                        routes,
                    });
                }
            }
        }
    }
}

/// A trace event about a tunnel.
pub(super) fn about(tunnel: TunnelHandle, what: What) -> TraceEvent {
    TraceEvent {
        layer: Layer::Endpoint,
        connection: Some(tunnel.conn.0),
        stream: None,
        what,
    }
}

fn mtu_changed(from: u32, to: u32) -> What {
    What::Changed {
        name: "tunnel mtu",
        from: from.into(),
        to: to.into(),
    }
}
