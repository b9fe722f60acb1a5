//! IPv4 fragmentation (RFC 791 §3.2).

use bytes::BufMut;

use super::checksum::Sum;
use super::{PacketInfo, V4_HEADER};

/// What every link carries (RFC 791 §3.2): the longest header and eight bytes.
pub const MIN_MTU: usize = 68;

const MAX_HEADER: usize = 60;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// The end of a reassembled packet's data may not lie beyond this.
const MAX_END: usize = 65_535 - V4_HEADER;

/// Why a packet is not fragmented.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum FragmentError {
    /// Not one whole IPv4 packet, or one whose options or offset are broken.
    #[error("no whole IPv4 packet")]
    Malformed,
    /// Don't Fragment is set.
    #[error("Don't Fragment is set")]
    DontFragment,
    /// Below [`MIN_MTU`].
    #[error("MTU below 68 bytes")]
    Mtu,
}

/// Splits an IPv4 packet into fragments of at most `mtu` bytes, in order. A packet that fits is one
/// fragment, itself. A fragment is split further; its parts fit where it did.
///
/// # Errors
/// [`FragmentError`].
pub fn fragments(packet: &[u8], mtu: usize) -> Result<Fragments<'_>, FragmentError> {
    let info = PacketInfo::parse(packet).map_err(|_| FragmentError::Malformed)?;
    let header = packet
        .get(..info.transport_offset)
        .filter(|_| info.source.is_ipv4())
        .ok_or(FragmentError::Malformed)?;
    if packet.len() > mtu {
        if info.dont_fragment {
            return Err(FragmentError::DontFragment);
        }
        if mtu < MIN_MTU {
            return Err(FragmentError::Mtu);
        }
    }
    let word = u16::from_be_bytes([header[6], header[7]]);
    let payload = packet.get(header.len()..).unwrap_or_default();
    if usize::from(word & OFFSET) * 8 + payload.len() > MAX_END {
        return Err(FragmentError::Malformed);
    }
    Ok(Fragments {
        first: Header::whole(header),
        later: Header::later(header)?,
        word,
        payload,
        at: 0,
        mtu,
        done: false,
    })
}

/// The fragments of one packet; see [`fragments`].
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    first: Header,
    later: Header,
    /// Flags and offset of the packet.
    word: u16,
    payload: &'a [u8],
    at: usize,
    mtu: usize,
    done: bool,
}

/// One fragment: a header of its own and a part of the packet's payload.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    header: Header,
    payload: &'a [u8],
}

impl Fragment<'_> {
    /// Its bytes in all.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a fragment has a header: it is never empty"
    )]
    pub fn len(&self) -> usize {
        self.header.length + self.payload.len()
    }

    /// Appends it to `out`.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(self.header.as_slice());
        out.put_slice(self.payload);
    }
}

impl<'a> Iterator for Fragments<'a> {
    type Item = Fragment<'a>;

    fn next(&mut self) -> Option<Fragment<'a>> {
        if self.done {
            return None;
        }
        let mut header = if self.at == 0 { self.first } else { self.later };
        let rest = self.payload.get(self.at..).unwrap_or_default();
        let room = self.mtu.saturating_sub(header.length);
        self.done = rest.len() <= room;
        // Offsets count units of eight bytes, so only the last may be of another length.
        let take = if self.done { rest.len() } else { room & !7 };
        let more = if self.done { 0 } else { MORE_FRAGMENTS };
        // At most 65,515 bytes in units of eight: no carry into the flags.
        let units = (self.at / 8) as u16;
        header.finish((self.word | more) + units, take);
        self.at += take;
        Some(Fragment {
            header,
            payload: &rest[..take],
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Header {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Header {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// `header` has been read by [`PacketInfo::parse`]: 20 to 60 bytes.
    fn whole(header: &[u8]) -> Self {
        let mut bytes = [0; MAX_HEADER];
        bytes[..header.len()].copy_from_slice(header);
        Self {
            bytes,
            length: header.len(),
        }
    }

    /// The header of later fragments: only the options whose copied flag is set, padded with End of
    /// Option List.
    fn later(header: &[u8]) -> Result<Self, FragmentError> {
        let (fixed, mut options) = header.split_at(V4_HEADER);
        let mut later = Self::whole(fixed);
        while let Some(&kind) = options.first() {
            let length = match kind {
                END => break,
                NO_OPERATION => 1,
                _ => options
                    .get(1)
                    .map(|length| usize::from(*length))
                    .filter(|length| (2..=options.len()).contains(length))
                    .ok_or(FragmentError::Malformed)?,
            };
            let (option, rest) = options.split_at(length);
            if kind & COPIED != 0 {
                later.bytes[later.length..][..length].copy_from_slice(option);
                later.length += length;
            }
            options = rest;
        }
        later.length = later.length.next_multiple_of(4);
        later.bytes[0] = 0x40 | (later.length / 4) as u8;
        Ok(later)
    }

    /// Fills in what differs between fragments.
    fn finish(&mut self, word: u16, payload: usize) {
        let total = (self.length + payload) as u16;
        self.bytes[2..4].copy_from_slice(&total.to_be_bytes());
        self.bytes[6..8].copy_from_slice(&word.to_be_bytes());
        self.bytes[10..12].fill(0);
        let checksum = Sum::default().add(self.as_slice()).checksum();
        self.bytes[10..12].copy_from_slice(&checksum);
    }
}

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const COPIED: u8 = 0x80;

#[cfg(test)]
mod tests;
