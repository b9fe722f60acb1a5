//! A client's connections that are to take the place of another: make before break.
//!
//! An *heir* is a second connection to the same server. It is begun when the network changes
//! ([`super::Command::HandOver`]), or when what was sent has had no answer for too long, and it has nothing
//! to do with what the old one knows of its path: no window, no back-off of probes.
//!
//! | state of a search | what happens | becomes |
//! |---|---|---|
//! | nobody has answered | another heir every [`PACE`], so that one of them goes out soon after the path is back; the oldest gives way | answered; over, if it was for silence and the old connection hears something |
//! | an heir was answered | it gets the time for its handshake | chosen, or another heir is begun |
//! | chosen: its handshake is complete | all others end, and it asks for a tunnel with the old one's token | over, when its tunnel takes the old one's place |
//!
//! Every other heir fills its first datagrams up to what the old path carried: a server that gets them begins with
//! that path MTU itself.
//!
//! Only one ever completes its handshake: the client ends the others in the same step.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::command::{CommandError, ConnectError, Target};
use super::conn::Conn;
use super::event::CloseReason;
use super::token::{self, Token};
use super::types::{ConnId, SocketId};
use super::{DropReason, Endpoint, TransportProfile};
use crate::error::H3Code;
use crate::session::TunnelRequest;
use crate::trace::What;
use crate::wire::fields::FieldList;
use crate::wire::scope::Target as ScopeTarget;
use crate::wire::stream::Role;
use crate::wire::template::Wildcard;

/// How often an heir is begun while nobody answers.
const PACE: Duration = Duration::from_millis(100);
/// The same on a path with a long round trip, and after [`EAGER`].
const SLOW_PACE: Duration = Duration::from_millis(200);
const LAZY_PACE: Duration = Duration::from_secs(1);
/// How long a search is eager: the network of somebody who moves is back by then, or nobody waits for it.
const EAGER: Duration = Duration::from_secs(60);
/// The least and the most heirs at once: each has the time for an answer before it gives way.
const HEIRS: std::ops::RangeInclusive<u32> = 3..=12;
/// No answer for so long, and for three probe timeouts, is silence.
const SILENCE: Duration = Duration::from_millis(600);
/// How long a connection whose place was taken still takes packets in, at most.
const DRAIN: Duration = Duration::from_secs(1);

/// What a client keeps of a connection, to make another in its place.
pub(super) struct Client {
    target: Target,
    /// Of its tunnel.
    token: Option<Token>,
    /// Whose place it is to take.
    pub(super) heir_of: Option<ConnId>,
    /// For one that takes its place.
    search: Option<Search>,
    /// Since when the peer owes an answer.
    asked: Option<Instant>,
    /// Something has come from the peer.
    heard: bool,
    /// What an heir makes of its first datagrams, in bytes: they show the server that the path carries them.
    shows: usize,
    /// When it ends, as another has taken its place.
    retires: Option<Instant>,
}

struct Search {
    socket: SocketId,
    remote: SocketAddr,
    /// Because of a command, not because of silence: it goes on whatever the old connection hears.
    told: bool,
    since: Instant,
    /// When the next heir is begun.
    next: Instant,
    /// How many were begun.
    begun: u32,
    /// In the order they were begun.
    heirs: Vec<ConnId>,
    /// The one whose handshake is complete.
    chosen: Option<ConnId>,
    /// One was answered since the last was begun.
    answered: bool,
    /// One was answered, and yet it failed: the path may be narrower than the last.
    narrow: bool,
}

impl Search {
    fn new(now: Instant, socket: SocketId, remote: SocketAddr, told: bool) -> Self {
        Self {
            socket,
            remote,
            told,
            since: now,
            next: now,
            begun: 0,
            heirs: Vec::new(),
            chosen: None,
            answered: false,
            narrow: false,
        }
    }
}

impl Client {
    fn new(target: Target, heir_of: Option<ConnId>) -> Self {
        Self {
            target,
            token: None,
            heir_of,
            search: None,
            asked: None,
            heard: false,
            shows: 0,
            retires: None,
        }
    }

    /// Whether it matters that something has come for it.
    #[inline]
    pub(super) fn listens(&self) -> bool {
        self.asked.is_some() || !self.heard || self.search.is_some()
    }

    /// A packet was handed to QUIC: the peer owes an answer.
    #[inline]
    pub(super) fn ask(&mut self, now: Instant) {
        if self.asked.is_none() {
            self.asked = Some(now);
        }
    }

    /// The size its datagrams are filled up to while nothing has come from the server: it may send as large
    /// ones from the first on (RFC 9000 §14.1), and need not find out over many round trips that it may.
    pub(super) fn shows(&self) -> usize {
        if self.heard { 0 } else { self.shows }
    }

