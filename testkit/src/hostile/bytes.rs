//! What a script sends, in pieces.

use std::net::{IpAddr, SocketAddr};

use masque_core::wire::fields::{Field, FieldList};
use masque_core::wire::qpack;
use masque_core::wire::varint::VarInt;
use serde::Deserialize;

use crate::packet;

/// A piece of what is sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    /// Bytes as hexadecimal digits; spaces are for the reader.
    Hex(String),
    /// Bytes made.
    Made(Made),
}

/// Bytes made.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Made {
    /// A variable-length integer.
    Varint(u64),
    /// Characters.
    Text(String),
    /// So many zero bytes.
    Zeros(usize),
    /// The same so often.
    Repeat(Repeat),
    /// An HTTP/3 frame of any type.
    Frame(Frame),
    /// A DATA frame around pieces.
    Data(Vec<Piece>),
    /// A capsule of any type.
    Capsule(Frame),
    /// A SETTINGS frame.
    Settings(Vec<(u64, u64)>),
    /// A HEADERS frame with these fields, in this order, legal or not.
    Headers(Vec<(String, String)>),
    /// A HEADERS frame around a field section in hexadecimal digits.
    Section(String),
    /// A good request's HEADERS frame, changed.
    Request(Change),
    /// A good response's HEADERS frame, changed.
    Response(Change),
    /// So many ADDRESS_REQUEST capsules for one address each, their Request IDs counted up.
    AddressRequests(Requests),
    /// ROUTE_ADVERTISEMENT with so many ranges, in order and apart.
    Routes(usize),
    /// A UDP packet of IP.
    Packet(Packet),
}

/// The same over and over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// How often.
    pub count: usize,
    /// What.
    pub of: Vec<Piece>,
}

/// A type, a length and a value.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// The type.
    #[serde(rename = "type")]
    pub ty: u64,
    /// The length announced, if it is not that of the value.
    #[serde(default)]
    pub length: Option<u64>,
    /// The value.
    #[serde(default)]
    pub of: Vec<Piece>,
}

/// What is different from a good message.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Fields whose value is another.
    pub set: Vec<(String, String)>,
    /// Fields left out.
    pub drop: Vec<String>,
    /// Fields at the end.
    pub add: Vec<(String, String)>,
    /// A field at the end whose value is so many characters.
    pub padding: Option<usize>,
}

/// Many ADDRESS_REQUEST capsules.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// How many.
    pub count: u64,
    /// The first Request ID.
    #[serde(default = "one")]
    pub from: u64,
}

const fn one() -> u64 {
    1
}

/// A UDP packet of IP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packet {
    /// From where; without it, from the address that was assigned.
    #[serde(default)]
    pub from: Option<IpAddr>,
    /// To where.
    pub to: IpAddr,
    /// Bytes of UDP payload.
    #[serde(default)]
    pub size: usize,
}

/// What pieces are made with.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// `:authority` of a good request.
    pub authority: String,
    /// `:path` of a good request.
    pub path: String,
    /// What was assigned to us.
    pub assigned: Vec<IpAddr>,
}

/// Why bytes cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PieceError {
    /// Not hexadecimal digits, or an odd number of them.
    #[error("{0:?} are no bytes")]
    Hex(String),
    /// No integer of 62 bits.
    #[error("{0} does not fit a variable-length integer")]
    Varint(u64),
    /// The subject has assigned no address of that version.
    #[error("no address was assigned")]
    Unassigned,
}

/// The bytes of pieces.
///
/// # Errors
/// [`PieceError`].
pub fn build(pieces: &[Piece], material: &Material) -> Result<Vec<u8>, PieceError> {
    let mut out = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Hex(digits) => out.extend(unhex(digits)?),
            Piece::Made(made) => made.build(material, &mut out)?,
        }
    }
    Ok(out)
}

