//! The 1,280 bytes that a tunnel with IPv6 must carry: echo requests to ff02::1, which both ends answer
//! and, if told to, send (RFC 9484 §7.2).
//!
//! | probe | meaning | leaves on |
//! |---|---|---|
//! | none | not asked for, or the path MTU is still being found | the MTU is known → `Waiting`, or the tunnel is aborted |
//! | `Waiting` | a request is on its way | the reply → `Answered`; too many without → the tunnel is aborted |
//! | `Answered` | 1,280 bytes pass | the path MTU shrinks below → the tunnel is aborted |

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::Endpoint;
use super::config::Ipv6Minimum;
use super::conn::{Conn, IPV6_MTU, forwardable};
use super::counters::DropReason;
use super::forward::Forwarding;
use crate::error::H3Code;
use crate::session::{CloseHow, Command as SessionCommand};
use crate::wire::ip::PacketInfo;
use crate::wire::ip::icmp::Echo;
use crate::wire::stream::Role;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Beside the IPv6 and ICMPv6 headers, what makes 1,280 bytes.
const PROBE_DATA: usize = 1232;
/// Identifies our probes among a host's own echoes; the low half counts them.
const PROBE_ID: u32 = 0x6d71_0000;

/// Whether 1,280 bytes pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Probe {
    /// Asked so often, and for how long there is still hope for an answer.
    Waiting {
        sent: u32,
        source: Ipv6Addr,
        due: Instant,
    },
    /// They do.
    Answered,
}

impl Probe {
    pub(super) fn due(self) -> Option<Instant> {
        match self {
            Self::Waiting { due, .. } => Some(due),
            Self::Answered => None,
        }
    }
}

/// What a tunnel with IPv6 needs now.
enum Step {
    Nothing,
    Ask(u32),
    Abort,
}

impl Endpoint {
    /// Asks whether 1,280 bytes pass, and aborts tunnels with IPv6 where they do not. Gives whether any
    /// was.
    pub(super) fn check_ipv6(&mut self, now: Instant, conn: &mut Conn) -> bool {
        let Ipv6Minimum::Require { probes, interval } = self.profile.ipv6_minimum else {
            return false;
        };
        let mut aborted = false;
        for index in 0..conn.tunnels.len() {
            let tunnel = &conn.tunnels[index];
            // Capsules on the stream have no size of their own.
            let has_ipv6 = tunnel.addresses.iter().any(|it| it.address().is_ipv6());
            if !tunnel.announced || tunnel.header.is_none() || !has_ipv6 {
                continue;
            }
            let step = match tunnel.probe {
                _ if tunnel.is_finding(now) => Step::Nothing,
                // On a path it has just come to.
                _ if tunnel.mtu < IPV6_MTU && tunnel.may_carry(now) >= IPV6_MTU => Step::Nothing,
                _ if tunnel.mtu < IPV6_MTU => Step::Abort,
                None => Step::Ask(0),
                Some(Probe::Waiting { sent, due, .. }) if due <= now => match sent < probes {
                    true => Step::Ask(sent),
                    false => Step::Abort,
                },
                Some(_) => Step::Nothing,
            };
            match step {
                Step::Nothing => {}
                Step::Ask(sent) => {
                    let Some(source) = self.fwd.own_v6(conn, index) else {
                        continue;
                    };
                    let echo = Echo {
                        is_request: true,
                        word: PROBE_ID | (sent & 0xffff),
                        data: &[0; PROBE_DATA],
                    };
                    let packet = echo.packet(source, ALL_NODES);
                    self.fwd.originate(now, conn, index, packet, 0);
                    conn.tunnels[index].probe = Some(Probe::Waiting {
                        sent: sent + 1,
                        source,
                        due: now + interval,
                    });
                }
                Step::Abort => {
                    let tunnel = conn.tunnels[index].handle.tunnel;
                    let how = CloseHow::Abort(H3Code::REQUEST_CANCELLED);
                    let close = SessionCommand::CloseTunnel { tunnel, how };
                    aborted |= conn.bridge.session().handle_command(close).is_ok();
                }
            }
        }
        aborted
    }
}

impl Forwarding {
    /// Takes echoes that are for us and not for a host behind: answers requests to all nodes of the link,
    /// notes answers to our own. Gives whether it was one.
    pub(super) fn take_echo(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        tunnel: usize,
        packet: &[u8],
        info: &PacketInfo,
    ) -> bool {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (info.source, info.destination) else {
            return false;
        };
        let state = &mut conn.tunnels[tunnel];
        if to != ALL_NODES && !matches!(state.probe, Some(Probe::Waiting { .. })) {
            return false;
        }
        let Some(echo) = Echo::parse(packet, info) else {
            return false;
        };
        if let Some(Probe::Waiting { source, .. }) = state.probe
            && !echo.is_request
            && to == source
            && echo.word & 0xffff_0000 == PROBE_ID
            && echo.data == [0; PROBE_DATA]
        {
            state.probe = Some(Probe::Answered);
            return true;
        }
        if to != ALL_NODES || !echo.is_request {
            return false;
        }
        // Only to who may be here: a client by its address, a server from wherever it is.
        let known = match conn.role {
            Role::Server => state.addresses.iter().any(|it| it.contains(info.source)),
            Role::Client => forwardable(info.source),
        };
        let Some(source) = self.own_v6(conn, tunnel).filter(|_| known) else {
            return false;
        };
        if !conn.tunnels[tunnel].icmp.allow(now) {
            self.counters.icmp_limited += 1;
            self.counters.drop(DropReason::NotForwardable, 1);
            return true;
        }
        let reply = Echo {
            is_request: false,
            ..echo
        };
        self.originate(now, conn, tunnel, reply.packet(source, from), 0);
        true
    }

    /// An IPv6 address of our end of a tunnel.
    fn own_v6(&self, conn: &Conn, tunnel: usize) -> Option<Ipv6Addr> {
        let own = match conn.role {
            Role::Server => self.own_address(conn.port, false),
            Role::Client => {
                let addresses = conn.tunnels[tunnel].addresses.iter();
                let mut addresses = addresses.map(|prefix| prefix.address());
                addresses.find(IpAddr::is_ipv6)
            }
        };
        match own? {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }
}