    /// Since when there is silence, or from when on.
    fn silent_from(&self, round_trip: Duration) -> Option<Instant> {
        // A probe timeout is about two round trips and the peer's delay of ACKs (RFC 9002 §6.2.1).
        let patience = (round_trip * 6 + Duration::from_millis(75)).max(SILENCE);
        self.asked.map(|asked| asked + patience)
    }

    fn request(&self, token: Option<&Token>) -> TunnelRequest {
        let target = &self.target;
        let scope = &target.scope;
        let value = (scope.target != ScopeTarget::Any).then(|| scope.target_value());
        let protocol = scope.protocol.map(|_| scope.ipproto_value());
        let template = &target.config.template;
        let mut fields = target.fields.clone();
        if let Some(token) = token {
            fields.push(token::FIELD, token.to_field());
        }
        TunnelRequest {
            authority: template.authority().to_owned(),
            path: template.expand(
                Some(value.as_deref().unwrap_or("*")),
                Some(protocol.as_deref().unwrap_or("*")),
                Wildcard::Encoded,
            ),
            protocol: "connect-ip".to_owned(),
            scope: scope.clone(),
            fields,
        }
    }
}

impl Conn {
    /// Whether it is to take the place of another: nobody is told of it before it has.
    pub(super) fn is_heir(&self) -> bool {
        let client = self.client.as_ref();
        client.is_some_and(|client| client.heir_of.is_some())
    }

    /// Whether the peer is silent: what is given to QUIC now would wait there, behind its back-off.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let Some(client) = &self.client else {
            return false;
        };
        // The clock is looked at only where something waits for an answer.
        client.asked.is_some() && client.token.is_some() && {
            let from = client.silent_from(self.bridge.round_trip());
            from.is_some_and(|from| from <= now)
        }
    }

    /// When [`Endpoint::mind`] is due.
    pub(super) fn handover_due(&self) -> Option<Instant> {
        let client = self.client.as_ref()?;
        if client.retires.is_some() {
            return client.retires;
        }
        match &client.search {
            Some(search) => Some(search.next),
            None if client.heir_of.is_none() && !self.tunnels.is_empty() => {
                client.token.as_ref()?;
                client.silent_from(self.bridge.round_trip())
            }
            None => None,
        }
    }
}

impl Endpoint {
    /// A client's connection was begun: remembers how, and asks for its tunnel unless it is an heir, which
    /// does that once it is chosen.
    pub(super) fn client_begun(&mut self, at: usize, target: Target, heir_of: Option<ConnId>) {
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        conn.asked = target.scope.clone();
        let client = Client::new(target, heir_of);
        if heir_of.is_none() {
            // A new session of a client has no tunnels: it takes one.
            let _ = conn.bridge.session().open_tunnel(client.request(None));
        }
        conn.client = Some(Box::new(client));
    }

    /// The peer's token for the tunnel.
    pub(super) fn on_response_fields(&mut self, conn: &mut Conn, fields: &FieldList) {
        let mut values = fields.values(token::FIELD);
        let value = values.next().filter(|_| values.next().is_none());
        if let Some(client) = &mut conn.client {
            client.token = value.and_then(Token::parse);
        }
    }

    /// Something has come for a connection of a client.
    pub(super) fn heard(&mut self, now: Instant, at: usize) {
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let was_silent = conn.is_silent(now);
        let round_trip = conn.bridge.round_trip();
        let id = conn.id;
        let Some(client) = &mut conn.client else {
            return;
        };
        client.asked = None;
        let first = !std::mem::replace(&mut client.heard, true);
        let over = client
            .search
            .take_if(|search| !search.told && search.chosen.is_none());
        if let Some(search) = over {
            self.to_discard.extend(search.heirs);
        }
        let heir_of = client.heir_of.filter(|_| first);
        if was_silent {
            let mut dropped = 0;
            for tunnel in &mut conn.tunnels {
                let before = tunnel.queue.bytes();
                dropped += tunnel.queue.freshen(now);
                self.fwd.queued_bytes -= before - tunnel.queue.bytes();
            }
            self.fwd.counters.drop(DropReason::Stale, dropped);
        }
        // It is being answered: no other is begun while its handshake may go on.
        if let Some(of) = heir_of {
            self.change_search(of, |search| {
                if search.heirs.contains(&id) {
                    search.answered = true;
                    search.next = search.next.max(now + patience(round_trip));
                }
            });
        }
    }

