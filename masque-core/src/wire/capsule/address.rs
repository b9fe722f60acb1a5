//! ADDRESS_ASSIGN and ADDRESS_REQUEST (RFC 9484 §4.7.1, §4.7.2).

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use bytes::BufMut;

use super::value::{Value, address_len, put_address, put_version};
use crate::error::{WireError, WireErrorKind};
use crate::wire::prefix::IpPrefix;
use crate::wire::varint::VarInt;

/// A Request ID (RFC 9484 §4.7.1): 0 is an assignment nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RequestId(pub VarInt);

/// One entry of ADDRESS_ASSIGN or ADDRESS_REQUEST.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressEntry {
    /// Which request is meant; 0 in an unasked assignment, never 0 in a request.
    pub request_id: RequestId,
    /// The prefix assigned or wanted. In a request an all-zero address means "any of this length";
    /// in an assignment `0.0.0.0/32` and `::/128` mean "refused".
    pub prefix: IpPrefix,
}

impl AddressEntry {
    /// Whether this entry of an ADDRESS_ASSIGN says no (RFC 9484 §4.7.1).
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.prefix.is_host() && self.prefix.address().is_unspecified()
    }
}

/// ADDRESS_ASSIGN (RFC 9484 §4.7.1): the full list of addresses the receiver now has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressAssign(pub Vec<AddressEntry>);

impl AddressAssign {
    pub(super) fn decode(value: &mut Value<'_>, max_entries: usize) -> Result<Self, WireError> {
        decode(value, max_entries, |_| Ok(())).map(Self)
    }
}

/// ADDRESS_REQUEST (RFC 9484 §4.7.2): at least one entry, Request IDs non-zero and distinct.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddressRequest(Vec<AddressEntry>);

impl AddressRequest {
    /// A request for these entries.
    ///
    /// # Errors
    /// [`WireErrorKind::EmptyRequest`], [`WireErrorKind::RequestIdZero`] or
    /// [`WireErrorKind::RequestIdReused`].
    pub fn new(entries: Vec<AddressEntry>) -> Result<Self, WireErrorKind> {
        if entries.is_empty() {
            return Err(WireErrorKind::EmptyRequest);
        }
        let mut ids = RequestIds::default();
        entries
            .iter()
            .try_for_each(|entry| ids.add(entry.request_id))?;
        Ok(Self(entries))
    }

    pub(super) fn decode(value: &mut Value<'_>, max_entries: usize) -> Result<Self, WireError> {
        if value.is_empty() {
            return Err(WireError::new(WireErrorKind::EmptyRequest, value.offset()));
        }
        let mut ids = RequestIds::default();
        decode(value, max_entries, |entry| ids.add(entry.request_id)).map(Self)
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[AddressEntry] {
        &self.0
    }
}

/// The Request IDs met so far in one ADDRESS_REQUEST.
#[derive(Default)]
struct RequestIds(BTreeSet<RequestId>);

impl RequestIds {
    fn add(&mut self, id: RequestId) -> Result<(), WireErrorKind> {
        if id == RequestId::default() {
            Err(WireErrorKind::RequestIdZero)
        } else if self.0.insert(id) {
            Ok(())
        } else {
            Err(WireErrorKind::RequestIdReused)
        }
    }
}

fn decode(
    value: &mut Value<'_>,
    max_entries: usize,
    mut check: impl FnMut(&AddressEntry) -> Result<(), WireErrorKind>,
) -> Result<Vec<AddressEntry>, WireError> {
    const SHORTEST: usize = 7;
    let mut entries = Vec::with_capacity((value.remaining() / SHORTEST).min(max_entries));
    while !value.is_empty() {
        let start = value.offset();
        if entries.len() == max_entries {
            return Err(WireError::new(WireErrorKind::CapsuleTooMany, start));
        }
        let entry = decode_entry(value)?;
        check(&entry).map_err(|kind| WireError::new(kind, start))?;
        entries.push(entry);
    }
    Ok(entries)
}

fn decode_entry(value: &mut Value<'_>) -> Result<AddressEntry, WireError> {
    let request_id = RequestId(value.varint()?);
    let version = value.version()?;
    let address = value.address(version)?;
    let at = value.offset();
    let prefix = IpPrefix::new(address, value.byte()?).map_err(|kind| WireError::new(kind, at))?;
    Ok(AddressEntry { request_id, prefix })
}

pub(super) fn encode(entries: &[AddressEntry], out: &mut impl BufMut) {
    for entry in entries {
        let address = entry.prefix.address();
        entry.request_id.0.encode(out);
        put_version(address, out);
        put_address(address, out);
        out.put_u8(entry.prefix.length());
    }
}

pub(super) fn encoded_len(entries: &[AddressEntry]) -> usize {
    let len = |entry: &AddressEntry| {
        entry.request_id.0.encoded_len() + 2 + address_len(entry.prefix.address())
    };
    entries.iter().map(len).sum()
}
