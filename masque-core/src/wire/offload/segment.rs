//! Super-packet to packets.

use alloc::vec::Vec;

use bytes::{BufMut, BytesMut};

use super::{TCP_CHECKSUM, TCP_HEADER, UDP_CHECKSUM, UDP_HEADER, VnetHdr, be16, flags};
use crate::wire::ip::checksum::Sum;
use crate::wire::ip::{self, TCP, UDP, V4_FRAGMENT, V4_HEADER, V6_HEADER, ext};

/// Bounds what one super-packet can grow to: headers repeat in every segment. Linux's smallest
/// TCP segment (36 bytes, with timestamps) needs 1,819 for 64 KiB.
const MAX_SEGMENTS: usize = 2048;
/// Prefix and headers up to so many bytes are put together without an allocation: all but IPv6 packets
/// with long extension headers.
const FRONT: usize = 192;
/// And so does this, where long chains of extension headers would repeat.
const MAX_TOTAL: usize = 4 << 20;

/// Why a super-packet cannot be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SegmentError {
    /// The virtio-net header points outside the packet or contradicts it.
    #[error("virtio-net header contradicts the packet")]
    Header,
    /// An offload type that was never asked for.
    #[error("unknown offload type")]
    Type,
}

/// What [`segment`] wrote: `count` packets of `stride` bytes, the last perhaps shorter, each with
/// `prefix.len()` bytes in front (included in `stride`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// How many packets.
    pub count: usize,
    /// Bytes from the start of one to the start of the next.
    pub stride: usize,
    /// Bytes written in all.
    pub total: usize,
}

/// Appends to `out` the packets that `packet` stands for, each preceded by `prefix`: lengths, IPv4
/// identification and checksum, TCP sequence numbers and flags (FIN and PSH on the last, CWR on the
/// first only), UDP lengths, and transport checksums complete; `hop_limit`, if given, is written into
/// each. With [`VnetHdr::GSO_NONE`] it is one packet whose checksum is
/// completed if partial.
///
/// [`VnetHdr::hdr_len`] is ignored: the headers are read from the packet.
///
/// # Errors
/// [`SegmentError`]; `out` is then as before.
pub fn segment(
    header: VnetHdr,
    packet: &[u8],
    prefix: &[u8],
    hop_limit: Option<u8>,
    out: &mut BytesMut,
) -> Result<Segments, SegmentError> {
    if header.gso_type == VnetHdr::GSO_NONE {
        return whole(header, packet, prefix, hop_limit, out);
    }
    let layout = Layout::read(header, packet, hop_limit)?;
    let (headers, payload) = packet.split_at(layout.header_len);
    let size = usize::from(header.gso_size);
    if size == 0 {
        return Err(SegmentError::Header);
    }
    let count = payload.len().div_ceil(size).max(1);
    if count > MAX_SEGMENTS {
        return Err(SegmentError::Header);
    }
    let front = prefix.len() + headers.len();
    let total = count * front + payload.len();
    if total > MAX_TOTAL {
        return Err(SegmentError::Header);
    }
    out.reserve(total);

    // What stands before each payload, patched for each and copied in one piece.
    let mut short = [0; FRONT];
    let mut long = Vec::new();
    let template = match short.get_mut(..front) {
        Some(short) => short,
        None => {
            long.resize(front, 0);
            &mut long[..]
        }
    };
    let (before, written) = template.split_at_mut(prefix.len());
    before.copy_from_slice(prefix);
    written.copy_from_slice(headers);
    let mut from = 0;
    for nth in 0..count {
        let part = &payload[from..payload.len().min(from + size)];
        // The payload is summed, then copied while it is in the innermost cache: two passes that
        // vector code makes faster than one that does both into space that has to be cleared first.
        let sum = layout.transport_base.add(part);
        let written = &mut template[prefix.len()..];
        layout.patch(written, nth, from, part.len(), nth + 1 == count, sum);
        out.put_slice(template);
        out.put_slice(part);
        from += size;
    }
    Ok(Segments {
        count,
        stride: total.min(front + size),
        total,
    })
}

