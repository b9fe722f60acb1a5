//! Capsules that no session of ours would send, by name.

use std::fmt::Write as _;

use super::change::hex;

/// A broken capsule.
struct Broken {
    name: &'static str,
    digits: &'static str,
    /// What is wrong with it.
    why: &'static str,
    /// Whether that shows only where the stream ends behind it.
    ends: bool,
}

const fn broken(name: &'static str, digits: &'static str, why: &'static str) -> Broken {
    let ends = false;
    Broken {
        name,
        digits,
        why,
        ends,
    }
}

const ALL: [Broken; 16] = [
    broken(
        "routes-order",
        "0314040a0001000a0001ff00040a0000000a0000ff00",
        "routes not in ascending order",
    ),
    broken(
        "routes-overlap",
        "0314040a0000000a0000ff00040a0000800a0001ff00",
        "routes that overlap",
    ),
    broken(
        "routes-reversed",
        "030a040a0000020a00000100",
        "a route that ends before it begins",
    ),
    broken(
        "routes-versions",
        "032c0620010db800000000000000000000000020010db800000000000000000000ffff00040a0000000a0000ff00",
        "a route of IPv6 before one of IPv4",
    ),
    broken(
        "routes-protocols",
        "0314040a0000000a0000ff11040a0001000a0001ff06",
        "a route of protocol 17 before one of 6",
    ),
    broken(
        "host-bits",
        "01070004c000020b18",
        "an assigned address with bits set below its prefix",
    ),
    broken(
        "version",
        "01070005c000020120",
        "an assigned address of IP version 5",
    ),
    broken(
        "prefix-length",
        "01070004c000020121",
        "an assigned prefix of 33 bits",
    ),
    broken(
        "short-value",
        "010541040400c0",
        "a capsule whose length ends inside an entry",
    ),
    broken(
        "trailing",
        "01080004c000020b2005",
        "a byte behind the last entry",
    ),
    broken(
        "request-zero",
        "020700040000000020",
        "an address request with Request ID 0",
    ),
    broken(
        "request-twice",
        "020e0704000000002007040000000020",
        "the same Request ID twice",
    ),
    broken("request-empty", "0200", "an address request for nothing"),
    broken("oversized", "0181000000", "a capsule that announces 16 MiB"),
    broken(
        "unknown",
        "6f4a03aabbcc",
        "a capsule of unknown type: legal, to be skipped",
    ),
    Broken {
        name: "truncated",
        digits: "01070004c000",
        why: "a capsule that is cut off by the end of the stream",
        ends: true,
    },
];

/// The bytes that words stand for: a name, or hexadecimal digits; and whether the stream ends behind them.
pub(super) fn bytes(words: &[&str]) -> Result<(Vec<u8>, bool), String> {
    let named = |word: &&str| ALL.iter().find(|broken| broken.name == *word);
    if let [word] = words
        && let Some(broken) = named(word)
    {
        return Ok((hex(&[broken.digits])?, broken.ends));
    }
    Ok((hex(words)?, false))
}

/// The names and what they stand for.
pub(super) fn list() -> String {
    let mut text = String::new();
    for broken in &ALL {
        let _ = writeln!(text, "{:<16} {}", broken.name, broken.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use masque_core::wire::capsule::{CapsuleDecoder, CapsuleLimits};

    use super::*;

    #[test]
    fn each_is_refused_by_a_decoder_but_the_unknown_one() {
        for broken in &ALL {
            let (bytes, ends) = bytes(&[broken.name]).expect("a name stands for bytes");
            let mut bytes = Bytes::from(bytes);
            let mut decoder = CapsuleDecoder::new(CapsuleLimits::default());
            let mut result = Ok(());
            while result.is_ok() && !bytes.is_empty() {
                result = decoder.decode(&mut bytes).map(|_| ());
            }
            if ends {
                assert_eq!(result, Ok(()), "{}", broken.name);
                result = decoder.finish();
            }
            assert_eq!(result.is_ok(), broken.name == "unknown", "{}", broken.name);
        }
    }

    #[test]
    fn digits_stand_for_themselves() {
        assert_eq!(bytes(&["0a", "0b0c"]), Ok((vec![10, 11, 12], false)));
        assert!(bytes(&["no-such-name"]).is_err());
        assert!(bytes(&[]).is_err());
    }
}
