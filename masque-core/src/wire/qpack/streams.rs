//! The encoder and decoder streams (RFC 9204 §4.3, §4.4) where nothing is ever inserted.

use bytes::Bytes;

use super::prefix_int::{self, Prefix};
use crate::error::{WireError, WireErrorKind};

/// Reads the peer's encoder stream (after its type): with capacity 0 only "Set Capacity 0" is legal.
#[derive(Clone, Debug, Default)]
pub struct EncoderStream {
    taken: usize,
}

impl EncoderStream {
    /// "Set Dynamic Table Capacity" of 0. Every other first byte, that of a larger capacity
    /// included, begins an instruction that is not legal, so that one byte decides.
    const SET_CAPACITY_0: u8 = 0b0010_0000;

    /// Takes all of `input`.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::QpackEncoderStream`], with the offset counted from the first byte
    /// after the stream type.
    pub fn feed(&mut self, input: &mut Bytes) -> Result<(), WireError> {
        if let Some(at) = input.iter().position(|&byte| byte != Self::SET_CAPACITY_0) {
            return Err(WireError::new(
                WireErrorKind::QpackEncoderStream,
                self.taken.saturating_add(at),
            ));
        }
        self.taken = self.taken.saturating_add(input.len());
        input.clear();
        Ok(())
    }
}

/// Reads the peer's decoder stream (after its type): only Stream Cancellation is legal, and means
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct DecoderStream {
    taken: usize,
    /// The beginning of an instruction, `held` bytes of it.
    instruction: [u8; prefix_int::MAX_LEN],
    held: usize,
}

impl DecoderStream {
    /// Takes all of `input`.
    ///
    /// # Errors
    /// [`crate::WireErrorKind::QpackDecoderStream`], with the offset counted from the first byte
    /// after the stream type.
    pub fn feed(&mut self, input: &mut Bytes) -> Result<(), WireError> {
        for &byte in input.iter() {
            let error = WireError::new(WireErrorKind::QpackDecoderStream, self.taken);
            if self.held == 0 && byte & 0b1100_0000 != 0b0100_0000 {
                return Err(error);
            }
            // An integer of `MAX_LEN` bytes is either whole or refused, so that one always fits.
            self.instruction[self.held] = byte;
            self.held += 1;
            match prefix_int::decode(Prefix::SIX, &self.instruction[..self.held]) {
                Ok(Some(_)) => self.held = 0,
                Ok(None) => {}
                Err(_) => {
                    self.held = 0;
                    return Err(error);
                }
            }
            self.taken = self.taken.saturating_add(1);
        }
        input.clear();
        Ok(())
    }
}
