//! A server on several cores: one endpoint per shard, and the mail between them.
//!
//! Connections are sharded, never split: a datagram belongs to the shard that its destination
//! connection ID names ([`shard_of`]), a packet to the shard of its tunnel. What arrives at another
//! shard leaves it by [`Endpoint::poll_mail`] and enters the right one by [`Endpoint::handle_mail`].

mod shared;

use std::num::NonZeroU16;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

pub(super) use shared::Notice;
pub use shared::Shared;

use super::config::Config;
use super::entropy::Entropy;
use super::forward::{Across, packets_in};
use super::owners::Change;
use super::types::{ConnId, PortId, RecvMeta, TunnelHandle};
use super::{CloseReason, ConnectError, DropReason, Endpoint};
use crate::error::H3Code;
use crate::trace::What;
use crate::wire::ip::PacketInfo;
use crate::wire::offload::VnetHdr;

/// The most shards of one server.
pub const MAX_SHARDS: u16 = 64;

/// The most bytes of mail that wait to be polled.
const MAX_MAIL: usize = 8 << 20;

/// One shard of a server: counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

/// An endpoint's place among the shards of its server.
#[derive(Clone, Debug)]
pub struct Shard {
    /// Which one it is; less than [`Shared::shards`].
    pub id: ShardId,
    /// What it has in common with the others.
    pub shared: Shared,
}

/// To which of `shards` shards a UDP datagram belongs: the first byte of its destination connection
/// ID modulo `shards`; 0 where there is no such byte (RFC 9000 §5.1, §17). The same rule can run in
/// the kernel, in front of the sockets.
#[must_use]
pub fn shard_of(datagram: &[u8], shards: NonZeroU16) -> ShardId {
    let byte = match datagram.first() {
        None => None,
        Some(first) if first & 0x80 == 0 => datagram.get(1),
        Some(_) => match datagram.get(5) {
            None | Some(0) => None,
            Some(_) => datagram.get(6),
        },
    };
    ShardId(byte.map_or(0, |byte| u16::from(*byte) % shards.get()))
}

/// What one shard has for another. Opaque: it is carried, not read.
#[derive(Debug)]
pub struct Mail(Kind);

#[derive(Debug)]
enum Kind {
    /// UDP datagrams that arrived at the wrong shard.
    Udp { meta: RecvMeta, data: BytesMut },
    /// A packet or super-packet from a device, for a tunnel of the other shard.
    Tun {
        to: TunnelHandle,
        port: PortId,
        header: VnetHdr,
        data: Bytes,
    },
    /// A packet from a tunnel of this shard to one of the other, its hop count decremented already.
    Across { to: TunnelHandle, packet: Bytes },
    /// Something stands on the board for the other shard: look.
    Look,
}

impl Mail {
    fn kind(&self) -> &'static str {
        match self.0 {
            Kind::Udp { .. } => "udp",
            Kind::Tun { .. } => "tun",
            Kind::Across { .. } => "across",
            Kind::Look => "look",
        }
    }

    /// The bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let payload = match &self.0 {
            Kind::Udp { data, .. } => data.len(),
            Kind::Tun { data, .. } => data.len(),
            Kind::Across { packet, .. } => packet.len(),
            Kind::Look => 0,
        };
        size_of::<Self>() + payload
    }
}

/// Where an endpoint stands among the shards of its server.
pub(super) struct Seat {
    pub(super) id: ShardId,
    pub(super) shared: Shared,
    /// There is no other shard: nothing is looked up, nothing is sent.
    pub(super) alone: bool,
    /// How many changes of owners our copy has.
    seen: u64,
}

impl Seat {
    pub(super) fn new(config: &Config) -> Result<Self, ConnectError> {
        let (id, shared) = match &config.shard {
            Some(shard) => (shard.id, shard.shared.clone()),
            None => (ShardId(0), Shared::new(config, NonZeroU16::MIN)),
        };
        if id.0 >= shared.shards().get() {
            return Err(ConnectError::UnknownShard);
        }
        Ok(Self {
            id,
            alone: shared.shards() == NonZeroU16::MIN,
            shared,
            seen: 0,
        })
    }

    /// Shards that were given one seed do not draw the same.
    pub(super) fn entropy(&self, entropy: Entropy) -> Entropy {
        if self.alone {
            return entropy;
        }
        Entropy::from_seed(entropy.bytes(&format!("shard {}", self.id.0)))
    }

    #[inline]
    pub(super) fn has_news(&self) -> bool {
        !self.alone && self.shared.has_news(self.id, self.seen)
    }
}

impl Endpoint {
    /// The next mail for another shard of this server. It is to reach [`Endpoint::handle_mail`] there
    /// in the order it came out, or to come back by [`Endpoint::mail_refused`].
    #[must_use]
    pub fn poll_mail(&mut self) -> Option<(ShardId, Mail)> {
        let (to, mail) = self.mail.pop_front()?;
        self.mail_bytes -= mail.bytes();
        self.fwd.counters.mail_sent += 1;
        self.trace(None, || {
            What::Output(format!("mail {} to shard {}", mail.kind(), to.0).into())
        });
        Some((to, mail))
    }

    /// Takes mail of another shard.
    pub fn handle_mail(&mut self, now: Instant, mail: Mail) {
        self.advance(now);
        self.trace(None, || What::Input(format!("mail {}", mail.kind()).into()));
        self.fwd.counters.mail_received += 1;
        match mail.0 {
            // Where it belongs was found out by the sender: it is not sent on again.
            Kind::Udp { meta, data } => self.take_udp(now, meta, data),
            Kind::Tun {
                to,
                port,
                header,
                data,
            } => {
                if let Ok(info) = PacketInfo::parse(&data) {
                    // What is dropped is counted.
                    let _ = self.enter_from_port(now, to, port, header, &data, &info);
                }
            }
            Kind::Across { to, packet } => {
                self.fwd.across.push(Across { to, packet });
                self.deliver_across(now);
            }
            // Done by `advance`.
            Kind::Look => {}
        }
    }

