//! Field sections out (RFC 9204 §4.5).

use alloc::vec::Vec;

use super::huffman;
use super::prefix_int::{self, Prefix};
use super::static_table::{self, Match};
use crate::wire::fields::{Field, FieldList};
use crate::wire::varint::VarInt;

const INDEXED_STATIC: u8 = 0b1100_0000;
const LITERAL_STATIC_NAME: u8 = 0b0101_0000;
const LITERAL_STATIC_NAME_NEVER: u8 = 0b0010_0000;
const LITERAL_NAME: u8 = 0b0010_0000;
const LITERAL_NAME_NEVER: u8 = 0b0001_0000;

/// Appends the encoded field section of `fields` to `out`: indexes of the static table where it has
/// the line or the name, Huffman where that is shorter.
///
/// The values of fields that hold credentials are marked never to be indexed (RFC 9204 §7.1.3).
pub fn encode(fields: &FieldList, out: &mut Vec<u8>) {
    // Required Insert Count 0 and Base 0: nothing refers to the dynamic table.
    out.extend_from_slice(&[0, 0]);
    for field in &fields.0 {
        line(field, out);
    }
}

fn line(field: &Field, out: &mut Vec<u8>) {
    let Field { name, value } = field;
    let secret = field.is_secret();
    let (index, complete) = match static_table::find(name, value) {
        Match::Line(index) => (Some(index), !secret),
        Match::Name(index) => (Some(index), false),
        Match::None => (None, false),
    };
    match index {
        Some(index) => {
            let index = VarInt::from_u32(index.into());
            if complete {
                prefix_int::encode(INDEXED_STATIC, Prefix::SIX, index, out);
                return;
            }
            let never = if secret { LITERAL_STATIC_NAME_NEVER } else { 0 };
            prefix_int::encode(LITERAL_STATIC_NAME | never, Prefix::FOUR, index, out);
        }
        None => {
            let never = if secret { LITERAL_NAME_NEVER } else { 0 };
            string(LITERAL_NAME | never, Prefix::THREE, name, out);
        }
    }
    string(0, Prefix::SEVEN, value, out);
}

/// A string literal (RFC 9204 §4.1.2): flags, the Huffman bit just above the length prefix, bytes.
fn string(flags: u8, prefix: Prefix, text: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        let length = VarInt::saturating(coded as u64);
        prefix_int::encode(flags | prefix.flag_above(), prefix, length, out);
        huffman::encode(text, out);
    } else {
        let length = VarInt::saturating(text.len() as u64);
        prefix_int::encode(flags, prefix, length, out);
        out.extend_from_slice(text);
    }
}
