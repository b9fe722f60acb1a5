//! SETTINGS (RFC 9114 §7.2.4): what an HTTP/3 endpoint says of itself once.

use alloc::vec::Vec;
use bytes::BufMut;

use super::frame::{self, FrameType};
use super::varint::VarInt;
use crate::error::{WireError, WireErrorKind};

const QPACK_MAX_TABLE_CAPACITY: VarInt = VarInt::from_u32(0x01);
const MAX_FIELD_SECTION_SIZE: VarInt = VarInt::from_u32(0x06);
const QPACK_BLOCKED_STREAMS: VarInt = VarInt::from_u32(0x07);
const ENABLE_CONNECT_PROTOCOL: VarInt = VarInt::from_u32(0x08);
const H3_DATAGRAM: VarInt = VarInt::from_u32(0x33);

/// The settings of one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// SETTINGS_MAX_FIELD_SECTION_SIZE (0x06); `None` is unlimited.
    pub max_field_section_size: Option<u64>,
    /// SETTINGS_QPACK_MAX_TABLE_CAPACITY (0x01); default 0.
    pub qpack_max_table_capacity: u64,
    /// SETTINGS_QPACK_BLOCKED_STREAMS (0x07); default 0.
    pub qpack_blocked_streams: u64,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL (0x08, RFC 9220); default false.
    pub enable_connect_protocol: bool,
    /// SETTINGS_H3_DATAGRAM (0x33, RFC 9297 §2.1.1); default false.
    pub h3_datagram: bool,
    /// Every other identifier and its value, in the order received, for traces and tests. At most
    /// [`Settings::MAX_UNKNOWN`] are kept.
    pub unknown: Vec<(VarInt, VarInt)>,
}

impl Settings {
    /// How many unknown settings are kept.
    pub const MAX_UNKNOWN: usize = 32;

    /// Decodes the payload of a SETTINGS frame.
    ///
    /// An unknown identifier given twice is noticed only among those that are kept: looking for it
    /// is optional (RFC 9114 §7.2.4), and memory must not grow with what a peer makes up.
    ///
    /// # Errors
    /// [`WireError`] for identifiers reserved by HTTP/2, values out of range, identifiers given
    /// twice, and payloads that end inside a setting.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut settings = Self::default();
        let mut seen = Seen::default();
        let mut rest = payload;
        while !rest.is_empty() {
            let start = payload.len() - rest.len();
            let error = |kind| WireError::new(kind, start);
            let (id, value, length) =
                setting(rest).ok_or_else(|| error(WireErrorKind::FrameLength))?;
            rest = &rest[length..];
            settings.take(id, value, &mut seen).map_err(error)?;
        }
        Ok(settings)
    }

    /// Appends the whole SETTINGS frame, leaving out what has its default value.
    ///
    /// Integers over 2^62-1, which the wire cannot carry, are written as that.
    pub fn encode_frame(&self, out: &mut impl BufMut) {
        let length = self
            .entries()
            .map(|(id, value)| id.encoded_len() + value.encoded_len())
            .sum();
        frame::encode_header(FrameType::Settings, length, out);
        for (id, value) in self.entries() {
            id.encode(out);
            value.encode(out);
        }
    }

    fn take(&mut self, id: VarInt, value: VarInt, seen: &mut Seen) -> Result<(), WireErrorKind> {
        match id {
            QPACK_MAX_TABLE_CAPACITY => {
                first(&mut seen.qpack_max_table_capacity)?;
                self.qpack_max_table_capacity = value.into();
            }
            MAX_FIELD_SECTION_SIZE => {
                first(&mut seen.max_field_section_size)?;
                self.max_field_section_size = Some(value.into());
            }
            QPACK_BLOCKED_STREAMS => {
                first(&mut seen.qpack_blocked_streams)?;
                self.qpack_blocked_streams = value.into();
            }
            ENABLE_CONNECT_PROTOCOL => {
                first(&mut seen.enable_connect_protocol)?;
                self.enable_connect_protocol = flag(value)?;
            }
            H3_DATAGRAM => {
                first(&mut seen.h3_datagram)?;
                self.h3_datagram = flag(value)?;
            }
            _ if matches!(id.into_inner(), 0x00 | 0x02..=0x05) => {
                return Err(WireErrorKind::SettingsReserved);
            }
            _ if self.unknown.iter().any(|&(known, _)| known == id) => {
                return Err(WireErrorKind::SettingsDuplicate);
            }
            _ if self.unknown.len() < Self::MAX_UNKNOWN => self.unknown.push((id, value)),
            _ => {}
        }
        Ok(())
    }

    /// What is not at its default, in the order it is written.
    fn entries(&self) -> impl Iterator<Item = (VarInt, VarInt)> {
        let number = |value| (value != 0).then_some(value);
        let flag = |value: bool| value.then_some(1);
        [
            (
                QPACK_MAX_TABLE_CAPACITY,
                number(self.qpack_max_table_capacity),
            ),
            (MAX_FIELD_SECTION_SIZE, self.max_field_section_size),
            (QPACK_BLOCKED_STREAMS, number(self.qpack_blocked_streams)),
            (ENABLE_CONNECT_PROTOCOL, flag(self.enable_connect_protocol)),
            (H3_DATAGRAM, flag(self.h3_datagram)),
        ]
        .into_iter()
        .filter_map(|(id, value)| Some((id, VarInt::saturating(value?))))
        .chain(self.unknown.iter().copied())
    }
}

/// Which identifiers came already: a default value must not hide the first of two.
#[derive(Default)]
struct Seen {
    max_field_section_size: bool,
    qpack_max_table_capacity: bool,
    qpack_blocked_streams: bool,
    enable_connect_protocol: bool,
    h3_datagram: bool,
}

fn first(seen: &mut bool) -> Result<(), WireErrorKind> {
    if core::mem::replace(seen, true) {
        return Err(WireErrorKind::SettingsDuplicate);
    }
    Ok(())
}

fn flag(value: VarInt) -> Result<bool, WireErrorKind> {
    match value.into_inner() {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireErrorKind::SettingsValue),
    }
}

/// The identifier and value at the front of `input`, and their length.
fn setting(input: &[u8]) -> Option<(VarInt, VarInt, usize)> {
    let (id, id_length) = VarInt::decode(input)?;
    let (value, value_length) = VarInt::decode(&input[id_length..])?;
    Some((id, value, id_length + value_length))
}

#[cfg(test)]
mod tests;