    /// Takes back mail that its mailbox had no room for: what it carried is dropped and counted as
    /// [`DropReason::MailboxFull`]. Nothing else is lost: what is not a packet waits in [`Shared`] until
    /// the other shard does anything at all.
    pub fn mail_refused(&mut self, mail: Mail) {
        let packets = match &mail.0 {
            Kind::Udp { meta, data } => data.len().div_ceil(meta.stride.max(1)) as u64,
            Kind::Tun { header, data, .. } => PacketInfo::parse(data)
                .map_or(1, |info| u64::from(packets_in(*header, data, &info))),
            Kind::Across { .. } => 1,
            Kind::Look => return,
        };
        let reason = DropReason::MailboxFull;
        self.fwd.dropped(reason, mail.bytes(), &mut self.trace);
        self.fwd.counters.drop(reason, packets.saturating_sub(1));
    }

    /// The shard of a connection that is not here.
    #[inline]
    pub(super) fn elsewhere(&self, conn: ConnId) -> Option<ShardId> {
        if self.seat.alone {
            return None;
        }
        Some(self.seat.shared.home(conn)).filter(|home| *home != self.seat.id)
    }

    /// Takes the datagrams that are ours, and sends on those that are not. All of a batch are of one
    /// remote address and mostly of one connection.
    #[inline(never)]
    pub(super) fn sort_udp(&mut self, now: Instant, meta: RecvMeta, mut data: BytesMut) {
        let shards = self.seat.shared.shards();
        let stride = meta.stride.max(1);
        while !data.is_empty() {
            let mut datagrams = data.chunks(stride).map(|part| shard_of(part, shards));
            let Some(shard) = datagrams.next() else {
                return;
            };
            let run = 1 + datagrams.take_while(|other| *other == shard).count();
            let run = data.split_to(run.saturating_mul(stride).min(data.len()));
            if shard == self.seat.id {
                self.take_udp(now, meta, run);
            } else {
                // Bytes of their own: a waiting datagram keeps nobody's receive buffer.
                let data = BytesMut::from(&run[..]);
                self.post(shard, Kind::Udp { meta, data });
            }
        }
    }

    /// Sends a packet from a device to the shard of its tunnel; gives how many packets it stands for.
    pub(super) fn send_on(
        &mut self,
        shard: ShardId,
        to: TunnelHandle,
        port: PortId,
        header: VnetHdr,
        data: &[u8],
        info: &PacketInfo,
    ) -> u32 {
        let count = packets_in(header, data, info);
        let data = Bytes::copy_from_slice(data);
        let kind = Kind::Tun {
            to,
            port,
            header,
            data,
        };
        self.post(shard, kind);
        count
    }

    /// Sends a packet from a tunnel to the shard of another.
    pub(super) fn send_across(&mut self, shard: ShardId, to: TunnelHandle, packet: Bytes) {
        self.post(shard, Kind::Across { to, packet });
    }

    /// Leaves a notice for another shard, and wakes it.
    pub(super) fn leave_notice(&mut self, shard: ShardId, notice: Notice) {
        self.seat.shared.leave(notice);
        self.post(shard, Kind::Look);
    }

    /// Does what a notice says.
    pub(super) fn obey(&mut self, now: Instant, notice: Notice) {
        let (reason, code, words) = match notice {
            Notice::Replace(_) => (
                CloseReason::Replaced,
                H3Code::NO_ERROR,
                "replaced by a newer connection",
            ),
            Notice::Revoke(_) => (
                CloseReason::NotAuthorised,
                H3Code::REQUEST_REJECTED,
                "revoked",
            ),
            Notice::Yield(from, to) => return self.yield_queue(now, from, to),
        };
        self.close_by_id(now, notice.conn(), reason, code, words);
    }

    /// Makes changes of owners known, here and on the other shards.
    pub(super) fn change_owners(&mut self, changes: &[Change]) {
        self.fwd.rules_changed();
        let owners = &mut self.fwd.owners;
        if self.seat.alone {
            changes.iter().for_each(|change| owners.apply(*change));
        } else if !changes.is_empty() {
            let seen = &mut self.seat.seen;
            self.seat.shared.announce(changes, owners, seen);
        }
    }

    /// Takes in what the other shards have written for us.
    #[cold]
    pub(super) fn catch_up(&mut self, now: Instant) {
        // Who had an address may have it no longer, and one that was nobody's may be somebody's.
        self.fwd.rules_changed();
        let seat = &mut self.seat;
        let owners = &mut self.fwd.owners;
        let notices = seat.shared.catch_up(seat.id, owners, &mut seat.seen);
        for notice in notices {
            self.obey(now, notice);
        }
    }

    fn post(&mut self, to: ShardId, kind: Kind) {
        let mail = Mail(kind);
        let full = self.mail_bytes + mail.bytes() > MAX_MAIL;
        if full && !matches!(mail.0, Kind::Look) {
            return self.mail_refused(mail);
        }
        self.mail_bytes += mail.bytes();
        self.mail.push_back((to, mail));
    }
}

/// Which shard of `shards` a connection is on.
pub(super) fn home(conn: ConnId, shards: NonZeroU16) -> ShardId {
    let shards = u64::from(shards.get());
    ShardId(u16::try_from(conn.0 % shards).unwrap_or(0))
}

#[cfg(test)]
mod tests;
