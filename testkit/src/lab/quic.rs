//! QUIC packets of null crypto, read without keys (RFC 9000 §17, §19).
//!
//! Header protection does nothing there, and a payload is followed by a checksum instead of being
//! encrypted. Frame names and fields are those of qlog's QUIC events.

use masque_core::wire::stream::StreamId;
use masque_core::wire::varint::VarInt;
use serde_json::{Map, Value, json};

use crate::crypto::null::TAG_LEN;

/// The connection IDs of our endpoints.
const CID_LEN: usize = 8;

/// One packet of a UDP datagram.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    /// Where it begins in the datagram.
    pub(super) start: usize,
    /// Where its frames begin.
    pub(super) payload: usize,
    /// Where it ends, checksum included.
    pub(super) end: usize,
    /// qlog's packet type.
    pub(super) kind: &'static str,
    pub(super) dcid: Vec<u8>,
    pub(super) scid: Vec<u8>,
    /// The packet number as far as it is written, and in how many bytes.
    pub(super) number: (u64, usize),
    pub(super) frames: Vec<Frame>,
}

/// One frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where the data begins that it carries.
    data: Option<usize>,
    /// qlog's fields of it.
    pub(super) fields: Map<String, Value>,
}

impl Packet {
    pub(super) fn words(&self) -> String {
        let (number, _) = self.number;
        let hex = super::hex_text;
        let mut words = format!("{} packet {number} to {}", self.kind, hex(&self.dcid));
        if !self.scid.is_empty() {
            words.push_str(&format!(" from {}", hex(&self.scid)));
        }
        words
    }

    /// Whether it has frames.
    pub(super) fn has_frames(&self) -> bool {
        matches!(self.kind, "initial" | "handshake" | "0RTT" | "1RTT")
    }
}

impl Frame {
    /// qlog's name of its type.
    pub(super) fn name(&self) -> &str {
        self.fields["frame_type"].as_str().unwrap_or_default()
    }

    pub(super) fn words(&self) -> String {
        let mut words = self.name().to_uppercase();
        let told = |name: &str| !matches!(name, "frame_type" | "raw");
        for (name, value) in self.fields.iter().filter(|(name, _)| told(name)) {
            words.push_str(&format!(" {name}={value}"));
        }
        words
    }

    /// Where the data of a STREAM frame begins, if it is the start of its stream, and whose it is.
    pub(super) fn stream_data(&self) -> Option<(usize, StreamId)> {
        let stream = self.fields.get("stream_id")?.as_u64()?;
        let at = self
            .data
            .filter(|at| *at < self.end && self.name() == "stream")?;
        let starts = self.fields.get("offset").is_none_or(|offset| offset == 0);
        let stream = StreamId::new(VarInt::new(stream)?);
        (starts || stream.is_request()).then_some((at, stream))
    }

    pub(super) fn datagram_data(&self) -> Option<usize> {
        self.data.filter(|_| self.name() == "datagram")
    }
}

/// All packets of a UDP datagram.
pub(super) fn read(datagram: &[u8]) -> Result<Vec<Packet>, String> {
    let mut packets = Vec::new();
    let mut at = 0;
    while at < datagram.len() {
        let packet = Reader::new(datagram, at).packet()?;
        at = packet.end;
        packets.push(packet);
    }
    Ok(packets)
}

/// The whole packet number of which `low` is written in `length` bytes, after `largest`
/// (RFC 9000 §A.3).
pub(super) fn whole_number(largest: Option<u64>, low: u64, length: usize) -> u64 {
    let window = 1u64 << (8 * length.min(4));
    let expected = largest.map_or(0, |largest| largest + 1);
    let candidate = (expected & !(window - 1)) | low;
    if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    start: usize,
}

