//! What a tunnel is for: `target` and `ipproto` (RFC 9484 §4.6).

use alloc::string::String;

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
    /// A host name, to be resolved by the proxy.
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
        let _ = (target, ipproto);
        unimplemented!()
    }

    /// The value of `target`, not percent-encoded.
    #[must_use]
    pub fn target_value(&self) -> String {
        unimplemented!()
    }

    /// The value of `ipproto`.
    #[must_use]
    pub fn ipproto_value(&self) -> String {
        unimplemented!()
    }
}
