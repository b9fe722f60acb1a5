//! What a subject says, taken apart. Nothing here judges: what cannot be read is `Garbled`.

use std::collections::BTreeMap;

use masque_core::wire::qpack;
use masque_core::wire::varint::VarInt;

/// Nothing a subject says at once is longer.
const MAX_FRAME: u64 = 1 << 20;

/// What a subject said or did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A unidirectional stream of this type.
    Uni(u64),
    /// SETTINGS.
    Settings(Vec<(u64, u64)>),
    /// A field section on a request stream.
    Head {
        /// The stream.
        stream: u64,
        /// Its fields.
        fields: Vec<(String, String)>,
    },
    /// A capsule.
    Capsule {
        /// The stream.
        stream: u64,
        /// Its type.
        ty: u64,
        /// Its value.
        value: Vec<u8>,
    },
    /// A DATAGRAM frame for a stream.
    Datagram {
        /// The stream.
        stream: u64,
        /// What follows the quarter stream ID.
        payload: Vec<u8>,
    },
    /// GOAWAY.
    Goaway(u64),
    /// Another frame.
    Frame {
        /// The stream.
        stream: u64,
        /// Its type.
        ty: u64,
    },
    /// The end of a stream.
    Finished(u64),
    /// A stream is reset.
    Reset {
        /// The stream.
        stream: u64,
        /// The application error code.
        code: u64,
    },
    /// A stream is to be stopped.
    Stopped {
        /// The stream.
        stream: u64,
        /// The application error code.
        code: u64,
    },
    /// The connection is closed.
    Closed {
        /// The application error code; `None` if QUIC ended it.
        code: Option<u64>,
        /// In words.
        words: String,
    },
    /// What cannot be read.
    Garbled(String),
}

/// Takes the subject's streams apart.
#[derive(Debug, Default)]
pub(super) struct Ear {
    unis: BTreeMap<u64, Uni>,
    requests: BTreeMap<u64, Request>,
}

#[derive(Debug, Default)]
struct Uni {
    ty: Option<u64>,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Request {
    bytes: Vec<u8>,
    capsules: Vec<u8>,
}

impl Ear {
    /// Bytes of a unidirectional stream of the subject.
    pub(super) fn uni(&mut self, stream: u64, bytes: &[u8], heard: &mut Vec<Heard>) {
        let uni = self.unis.entry(stream).or_default();
        uni.bytes.extend_from_slice(bytes);
        if uni.ty.is_none() {
            let Some((ty, rest)) = varint(&uni.bytes) else {
                return;
            };
            uni.bytes = rest.to_vec();
            uni.ty = Some(ty);
            heard.push(Heard::Uni(ty));
        }
        if uni.ty != Some(0) {
            uni.bytes.clear();
            return;
        }
        while let Some((ty, value)) = take(&mut uni.bytes, heard) {
            heard.push(match ty {
                4 => Heard::Settings(settings(&value)),
                7 => varint(&value).map_or_else(
                    || Heard::Garbled("GOAWAY".to_owned()),
                    |(id, _)| Heard::Goaway(id),
                ),
                _ => Heard::Frame { stream, ty },
            });
        }
    }

    /// The type of a unidirectional stream of the subject.
    pub(super) fn uni_of(&self, ty: u64) -> Option<u64> {
        let mut unis = self.unis.iter();
        unis.find(|(_, uni)| uni.ty == Some(ty)).map(|(id, _)| *id)
    }

    /// Bytes of a request stream.
    pub(super) fn request(&mut self, stream: u64, bytes: &[u8], heard: &mut Vec<Heard>) {
        let request = self.requests.entry(stream).or_default();
        request.bytes.extend_from_slice(bytes);
        while let Some((ty, value)) = take(&mut request.bytes, heard) {
            match ty {
                0 => {
                    request.capsules.extend(value);
                    while let Some((ty, value)) = take(&mut request.capsules, heard) {
                        heard.push(Heard::Capsule { stream, ty, value });
                    }
                }
                1 => heard.push(match qpack::decode(&value, 1 << 20) {
                    Ok(fields) => {
                        let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
                        let fields = fields.0.iter();
                        let fields = fields.map(|it| (text(&it.name), text(&it.value)));
                        let fields = fields.collect();
                        Heard::Head { stream, fields }
                    }
                    Err(error) => Heard::Garbled(error.to_string()),
                }),
                _ => heard.push(Heard::Frame { stream, ty }),
            }
        }
    }
}

/// The integer at the front, and what follows it.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (value, length) = VarInt::decode(bytes)?;
    Some((value.into_inner(), &bytes[length..]))
}

/// Takes a type, a length and a value off the front.
fn take(bytes: &mut Vec<u8>, heard: &mut Vec<Heard>) -> Option<(u64, Vec<u8>)> {
    let (ty, rest) = varint(bytes)?;
    let (length, rest) = varint(rest)?;
    if length > MAX_FRAME {
        heard.push(Heard::Garbled(format!("{length} bytes of type {ty:#x}")));
        bytes.clear();
        return None;
    }
    // Below 2^20.
    let value = rest.get(..length as usize)?.to_vec();
    let used = bytes.len() - rest.len() + value.len();
    bytes.drain(..used);
    Some((ty, value))
}

fn settings(mut value: &[u8]) -> Vec<(u64, u64)> {
    let mut settings = Vec::new();
    while let Some((id, rest)) = varint(value) {
        let Some((setting, rest)) = varint(rest) else {
            break;
        };
        settings.push((id, setting));
        value = rest;
    }
    settings
}