impl Made {
    fn build(&self, material: &Material, out: &mut Vec<u8>) -> Result<(), PieceError> {
        match self {
            Self::Varint(value) => varint(*value, out)?,
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Zeros(count) => out.resize(out.len() + count, 0),
            Self::Repeat(repeat) => {
                let bytes = build(&repeat.of, material)?;
                for _ in 0..repeat.count {
                    out.extend_from_slice(&bytes);
                }
            }
            Self::Frame(frame) | Self::Capsule(frame) => {
                let value = build(&frame.of, material)?;
                varint(frame.ty, out)?;
                varint(frame.length.unwrap_or(value.len() as u64), out)?;
                out.extend(value);
            }
            Self::Data(pieces) => framed(0, &build(pieces, material)?, out)?,
            Self::Settings(settings) => {
                let mut value = Vec::new();
                for (id, setting) in settings {
                    varint(*id, &mut value)?;
                    varint(*setting, &mut value)?;
                }
                framed(4, &value, out)?;
            }
            Self::Headers(fields) => headers(fields, out)?,
            Self::Section(digits) => framed(1, &unhex(digits)?, out)?,
            Self::Request(change) => {
                let good = [
                    (":method", "CONNECT"),
                    (":protocol", "connect-ip"),
                    (":scheme", "https"),
                    (":authority", &material.authority),
                    (":path", &material.path),
                    ("capsule-protocol", "?1"),
                ];
                headers(&change.applied(&good), out)?;
            }
            Self::Response(change) => {
                let good = [(":status", "200"), ("capsule-protocol", "?1")];
                headers(&change.applied(&good), out)?;
            }
            Self::AddressRequests(requests) => {
                for id in (requests.from..).take(usize::try_from(requests.count).unwrap_or(0)) {
                    let mut value = Vec::new();
                    varint(id, &mut value)?;
                    value.extend([4, 0, 0, 0, 0, 32]);
                    varint(2, out)?;
                    varint(value.len() as u64, out)?;
                    out.extend(value);
                }
            }
            Self::Routes(count) => {
                let mut value = Vec::new();
                for nth in (0..*count as u32).map(|nth| 0x1400_0000 + nth * 2) {
                    value.push(4);
                    value.extend(nth.to_be_bytes());
                    value.extend(nth.to_be_bytes());
                    value.push(0);
                }
                varint(3, out)?;
                varint(value.len() as u64, out)?;
                out.extend(value);
            }
            Self::Packet(it) => {
                let own = || {
                    let fits = |own: &&IpAddr| own.is_ipv4() == it.to.is_ipv4();
                    material.assigned.iter().find(fits).copied()
                };
                let from = it.from.or_else(own).ok_or(PieceError::Unassigned)?;
                let (from, to) = (SocketAddr::new(from, 4000), SocketAddr::new(it.to, 9));
                out.extend(packet::udp(from, to, &vec![0x5a; it.size]));
            }
        }
        Ok(())
    }
}

impl Change {
    fn applied(&self, good: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        for (name, value) in good {
            if self.drop.iter().any(|dropped| dropped == name) {
                continue;
            }
            let other = self.set.iter().find(|(other, _)| other == name);
            let value = other.map_or(*value, |(_, value)| value);
            fields.push(((*name).to_owned(), value.to_owned()));
        }
        fields.extend(self.add.iter().cloned());
        if let Some(length) = self.padding {
            fields.push(("padding".to_owned(), "x".repeat(length)));
        }
        fields
    }
}

fn headers(fields: &[(String, String)], out: &mut Vec<u8>) -> Result<(), PieceError> {
    let fields = fields.iter().map(|(name, value)| Field {
        name: name.as_bytes().to_vec(),
        value: value.as_bytes().to_vec(),
    });
    let mut section = Vec::new();
    qpack::encode(&FieldList(fields.collect()), &mut section);
    framed(1, &section, out)
}

fn framed(ty: u64, value: &[u8], out: &mut Vec<u8>) -> Result<(), PieceError> {
    varint(ty, out)?;
    varint(value.len() as u64, out)?;
    out.extend_from_slice(value);
    Ok(())
}

fn varint(value: u64, out: &mut Vec<u8>) -> Result<(), PieceError> {
    VarInt::new(value)
        .ok_or(PieceError::Varint(value))?
        .encode(out);
    Ok(())
}

/// The bytes of hexadecimal digits.
///
/// # Errors
/// [`PieceError::Hex`].
pub fn unhex(digits: &str) -> Result<Vec<u8>, PieceError> {
    let bad = || PieceError::Hex(digits.to_owned());
    let nibbles = digits
        .chars()
        .filter(|it| !it.is_whitespace())
        .map(|it| it.to_digit(16).map(|nibble| nibble as u8))
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(bad)?;
    let (pairs, rest) = nibbles.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(bad());
    }
    Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