/// One packet, its checksum completed.
fn whole(
    header: VnetHdr,
    packet: &[u8],
    prefix: &[u8],
    hop_limit: Option<u8>,
    out: &mut BytesMut,
) -> Result<Segments, SegmentError> {
    let total = prefix.len() + packet.len();
    let done = Segments {
        count: 1,
        stride: total,
        total,
    };
    let ip_header = match packet.first().map(|byte| byte >> 4) {
        Some(4) => usize::from(packet[0] & 15) * 4,
        Some(6) => V6_HEADER,
        _ => return Err(SegmentError::Header),
    };
    if ip_header < V4_HEADER || ip_header > packet.len() {
        return Err(SegmentError::Header);
    }
    let (start, offset) = (
        usize::from(header.csum_start),
        usize::from(header.csum_offset),
    );
    let partial = header.flags & VnetHdr::NEEDS_CSUM != 0;
    // The field lies on a word of the part it covers, or the sum could not be stored in it.
    if partial && (start < ip_header || offset % 2 != 0 || start + offset + 2 > packet.len()) {
        return Err(SegmentError::Header);
    }

    out.reserve(total);
    out.put_slice(prefix);
    let begin = out.len();
    if partial {
        let checksum = Sum::default().add(&packet[start..]).checksum();
        out.put_slice(packet);
        let at = begin + start + offset;
        out[at..at + 2].copy_from_slice(&if offset == UDP_CHECKSUM {
            never_zero(checksum)
        } else {
            checksum
        });
    } else {
        out.put_slice(packet);
    }
    if let Some(value) = hop_limit {
        // Cannot fail: version and length were looked at above.
        let _ = ip::set_hop_limit(&mut out[begin..], value);
    }
    Ok(done)
}

/// To UDP zero means "no checksum" (RFC 768).
fn never_zero(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0, 0] {
        [0xff, 0xff]
    } else {
        checksum
    }
}

/// Headers that have been looked at once, and the sums of what is the same in every segment.
struct Layout {
    v4: bool,
    tcp: bool,
    /// Where the transport header begins.
    transport: usize,
    /// Where the payload begins.
    header_len: usize,
    hop_limit: Option<u8>,
    identification: u16,
    sequence: u32,
    tcp_flags: u8,
    /// The IPv4 header without length, identification and checksum.
    ip_base: Sum,
    /// Pseudo-header and transport header without lengths, checksum, sequence number and flags.
    transport_base: Sum,
}

impl Layout {
    fn read(header: VnetHdr, packet: &[u8], hop_limit: Option<u8>) -> Result<Self, SegmentError> {
        let (v4, tcp) = match header.gso_type & !VnetHdr::GSO_ECN {
            VnetHdr::GSO_TCPV4 => (true, true),
            VnetHdr::GSO_TCPV6 => (false, true),
            VnetHdr::GSO_UDP_L4 if header.gso_type & VnetHdr::GSO_ECN == 0 => {
                (packet.first().is_some_and(|byte| byte >> 4 == 4), false)
            }
            _ => return Err(SegmentError::Type),
        };
        let bad = SegmentError::Header;
        let transport = if v4 {
            transport_v4(packet, tcp)
        } else {
            transport_v6(packet, tcp)
        }
        .ok_or(bad)?;

        let (transport_len, checksum_at) = if tcp {
            let offset = packet.get(transport + 12).ok_or(bad)?;
            (usize::from(offset >> 4) * 4, TCP_CHECKSUM)
        } else {
            (UDP_HEADER, UDP_CHECKSUM)
        };
        let header_len = transport + transport_len;
        if header_len > packet.len() || tcp && transport_len < TCP_HEADER {
            return Err(bad);
        }
        let partial = header.flags & VnetHdr::NEEDS_CSUM != 0;
        let fields = (
            usize::from(header.csum_start),
            usize::from(header.csum_offset),
        );
        if partial && fields != (transport, checksum_at) {
            return Err(bad);
        }

        let mut layout = Self {
            v4,
            tcp,
            transport,
            header_len,
            hop_limit,
            identification: 0,
            sequence: 0,
            tcp_flags: 0,
            ip_base: Sum::default(),
            transport_base: Sum::default(),
        };
        let pseudo = if v4 {
            layout.identification = be16(packet, 4);
            layout.ip_base = Sum::default()
                .add(&packet[..2])
                .add(&packet[6..8])
                .add(&[hop_limit.unwrap_or(packet[8]), packet[9]])
                .add(&packet[12..transport]);
            Sum::default()
                .add(&packet[12..20])
                .add_u16(u16::from(packet[9]))
        } else if transport == V6_HEADER {
            Sum::default()
                .add(&packet[8..40])
                .add_u16(u16::from(packet[6]))
        } else if partial {
            // A routing header changes the destination that counts (RFC 8200 §8.1); who wrote the
            // partial sum knew which. Without its length it is the pseudo-header's.
            let stored = transport + checksum_at;
            Sum::default()
                .add(&packet[stored..stored + 2])
                .add_u16(!((packet.len() - transport) as u16))
        } else {
            return Err(bad);
        };
        let header = &packet[transport..header_len];
        layout.transport_base = if tcp {
            layout.sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            layout.tcp_flags = header[13];
            pseudo
                .add(&header[..4])
                .add(&header[8..12])
                .add(&[header[12], 0])
                .add(&header[14..16])
                .add(&header[18..])
        } else {
            pseudo.add(&header[..4])
        };
        Ok(layout)
    }

