//! Values that refuse what is wrong in itself, in words.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use masque_core::endpoint::MAX_SHARDS;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::template::UriTemplate;
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Reads a value from a string by a function whose error is the message.
fn from_string<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expecting: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, fn(&str) -> Result<T, String>);
    impl<T> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(expecting, parse))
}

/// An IP prefix (`10.0.0.0/8`) or a single address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix(pub IpPrefix);

impl Prefix {
    /// Reads `address/length` or `address`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((address, length)) = text.split_once('/') else {
            let address = address(text)?;
            return Ok(Self(IpPrefix::host(address)));
        };
        let address = self::address(address)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length: u8 = length
            .parse()
            .ok()
            .filter(|length| *length <= most)
            .ok_or_else(|| format!("prefix length {length:?} in {text:?} is not 0 to {most}"))?;
        IpPrefix::new(address, length).map(Self).map_err(|_| {
            let net = ipnet::IpNet::new_assert(address, length).trunc();
            format!("{text} has bits set below its length; the network is {net}")
        })
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address"))
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_string(
            deserializer,
            "an IP prefix such as \"10.0.0.0/8\"",
            Self::parse,
        )
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A URI template that RFC 9484 §3 allows, with its text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    /// As it was written.
    pub text: String,
    /// As it was understood.
    pub template: UriTemplate,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template = UriTemplate::parse(text)
            .map_err(|error| format!("{text:?} is not a usable URI template: {error}"))?;
        Ok(Self {
            text: text.to_owned(),
            template,
        })
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_string(
            deserializer,
            "a URI template such as \"https://vpn.example/.well-known/masque/ip/{target}/{ipproto}/\"",
            Self::parse,
        )
    }
}

/// How many shards a server has: a number, or `"auto"` for as many as there are processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shards(pub NonZeroU16);

impl Default for Shards {
    fn default() -> Self {
        Self(NonZeroU16::MIN)
    }
}

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl Visitor<'_> for Count {
            type Value = Shards;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number of shards from 1 to {MAX_SHARDS}, or \"auto\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Shards, E> {
                u16::try_from(number)
                    .ok()
                    .filter(|number| *number <= MAX_SHARDS)
                    .and_then(NonZeroU16::new)
                    .map(Shards)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Shards, E> {
                if text != "auto" {
                    return Err(E::invalid_value(de::Unexpected::Str(text), &self));
                }
                let processors = std::thread::available_parallelism();
                let processors = processors.map_or(1, |count| count.get().min(MAX_SHARDS.into()));
                let count = u16::try_from(processors).ok().and_then(NonZeroU16::new);
                Ok(Shards(count.unwrap_or(NonZeroU16::MIN)))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

/// PEM text, or the path of a file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The text itself.
    Inline(String),
    /// Where it is.
    File(PathBuf),
}

impl<'de> Deserialize<'de> for Pem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_string(deserializer, "a path or PEM text", |text| {
            if text.contains("-----BEGIN ") {
                Ok(Self::Inline(text.to_owned()))
            } else if text.trim().is_empty() {
                Err("neither a path nor PEM text".to_owned())
            } else {
                Ok(Self::File(text.into()))
            }
        })
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A private key must not end up in a log.
            Self::Inline(_) => f.write_str("Inline(..)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// A length of time: `"30s"`, `"500ms"`, `"2m"`, `"12h"`, `"30d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span(pub Duration);

impl Span {
    /// Reads a number and its unit.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a time such as \"500ms\", \"30s\", \"5m\", \"12h\"");
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let longest = 3650 * 86_400_000;
        number
            .checked_mul(factor)
            .filter(|span| *span <= longest)
            .map(|span| Self(Duration::from_millis(span)))
            .ok_or_else(|| format!("{text:?} is longer than ten years"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_string(
            deserializer,
            "a time such as \"500ms\", \"30s\", \"5m\"",
            Self::parse,
        )
    }
}

/// A number of bytes: `65536`, `"64KiB"`, `"2MiB"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Reads a number and its unit.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size such as 65536, \"64KiB\" or \"2MiB\"");
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let factor: u64 = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 65536, \"64KiB\" or \"2MiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                ByteSize::parse(text).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                u64::try_from(number)
                    .map(ByteSize)
                    .map_err(|_| E::custom("a size cannot be negative"))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }
        }
        deserializer.deserialize_any(Size)
    }
}

/// A number of bits per second: `100000000`, `"100Mbit/s"`, `"1.5 Gbit/s"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BitRate(pub u64);

impl BitRate {
    /// Reads a number, with at most three decimals, and its unit.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a rate such as \"100Mbit/s\" or \"2.5 Gbit/s\"");
        let split = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim_start() {
            "bit/s" => 1,
            "kbit/s" => 1_000,
            "Mbit/s" => 1_000_000,
            "Gbit/s" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        if decimals.is_empty() || decimals.len() > 3 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let thousandths: u64 = format!("{decimals:0<3}").parse().map_err(|_| wrong())?;
        // A rate of fractions of a bit is cut.
        whole
            .checked_mul(factor)
            .and_then(|bits| bits.checked_add(factor.checked_mul(thousandths)? / 1_000))
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for BitRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rate;
        impl Visitor<'_> for Rate {
            type Value = BitRate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate such as \"100Mbit/s\", or a number of bits per second")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<BitRate, E> {
                BitRate::parse(text).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<BitRate, E> {
                u64::try_from(number)
                    .map(BitRate)
                    .map_err(|_| E::custom("a rate cannot be negative"))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<BitRate, E> {
                Ok(BitRate(number))
            }
        }
        deserializer.deserialize_any(Rate)
    }
}
