//! A tunnel takes another's place: what each side moves from the old one to the new.
//!
//! | | server | client |
//! |---|---|---|
//! | when | the request for the new tunnel shows the old one's token | the new tunnel is open and has addresses and routes |
//! | addresses | the new one has the old one's from its first capsule on; packets for them go there, since the newest owner has them | those the server assigns |
//! | queue | moves, with what was read from the device and not sent | moves |
//! | the old tunnel | still takes packets in, by its own rules, until the client closes it | the same, until it is closed |
//!
//! A packet is in one queue or in one connection, never in two, and QUIC delivers a datagram once: nothing
//! reaches a device twice.

use std::time::Instant;

use super::conn::{Conn, Expected, Tunnel};
use super::event::Event;
use super::shard::Notice;
use super::token::{self, Token};
use super::types::TunnelHandle;
use super::{DropReason, Endpoint, Identity};
use crate::session::{Command as SessionCommand, TunnelId, TunnelRequest};
use crate::wire::fields::FieldList;
use crate::wire::prefix::IpPrefix;

/// What an IPv6 header takes more than one of IPv4.
const IPV6_MORE: u32 = 20;

impl Endpoint {
    /// The tunnel whose token a request shows. The token is used up by that.
    pub(super) fn redeem(&mut self, conn: &Conn, request: &TunnelRequest) -> Option<TunnelHandle> {
        let mut shown = request.fields.values(token::FIELD);
        let shown = shown.next().filter(|_| shown.next().is_none())?;
        let redeemed = conn.identity.as_ref().and_then(|identity| {
            let token = Token::parse(shown)?;
            let mut registry = self.seat.shared.registry();
            registry.tokens.redeem(identity, &token)
        });
        // On the same connection there is nothing to move to.
        let found = redeemed.filter(|old| old.conn != conn.id);
        let counters = &mut self.fwd.counters;
        match found {
            Some(_) => counters.handovers += 1,
            None => counters.handovers_refused += 1,
        }
        found
    }

    /// Accepts a request. `to` gets a token for later.
    pub(super) fn accept_tunnel(
        &mut self,
        conn: &mut Conn,
        id: TunnelId,
        to: Option<&Identity>,
    ) -> bool {
        let handle = TunnelHandle {
            conn: conn.id,
            tunnel: id,
        };
        if let Some(identity) = to {
            let token = Token::draw(&mut self.token_rng);
            let mut fields = FieldList::default();
            fields.push(token::FIELD, token.to_field());
            let accept = SessionCommand::AcceptWith { tunnel: id, fields };
            if conn.bridge.session().handle_command(accept).is_ok() {
                let mut registry = self.seat.shared.registry();
                registry.tokens.issue(identity, token, handle);
                return true;
            }
        }
        let accept = SessionCommand::Accept { tunnel: id };
        conn.bridge.session().handle_command(accept).is_ok()
    }

    /// The addresses of an old tunnel for a new one; the old one keeps them, to judge sources by, until it
    /// ends. `None` if it is not here: of another shard's tunnel the lease is known.
    pub(super) fn inherit(
        &mut self,
        old: TunnelHandle,
        new: TunnelHandle,
    ) -> Option<Vec<IpPrefix>> {
        let addresses = self.conn(old.conn)?.tunnel(old.tunnel)?.addresses.clone();
        let mut registry = self.seat.shared.registry();
        registry.book.share_reservation(old, new);
        Some(addresses)
    }

    /// A tunnel of a server is open: the queue of the one whose place it takes moves to it.
    pub(super) fn succeed(&mut self, now: Instant, conn: &mut Conn, id: TunnelId) {
        let tunnel = conn.tunnel_mut(id);
        let taken = tunnel.and_then(|tunnel| Some((tunnel.handle, tunnel.predecessor.take()?)));
        let Some((to, from)) = taken else { return };
        if let Some(shard) = self.elsewhere(from.conn) {
            // What the old one carried is known there only: as much as there may be.
            let mtu = u32::from(self.profile.max_mtu);
            let expected = Expected::new(mtu, now, conn.bridge.round_trip());
            if let Some(tunnel) = conn.tunnel_mut(id) {
                tunnel.expected = Some(expected);
            }
            return self.leave_notice(shard, Notice::Yield(from, to));
        }
        let Some(&at) = self.ids.get(&from.conn) else {
            return;
        };
        if let Some(mut old) = self.conns.get_mut(at).and_then(Option::take) {
            self.move_queue(now, &mut old, from.tunnel, conn, id);
            self.conns[at] = Some(old);
        }
    }

    /// What waits in one tunnel waits in another from now on, which may soon carry what that one did.
    fn move_queue(
        &mut self,
        now: Instant,
        old: &mut Conn,
        from: TunnelId,
        new: &mut Conn,
        to: TunnelId,
    ) {
        let narrower = old.remote.is_ipv4() && new.remote.is_ipv6();
        let round_trip = new.bridge.round_trip();
        let (Some(from), Some(to)) = (old.tunnel_mut(from), new.tunnel_mut(to)) else {
            return;
        };
        let before = from.mtu.max(from.may_carry(now));
        let mtu = before.saturating_sub(if narrower { IPV6_MORE } else { 0 });
        to.expected = Some(Expected::new(mtu, now, round_trip));
        if from.scope == to.scope && from.addresses == to.addresses {
            let queued = from.queue.bytes() + to.queue.bytes();
            let stale = from.pass_queue(now, to);
            self.fwd.queued_bytes = self.fwd.queued_bytes + to.queue.bytes() - queued;
            self.fwd.counters.drop(DropReason::Stale, stale);
        }
    }

