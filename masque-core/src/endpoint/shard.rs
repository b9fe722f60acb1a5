//! A server on several cores: one endpoint per shard, and the mail between them.
//!
//! Connections are sharded, never split: a datagram belongs to the shard that its destination
//! connection ID names ([`shard_of`]), a packet to the shard of its tunnel. What arrives at another
//! shard leaves it by [`Endpoint::poll_mail`] and enters the right one by [`Endpoint::handle_mail`].

mod shared;

use std::num::NonZeroU16;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

pub use shared::Shared;

use super::Endpoint;
use super::types::{ConnId, PortId, RecvMeta, TunnelHandle};
use crate::wire::offload::VnetHdr;

/// The most shards of one server.
pub const MAX_SHARDS: u16 = 64;

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

impl Endpoint {
    /// The next mail for another shard of this server.
    #[must_use]
    pub fn poll_mail(&mut self) -> Option<(ShardId, Mail)> {
        None
    }

    /// Takes mail of another shard.
    pub fn handle_mail(&mut self, now: Instant, mail: Mail) {
        let _ = (now, mail);
    }

    /// Takes back mail that its mailbox had no room for: what it carried is dropped and counted as
    /// [`super::DropReason::MailboxFull`].
    pub fn mail_refused(&mut self, mail: Mail) {
        let _ = mail;
    }
}

/// Which shard of `shards` a connection is on.
pub(super) fn home(conn: ConnId, shards: NonZeroU16) -> ShardId {
    let shards = u64::from(shards.get());
    ShardId(u16::try_from(conn.0 % shards).unwrap_or(0))
}
