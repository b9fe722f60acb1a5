//! The Huffman code of field strings (RFC 7541 §5.2 and appendix B).
//!
//! The code is canonical: sorted by length, then by symbol, the codes count up. The table of lengths
//! therefore is the whole code; the rest is built from it at compile time.

use alloc::vec::Vec;

use crate::error::{WireError, WireErrorKind};

/// Code lengths in bits, by symbol; the last one is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
    30, // 0x100
];

const SYMBOLS: usize = 257;
const MIN_LENGTH: usize = 5;
const MAX_LENGTH: usize = 30;

static CODE: Code = Code::build();

struct Code {
    /// Codes by symbol, aligned to the right.
    codes: [u32; SYMBOLS],
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
    /// By length, aligned to the left of 32 bits: one past the last code of at most that length.
    limits: [u64; MAX_LENGTH + 1],
    /// By length: the first code of that length, aligned to the right, and its place in `symbols`.
    first: [(u32, u16); MAX_LENGTH + 1],
}

impl Code {
    const fn build() -> Self {
        let mut built = Self {
            codes: [0; SYMBOLS],
            symbols: [0; SYMBOLS],
            limits: [0; MAX_LENGTH + 1],
            first: [(0, 0); MAX_LENGTH + 1],
        };
        let mut code = 0u32;
        let mut place = 0;
        let mut length = 1;
        while length <= MAX_LENGTH {
            code <<= 1;
            built.first[length] = (code, place as u16);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == length {
                    built.codes[symbol] = code;
                    built.symbols[place] = symbol as u16;
                    code += 1;
                    place += 1;
                }
                symbol += 1;
            }
            built.limits[length] = (code as u64) << (32 - length);
            length += 1;
        }
        // A complete code: whatever 30 bits come, they begin with a symbol.
        assert!(built.limits[MAX_LENGTH] == 1 << 32);
        built
    }

    /// The symbol that the 32 bits of `window` begin with, and its length in bits.
    fn symbol(&self, window: u32) -> (u16, usize) {
        let mut length = MIN_LENGTH;
        // Ends at the last length at the latest, since the code is complete.
        while u64::from(window) >= self.limits[length] {
            length += 1;
        }
        let (first, place) = self.first[length];
        let index = (window >> (32 - length)) - first + u32::from(place);
        (self.symbols[index as usize], length)
    }
}

/// How many bytes [`encode`] makes of `input`.
#[must_use]
pub fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input
        .iter()
        .map(|&byte| usize::from(LENGTHS[usize::from(byte)]))
        .sum();
    bits.div_ceil(8)
}

/// Appends the code of `input`, padded with ones.
pub fn encode(input: &[u8], out: &mut Vec<u8>) {
    let mut pending = 0u64;
    let mut have = 0;
    for &byte in input {
        let symbol = usize::from(byte);
        pending = pending << LENGTHS[symbol] | u64::from(CODE.codes[symbol]);
        have += LENGTHS[symbol];
        while have >= 8 {
            have -= 8;
            out.push((pending >> have) as u8);
        }
    }
    if have > 0 {
        out.push((pending << (8 - have)) as u8 | 0xff >> have);
    }
}

/// Decodes a whole Huffman string.
///
/// The result is at most 8/5 as long as `input`.
///
/// # Errors
/// [`WireErrorKind::QpackHuffman`] for an EOS symbol, and for padding of 8 bits or more or with a
/// zero in it.
pub fn decode(input: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(input.len() + input.len() / 2);
    let mut bytes = input.iter();
    // The low `have` bits of `pending` are those read and not yet decoded.
    let mut pending = 0u64;
    let mut have = 0usize;
    loop {
        while have <= 32 {
            let Some(&byte) = bytes.next() else { break };
            pending = pending << 8 | u64::from(byte);
            have += 8;
        }
        let window = match have.checked_sub(32) {
            Some(surplus) => (pending >> surplus) as u32,
            // What is missing reads as ones, as padding does.
            None => (((pending + 1) << (32 - have)) - 1) as u32,
        };
        let (symbol, length) = CODE.symbol(window);
        let error = WireError::new(
            WireErrorKind::QpackHuffman,
            input.len() - bytes.as_slice().len() - have.div_ceil(8),
        );
        if length > have {
            let is_padding = have < 8 && window == u32::MAX;
            return if is_padding { Ok(out) } else { Err(error) };
        }
        // EOS is the one symbol that is not a byte.
        let byte = u8::try_from(symbol).map_err(|_| error)?;
        out.push(byte);
        have -= length;
        pending &= (1 << have) - 1;
    }
}
