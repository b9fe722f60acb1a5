//! Every random input, from one seed.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

/// The one source of randomness of an endpoint. The same seed gives the same bytes everywhere.
pub struct Entropy {
    seed: [u8; 32],
}

impl Entropy {
    /// From a seed: the operating system's randomness in a program, a number in a simulation.
    #[must_use]
    pub const fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed }
    }

    /// A generator of its own for each purpose: a new purpose does not shift the others.
    pub(crate) fn fork(&self, label: &str) -> ChaCha20Rng {
        let mut rng = ChaCha20Rng::from_seed(self.seed);
        let mut stream = 0xcbf2_9ce4_8422_2325_u64;
        for byte in label.bytes() {
            stream = (stream ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        rng.set_stream(stream);
        rng
    }

    /// 32 bytes for one purpose.
    pub(crate) fn bytes(&self, label: &str) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.fork(label).fill_bytes(&mut bytes);
        bytes
    }
}