    /// Writes what differs into the copied `headers` of segment `nth`, whose payload is `len` bytes
    /// from `from` and adds up, with the base, to `sum`.
    #[inline]
    fn patch(&self, headers: &mut [u8], nth: usize, from: usize, len: usize, last: bool, sum: Sum) {
        let (network, transport) = headers.split_at_mut(self.transport);
        let transport_len = (transport.len() + len) as u16;
        if self.v4 {
            let total = (self.header_len + len) as u16;
            let identification = self.identification.wrapping_add(nth as u16);
            let sum = self.ip_base.add_u16(total).add_u16(identification);
            network[2..4].copy_from_slice(&total.to_be_bytes());
            network[4..6].copy_from_slice(&identification.to_be_bytes());
            network[10..12].copy_from_slice(&sum.checksum());
            network[8] = self.hop_limit.unwrap_or(network[8]);
        } else {
            let payload = (self.header_len - V6_HEADER + len) as u16;
            network[4..6].copy_from_slice(&payload.to_be_bytes());
            network[7] = self.hop_limit.unwrap_or(network[7]);
        }
        if self.tcp {
            let sequence = self.sequence.wrapping_add(from as u32);
            let mut tcp_flags = self.tcp_flags;
            if !last {
                tcp_flags &= !(flags::FIN | flags::PSH);
            }
            if nth > 0 {
                tcp_flags &= !flags::CWR;
            }
            let sum = sum
                .add_u16(transport_len)
                .add(&sequence.to_be_bytes())
                .add_u16(u16::from(tcp_flags));
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            transport[13] = tcp_flags;
            transport[16..18].copy_from_slice(&sum.checksum());
        } else {
            // The length counts twice: in the pseudo-header and in the header.
            let sum = sum.add_u16(transport_len).add_u16(transport_len);
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
            transport[6..8].copy_from_slice(&never_zero(sum.checksum()));
        }
    }
}

/// Where the transport header of a whole IPv4 packet begins, if it is the one meant.
fn transport_v4(packet: &[u8], tcp: bool) -> Option<usize> {
    let header: &[u8; V4_HEADER] = packet.first_chunk()?;
    let length = usize::from(header[0] & 15) * 4;
    let fit = header[0] >> 4 == 4
        && length >= V4_HEADER
        && length <= packet.len()
        && usize::from(be16(header, 2)) == packet.len()
        && be16(header, 6) & V4_FRAGMENT == 0
        && header[9] == if tcp { TCP } else { UDP };
    fit.then_some(length)
}

/// The same for IPv6, after any extension headers.
fn transport_v6(packet: &[u8], tcp: bool) -> Option<usize> {
    let (header, rest) = packet.split_first_chunk::<V6_HEADER>()?;
    if header[0] >> 4 != 6 || usize::from(be16(header, 4)) != rest.len() {
        return None;
    }
    let chain = ext::walk(packet, header[6]).ok()?;
    let fit = !chain.fragment && chain.protocol == if tcp { TCP } else { UDP };
    fit.then_some(chain.offset)
}
