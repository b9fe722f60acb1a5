//! What a tunnel is for: `target` and `ipproto` (RFC 9484 §4.6).

use alloc::string::{String, ToString};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::prefix::IpPrefix;
use crate::error::WireErrorKind;

/// `target`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Target {
    /// `*`, or the variable left out: any host.
    #[default]
    Any,
    /// An address or a prefix.
    Prefix(IpPrefix),
    /// A host name, to be resolved by the proxy. Whatever is no address and no prefix is a name if
    /// its characters allow it, `127.1` and `192.0.2.256` too: policy judges what a name resolves
    /// to, never the name.
    Name(String),
}

/// The scope a request asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    /// Which hosts.
    pub target: Target,
    /// Which IP protocol; `None` is any.
    pub protocol: Option<u8>,
}

impl Scope {
    /// From the values of the template's variables, percent-decoded once; `None` where a variable
    /// is absent.
    ///
    /// # Errors
    /// [`WireErrorKind::ScopeMalformed`].
    pub fn parse(target: Option<&str>, ipproto: Option<&str>) -> Result<Self, WireErrorKind> {
        let scope = || {
            Some(Self {
                target: target.map_or(Some(Target::Any), parse_target)?,
                protocol: ipproto.map_or(Some(None), parse_ipproto)?,
            })
        };
        scope().ok_or(WireErrorKind::ScopeMalformed)
    }

    /// The value of `target`, not percent-encoded.
    #[must_use]
    pub fn target_value(&self) -> String {
        match &self.target {
            Target::Any => "*".to_string(),
            Target::Prefix(prefix) if prefix.is_host() => prefix.address().to_string(),
            Target::Prefix(prefix) => prefix.to_string(),
            Target::Name(name) => name.clone(),
        }
    }

    /// The value of `ipproto`.
    #[must_use]
    pub fn ipproto_value(&self) -> String {
        self.protocol
            .map_or_else(|| "*".to_string(), |protocol| protocol.to_string())
    }
}

fn parse_target(value: &str) -> Option<Target> {
    if value == "*" {
        Some(Target::Any)
    } else if let Some((address, length)) = value.split_once('/') {
        parse_prefix(address, length).map(Target::Prefix)
    } else if let Ok(address) = value.parse() {
        Some(Target::Prefix(IpPrefix::host(address)))
    } else {
        is_name(value).then(|| Target::Name(value.to_string()))
    }
}

fn parse_prefix(address: &str, length: &str) -> Option<IpPrefix> {
    let (address, digits) = match address.parse::<Ipv4Addr>() {
        Ok(address) => (IpAddr::V4(address), 2),
        Err(_) => (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), 3),
    };
    IpPrefix::new(address, parse_digits(length, digits)?).ok()
}

fn parse_ipproto(value: &str) -> Option<Option<u8>> {
    match value {
        "*" => Some(None),
        digits => parse_digits(digits, 3).map(Some),
    }
}

/// `1*{max}DIGIT`, at most 255.
fn parse_digits(value: &str, max: usize) -> Option<u8> {
    let digits = (1..=max).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| digits)
}

/// `reg-name` of RFC 3986 §3.2.2 without percent-encoding, which is undone before, without `*`,
/// which here means any host, and not empty.
pub(super) fn is_name(value: &str) -> bool {
    let may_stand_in_name = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || b"!$&'()+,;=".contains(&byte)
    };
    !value.is_empty() && value.bytes().all(may_stand_in_name)
}

#[cfg(test)]
mod tests;