type Read<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            start: at,
        }
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let rest = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = rest.ok_or_else(|| format!("the end of the packet at byte {}", self.at))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Read<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Read<u64> {
        let decoded = self.bytes.get(self.at..).and_then(VarInt::decode);
        let (value, length) =
            decoded.ok_or_else(|| format!("the end of the packet at byte {}", self.at))?;
        self.at += length;
        Ok(value.into_inner())
    }

    fn size(&mut self) -> Read<usize> {
        Ok(usize::try_from(self.number()?).unwrap_or(usize::MAX))
    }

    fn packet(mut self) -> Read<Packet> {
        let first = self.byte()?;
        let mut packet = Packet {
            start: self.start,
            payload: self.bytes.len(),
            end: self.bytes.len(),
            kind: "1RTT",
            dcid: Vec::new(),
            scid: Vec::new(),
            number: (0, usize::from(first & 3) + 1),
            frames: Vec::new(),
        };
        if first & 0x80 == 0 {
            packet.dcid = self.take(CID_LEN)?.to_vec();
        } else {
            let version = self.take(4)?;
            let length = self.byte()?;
            packet.dcid = self.take(length.into())?.to_vec();
            let length = self.byte()?;
            packet.scid = self.take(length.into())?.to_vec();
            packet.kind = match (version, (first >> 4) & 3) {
                ([0, 0, 0, 0], _) => "version_negotiation",
                (_, 0) => "initial",
                (_, 1) => "0RTT",
                (_, 2) => "handshake",
                _ => "retry",
            };
            if !packet.has_frames() {
                return Ok(packet);
            }
            if packet.kind == "initial" {
                let token = self.size()?;
                self.take(token)?;
            }
            let length = self.size()?;
            let end = self
                .at
                .checked_add(length)
                .filter(|end| *end <= self.bytes.len());
            packet.end = end.ok_or_else(|| "the packet announces more than is there".to_owned())?;
        }
        for byte in self.take(packet.number.1)? {
            packet.number.0 = packet.number.0 << 8 | u64::from(*byte);
        }
        packet.payload = self.at;
        let frames_end = packet
            .end
            .checked_sub(TAG_LEN)
            .filter(|end| *end >= self.at);
        let frames_end = frames_end.ok_or_else(|| "no room for the checksum".to_owned())?;
        let mut frames = Self {
            bytes: &self.bytes[..frames_end],
            at: self.at,
            start: self.at,
        };
        while frames.at < frames_end {
            packet.frames.push(frames.frame()?);
        }
        Ok(packet)
    }

    fn frame(&mut self) -> Read<Frame> {
        let start = self.at;
        let ty = self.number()?;
        let mut fields = Map::new();
        let mut data = None;
        let mut put = |name: &str, value: Value| {
            fields.insert(name.to_owned(), value);
        };
        match ty {
            0x00 => {
                put("frame_type", "padding".into());
                while self.bytes.get(self.at) == Some(&0) {
                    self.at += 1;
                }
                put("payload_length", (self.at - start).into());
            }
            0x01 => put("frame_type", "ping".into()),
            0x02 | 0x03 => {
                put("frame_type", "ack".into());
                let mut largest = self.number()?;
                // In units of 2^3 microseconds by default; ours never says otherwise.
                let delay = self.number()?.saturating_mul(8);
                put("ack_delay", json!(delay as f64 / 1000.0));
                let count = self.number()?;
                let mut ranges = Vec::new();
                for index in 0..=count {
                    if index > 0 {
                        let gap = self.number()?;
                        largest = largest.checked_sub(gap + 2).ok_or("an ACK below zero")?;
                    }
                    let length = self.number()?;
                    let least = largest.checked_sub(length).ok_or("an ACK below zero")?;
                    ranges.push(json!([least, largest]));
                    largest = least;
                }
                put("acked_ranges", ranges.into());
                if ty == 0x03 {
                    for name in ["ect0", "ect1", "ce"] {
                        put(name, self.number()?.into());
                    }
                }
            }
            0x04 => {
                put("frame_type", "reset_stream".into());
                put("stream_id", self.number()?.into());
                put("error_code", self.number()?.into());
                put("final_size", self.number()?.into());
            }
            0x05 => {
                put("frame_type", "stop_sending".into());
                put("stream_id", self.number()?.into());
                put("error_code", self.number()?.into());
            }
            0x06 => {
                put("frame_type", "crypto".into());
                put("offset", self.number()?.into());
                let length = self.size()?;
                put("raw", json!({"payload_length": length}));
                // As qlog 0.3 has it.
                put("length", length.into());
                data = Some(self.at);
                self.take(length)?;
            }
            0x07 => {
                put("frame_type", "new_token".into());
                let length = self.size()?;
                self.take(length)?;
            }
            0x08..=0x0f => {
                put("frame_type", "stream".into());
                put("stream_id", self.number()?.into());
                let offset = if ty & 4 == 0 { 0 } else { self.number()? };
                put("offset", offset.into());
                let length = match ty & 2 {
                    0 => self.bytes.len() - self.at,
                    _ => self.size()?,
                };
                put("raw", json!({"payload_length": length}));
                // As qlog 0.3 has it.
                put("length", length.into());
                put("fin", (ty & 1 == 1).into());
                data = Some(self.at);
                self.take(length)?;
            }
            0x10 => {
                put("frame_type", "max_data".into());
                put("maximum", self.number()?.into());
            }
            0x11 => {
                put("frame_type", "max_stream_data".into());
                put("stream_id", self.number()?.into());
                put("maximum", self.number()?.into());
            }
            0x12 | 0x13 => {
                put("frame_type", "max_streams".into());
                put("stream_type", direction(ty == 0x12));
                put("maximum", self.number()?.into());
            }
            0x14 => {
                put("frame_type", "data_blocked".into());
                put("limit", self.number()?.into());
            }
            0x15 => {
                put("frame_type", "stream_data_blocked".into());
                put("stream_id", self.number()?.into());
                put("limit", self.number()?.into());
            }
            0x16 | 0x17 => {
                put("frame_type", "streams_blocked".into());
                put("stream_type", direction(ty == 0x16));
                put("limit", self.number()?.into());
            }
            0x18 => {
                put("frame_type", "new_connection_id".into());
                put("sequence_number", self.number()?.into());
                put("retire_prior_to", self.number()?.into());
                let length = self.byte()?;
                put("connection_id_length", length.into());
                let id = self.take(length.into())?;
                put("connection_id", super::hex_text(id).into());
                let token = self.take(16)?;
                put("stateless_reset_token", super::hex_text(token).into());
            }
            0x19 => {
                put("frame_type", "retire_connection_id".into());
                put("sequence_number", self.number()?.into());
            }
            0x1a | 0x1b => {
                let name = ["path_challenge", "path_response"][usize::from(ty == 0x1b)];
                put("frame_type", name.into());
                put("data", super::hex_text(self.take(8)?).into());
            }
            0x1c | 0x1d => {
                put("frame_type", "connection_close".into());
                let space = ["transport", "application"][usize::from(ty == 0x1d)];
                put("error_space", space.into());
                put("error_code", self.number()?.into());
                if ty == 0x1c {
                    put("trigger_frame_type", self.number()?.into());
                }
                let length = self.size()?;
                let reason = String::from_utf8_lossy(self.take(length)?).into_owned();
                put("reason", reason.into());
            }
            0x1e => put("frame_type", "handshake_done".into()),
            0x1f => put("frame_type", "immediate_ack".into()),
            0x30 | 0x31 => {
                put("frame_type", "datagram".into());
                let length = match ty {
                    0x30 => self.bytes.len() - self.at,
                    _ => self.size()?,
                };
                put("raw", json!({"payload_length": length}));
                // As qlog 0.3 has it.
                put("length", length.into());
                data = Some(self.at);
                self.take(length)?;
            }
            0xaf => {
                put("frame_type", "ack_frequency".into());
                put("sequence_number", self.number()?.into());
                put("ack_eliciting_threshold", self.number()?.into());
                put("requested_max_ack_delay", self.number()?.into());
                put("reordering_threshold", self.number()?.into());
            }
            ty => return Err(format!("frame type {ty:#x} at byte {start}")),
        }
        Ok(Frame {
            start,
            end: self.at,
            data,
            fields,
        })
    }
}

fn direction(bidirectional: bool) -> Value {
    if bidirectional {
        "bidirectional"
    } else {
        "unidirectional"
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_datagram_is_read_within_its_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(packets) = read(&bytes) {
                for packet in packets {
                    prop_assert!(packet.start < packet.end && packet.end <= bytes.len());
                    prop_assert!(packet.frames.iter().all(|frame| frame.end <= packet.end));
                }
            }
        }

        #[test]
        fn a_packet_number_is_found_again(largest in 0..(1u64 << 40), ahead in 1..100u64) {
            let number = largest + ahead;
            let low = number & 0xffff;
            prop_assert_eq!(whole_number(Some(largest), low, 2), number);
        }
    }
}