    /// Another connection takes the place of `conn`.
    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        id: ConnId,
        socket: SocketId,
        remote: Option<SocketAddr>,
        lost: bool,
    ) -> Result<(), CommandError> {
        let unknown = CommandError::UnknownConnection;
        let at = *self.ids.get(&id).ok_or(unknown)?;
        let conn = self.conns.get_mut(at).and_then(Option::as_mut);
        let conn = conn.ok_or(unknown)?;
        let remote = remote.unwrap_or(conn.remote);
        let Some(client) = conn.client.as_mut() else {
            return Err(CommandError::Role);
        };
        if conn.tunnels.is_empty() || client.heir_of.is_some() || client.retires.is_some() {
            return Err(CommandError::UnknownTunnel);
        }
        if let Some(before) = client.search.take() {
            self.to_discard.extend(before.heirs);
        }
        client.search = Some(Search::new(now, socket, remote, true));
        if lost && remote.is_ipv4() == conn.remote.is_ipv4() {
            conn.socket = socket;
            conn.bridge.rebound();
        }
        self.mind(now, at);
        self.drive(now, at);
        Ok(())
    }

    /// Does what is due of a search, or of the end of a connection whose place was taken.
    pub(super) fn mind(&mut self, now: Instant, at: usize) {
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        if conn.handover_due().is_none_or(|due| now < due) || conn.closing.is_some() {
            return;
        }
        let id = conn.id;
        let (remote, socket) = (conn.remote, conn.socket);
        let Some(client) = &mut conn.client else {
            return;
        };
        if client.retires.is_some() {
            return self.close_by_id(
                now,
                id,
                CloseReason::Replaced,
                H3Code::NO_ERROR,
                "another connection took its place",
            );
        }
        client
            .search
            .get_or_insert_with(|| Search::new(now, socket, remote, false));
        self.begin_heir(now, at);
    }

    fn begin_heir(&mut self, now: Instant, at: usize) {
        let Some(conn) = self.conns.get_mut(at).and_then(Option::as_mut) else {
            return;
        };
        let id = conn.id;
        let round_trip = conn.bridge.round_trip();
        let path_mtu = conn.bridge.path_mtu();
        let same_version = |remote: SocketAddr| remote.is_ipv4() == conn.remote.is_ipv4();
        let Some(client) = &mut conn.client else {
            return;
        };
        let Some(search) = &mut client.search else {
            return;
        };
        let pace = if now.saturating_duration_since(search.since) > EAGER {
            // A new network that leads nowhere is no reason to leave an old one that works.
            search.told = false;
            LAZY_PACE
        } else {
            (round_trip / 2).clamp(PACE, SLOW_PACE)
        };
        search.next = now + pace;
        let answered = search.chosen.is_some() || std::mem::take(&mut search.answered);
        search.narrow |= answered;
        // Whoever was chosen and has not taken over by now will not.
        if search.chosen.take().is_some() {
            self.to_discard.append(&mut search.heirs);
        }
        let places = 2 + (round_trip.as_micros() * 3 / pace.as_micros().max(1)) as u32;
        let places = places.clamp(*HEIRS.start(), *HEIRS.end());
        if search.heirs.len() >= places as usize {
            self.to_discard.push(search.heirs.remove(0));
        }
        let mut target = client.target.clone();
        target.socket = search.socket;
        target.remote = search.remote;
        let mut profile = self.profile.clone();
        profile.initial_rtt = round_trip.clamp(Duration::from_millis(10), Duration::from_secs(1));
        // What the last path carried, this one may.
        let mut shows = 0;
        if !search.narrow && same_version(search.remote) && profile.discover_mtu {
            profile.initial_mtu = path_mtu.max(profile.initial_mtu);
            // Every other: the path may be narrower, and nobody would ever answer.
            if search.begun % 2 == 0 {
                shows = usize::from(profile.initial_mtu);
            }
        }
        search.begun = search.begun.wrapping_add(1);
        let heir = self.begin(now, target, &profile, Some(id));
        if let Ok(heir) = heir
            && let Some(at) = self.ids.get(&heir)
            && let Some(heir) = self.conns.get_mut(*at).and_then(Option::as_mut)
            && let Some(client) = &mut heir.client
        {
            client.shows = shows;
        }
        let search = self.conns.get_mut(at).and_then(Option::as_mut);
        let search = search.and_then(|conn| conn.client.as_mut()?.search.as_mut());
        if let (Ok(heir), Some(search)) = (heir, search) {
            search.heirs.push(heir);
            self.fwd.counters.heirs += 1;
        }
    }

    /// Begins a connection.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        target: Target,
        profile: &TransportProfile,
        heir_of: Option<ConnId>,
    ) -> Result<ConnId, ConnectError> {
        if self.shutdown.is_some() {
            return Err(ConnectError::ShuttingDown);
        }
        let connections = self.seat.shared.registry().crowd.connections();
        if connections >= self.limits.max_connections {
            return Err(ConnectError::Limit);
        }
        if self.fwd.port(target.config.port).is_none() {
            return Err(ConnectError::UnknownPort);
        }
        let ids = self.client_ids.clone();
        let config = super::setup::client_config(&target.config, profile, ids)
            .map_err(ConnectError::Profile)?;
        let (handle, connection) =
            self.quic
                .connect(now, config, target.remote, &target.server_name)?;
        let id = self.adopt(
            handle,
            connection,
            Role::Client,
            target.socket,
            target.config.port,
            target.remote,
            None,
        );
        self.trace(Some(id), || What::State {
            from: "none",
            to: "handshake",
        });
        self.client_begun(handle.0, target, heir_of);
        self.drive(now, handle.0);
        Ok(id)
    }

    /// An heir's handshake is complete: it is chosen, unless another was.
    pub(super) fn heir_connected(&mut self, now: Instant, conn: &mut Conn) {
        let Some(of) = conn.client.as_ref().and_then(|client| client.heir_of) else {
            return;
        };
        let round_trip = conn.bridge.round_trip();
        let id = conn.id;
        let chosen = self.change_search(of, |search| {
            if search.chosen.is_some() || !search.heirs.contains(&id) {
                return None;
            }
            search.chosen = Some(id);
            search.next = now + patience(round_trip);
            Some(std::mem::replace(&mut search.heirs, vec![id]))
        });
        let Some(heirs) = chosen.flatten() else {
            self.to_discard.push(id);
            return;
        };
        let others = heirs.into_iter().filter(|heir| *heir != id);
        self.to_discard.extend(others);
        let token = self
            .conn(of)
            .and_then(|of| of.client.as_ref()?.token.clone());
        if let Some(client) = &conn.client {
            let request = client.request(token.as_ref());
            // A new session of a client has no tunnels: it takes one.
            let _ = conn.bridge.session().open_tunnel(request);
        }
    }

    /// An heir has failed, or was refused: another may do better, but not at once.
    pub(super) fn heir_failed(&mut self, now: Instant, conn: &Conn) {
        let Some(of) = conn.client.as_ref().and_then(|client| client.heir_of) else {
            return;
        };
        self.to_discard.push(conn.id);
        self.change_search(of, |search| {
            let heirs = search.heirs.len();
            search.heirs.retain(|heir| *heir != conn.id);
            if search.heirs.len() < heirs {
                search.chosen.take_if(|chosen| *chosen == conn.id);
                search.next = search.next.max(now + LAZY_PACE);
            }
        });
    }

    /// Another connection has taken the place of `old`, which ends when what is on its way must have come.
    pub(super) fn retire(
        &mut self,
        now: Instant,
        old: &mut Conn,
        heir: ConnId,
        round_trip: Duration,
    ) {
        let Some(client) = &mut old.client else {
            return;
        };
        if let Some(search) = client.search.take() {
            let others = search.heirs.into_iter().filter(|other| *other != heir);
            self.to_discard.extend(others);
        }
        let longer = old.bridge.round_trip().max(round_trip);
        client.retires = Some(now + (longer * 3).min(DRAIN));
    }

    /// A connection is gone: its heirs have nothing to inherit.
    pub(super) fn disinherit(&mut self, conn: &mut Conn) {
        let client = conn.client.as_mut();
        if let Some(search) = client.and_then(|client| client.search.take()) {
            self.to_discard.extend(search.heirs);
        }
    }

    /// Ends connections that nobody needs any more.
    pub(super) fn discard(&mut self, now: Instant) {
        while let Some(id) = self.to_discard.pop() {
            let words = "another connection was quicker";
            self.close_by_id(now, id, CloseReason::Local, H3Code::NO_ERROR, words);
        }
    }

    fn change_search<T>(&mut self, of: ConnId, change: impl FnOnce(&mut Search) -> T) -> Option<T> {
        let at = *self.ids.get(&of)?;
        let conn = self.conns.get_mut(at)?.as_mut()?;
        let search = conn.client.as_mut()?.search.as_mut()?;
        let changed = change(search);
        if !std::mem::replace(&mut conn.timer_dirty, true) {
            self.stale.push(at);
        }
        Some(changed)
    }
}

/// How long the rest of a handshake, or the answer to a request, may take.
fn patience(round_trip: Duration) -> Duration {
    (round_trip * 6).clamp(Duration::from_millis(500), Duration::from_secs(3))
}
