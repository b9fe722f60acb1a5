//! ROUTE_ADVERTISEMENT (RFC 9484 §4.7.3).

use alloc::vec::Vec;

use bytes::BufMut;

use super::value::{Value, address_len, put_address, put_version};
use crate::error::{WireError, WireErrorKind};
use crate::wire::prefix::{AddressRange, predecessor, successor};

/// ROUTE_ADVERTISEMENT (RFC 9484 §4.7.3): the full list of what the sender routes, in order:
/// by IP version, then protocol, then address, without overlap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteAdvertisement(Vec<AddressRange>);

impl RouteAdvertisement {
    /// Ranges that are already in order.
    ///
    /// # Errors
    /// [`WireErrorKind::RangeOrder`]; also where a range for any protocol overlaps one for a
    /// specific protocol.
    pub fn new(ranges: Vec<AddressRange>) -> Result<Self, WireErrorKind> {
        let in_order = ranges
            .iter()
            .enumerate()
            .all(|(index, range)| may_follow(&ranges[..index], range));
        in_order
            .then_some(Self(ranges))
            .ok_or(WireErrorKind::RangeOrder)
    }

    /// Puts ranges in order, merges those of one protocol that overlap or touch, and takes out of
    /// ranges for a specific protocol what a range for any protocol covers: a legal list, and
    /// exactly the same addresses and protocols are advertised.
    #[must_use]
    pub fn from_unordered(mut ranges: Vec<AddressRange>) -> Self {
        ranges.sort_unstable_by_key(|range| (class(range), range.start(), range.end()));
        let merged = merge(ranges);
        let mut legal = Vec::with_capacity(merged.len());
        for range in &merged {
            if range.protocol() == 0 {
                legal.push(*range);
            } else {
                let any = for_any_protocol(&merged, range.start().is_ipv6());
                push_uncovered(range, any, &mut legal);
            }
        }
        Self(legal)
    }

    pub(super) fn decode(value: &mut Value<'_>, max_entries: usize) -> Result<Self, WireError> {
        const SHORTEST: usize = 10;
        let mut ranges = Vec::with_capacity((value.remaining() / SHORTEST).min(max_entries));
        while !value.is_empty() {
            let start = value.offset();
            if ranges.len() == max_entries {
                return Err(WireError::new(WireErrorKind::CapsuleTooMany, start));
            }
            let range = decode_range(value)?;
            if !may_follow(&ranges, &range) {
                return Err(WireError::new(WireErrorKind::RangeOrder, start));
            }
            ranges.push(range);
        }
        Ok(Self(ranges))
    }

    /// Its ranges, in order.
    #[must_use]
    pub fn ranges(&self) -> &[AddressRange] {
        &self.0
    }
}

/// What ranges are ordered by before their addresses: version, then protocol.
fn class(range: &AddressRange) -> (bool, u8) {
    (range.start().is_ipv6(), range.protocol())
}

/// Whether `next` may stand after `ranges`, themselves a legal list.
fn may_follow(ranges: &[AddressRange], next: &AddressRange) -> bool {
    let in_order = ranges.last().is_none_or(|last| {
        class(last) < class(next) || class(last) == class(next) && last.end() < next.start()
    });
    in_order && (next.protocol() == 0 || !overlaps_any_protocol(ranges, next))
}

fn overlaps_any_protocol(ranges: &[AddressRange], next: &AddressRange) -> bool {
    let any = for_any_protocol(ranges, next.start().is_ipv6());
    any.get(any.partition_point(|range| range.end() < next.start()))
        .is_some_and(|range| range.start() <= next.end())
}

/// The ranges for any protocol among `ranges`, which are sorted by class.
fn for_any_protocol(ranges: &[AddressRange], is_ipv6: bool) -> &[AddressRange] {
    let from = ranges.partition_point(|range| class(range) < (is_ipv6, 0));
    let to = ranges.partition_point(|range| class(range) <= (is_ipv6, 0));
    &ranges[from..to]
}

/// Joins sorted ranges of one class that overlap or touch.
fn merge(sorted: Vec<AddressRange>) -> Vec<AddressRange> {
    let mut merged: Vec<AddressRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        if let Some(last) = merged.last_mut()
            && class(last) == class(&range)
            && successor(last.end()).is_none_or(|next| range.start() <= next)
        {
            last.grow(&range);
        } else {
            merged.push(range);
        }
    }
    merged
}

/// Appends the parts of `range` that lie outside `any`, which is sorted and without overlap.
fn push_uncovered(range: &AddressRange, any: &[AddressRange], out: &mut Vec<AddressRange>) {
    // A piece that would end before it starts is empty: `AddressRange::new` refuses exactly those.
    let piece = |from, to| AddressRange::new(from, to, range.protocol()).ok();
    let mut from = Some(range.start());
    let first = any.partition_point(|cover| cover.end() < range.start());
    for cover in any[first..]
        .iter()
        .take_while(|cover| cover.start() <= range.end())
    {
        if let (Some(from), Some(to)) = (from, predecessor(cover.start())) {
            out.extend(piece(from, to));
        }
        from = successor(cover.end());
    }
    out.extend(from.and_then(|from| piece(from, range.end())));
}

fn decode_range(value: &mut Value<'_>) -> Result<AddressRange, WireError> {
    let at = value.offset();
    let version = value.version()?;
    let start = value.address(version)?;
    let end = value.address(version)?;
    AddressRange::new(start, end, value.byte()?).map_err(|kind| WireError::new(kind, at))
}

pub(super) fn encode(ranges: &[AddressRange], out: &mut impl BufMut) {
    for range in ranges {
        put_version(range.start(), out);
        put_address(range.start(), out);
        put_address(range.end(), out);
        out.put_u8(range.protocol());
    }
}

pub(super) fn encoded_len(ranges: &[AddressRange]) -> usize {
    ranges
        .iter()
        .map(|range| 2 + 2 * address_len(range.start()))
        .sum()
}
