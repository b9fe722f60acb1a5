//! The capsules of one open tunnel: what was received becomes events, what is sent becomes DATA
//! frames (RFC 9297 §3, RFC 9484 §4.7).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Event, TunnelId};
use crate::error::WireErrorKind;
use crate::wire::capsule::{
    AddressEntry, AddressRequest, Capsule, CapsuleDecoder, CapsuleEvent, CapsuleLimits, RequestId,
};
use crate::wire::datagram::{self, ContextId};
use crate::wire::frame::{self, FrameType};
use crate::wire::prefix::IpPrefix;
use crate::wire::varint::VarInt;

/// What is remembered of the capsules of one tunnel.
#[derive(Debug)]
pub(super) struct Capsules {
    decoder: CapsuleDecoder,
    /// The Request IDs the peer has used, which never repeat (RFC 9484 §4.7.2).
    requested: BTreeSet<RequestId>,
    max_requested: usize,
    /// The Request ID we use next.
    next: u64,
}

/// What a received capsule amounts to.
#[derive(Debug)]
pub(super) enum Received {
    /// To be told to the owner.
    Event(Event),
    /// Not for us: so many bytes, and why.
    Dropped(&'static str, usize),
}

impl Capsules {
    pub(super) fn new(limits: CapsuleLimits, max_requested: usize) -> Self {
        Self {
            decoder: CapsuleDecoder::new(limits),
            requested: BTreeSet::new(),
            max_requested,
            next: 1,
        }
    }

    pub(super) fn decode(
        &mut self,
        data: &mut Bytes,
    ) -> Result<Option<CapsuleEvent>, WireErrorKind> {
        self.decoder.decode(data).map_err(|e| e.kind)
    }

    pub(super) fn finish(&self) -> Result<(), WireErrorKind> {
        self.decoder.finish().map_err(|e| e.kind)
    }

    /// Judges a capsule of `tunnel`.
    pub(super) fn judge(
        &mut self,
        tunnel: TunnelId,
        capsule: CapsuleEvent,
    ) -> Result<Received, WireErrorKind> {
        let capsule = match capsule {
            CapsuleEvent::Capsule(capsule) => capsule,
            CapsuleEvent::Unknown { length, .. } => {
                return Ok(Received::Dropped("unknown capsule", announced(length)));
            }
            CapsuleEvent::DatagramTooLarge { length } => {
                return Ok(Received::Dropped(
                    "DATAGRAM capsule over the limit",
                    announced(length),
                ));
            }
        };
        Ok(Received::Event(match capsule {
            Capsule::Datagram(payload) => match datagram::open_context(&payload) {
                Some((ContextId::IP_PACKET, offset)) => Event::Packet {
                    tunnel,
                    packet: payload.slice(offset..),
                },
                Some(_) => return Ok(Received::Dropped("unknown context", payload.len())),
                None => return Ok(Received::Dropped("no context", payload.len())),
            },
            Capsule::AddressAssign(assign) => Event::AddressesAssigned { tunnel, assign },
            Capsule::AddressRequest(request) => {
                self.remember(&request)?;
                Event::AddressesRequested { tunnel, request }
            }
            Capsule::RouteAdvertisement(routes) => Event::RoutesAdvertised { tunnel, routes },
        }))
    }

    fn remember(&mut self, request: &AddressRequest) -> Result<(), WireErrorKind> {
        for entry in request.entries() {
            if self.requested.contains(&entry.request_id) {
                return Err(WireErrorKind::RequestIdReused);
            }
            if self.requested.len() >= self.max_requested {
                return Err(WireErrorKind::CapsuleTooMany);
            }
            self.requested.insert(entry.request_id);
        }
        Ok(())
    }

    /// An ADDRESS_REQUEST for `prefixes` with IDs not used before; `None` if there are no prefixes.
    pub(super) fn request(&mut self, prefixes: &[IpPrefix]) -> Option<Capsule> {
        let entries: Vec<_> = prefixes
            .iter()
            .zip(self.next..)
            .filter_map(|(&prefix, id)| {
                VarInt::new(id).map(|id| AddressEntry {
                    request_id: RequestId(id),
                    prefix,
                })
            })
            .collect();
        self.next = self.next.saturating_add(entries.len() as u64);
        AddressRequest::new(entries)
            .ok()
            .map(Capsule::AddressRequest)
    }
}

fn announced(length: VarInt) -> usize {
    usize::try_from(length.into_inner()).unwrap_or(usize::MAX)
}

/// An IP packet in a DATAGRAM capsule in a DATA frame.
pub(super) fn put_packet(packet: &[u8], out: &mut BytesMut) {
    let value_len = packet.len() + 1;
    let length = VarInt::new(value_len as u64).unwrap_or(VarInt::MAX);
    frame::encode_header(FrameType::Data, 1 + length.encoded_len() + value_len, out);
    out.put_u8(0);
    length.encode(out);
    ContextId::IP_PACKET.0.encode(out);
    out.put_slice(packet);
}

/// The most bytes [`put_packet`] adds to a packet.
pub(super) const PACKET_OVERHEAD: usize = 9 + 9 + 1;
