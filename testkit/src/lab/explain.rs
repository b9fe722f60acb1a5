//! Bytes in words: where each part stands, what it says, and where they are wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use masque_core::WireError;
use masque_core::wire::capsule::{CapsuleDecoder, CapsuleEvent, CapsuleLimits};
use masque_core::wire::ip::PacketInfo;
use masque_core::wire::qpack;
use masque_core::wire::settings::Settings;
use masque_core::wire::stream::{StreamId, UniStreamType};
use masque_core::wire::varint::VarInt;

use super::LabError;

/// More than any field section here.
const MAX_FIELDS: usize = 64 << 10;

/// What is asked.
#[derive(Args, Clone, Debug)]
pub struct Question {
    /// A file of bytes, or of hexadecimal digits, or the digits themselves.
    pub bytes: PathBuf,
    /// What the bytes are.
    #[arg(long = "as", value_enum, default_value_t = Kind::Auto)]
    pub kind: Kind,
    /// Change every single bit of the capsules, one at a time, and count what comes of it.
    #[arg(long)]
    pub flip: bool,
}

/// What bytes are.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The first of the following that fits.
    Auto,
    /// Capsules (RFC 9297 §3.2, RFC 9484 §4.7).
    Capsule,
    /// HTTP/3 frames (RFC 9114 §7), and capsules in DATA.
    Frame,
    /// The payload of a QUIC DATAGRAM (RFC 9297 §2.1, RFC 9484 §6).
    Datagram,
    /// An encoded field section (RFC 9204 §4.5).
    Fields,
    /// A unidirectional stream (RFC 9114 §6.2).
    Stream,
    /// A UDP datagram of null crypto (RFC 9000 §17, §19).
    Packet,
}

/// Explains bytes.
///
/// # Errors
/// [`LabError::Bytes`] if there are none, [`LabError::Wrong`] if they are wrong, after they were explained.
pub fn explain(question: &Question, out: &mut impl Write) -> Result<(), LabError> {
    let bytes = read(&question.bytes)?;
    if question.flip {
        out.write_all(flips(&bytes).as_bytes())?;
        return Ok(());
    }
    let (kind, text, wrong) = in_words(question.kind, &bytes);
    writeln!(out, "{kind:?}, {} bytes", bytes.len())?;
    out.write_all(text.as_bytes())?;
    wrong.map_or(Ok(()), |wrong| Err(LabError::Wrong(wrong)))
}

/// How often each verdict is reached when one bit of the capsules is another.
fn flips(bytes: &[u8]) -> String {
    let mut verdicts: BTreeMap<String, usize> = BTreeMap::new();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verdict = match judge(Bytes::from(changed), true) {
            Ok(skipped) if skipped > 0 => "taken, with something skipped".to_owned(),
            Ok(_) => "taken".to_owned(),
            Err(error) => format!("{}: {}", error.code(), error.kind),
        };
        *verdicts.entry(verdict).or_default() += 1;
    }
    let each = verdicts.iter();
    let each = each.map(|(verdict, count)| format!("{count:>6}  {verdict}\n"));
    each.collect()
}

/// What is legal is for the decoder that judges peers to say. Gives how many capsules it skips.
fn judge(mut bytes: Bytes, whole: bool) -> Result<usize, WireError> {
    let mut decoder = CapsuleDecoder::new(CapsuleLimits::default());
    let mut skipped = 0;
    loop {
        match decoder.decode(&mut bytes)? {
            Some(CapsuleEvent::Capsule(_)) => {}
            Some(_) => skipped += 1,
            None if whole => return decoder.finish().map(|()| skipped),
            None => return Ok(skipped),
        }
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, LabError> {
    if let Ok(bytes) = fs::read(path) {
        let text = std::str::from_utf8(&bytes).ok();
        return Ok(text.and_then(hex).unwrap_or(bytes));
    }
    let digits = path.to_str().and_then(hex);
    digits.ok_or_else(|| LabError::Bytes(path.clone()))
}

/// The bytes that hexadecimal digits stand for; white space and colons between them are nothing.
#[must_use]
pub(super) fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|c| !c.is_whitespace() && *c != ':')
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    let pairs = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]);
    Some(pairs.collect()).filter(|bytes: &Vec<u8>| !bytes.is_empty())
}

