//! SETTINGS (RFC 9114 §7.2.4): what an HTTP/3 endpoint says of itself once.

use alloc::vec::Vec;
use bytes::BufMut;

use super::varint::VarInt;
use crate::error::WireError;

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
    /// # Errors
    /// [`WireError`] for identifiers reserved by HTTP/2, values out of range, identifiers given
    /// twice, and payloads that end inside a setting.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let _ = payload;
        unimplemented!()
    }

    /// Appends the whole SETTINGS frame, leaving out what has its default value.
    pub fn encode_frame(&self, out: &mut impl BufMut) {
        let _ = out;
        unimplemented!()
    }
}
