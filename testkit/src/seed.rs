//! One seed, and a stream of its own for each purpose.

use masque_core::endpoint::Entropy;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// 32 bytes from which every random choice of a simulation comes.
///
/// Forks are labelled: a new purpose does not shift the numbers of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The seed of a number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Self(bytes)
    }

    /// A seed for one purpose.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        Self(self.bytes(label))
    }

    /// 32 bytes for one purpose.
    #[must_use]
    pub fn bytes(&self, label: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.rng(label).fill_bytes(&mut bytes);
        bytes
    }

    /// A generator for one purpose.
    #[must_use]
    pub fn rng(&self, label: &str) -> ChaCha20Rng {
        let mut rng = ChaCha20Rng::from_seed(self.0);
        let mut stream = Fnv::default();
        stream.write(label.as_bytes());
        rng.set_stream(stream.value());
        rng
    }

    /// The randomness of an endpoint.
    #[must_use]
    pub fn entropy(&self, label: &str) -> Entropy {
        Entropy::from_seed(self.bytes(label))
    }
}

/// FNV-1a, 64 bits: tells two runs apart, and needs no explanation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash of what was taken so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}
