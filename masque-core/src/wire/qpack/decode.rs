//! Field sections in (RFC 9204 §4.5).

use alloc::vec::Vec;

use super::huffman;
use super::prefix_int::{self, Prefix};
use super::static_table;
use crate::error::{WireError, WireErrorKind};
use crate::wire::fields::{Field, FieldList};
use crate::wire::varint::VarInt;

/// Decodes a whole encoded field section.
///
/// # Errors
/// The QPACK kinds (connection errors), or
/// [`crate::WireErrorKind::FieldSectionTooLarge`] once the sum over fields of name + value + 32
/// bytes passes `max_size` (RFC 9114 §4.2.2). Field *semantics* are checked by
/// [`crate::wire::fields`].
pub fn decode(section: &[u8], max_size: usize) -> Result<FieldList, WireError> {
    let mut reader = Reader { section, at: 0 };
    reader.prefix()?;
    let mut fields = FieldList::default();
    let mut left = max_size;
    while reader.at < section.len() {
        let start = reader.at;
        let field = reader.line()?;
        left = left
            .checked_sub(field.size())
            .ok_or(WireError::new(WireErrorKind::FieldSectionTooLarge, start))?;
        fields.0.push(field);
    }
    Ok(fields)
}

struct Reader<'a> {
    section: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Required Insert Count and Base (RFC 9204 §4.5.1): nothing was ever inserted.
    fn prefix(&mut self) -> Result<(), WireError> {
        if self.integer(Prefix::EIGHT)? != VarInt::default() {
            return Err(WireError::new(WireErrorKind::QpackDynamic, 0));
        }
        let start = self.at;
        let first = self.peek()?;
        self.integer(Prefix::SEVEN)?;
        // With a Required Insert Count of 0 the sign bit makes Base negative (RFC 9204 §4.5.1.2).
        if first & 0x80 != 0 {
            return Err(WireError::new(WireErrorKind::QpackDynamic, start));
        }
        Ok(())
    }

    fn line(&mut self) -> Result<Field, WireError> {
        let start = self.at;
        let first = self.peek()?;
        let dynamic = Err(WireError::new(WireErrorKind::QpackDynamic, start));
        if first & 0x80 != 0 {
            // Indexed (§4.5.2).
            let index = self.integer(Prefix::SIX)?;
            if first & 0x40 == 0 {
                return dynamic;
            }
            let (name, value) = entry(index, start)?;
            Ok(Field {
                name: name.into(),
                value: value.into(),
            })
        } else if first & 0x40 != 0 {
            // Literal with name reference (§4.5.4).
            let index = self.integer(Prefix::FOUR)?;
            if first & 0x10 == 0 {
                return dynamic;
            }
            let (name, _) = entry(index, start)?;
            Ok(Field {
                name: name.into(),
                value: self.string(Prefix::SEVEN)?,
            })
        } else if first & 0x20 != 0 {
            // Literal with literal name (§4.5.6).
            Ok(Field {
                name: self.string(Prefix::THREE)?,
                value: self.string(Prefix::SEVEN)?,
            })
        } else {
            // Indexed or named post base (§4.5.3, §4.5.5).
            dynamic
        }
    }

    fn string(&mut self, prefix: Prefix) -> Result<Vec<u8>, WireError> {
        let coded = self.peek()? & prefix.flag_above() != 0;
        let length = self.integer(prefix)?.into_inner();
        let start = self.at;
        let text = usize::try_from(length)
            .ok()
            .and_then(|length| self.rest().get(..length))
            .ok_or(self.truncated())?;
        self.at += text.len();
        if coded {
            huffman::decode(text).map_err(|error| error.shifted(start))
        } else {
            Ok(text.into())
        }
    }

    fn integer(&mut self, prefix: Prefix) -> Result<VarInt, WireError> {
        let (value, length) = prefix_int::decode(prefix, self.rest())
            .map_err(|error| error.shifted(self.at))?
            .ok_or(self.truncated())?;
        self.at += length;
        Ok(value)
    }

    fn peek(&self) -> Result<u8, WireError> {
        self.rest().first().copied().ok_or(self.truncated())
    }

    /// What is not read yet; `at` never passes the end.
    fn rest(&self) -> &'a [u8] {
        &self.section[self.at..]
    }

    fn truncated(&self) -> WireError {
        WireError::new(WireErrorKind::QpackTruncated, self.section.len())
    }
}

fn entry(index: VarInt, at: usize) -> Result<(&'static str, &'static str), WireError> {
    usize::try_from(index.into_inner())
        .ok()
        .and_then(|index| static_table::ENTRIES.get(index).copied())
        .ok_or(WireError::new(WireErrorKind::QpackStaticIndex, at))
}
