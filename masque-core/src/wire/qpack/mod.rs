//! QPACK (RFC 9204) with a dynamic table capacity of 0: the static table, literals and Huffman.

use alloc::vec::Vec;
use bytes::Bytes;

use super::fields::FieldList;
use crate::error::WireError;

/// Appends the encoded field section of `fields` to `out`.
pub fn encode(fields: &FieldList, out: &mut Vec<u8>) {
    let _ = (fields, out);
    unimplemented!()
}

/// Decodes a whole encoded field section.
///
/// # Errors
/// The QPACK kinds (connection errors), or
/// [`crate::WireErrorKind::FieldSectionTooLarge`] once the sum over fields of name + value + 32
/// bytes passes `max_size` (RFC 9114 §4.2.2). Field *semantics* are checked by [`super::fields`].
pub fn decode(section: &[u8], max_size: usize) -> Result<FieldList, WireError> {
    let _ = (section, max_size);
    unimplemented!()
}

/// Reads the peer's encoder stream (after its type): with capacity 0 only "Set Capacity 0" is legal.
#[derive(Clone, Debug, Default)]
pub struct EncoderStream {
    _todo: (),
}

impl EncoderStream {
    /// Takes all of `input`.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::QpackEncoderStream`].
    pub fn feed(&mut self, input: &mut Bytes) -> Result<(), WireError> {
        let _ = input;
        unimplemented!()
    }
}

/// Reads the peer's decoder stream (after its type): only Stream Cancellation is legal, and means
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct DecoderStream {
    _todo: (),
}

impl DecoderStream {
    /// Takes all of `input`.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::QpackDecoderStream`].
    pub fn feed(&mut self, input: &mut Bytes) -> Result<(), WireError> {
        let _ = input;
        unimplemented!()
    }
}
