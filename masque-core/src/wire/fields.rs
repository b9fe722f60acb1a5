//! Field lists, and the heads of requests and responses (RFC 9114 §4, RFC 9220, RFC 9297 §3.4).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::WireErrorKind;

mod structured;
mod syntax;
#[cfg(test)]
mod tests;

use syntax::is_token_byte;

const CAPSULE_PROTOCOL: &[u8] = b"capsule-protocol";

/// Fields whose values whoever reads them may use: credentials, and our own handover tokens.
const SECRET: [&[u8]; 5] = [
    b"authorization",
    b"proxy-authorization",
    b"cookie",
    b"set-cookie",
    b"masque-handover",
];

/// One field line. Bytes are kept as they came; [`RequestHead::parse`] and [`ResponseHead::parse`] judge them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// The name; pseudo-headers begin with a colon.
    pub name: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Field {
    /// What the line counts in a field section: name, value and 32 bytes (RFC 9114 §4.2.2).
    #[must_use]
    pub fn size(&self) -> usize {
        self.name
            .len()
            .saturating_add(self.value.len())
            .saturating_add(32)
    }

    /// Whether the value has no place in a trace, nor in anybody's table (RFC 9204 §7.1.3).
    pub(crate) fn is_secret(&self) -> bool {
        SECRET.contains(&self.name.as_slice())
    }
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

    /// The values of the fields with this name, in order. Names compare as bytes: in lower case.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |field| field.name == name.as_bytes())
            .map(|field| field.value.as_slice())
    }

    /// The size that SETTINGS_MAX_FIELD_SECTION_SIZE limits, in bytes (RFC 9114 §4.2.2).
    #[must_use]
    pub fn size(&self) -> usize {
        self.0
            .iter()
            .fold(0, |sum, field| sum.saturating_add(field.size()))
    }

    /// Whether exactly one `Capsule-Protocol` line is there, and says `?1`.
    fn has_capsule_protocol(&self) -> bool {
        let mut lines = self.0.iter().filter(|field| field.name == CAPSULE_PROTOCOL);
        match (lines.next(), lines.next()) {
            (Some(line), None) => capsule_protocol_value(&line.value),
            _ => false,
        }
    }

    /// Appends the fields of a head that are not pseudo-headers.
    fn push_regular(&mut self, capsule_protocol: bool, fields: &Self) {
        if capsule_protocol && fields.0.iter().all(|field| field.name != CAPSULE_PROTOCOL) {
            self.push(CAPSULE_PROTOCOL, *b"?1");
        }
        self.0.extend(fields.0.iter().cloned());
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
        let ([method, protocol, scheme, authority, path], fields) = split(
            fields,
            [":method", ":protocol", ":scheme", ":authority", ":path"],
        )?;
        check_regular(&fields, Message::Request)?;
        let capsule_protocol = fields.has_capsule_protocol();
        let method = text(method.ok_or(WireErrorKind::PseudoHeader)?, syntax::is_token)?;
        let head = |kind, [scheme, authority, path]: [String; 3]| Self {
            kind,
            scheme,
            authority,
            path,
            capsule_protocol,
            fields,
        };

        let head = match (method.as_str(), protocol) {
            ("CONNECT", Some(protocol)) => {
                let (Some(scheme), Some(authority), Some(path)) = (scheme, authority, path) else {
                    return Err(WireErrorKind::PseudoHeader);
                };
                head(
                    RequestKind::ExtendedConnect(text(protocol, syntax::is_protocol)?),
                    [
                        text(scheme, syntax::is_scheme)?,
                        text(authority, syntax::is_authority)?,
                        text(path, syntax::is_path)?,
                    ],
                )
            }
            ("CONNECT", None) => {
                let (None, Some(authority), None) = (scheme, authority, path) else {
                    return Err(WireErrorKind::PseudoHeader);
                };
                let authority = text(authority, syntax::is_authority_with_port)?;
                head(
                    RequestKind::Connect,
                    [String::new(), authority, String::new()],
                )
            }
            (_, Some(_)) => return Err(WireErrorKind::PseudoHeader),
            (_, None) => {
                let (Some(scheme), Some(path)) = (scheme, path) else {
                    return Err(WireErrorKind::PseudoHeader);
                };
                let scheme = text(scheme, syntax::is_scheme)?;
                let path = match path.as_slice() {
                    b"*" if method == "OPTIONS" => String::from("*"),
                    _ => text(path, syntax::is_path)?,
                };
                let authority = match authority {
                    Some(authority) => text(authority, syntax::is_authority)?,
                    None => String::new(),
                };
                head(RequestKind::Ordinary(method), [scheme, authority, path])
            }
        };

        if matches!(head.kind, RequestKind::ExtendedConnect(_)) {
            check_no_content(&head.fields)?;
        }
        head.check_host()?;
        Ok(head)
    }

    /// The field section of this head. `Capsule-Protocol: ?1` is added if `capsule_protocol` says so
    /// and `fields` has no such line yet.
    #[must_use]
    pub fn to_fields(&self) -> FieldList {
        let mut fields = FieldList::default();
        let (method, protocol) = match &self.kind {
            RequestKind::ExtendedConnect(protocol) => ("CONNECT", Some(protocol)),
            RequestKind::Connect => ("CONNECT", None),
            RequestKind::Ordinary(method) => (method.as_str(), None),
        };
        fields.push(*b":method", method);
        if let Some(protocol) = protocol {
            fields.push(*b":protocol", protocol.as_str());
        }
        let parts = [
            (":scheme", &self.scheme),
            (":authority", &self.authority),
            (":path", &self.path),
        ];
        for (name, value) in parts {
            if !value.is_empty() {
                fields.push(name, value.as_str());
            }
        }
        fields.push_regular(self.capsule_protocol, &self.fields);
        fields
    }

    /// At most one `Host`, and the same as `:authority`, which it may stand in for (RFC 9114
    /// §4.3.1). They compare as strings: `example.org` and `example.org:443` differ.
    fn check_host(&self) -> Result<(), WireErrorKind> {
        let mut hosts = self.fields.values("host");
        match (hosts.next(), hosts.next()) {
            (None, _) => {
                let needs_host = [&b"http"[..], b"https"]
                    .iter()
                    .any(|scheme| self.scheme.as_bytes().eq_ignore_ascii_case(scheme));
                if needs_host && self.authority.is_empty() {
                    return Err(WireErrorKind::PseudoHeader);
                }
            }
            (Some(_), Some(_)) => return Err(WireErrorKind::HostMismatch),
            (Some(host), None) if self.authority.is_empty() => {
                if !syntax::is_authority(host) {
                    return Err(WireErrorKind::FieldValue);
                }
            }
            (Some(host), None) => {
                if !self.authority.as_bytes().eq_ignore_ascii_case(host) {
                    return Err(WireErrorKind::HostMismatch);
                }
            }
        }
        Ok(())
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
        let ([status], fields) = split(fields, [":status"])?;
        check_regular(&fields, Message::Response)?;
        let status = match status.ok_or(WireErrorKind::PseudoHeader)?.as_slice() {
            &[
                hundreds @ b'1'..=b'5',
                tens @ b'0'..=b'9',
                ones @ b'0'..=b'9',
            ] => {
                let digit = |byte| u16::from(byte - b'0');
                100 * digit(hundreds) + 10 * digit(tens) + digit(ones)
            }
            _ => return Err(WireErrorKind::PseudoHeaderValue),
        };
        match status {
            101 | 204..=206 => return Err(WireErrorKind::StatusNotAllowed),
            200..=299 => check_no_content(&fields)?,
            _ => {}
        }
        Ok(Self {
            status,
            capsule_protocol: fields.has_capsule_protocol(),
            fields,
        })
    }

    /// The field section of this head. `Capsule-Protocol: ?1` is added if `capsule_protocol` says so
    /// and `fields` has no such line yet.
    #[must_use]
    pub fn to_fields(&self) -> FieldList {
        let mut fields = FieldList::default();
        fields.push(*b":status", format!("{:03}", self.status));
        fields.push_regular(self.capsule_protocol, &self.fields);
        fields
    }
}

