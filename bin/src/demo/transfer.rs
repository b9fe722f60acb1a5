//! One transfer with a checksum, as a state machine: bytes in, bytes out, over whichever TCP.
//!
//! The client sends a direction and a length; the data goes that way, followed by its SHA-256; the
//! receiver of an upload answers with one byte, 1 if the checksum was right.

use std::fmt;

use rustls::crypto::hash::Context;

use super::broken;
use crate::exit::Failure;
use crate::tls;

/// Which way the data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up    ",
            Self::Down => "down  ",
        })
    }
}

/// Length of the client's opening: direction and length.
pub(super) const OPENING: usize = 9;
/// Length of the checksum.
const DIGEST: usize = 32;

/// The client's opening.
pub(super) fn opening(direction: Direction, length: u64) -> [u8; OPENING] {
    let mut bytes = [0; OPENING];
    bytes[0] = u8::from(direction == Direction::Down);
    bytes[1..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// The reverse of [`opening`].
pub(super) fn parse_opening(bytes: [u8; OPENING]) -> (Direction, u64) {
    let [way, length @ ..] = bytes;
    let direction = match way {
        0 => Direction::Up,
        _ => Direction::Down,
    };
    (direction, u64::from_be_bytes(length))
}

fn sha256() -> Result<Box<dyn Context>, Failure> {
    tls::provider()
        .cipher_suites
        .iter()
        .find_map(|suite| suite.tls13())
        .map(|suite| suite.common.hash_provider.start())
        .ok_or_else(|| broken("no hash"))
}

/// Gives data that does not repeat, then its checksum.
pub(super) struct Outgoing {
    left: u64,
    state: u64,
    hash: Option<Box<dyn Context>>,
    trailer: Vec<u8>,
}

impl Outgoing {
    /// Of so many bytes.
    pub(super) fn new(length: u64) -> Result<Self, Failure> {
        Ok(Self {
            left: length,
            state: 0x9e37_79b9_7f4a_7c15,
            hash: Some(sha256()?),
            trailer: Vec::new(),
        })
    }

    /// Fills `buffer` as far as there is something; 0 at the end.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> usize {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = buffer.len().min(most);
        for chunk in buffer[..count].chunks_mut(8) {
            // Xorshift: quick, and no two packets alike.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            chunk.copy_from_slice(&self.state.to_le_bytes()[..chunk.len()]);
        }
        self.left -= count as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..count]);
        }
        if self.left == 0
            && let Some(hash) = self.hash.take()
        {
            self.trailer = hash.finish().as_ref().to_vec();
        }
        let more = self.trailer.len().min(buffer.len() - count);
        buffer[count..count + more].copy_from_slice(&self.trailer[..more]);
        self.trailer.drain(..more);
        count + more
    }
}

/// Takes data and its checksum.
pub(super) struct Incoming {
    left: u64,
    hash: Option<Box<dyn Context>>,
    digest: Vec<u8>,
    trailer: Vec<u8>,
}

impl Incoming {
    /// Of so many bytes.
    pub(super) fn new(length: u64) -> Result<Self, Failure> {
        Ok(Self {
            left: length,
            hash: Some(sha256()?),
            digest: Vec::new(),
            trailer: Vec::new(),
        })
    }

    /// Takes what came.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let (data, rest) = bytes.split_at(bytes.len().min(most));
        self.left -= data.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(data);
        }
        if self.left == 0
            && let Some(hash) = self.hash.take()
        {
            self.digest = hash.finish().as_ref().to_vec();
        }
        self.trailer.extend_from_slice(rest);
    }

    /// Whether everything has come, and if so, whether the checksum is right.
    pub(super) fn verdict(&self) -> Option<bool> {
        (self.left == 0 && self.trailer.len() >= DIGEST)
            .then(|| self.trailer[..DIGEST] == self.digest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sent_in_any_pieces_is_judged_right_and_a_changed_bit_wrong(
            length in 1..5_000u64,
            pieces in prop::collection::vec(1..700usize, 1..20),
            flip in any::<prop::sample::Index>(),
        ) {
            let mut outgoing = Outgoing::new(length).unwrap();
            let mut sent = Vec::new();
            for piece in pieces.iter().cycle() {
                let mut buffer = vec![0; *piece];
                match outgoing.fill(&mut buffer) {
                    0 => break,
                    count => sent.extend_from_slice(&buffer[..count]),
                }
            }
            prop_assert_eq!(sent.len() as u64, length + DIGEST as u64);
            let judge = |bytes: &[u8]| {
                let mut incoming = Incoming::new(length).unwrap();
                let mut rest = bytes;
                for piece in pieces.iter().cycle() {
                    if rest.is_empty() {
                        break;
                    }
                    prop_assert_eq!(incoming.verdict(), None);
                    let (head, tail) = rest.split_at((*piece).min(rest.len()));
                    incoming.take(head);
                    rest = tail;
                }
                Ok(incoming.verdict())
            };
            prop_assert_eq!(judge(&sent)?, Some(true));
            let at = flip.index(sent.len());
            sent[at] ^= 1;
            prop_assert_eq!(judge(&sent)?, Some(false));
        }

        #[test]
        fn an_opening_is_read_back(down in any::<bool>(), length in any::<u64>()) {
            let direction = if down { Direction::Down } else { Direction::Up };
            prop_assert_eq!(parse_opening(opening(direction, length)), (direction, length));
        }
    }
}