/// What bytes are, one line per part, and what is wrong with them.
#[must_use]
pub fn in_words(kind: Kind, bytes: &[u8]) -> (Kind, String, Option<String>) {
    let tried = [Kind::Capsule, Kind::Frame, Kind::Datagram, Kind::Fields];
    let tried: &[Kind] = match &kind {
        Kind::Auto => &tried,
        one => std::slice::from_ref(one),
    };
    let mut first = None;
    for &kind in tried {
        let mut walk = Walk::new(bytes);
        let result = match kind {
            Kind::Frame => walk.frames(),
            Kind::Datagram => walk.datagram(),
            Kind::Fields => walk.fields(bytes.len()),
            Kind::Stream => walk.stream(),
            Kind::Packet => walk.packet(),
            Kind::Capsule | Kind::Auto => walk.capsules(bytes.len(), true),
        };
        match result {
            Ok(()) => return (kind, walk.out, None),
            Err(wrong) => {
                let _ = writeln!(walk.out, "{:>6}  wrong: {wrong}", walk.at);
                first.get_or_insert((kind, walk.out, Some(wrong)));
            }
        }
    }
    first.unwrap_or((kind, String::new(), None))
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    out: String,
}

type Walked<T> = Result<T, String>;

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            depth: 0,
            out: String::new(),
        }
    }

    fn say(&mut self, from: usize, words: &str) {
        let bytes = &self.bytes[from..self.at];
        let mut shown: String = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
        if bytes.len() > 8 {
            shown.push_str("..");
        }
        let indent = "  ".repeat(self.depth);
        let _ = writeln!(self.out, "{from:>6}  {shown:<18}  {indent}{words}");
    }

    fn take(&mut self, count: usize, what: &str) -> Walked<&'a [u8]> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = taken.ok_or_else(|| {
            let left = self.bytes.len() - self.at;
            format!(
                "{what} needs {count} bytes from byte {} on, {left} are there",
                self.at
            )
        })?;
        self.at += count;
        Ok(taken)
    }

    fn number(&mut self, what: &str) -> Walked<u64> {
        let rest = &self.bytes[self.at..];
        let decoded = VarInt::decode(rest);
        let (value, length) =
            decoded.ok_or_else(|| format!("the end inside {what} at byte {}", self.at))?;
        self.at += length;
        Ok(value.into_inner())
    }

    /// A varint with words that may depend on it.
    fn varint(&mut self, what: &str, words: impl FnOnce(u64) -> String) -> Walked<u64> {
        let from = self.at;
        let value = self.number(what)?;
        let least = VarInt::new(value).map_or(8, VarInt::encoded_len);
        let longer = match self.at - from {
            length if length > least => format!(" (in {length} bytes; {least} would do)"),
            _ => String::new(),
        };
        self.say(from, &format!("{what}: {}{longer}", words(value)));
        Ok(value)
    }

    fn length(&mut self, what: &str) -> Walked<usize> {
        let length = self.varint(what, |value| format!("{value} bytes"))?;
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn end(&self, length: usize, what: &str) -> Walked<usize> {
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len());
        end.ok_or_else(|| {
            let left = self.bytes.len() - self.at;
            format!("{what} announces {length} bytes, {left} are there")
        })
    }

    fn capsules(&mut self, end: usize, whole: bool) -> Walked<()> {
        let start = self.at;
        while self.at < end {
            self.capsule(end)?;
        }
        let judged = judge(Bytes::copy_from_slice(&self.bytes[start..end]), whole);
        judged.map(drop).map_err(|error| {
            let error = error.shifted(start);
            format!("{error}; answered with {}", error.code())
        })
    }

    fn capsule(&mut self, end: usize) -> Walked<()> {
        let ty = self.varint("capsule type", |ty| {
            let name = match ty {
                0 => "DATAGRAM",
                1 => "ADDRESS_ASSIGN",
                2 => "ADDRESS_REQUEST",
                3 => "ROUTE_ADVERTISEMENT",
                ty if ty >= 0x17 && (ty - 0x17) % 0x29 == 0 => "reserved: to be skipped",
                _ => "unknown: to be skipped",
            };
            format!("{ty:#x} {name}")
        })?;
        self.depth += 1;
        let length = self.length("length")?;
        let stop = self.end(length, "the capsule")?;
        if stop > end {
            return Err(format!(
                "the capsule goes on after byte {end}, where its frame ends"
            ));
        }
        match ty {
            0 => self.context(stop)?,
            1 | 2 => {
                while self.at < stop {
                    self.address_entry()?;
                }
            }
            3 => {
                while self.at < stop {
                    self.range()?;
                }
            }
            _ => self.rest(stop, "value"),
        }
        self.depth -= 1;
        if self.at != stop {
            return Err(format!(
                "the last entry ends at byte {}, the capsule at {stop}",
                self.at
            ));
        }
        Ok(())
    }

    fn rest(&mut self, end: usize, what: &str) {
        let from = self.at;
        self.at = end;
        if end > from {
            self.say(from, &format!("{what}: {} bytes", end - from));
        }
    }

    fn address_entry(&mut self) -> Walked<()> {
        self.varint("Request ID", |id| match id {
            0 => "0 (not asked for)".to_owned(),
            id => id.to_string(),
        })?;
        let address = self.address("address")?;
        let from = self.at;
        let length = self.take(1, "the prefix length")?[0];
        let refusal = address.is_unspecified() && usize::from(length) == bits(address);
        let meaning = if refusal { " (any, or refused)" } else { "" };
        self.say(from, &format!("prefix length: {address}/{length}{meaning}"));
        Ok(())
    }

    fn address(&mut self, what: &str) -> Walked<IpAddr> {
        let from = self.at;
        let version = self.take(1, "the IP version")?[0];
        self.say(from, &format!("IP version: {version}"));
        self.bare_address(version, what)
    }

    fn bare_address(&mut self, version: u8, what: &str) -> Walked<IpAddr> {
        let from = self.at;
        let address = match version {
            4 => {
                let bytes = self.take(4, what)?;
                <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok()
            }
            6 => {
                let bytes = self.take(16, what)?;
                <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok()
            }
            _ => None,
        };
        let address =
            address.ok_or_else(|| format!("IP version {version} at byte {}", from - 1))?;
        self.say(from, &format!("{what}: {address}"));
        Ok(address)
    }

    fn range(&mut self) -> Walked<()> {
        let from = self.at;
        let version = self.take(1, "the IP version")?[0];
        self.say(from, &format!("IP version: {version}"));
        self.bare_address(version, "start")?;
        self.bare_address(version, "end")?;
        let from = self.at;
        let protocol = self.take(1, "the protocol")?[0];
        let name = match protocol {
            0 => "any",
            1 => "ICMP",
            6 => "TCP",
            17 => "UDP",
            58 => "ICMPv6",
            _ => "see the registry",
        };
        self.say(from, &format!("IP protocol: {protocol} ({name})"));
        Ok(())
    }

    /// An HTTP Datagram payload: context and packet.
    fn context(&mut self, end: usize) -> Walked<()> {
        let context = self.varint("context ID", |id| match id {
            0 => "0 (an IP packet)".to_owned(),
            id => format!("{id} (unknown: to be dropped)"),
        })?;
        if self.at > end {
            return Err("the context ID goes on after the datagram".to_owned());
        }
        if context == 0 {
            self.ip(end);
        } else {
            self.rest(end, "payload");
        }
        Ok(())
    }

    fn ip(&mut self, end: usize) {
        let from = self.at;
        let packet = &self.bytes[from..end];
        self.at = end;
        let words = match PacketInfo::parse(packet) {
            Ok(info) => format!(
                "IP packet: {} > {} protocol {} hop limit {} {} bytes",
                info.source, info.destination, info.protocol, info.hop_limit, info.length
            ),
            Err(error) => format!("no IP packet ({error:?}): to be dropped"),
        };
        self.say(from, &words);
    }

    fn datagram(&mut self) -> Walked<()> {
        let stream = self.varint("quarter stream ID", |id| {
            format!("{id}: of request stream {}", id.saturating_mul(4))
        })?;
        if stream > (1 << 60) - 1 {
            return Err("a quarter stream ID above 2^60-1; answered with H3_DATAGRAM_ERROR".into());
        }
        self.context(self.bytes.len())
    }

    fn frames(&mut self) -> Walked<()> {
        while self.at < self.bytes.len() {
            self.frame()?;
        }
        Ok(())
    }

    fn frame(&mut self) -> Walked<()> {
        let ty = self.varint("frame type", |ty| {
            let name = match ty {
                0x00 => "DATA",
                0x01 => "HEADERS",
                0x03 => "CANCEL_PUSH",
                0x04 => "SETTINGS",
                0x05 => "PUSH_PROMISE",
                0x07 => "GOAWAY",
                0x0d => "MAX_PUSH_ID",
                0x02 | 0x06 | 0x08 | 0x09 => "of HTTP/2: not allowed",
                ty if ty >= 0x21 && (ty - 0x21) % 0x1f == 0 => "reserved: to be skipped",
                _ => "unknown: to be skipped",
            };
            format!("{ty:#x} {name}")
        })?;
        self.depth += 1;
        let length = self.length("length")?;
        let end = self.end(length, "the frame")?;
        match ty {
            0x00 => self.capsules(end, false)?,
            0x01 => self.fields(end)?,
            0x04 => self.settings(end)?,
            0x07 | 0x0d | 0x03 => {
                self.varint("ID", |id| id.to_string())?;
                if self.at != end {
                    return Err(format!(
                        "the ID ends at byte {}, the frame at {end}",
                        self.at
                    ));
                }
            }
            0x02 | 0x06 | 0x08 | 0x09 => {
                return Err("answered with H3_FRAME_UNEXPECTED".to_owned());
            }
            _ => self.rest(end, "payload"),
        }
        self.depth -= 1;
        Ok(())
    }

    fn settings(&mut self, end: usize) -> Walked<()> {
        let start = self.at;
        while self.at < end {
            let from = self.at;
            let id = self.number("a setting")?;
            let value = self.number("its value")?;
            let name = match id {
                0x01 => "QPACK_MAX_TABLE_CAPACITY",
                0x06 => "MAX_FIELD_SECTION_SIZE",
                0x07 => "QPACK_BLOCKED_STREAMS",
                0x08 => "ENABLE_CONNECT_PROTOCOL",
                0x33 => "H3_DATAGRAM",
                0x00 | 0x02..=0x05 => "of HTTP/2: not allowed",
                id if id >= 0x21 && (id - 0x21) % 0x1f == 0 => "reserved: to be ignored",
                _ => "unknown: to be ignored",
            };
            self.say(from, &format!("{name} ({id:#x}) = {value}"));
        }
        match Settings::decode(&self.bytes[start..end.max(start)]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = error.shifted(start);
                Err(format!("{error}; answered with {}", error.code()))
            }
        }
    }

    /// A field section up to `end`. A line of it ends where one more field is understood.
    fn fields(&mut self, end: usize) -> Walked<()> {
        let section = &self.bytes[self.at..end];
        let start = self.at;
        let (mut known, mut said) = (0, 0);
        for length in 1..=section.len() {
            let Ok(fields) = qpack::decode(&section[..length], MAX_FIELDS) else {
                continue;
            };
            self.at = start + length;
            match fields.0.get(known) {
                Some(field) => {
                    let name = String::from_utf8_lossy(&field.name);
                    let value = String::from_utf8_lossy(&field.value);
                    let words = format!("field {name}: {}", value.escape_debug());
                    self.say(start + said, &words);
                }
                None => self.say(start, "prefix: Required Insert Count 0, Base 0"),
            }
            (known, said) = (fields.0.len(), length);
        }
        self.at = end;
        match qpack::decode(section, MAX_FIELDS) {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = error.shifted(start);
                Err(format!("{error}; answered with {}", error.code()))
            }
        }
    }

    fn stream(&mut self) -> Walked<()> {
        let ty = self.varint("stream type", |ty| {
            let ty = VarInt::new(ty).map(UniStreamType::from_varint);
            ty.map_or(String::new(), |ty| format!("{ty:?}"))
        })?;
        match ty {
            0 => self.frames(),
            _ => {
                self.rest(self.bytes.len(), "instructions");
                Ok(())
            }
        }
    }

    fn packet(&mut self) -> Walked<()> {
        for packet in super::quic::read(self.bytes)? {
            (self.at, self.depth) = (packet.end, 0);
            self.say(packet.start, &packet.words());
            self.depth = 1;
            for frame in &packet.frames {
                self.at = frame.end;
                self.say(frame.start, &frame.words());
                if let Some((from, stream)) = frame.stream_data() {
                    self.contents(from, frame.end, stream);
                }
                if let Some(from) = frame.datagram_data() {
                    self.inner(from, frame.end, Kind::Datagram);
                }
            }
        }
        self.at = self.bytes.len();
        Ok(())
    }

    /// What a STREAM frame carries: from the start of a stream it can be understood.
    fn contents(&mut self, from: usize, end: usize, stream: StreamId) {
        let kind = if stream.is_request() {
            Kind::Frame
        } else {
            Kind::Stream
        };
        self.inner(from, end, kind);
    }

    fn inner(&mut self, from: usize, end: usize, kind: Kind) {
        let mut walk = Walk {
            bytes: &self.bytes[..end],
            at: from,
            depth: self.depth + 1,
            out: String::new(),
        };
        let result = match kind {
            Kind::Frame => walk.frames(),
            Kind::Stream => walk.stream(),
            _ => walk.datagram(),
        };
        self.out.push_str(&walk.out);
        if let Err(wrong) = result {
            let _ = writeln!(
                self.out,
                "{:>6}  (not understood on its own: {wrong})",
                walk.at
            );
        }
    }
}

fn bits(address: IpAddr) -> usize {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests;
