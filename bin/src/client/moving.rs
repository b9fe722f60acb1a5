//! From one network to another: notices that the host has moved, and has the tunnel follow.
//!
//! | what | when |
//! |---|---|
//! | the kernel says that links, addresses or routes have changed | it is looked at [`SETTLE`] later, once for all that came meanwhile |
//! | packets to the server leave by another interface or address than before, or did not for a while | another connection is begun from a socket of its own; the old one is used until that is up |
//! | no way leads to the server's address, but one to another of its addresses | the same, to that one: IPv4 to IPv6, and back |
//! | no way leads anywhere | the next change is waited for |
//! | the same while there is no connection | the next attempt is made at once |

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use masque_adapter_kit::{Controller, Cx};
use masque_core::endpoint::{Command, SocketId, TunnelHandle};

use super::{ClientApp, Link, Message, Phase};
use crate::app;
use crate::exit::Failure;
use crate::host::Watch;

/// Changes come in groups: an address, then its routes.
const SETTLE: Duration = Duration::from_millis(60);

/// What a client knows of its way to the server.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// The server's addresses as they were last resolved.
    pub(super) servers: Vec<SocketAddr>,
    /// When the network is looked at, after it has changed.
    pub(super) settles_at: Option<Instant>,
    /// No way led to the server at the last look.
    cut_off: bool,
    /// Where the tunnel is to go, and by which socket.
    next: Option<(SocketId, SocketAddr)>,
    /// Sockets of connections whose place was taken, or will be.
    old: Vec<SocketId>,
}

/// Has the loop told of changes of the network for as long as the result lives.
pub(super) fn watch(controller: &Controller<Message>) -> Option<Watch> {
    let controller = controller.clone();
    let begun = Watch::begin(move || {
        // Full, it has been told already; closed, there is nobody to tell.
        let _ = controller.send(Message::NetworkChanged);
    });
    match begun {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!("changes of the network are noticed late: {error}");
            None
        }
    }
}

impl ClientApp {
    /// Adds a socket for the IP version of `remote`.
    pub(super) fn open_socket(
        &self,
        cx: &mut Cx<'_>,
        remote: SocketAddr,
    ) -> Result<SocketId, Failure> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let mark = self.installer.is_some().then_some(self.settings.mark);
        let socket = app::bind(SocketAddr::new(any, 0), &self.settings.transport, mark)?;
        let added = cx.sockets.add(socket);
        added.map_err(|error| Failure::system("cannot use a UDP socket", &error))
    }

    /// The network has changed: looks at it when it has settled.
    pub(super) fn network_changed(&mut self, cx: &Cx<'_>) {
        if self.installer.is_some() && matches!(self.phase, Phase::Up(..) | Phase::Waiting(_)) {
            let settled = || cx.now + SETTLE;
            self.moving.settles_at.get_or_insert_with(settled);
        }
    }

    /// Looks whether the way to the server is another than before, and follows it.
    pub(super) fn look(&mut self, cx: &mut Cx<'_>) {
        self.moving.settles_at = None;
        let Some(installer) = &mut self.installer else {
            return;
        };
        let link = match self.phase {
            Phase::Up(link, _) => Some(link),
            Phase::Waiting(_) => None,
            _ => return,
        };
        // Where it goes already comes first.
        let next = self.moving.next.map(|(_, remote)| remote);
        let now_to = next.or(link.map(|link| link.remote));
        let others = self.moving.servers.iter().copied();
        let mut candidates = now_to
            .into_iter()
            .chain(others.filter(|other| Some(*other) != now_to));
        let open = candidates.find(|remote| installer.way_to(remote.ip()).is_some());
        let Some(remote) = open else {
            if !std::mem::replace(&mut self.moving.cut_off, true) {
                tracing::info!("no way leads to the server");
            }
            return;
        };
        let back = std::mem::take(&mut self.moving.cut_off);
        if !back && now_to.is_none_or(|now_to| remote == now_to) && !installer.moved() {
            return;
        }
        installer.connected(remote.ip());
        let Some(link) = link else {
            tracing::info!("the network changed: trying again at once");
            return self.attempt(cx);
        };
        tracing::info!(%remote, "the network changed: another connection");
        self.follow(cx, link, remote);
    }

    fn follow(&mut self, cx: &mut Cx<'_>, link: Link, remote: SocketAddr) {
        let socket = match self.open_socket(cx, remote) {
            Ok(socket) => socket,
            // The endpoint goes on trying from the socket there is.
            Err(failure) => {
                return tracing::warn!(reason = failure.message, "no socket");
            }
        };
        let hand_over = Command::HandOver {
            conn: link.conn,
            socket,
            remote: Some(remote),
            // A socket is bound to no address: what leaves by the old one takes the new way, too.
            lost: true,
        };
        match cx.endpoint.handle_command(cx.now, hand_over) {
            Ok(()) => {
                let superseded = self.moving.next.replace((socket, remote));
                self.moving.old.extend(superseded.map(|(socket, _)| socket));
            }
            Err(error) => {
                tracing::debug!(%error, "no handover");
                cx.sockets.remove(socket);
            }
        }
    }

    /// The tunnel has moved to another connection.
    pub(super) fn handed_over(
        &mut self,
        cx: &mut Cx<'_>,
        from: TunnelHandle,
        to: TunnelHandle,
        link: Link,
    ) {
        let Phase::Up(old, tunnel) = self.phase else {
            return;
        };
        if tunnel != from {
            return;
        }
        tracing::info!(%from, %to, remote = %link.remote, "tunnel handed over");
        self.phase = Phase::Up(link, to);
        if old.socket != link.socket {
            self.moving.old.push(old.socket);
        }
        if self
            .moving
            .next
            .is_some_and(|(socket, _)| socket == link.socket)
        {
            self.moving.next = None;
        }
        if let Some(installer) = &mut self.installer
            && let Err(error) = installer.moved_to(link.remote.ip())
        {
            self.fatal(cx, app::host_failure(&error));
        }
    }

    /// A connection whose place was taken has ended: so have the sockets of its time.
    pub(super) fn old_is_gone(&mut self, cx: &mut Cx<'_>) {
        let current = self.link().map(|link| link.socket);
        self.forget_sockets(cx, current);
    }

    /// Closes all sockets but the one in use, and one that is to be.
    pub(super) fn forget_sockets(&mut self, cx: &mut Cx<'_>, current: Option<SocketId>) {
        if current.is_none() {
            let next = self.moving.next.take();
            self.moving.old.extend(next.map(|(socket, _)| socket));
            self.moving.settles_at = None;
        }
        for socket in std::mem::take(&mut self.moving.old) {
            if Some(socket) != current {
                cx.sockets.remove(socket);
            }
        }
    }
}
