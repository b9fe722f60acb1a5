//! Field lists, and the heads of requests and responses (RFC 9114 §4, RFC 9220, RFC 9297 §3.4).

use alloc::string::String;
use alloc::vec::Vec;

use crate::error::WireErrorKind;

/// One field line. Bytes are kept as they came; [`RequestHead::parse`] and [`ResponseHead::parse`] judge them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// The name; pseudo-headers begin with a colon.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// A field section, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldList(pub Vec<Field>);

impl FieldList {
    /// Appends a field.
    pub fn push(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.push(Field {
            name: name.into(),
            value: value.into(),
        });
    }
}

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestKind {
    /// An extended CONNECT (RFC 9220) with this `:protocol`.
    ExtendedConnect(String),
    /// A CONNECT without `:protocol`.
    Connect,
    /// Any other method, named.
    Ordinary(String),
}

/// A well-formed request head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestHead {
    /// What it asks for.
    pub kind: RequestKind,
    /// `:scheme`; empty for a plain CONNECT.
    pub scheme: String,
    /// `:authority` as sent; empty if absent (only ordinary requests with `Host` may lack it).
    pub authority: String,
    /// `:path`; empty for a plain CONNECT.
    pub path: String,
    /// Whether `Capsule-Protocol: ?1` is there (RFC 9297 §3.4).
    pub capsule_protocol: bool,
    /// The fields that are not pseudo-headers, names in lower case.
    pub fields: FieldList,
}

impl RequestHead {
    /// Judges a decoded field section as a request.
    ///
    /// # Errors
    /// The kind of malformation (RFC 9114 §4.1.2); all are stream errors.
    pub fn parse(fields: FieldList) -> Result<Self, WireErrorKind> {
        let _ = fields;
        unimplemented!()
    }

    /// The field section of this head.
    #[must_use]
    pub fn to_fields(&self) -> FieldList {
        unimplemented!()
    }
}

/// A well-formed response head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    /// `:status`, 100 to 599, never 101.
    pub status: u16,
    /// Whether `Capsule-Protocol: ?1` is there.
    pub capsule_protocol: bool,
    /// The fields that are not pseudo-headers.
    pub fields: FieldList,
}

impl ResponseHead {
    /// Judges a decoded field section as the response to an extended CONNECT that uses the capsule
    /// protocol: a 2xx other than 204, 205, 206 and without content fields opens the tunnel.
    ///
    /// # Errors
    /// The kind of malformation; all are stream errors.
    pub fn parse(fields: FieldList) -> Result<Self, WireErrorKind> {
        let _ = fields;
        unimplemented!()
    }

    /// The field section of this head.
    #[must_use]
    pub fn to_fields(&self) -> FieldList {
        unimplemented!()
    }
}

/// The value of a `Capsule-Protocol` field line (RFC 9297 §3.4, a structured Boolean): parameters are
/// ignored, and anything that is not `?1` counts as absent.
#[must_use]
pub fn capsule_protocol_value(value: &[u8]) -> bool {
    let _ = value;
    unimplemented!()
}
