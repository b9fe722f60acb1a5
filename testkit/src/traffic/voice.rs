//! Voice: small packets at a constant rate, both ways.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::wire::prefix::IpPrefix;

use super::host::Heard;
use crate::packet::{self, Packet};
use crate::world::{App, AppCx};

/// What both ends of a call agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The address and the UDP port behind the server.
    pub server: SocketAddr,
    /// Between two packets.
    pub every: Duration,
    /// Bytes of UDP payload; at least 8.
    pub size: usize,
    /// When it begins.
    pub begin: Duration,
    /// When it ends.
    pub end: Duration,
}

/// One end of a call. The server's end speaks as soon as it has heard the client, and always to where it
/// heard it last: the client may come to have another address.
pub struct Voice {
    call: Call,
    is_client: bool,
    own: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    next: Duration,
    heard: Heard,
}

impl Voice {
    /// The client's end.
    #[must_use]
    pub fn client(call: Call) -> Self {
        Self::new(call, true, None, Some(call.server))
    }

    /// The server's end.
    #[must_use]
    pub fn server(call: Call) -> Self {
        Self::new(call, false, Some(call.server), None)
    }

    fn new(call: Call, is_client: bool, own: Option<SocketAddr>, peer: Option<SocketAddr>) -> Self {
        Self {
            call,
            is_client,
            own,
            peer,
            next: call.begin,
            heard: Heard::default(),
        }
    }

    /// What this end sent and heard.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    fn speak(&mut self, cx: &mut AppCx<'_, '_>) {
        let now = cx.now();
        let (Some(own), Some(peer)) = (self.own, self.peer) else {
            return;
        };
        // Nothing is made good that nobody could say.
        self.next = self.next.max(now);
        if now >= self.call.end || self.next > now {
            return;
        }
        let mut payload = vec![0; self.call.size.max(8)];
        payload[..8].copy_from_slice(&nanos(now).to_be_bytes());
        self.heard.sent += 1;
        cx.send(packet::udp(own, peer, &payload));
        self.next = now + self.call.every.max(Duration::from_micros(1));
        cx.wake_at(self.next);
    }
}

impl App for Voice {
    fn on_addresses(&mut self, cx: &mut AppCx<'_, '_>, addresses: &[IpPrefix]) {
        if !self.is_client {
            return;
        }
        let own = own_address(addresses, self.call.server.ip());
        self.own = own.map(|address| SocketAddr::new(address, self.call.server.port()));
        cx.wake_at(self.next.max(self.call.begin));
    }

    fn on_packet(&mut self, cx: &mut AppCx<'_, '_>, bytes: &[u8]) -> bool {
        let Some(packet) = Packet::parse(bytes) else {
            return false;
        };
        let Some((from, to, payload)) = packet::udp_of(&packet) else {
            return false;
        };
        let port = self.call.server.port();
        if (from, to) != (port, port) {
            return false;
        }
        if let Some(at) = payload.first_chunk() {
            let at = Duration::from_nanos(u64::from_be_bytes(*at));
            self.heard.delays.push((at, cx.now().saturating_sub(at)));
        }
        if !self.is_client {
            let silent = self.peer.is_none();
            self.peer = Some(SocketAddr::new(packet.source, from));
            if silent {
                cx.wake_at(cx.now() + self.call.every / 2);
            }
        }
        true
    }

    fn on_wake(&mut self, cx: &mut AppCx<'_, '_>) {
        if cx.now() < self.next {
            return;
        }
        self.speak(cx);
    }
}

/// The address of a list that can talk to `peer`.
pub(super) fn own_address(addresses: &[IpPrefix], peer: IpAddr) -> Option<IpAddr> {
    addresses
        .iter()
        .filter(|prefix| prefix.is_host())
        .map(IpPrefix::address)
        .find(|address| address.is_ipv4() == peer.is_ipv4())
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
