//! Stream IDs (RFC 9000 §2.1) and the types of unidirectional streams (RFC 9114 §6.2).

use super::varint::VarInt;

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Opened the connection.
    Client,
    /// Accepted it.
    Server,
}

impl Role {
    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Whether a stream carries data one way or both ways.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// Both ways: requests.
    Bidirectional,
    /// From its initiator only: control, QPACK and push streams.
    Unidirectional,
}

/// A QUIC stream ID; always below 2^62.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(VarInt);

impl StreamId {
    /// The ID with this number.
    #[must_use]
    pub const fn new(id: VarInt) -> Self {
        Self(id)
    }

    /// The `index`-th stream of a kind, counted from 0.
    #[must_use]
    pub const fn nth(initiator: Role, direction: Direction, index: u32) -> Self {
        let low = matches!(initiator, Role::Server) as u32
            | (matches!(direction, Direction::Unidirectional) as u32) << 1;
        match VarInt::new((index as u64) << 2 | low as u64) {
            Some(id) => Self(id),
            None => unreachable!(),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn into_inner(self) -> u64 {
        self.0.into_inner()
    }

    /// Who opened it.
    #[must_use]
    pub const fn initiator(self) -> Role {
        if self.into_inner() & 1 == 0 {
            Role::Client
        } else {
            Role::Server
        }
    }

    /// Which ways it carries data.
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.into_inner() & 2 == 0 {
            Direction::Bidirectional
        } else {
            Direction::Unidirectional
        }
    }

    /// Whether it can carry a request: opened by the client, bidirectional (RFC 9114 §6.1).
    #[must_use]
    pub const fn is_request(self) -> bool {
        self.into_inner() & 3 == 0
    }
}

impl core::fmt::Display for StreamId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// The type a unidirectional stream starts with (RFC 9114 §6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UniStreamType {
    /// 0x00.
    Control,
    /// 0x01; only a server may open one.
    Push,
    /// 0x02 (RFC 9204 §4.2).
    QpackEncoder,
    /// 0x03 (RFC 9204 §4.2).
    QpackDecoder,
    /// Any other type, reserved ones (0x1f*N+0x21) included: to be ignored.
    Unknown(VarInt),
}

impl UniStreamType {
    /// The type with this number.
    #[must_use]
    pub const fn from_varint(ty: VarInt) -> Self {
        match ty.into_inner() {
            0 => Self::Control,
            1 => Self::Push,
            2 => Self::QpackEncoder,
            3 => Self::QpackDecoder,
            _ => Self::Unknown(ty),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn into_varint(self) -> VarInt {
        match self {
            Self::Control => VarInt::from_u32(0),
            Self::Push => VarInt::from_u32(1),
            Self::QpackEncoder => VarInt::from_u32(2),
            Self::QpackDecoder => VarInt::from_u32(3),
            Self::Unknown(ty) => ty,
        }
    }
}

#[cfg(test)]
mod tests;