    /// The queue of a tunnel here goes to one of another shard.
    pub(super) fn yield_queue(&mut self, now: Instant, from: TunnelHandle, to: TunnelHandle) {
        let shard = self.elsewhere(to.conn);
        let (Some(shard), Some(&at)) = (shard, self.ids.get(&from.conn)) else {
            return;
        };
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let Some(tunnel) = conn.tunnel_mut(from.tunnel) else {
            return;
        };
        let prefix = tunnel.prefix_length();
        let mut queue = std::mem::take(&mut tunnel.queue);
        self.fwd.queued_bytes -= queue.bytes();
        let stale = queue.freshen(now);
        self.fwd.counters.drop(DropReason::Stale, stale);
        queue.unpark(usize::MAX);
        while let Some(datagram) = queue.pop(now, prefix, usize::MAX) {
            self.send_across(shard, to, datagram.slice(prefix.min(datagram.len())..));
        }
        let losses = queue.take_losses();
        self.fwd
            .counters
            .drop(DropReason::Congestion, losses.dropped);
        self.fwd.counters.congestion_marked += losses.marked;
    }

    /// A tunnel ends: nobody can take its place any more.
    pub(super) fn withdraw(&mut self, identity: Option<&Identity>, tunnel: TunnelHandle) {
        if let Some(identity) = identity {
            let mut registry = self.seat.shared.registry();
            registry.tokens.withdraw(identity, tunnel);
        }
    }

    /// The tunnel of a client's new connection takes the old one's place, once it has what packets need.
    pub(super) fn try_take_over(&mut self, now: Instant, conn: &mut Conn) {
        let heir_of = conn.client.as_ref().and_then(|client| client.heir_of);
        let (Some(id), Some(tunnel)) = (heir_of, conn.tunnels.first_mut()) else {
            return;
        };
        let ready = !tunnel.addresses.is_empty() && !tunnel.routes.advertised().ranges().is_empty();
        let waited = tunnel.announce_by.is_some_and(|by| by <= now);
        let Some(&at) = self.ids.get(&id).filter(|_| ready || waited) else {
            return;
        };
        let Some(mut old) = self.conns.get_mut(at).and_then(Option::take) else {
            return;
        };
        let Some(from) = old.tunnels.first().map(|tunnel| tunnel.handle) else {
            self.conns[at] = Some(old);
            return self.to_discard.push(conn.id);
        };
        tunnel.announced = true;
        let to = tunnel.handle;
        if let Some(client) = &mut conn.client {
            client.heir_of = None;
        }
        self.move_queue(now, &mut old, from.tunnel, conn, to.tunnel);
        if let Some(port) = self.fwd.port_mut(conn.port) {
            port.clients.retain(|client| *client != from);
            port.clients.push(to);
        }
        self.fwd.counters.handovers += 1;
        self.fwd.rules_changed();
        self.tell_handed_over(&old, conn);
        self.retire(now, &mut old, conn.id, conn.bridge.round_trip());
        self.put_back(at, old);
        conn.early.open();
        self.release_early(now, conn);
    }

    fn tell_handed_over(&mut self, old: &Conn, new: &Conn) {
        let (Some(was), Some(is)) = (old.tunnels.first(), new.tunnels.first()) else {
            return;
        };
        let tunnel = is.handle;
        self.events.push_back(Event::HandedOver {
            from: was.handle,
            to: tunnel,
            socket: new.socket,
            remote: new.remote,
        });
        if was.addresses != is.addresses {
            let addresses = is.addresses.clone();
            self.events
                .push_back(Event::Addresses { tunnel, addresses });
        }
        if was.routes.advertised() != is.routes.advertised() {
            let routes = is.routes.advertised().clone();
            self.events.push_back(Event::Routes { tunnel, routes });
        }
        let mtu = is.expected.as_ref().map_or(is.mtu, |it| it.mtu);
        if was.mtu != mtu {
            self.events.push_back(Event::Mtu { tunnel, mtu });
        }
    }
}

impl Tunnel {
    fn prefix_length(&self) -> usize {
        let header = self.header.as_ref();
        header.map_or(0, |header| header.as_slice().len())
    }

    /// Gives its queue to another tunnel; what that one has already comes last. Gives how many packets were
    /// dropped because they had waited too long.
    fn pass_queue(&mut self, now: Instant, to: &mut Self) -> u64 {
        let mut queue = std::mem::take(&mut self.queue);
        let header = to.header.as_ref();
        let header = header.map_or(&[][..], |header| header.as_slice());
        let own = self.header.as_ref();
        if own.map_or(&[][..], |own| own.as_slice()) != header {
            queue.change_prefix(self.prefix_length(), header);
        }
        let stale = queue.freshen(now);
        let later = std::mem::replace(&mut to.queue, queue);
        to.queue.append(later);
        stale
    }

    /// The largest packet that is let in because the tunnel may soon carry it, as the one before it did.
    pub(super) fn may_carry(&self, now: Instant) -> u32 {
        let expected = self.expected.as_ref();
        let expected = expected.filter(|expected| now < expected.until);
        expected.map_or(0, |expected| expected.mtu)
    }
}
