//! A short name for bytes, to see whether they are the same. No proof against malice.

/// An odd number without a pattern: the golden ratio's fraction.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// 64 bits that differ where bytes differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(FACTOR)
    }
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut digest = Self::default();
        digest.write(bytes);
        digest.value()
    }

    /// Takes bytes in, and that they end here.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(FACTOR);
        self.0 = mixed ^ (mixed >> 29);
    }

    pub(crate) fn value(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Digest;

    proptest! {
        #[test]
        fn bytes_that_differ_in_one_bit_or_in_length_have_other_digests(
            bytes in proptest::collection::vec(any::<u8>(), 1..100),
            bit: prop::sample::Index,
        ) {
            let mut other = bytes.clone();
            let bit = bit.index(bytes.len() * 8);
            other[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(Digest::of(&bytes), Digest::of(&other));
            other.clone_from(&bytes);
            other.push(0);
            prop_assert_ne!(Digest::of(&bytes), Digest::of(&other));
        }
    }
}