/// The value of a `Capsule-Protocol` field line (RFC 9297 §3.4, a structured Boolean): parameters are
/// ignored, and anything that is not `?1` counts as absent.
#[must_use]
pub fn capsule_protocol_value(value: &[u8]) -> bool {
    structured::boolean_item(value) == Some(true)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Response,
}

/// The values of the pseudo-headers a message may have.
type PseudoHeaders<const N: usize> = [Option<Vec<u8>>; N];

/// Takes the pseudo-headers with these names, in this order, from the front of `fields`.
fn split<const N: usize>(
    fields: FieldList,
    names: [&str; N],
) -> Result<(PseudoHeaders<N>, FieldList), WireErrorKind> {
    let mut pseudo = [const { None }; N];
    let mut regular = FieldList::default();
    for field in fields.0 {
        if field.name.first() != Some(&b':') {
            regular.0.push(field);
            continue;
        }
        let place = names.iter().position(|name| name.as_bytes() == field.name);
        match place.and_then(|place| pseudo.get_mut(place)) {
            Some(slot @ None) if regular.0.is_empty() => *slot = Some(field.value),
            _ => return Err(WireErrorKind::PseudoHeader),
        }
    }
    Ok((pseudo, regular))
}

/// The value of a pseudo-header, if it is what it has to be. Every such syntax is ASCII.
fn text(value: Vec<u8>, is_valid: fn(&[u8]) -> bool) -> Result<String, WireErrorKind> {
    if !is_valid(&value) {
        return Err(WireErrorKind::PseudoHeaderValue);
    }
    String::from_utf8(value).map_err(|_| WireErrorKind::PseudoHeaderValue)
}

/// Judges names, values and connection-specific fields (RFC 9114 §4.2, §10.3), and that all of
/// `Content-Length` is one number (§4.1.2).
fn check_regular(fields: &FieldList, message: Message) -> Result<(), WireErrorKind> {
    let mut content_length: Option<&[u8]> = None;
    for Field { name, value } in &fields.0 {
        if !syntax::is_field_name(name) {
            return Err(WireErrorKind::FieldName);
        }
        if !syntax::is_field_value(value) {
            return Err(WireErrorKind::FieldValue);
        }
        match name.as_slice() {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => return Err(WireErrorKind::ConnectionField),
            b"te" if message == Message::Response || !value.eq_ignore_ascii_case(b"trailers") => {
                return Err(WireErrorKind::ConnectionField);
            }
            b"content-length" => {
                let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                if !is_number || content_length.is_some_and(|other| other != value) {
                    return Err(WireErrorKind::FieldValue);
                }
                content_length = Some(value);
            }
            _ => {}
        }
    }
    Ok(())
}

/// RFC 9297 §3.2: with the capsule protocol a message has no content, and no field that describes
/// any. `Transfer-Encoding` is refused everywhere.
fn check_no_content(fields: &FieldList) -> Result<(), WireErrorKind> {
    let describes_content =
        |field: &Field| matches!(field.name.as_slice(), b"content-length" | b"content-type");
    if fields.0.iter().any(describes_content) {
        return Err(WireErrorKind::ContentField);
    }
    Ok(())
}
