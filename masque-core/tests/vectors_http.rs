//! The shared test vectors (`testdata/vectors.json`) of the HTTP/3 part of the wire layer.
//!
//! A valid vector decodes to what it says, and again after being encoded; an invalid one gives the
//! error code and scope it names. However the bytes are split, the result is the same.

use std::fmt::Debug;
use std::iter;

use bytes::Bytes;
use masque_core::wire::fields::{
    FieldList, RequestHead, RequestKind, ResponseHead, capsule_protocol_value,
};
use masque_core::wire::frame::{FrameDecoder, FrameEvent, FrameType};
use masque_core::wire::qpack::{self, DecoderStream, EncoderStream, huffman, prefix_int};
use masque_core::wire::settings::Settings;
use masque_core::wire::stream::UniStreamType;
use masque_core::wire::varint::VarInt;
use masque_core::{ErrorScope, WireError, WireErrorKind};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use serde_json::Value;

const MAX: usize = 16 << 10;

/// Streams whose frames are well formed; that they may not come there, or then, is the session's to
/// notice.
const LEFT_TO_THE_SESSION: &[&str] = &[
    "h3-control-bad-goaway-first",
    "h3-control-bad-grease-first",
    "h3-control-bad-second-settings",
    "h3-control-bad-data",
    "h3-control-bad-headers",
    "h3-control-bad-goaway-increase",
    "h3-control-bad-goaway-stream1",
    "h3-frame-bad-h2-02-control",
    "h3-frame-bad-h2-06-control",
    "h3-frame-bad-h2-08-control",
    "h3-frame-bad-h2-09-control",
    "h3-uni-bad-client-push",
    "h3-uni-bad-push",
    "h3-frame-bad-h2-02-request",
    "h3-frame-bad-h2-06-request",
    "h3-frame-bad-h2-08-request",
    "h3-frame-bad-h2-09-request",
    "h3-stream-data-first",
    "h3-stream-settings",
    "h3-stream-goaway",
    "h3-stream-max-push-id",
    "h3-stream-cancel-push",
    "h3-stream-trailers-after-connect",
    "h3-stream-empty-fin",
];

/// One vector.
#[derive(Clone)]
struct Vector {
    name: String,
    bytes: Vec<u8>,
    valid: bool,
    json: Value,
}

impl Vector {
    /// The vectors of one kind, to be run: there are some, and their number is printed.
    fn all(kind: &str) -> Vec<Self> {
        let vectors = Self::load(kind);
        println!("{} vectors of kind {kind}", vectors.len());
        vectors
    }

    /// The vectors of one kind; there are some.
    fn load(kind: &str) -> Vec<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors.json");
        let text = std::fs::read_to_string(path).expect("the vectors are part of the repository");
        let json: Vec<Value> = serde_json::from_str(&text).expect("the vectors are JSON");
        let vectors: Vec<_> = json
            .into_iter()
            .filter(|json| json["kind"] == kind)
            .map(|json| Self {
                name: string(&json["name"]),
                bytes: unhex(&string(&json["hex"])),
                valid: json["valid"].as_bool().expect("`valid` is a Boolean"),
                json,
            })
            .collect();
        assert!(!vectors.is_empty(), "no vectors of kind {kind}");
        vectors
    }

    fn decoded(&self) -> &Value {
        &self.json["decoded"]
    }

    /// The lines that `decoded` lists.
    fn fields(&self) -> FieldList {
        let mut fields = FieldList::default();
        for line in self.decoded().as_array().expect("a list of lines") {
            fields.push(string(&line[0]), string(&line[1]));
        }
        fields
    }

    /// Fails unless `result` is the error that the vector names.
    fn expect<T: Debug>(&self, result: Result<T, WireErrorKind>) {
        let kind = match result {
            Err(kind) => kind,
            Ok(value) => panic!("{}: taken as {value:?}", self.name),
        };
        let error = &self.json["error"];
        let scope = match string(&error["scope"]).as_str() {
            "stream" => ErrorScope::Stream,
            "connection" => ErrorScope::Connection,
            other => panic!("{}: scope {other}", self.name),
        };
        assert_eq!(kind.scope(), scope, "{}", self.name);
        assert_eq!(
            format!("{:#x}", kind.code().0),
            string(&error["code_hex"]),
            "{}",
            self.name
        );
    }
}

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}

fn kind_of<T>(result: Result<T, WireError>, given: usize) -> Result<T, WireErrorKind> {
    result.map_err(|error| {
        assert!(error.offset <= given, "{error:?} after {given} bytes");
        error.kind
    })
}

/// `bytes` whole, cut once at every place, and byte by byte.
fn splits(bytes: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    (0..=bytes.len())
        .map(|at| vec![&bytes[..at], &bytes[at..]])
        .chain([vec![bytes], bytes.chunks(1).collect()])
}

/// The events of a stream of frames, neighbouring DATA joined, up to the first error, which `fin`
/// may bring.
fn frames(pieces: &[&[u8]], fin: bool) -> (Vec<FrameEvent>, Result<(), WireErrorKind>) {
    let given = pieces.iter().map(|piece| piece.len()).sum();
    let mut decoder = FrameDecoder::new(MAX);
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            let event = match kind_of(decoder.decode(&mut input), given) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(kind) => return (events, Err(kind)),
            };
            match (events.last_mut(), event) {
                (Some(FrameEvent::Data(before)), FrameEvent::Data(piece)) => {
                    *before = [&before[..], &piece[..]].concat().into();
                }
                (_, event) => events.push(event),
            }
        }
    }
    let end = if fin {
        kind_of(decoder.finish(), given)
    } else {
        Ok(())
    };
    (events, end)
}

/// As [`frames`], once all splits were seen to give the same.
fn frames_of(name: &str, bytes: &[u8], fin: bool) -> (Vec<FrameEvent>, Result<(), WireErrorKind>) {
    let whole = frames(&[bytes], fin);
    for pieces in splits(bytes) {
        assert_eq!(frames(&pieces, fin), whole, "{name} in {pieces:?}");
    }
    whole
}

fn header(ty: FrameType, length: u64) -> FrameEvent {
    FrameEvent::Header { ty, length }
}

fn unknown(ty: u32) -> FrameType {
    FrameType::Unknown(VarInt::from_u32(ty))
}

fn server_settings() -> Settings {
    Settings {
        enable_connect_protocol: true,
        h3_datagram: true,
        ..Settings::default()
    }
}

#[test]
fn varints() {
    for vector in Vector::all("varint") {
        let decoded = VarInt::decode(&vector.bytes);
        if !vector.valid {
            // 9000-16-04
            assert_eq!(vector.json["error"]["scope"], "need-more");
            assert_eq!(decoded, None, "{}", vector.name);
            continue;
        }
        let value = vector.decoded().as_u64().and_then(VarInt::new);
        let value = value.expect("an integer of 62 bits");
        assert_eq!(
            decoded,
            Some((value, vector.bytes.len())),
            "{}",
            vector.name
        );
        for cut in 0..vector.bytes.len() {
            assert_eq!(
                VarInt::decode(&vector.bytes[..cut]),
                None,
                "{}",
                vector.name
            );
        }
        let mut again = Vec::new();
        value.encode(&mut again);
        assert_eq!(VarInt::decode(&again), Some((value, again.len())));
        if !vector.name.contains("nonminimal") {
            assert_eq!(again, vector.bytes, "{}", vector.name);
        }
    }
}

#[test]
fn prefixed_integers() {
    for vector in Vector::all("prefixed-int") {
        let given = vector.bytes.len();
        if !vector.valid {
            // 9204-7.4-01; the vector's scope is "policy": what it closes depends on the stream.
            let prefix = prefix_int::Prefix::new(7).expect("7 bits");
            let kind =
                kind_of(prefix_int::decode(prefix, &vector.bytes), given).expect_err(&vector.name);
            assert_eq!(
                format!("{:#x}", kind.code().0),
                string(&vector.json["error"]["code_hex"])
            );
            continue;
        }
        let number = |name: &str| vector.decoded()[name].as_u64().expect("a number");
        let bits = number("prefix_bits") as u8;
        let prefix = prefix_int::Prefix::new(bits).expect("1 to 8 bits");
        let value = VarInt::new(number("value")).expect("62 bits");
        assert_eq!(
            prefix_int::decode(prefix, &vector.bytes),
            Ok(Some((value, given))),
            "{}",
            vector.name
        );
        for cut in 0..given {
            assert_eq!(prefix_int::decode(prefix, &vector.bytes[..cut]), Ok(None));
        }
        let mut again = Vec::new();
        prefix_int::encode(0, prefix, value, &mut again);
        assert_eq!(again, vector.bytes, "{}", vector.name);
    }
}

#[test]
fn huffman_strings() {
    for vector in Vector::all("huffman") {
        assert!(vector.valid, "{}", vector.name);
        let text = string(vector.decoded()).into_bytes();
        let mut coded = Vec::new();
        huffman::encode(&text, &mut coded);
        assert_eq!(coded, vector.bytes, "{}", vector.name);
        assert_eq!(huffman::decode(&vector.bytes), Ok(text), "{}", vector.name);
    }
}

#[test]
fn field_sections() {
    for vector in Vector::all("qpack-field-section") {
        let name = &vector.name;
        let decoded = kind_of(qpack::decode(&vector.bytes, MAX), vector.bytes.len());
        if vector.decoded().is_null() {
            vector.expect(decoded);
            continue;
        }
        let fields = vector.fields();
        assert_eq!(decoded.as_ref(), Ok(&fields), "{name}");
        let mut again = Vec::new();
        qpack::encode(&fields, &mut again);
        assert_eq!(qpack::decode(&again, MAX).as_ref(), Ok(&fields), "{name}");
        if name == "qpack-req-lsqpack" {
            assert_eq!(
                again, vector.bytes,
                "the same choices as an independent encoder"
            );
        }
        judge(&vector, fields);
    }
}

/// What the decoded fields mean as a message.
fn judge(vector: &Vector, fields: FieldList) {
    let name = &vector.name;
    let request = RequestHead::parse(fields.clone());
    let response = ResponseHead::parse(fields.clone());
    match vector.json["receiver"].as_str() {
        Some("server") if vector.json["error"]["scope"] == "status" => {
            // 9220-3-02
            let kind = request.map(|head| head.kind);
            let protocol = RequestKind::ExtendedConnect("websocket".into());
            assert_eq!(kind, Ok(protocol), "{name}");
        }
        Some("server") => vector.expect(request),
        Some("client") => vector.expect(response),
        _ if name.starts_with("qpack-req-") => {
            let head = request.expect(name);
            assert!(
                matches!(head.kind, RequestKind::ExtendedConnect(_)),
                "{name}"
            );
            assert!(head.capsule_protocol, "{name}");
            assert_eq!(head.to_fields(), fields, "{name}");
            assert_eq!(response, Err(WireErrorKind::PseudoHeader), "{name}");
        }
        _ if fields == FieldList::default() => {
            assert_eq!(request, Err(WireErrorKind::PseudoHeader), "{name}");
            assert_eq!(response, Err(WireErrorKind::PseudoHeader), "{name}");
        }
        _ => {
            let head = response.expect(name);
            assert_eq!(
                head.status.to_string().as_bytes(),
                fields.0[0].value,
                "{name}"
            );
            assert_eq!(head.to_fields(), fields, "{name}");
            assert_eq!(request, Err(WireErrorKind::PseudoHeader), "{name}");
        }
    }
}

#[test]
fn qpack_encoder_streams() {
    for vector in Vector::all("qpack-encoder-stream") {
        qpack_stream(&vector, UniStreamType::QpackEncoder, || {
            let mut stream = EncoderStream::default();
            move |input| stream.feed(input)
        });
    }
}

#[test]
fn qpack_decoder_streams() {
    for vector in Vector::all("qpack-decoder-stream") {
        qpack_stream(&vector, UniStreamType::QpackDecoder, || {
            let mut stream = DecoderStream::default();
            move |input| stream.feed(input)
        });
    }
}

fn qpack_stream<F>(vector: &Vector, ty: UniStreamType, open: impl Fn() -> F)
where
    F: FnMut(&mut Bytes) -> Result<(), WireError>,
{
    let (found, length) = VarInt::decode(&vector.bytes).expect("a stream type");
    assert_eq!(UniStreamType::from_varint(found), ty, "{}", vector.name);
    let instructions = &vector.bytes[length..];
    for pieces in splits(instructions) {
        let mut feed = open();
        let result = pieces
            .iter()
            .try_for_each(|piece| feed(&mut Bytes::copy_from_slice(piece)));
        let result = kind_of(result, instructions.len());
        if vector.valid {
            assert_eq!(result, Ok(()), "{}", vector.name);
        } else {
            vector.expect(result);
        }
    }
}

#[test]
fn settings_frames() {
    for vector in Vector::all("settings-frame") {
        let (events, end) = frames_of(&vector.name, &vector.bytes, true);
        assert!(
            matches!(
                events.first(),
                Some(FrameEvent::Header {
                    ty: FrameType::Settings,
                    ..
                })
            ),
            "{}",
            vector.name
        );
        if !vector.valid {
            vector.expect(end);
            continue;
        }
        assert_eq!(end, Ok(()), "{}", vector.name);
        let mut expected = Settings::default();
        for entry in vector.decoded().as_array().expect("a list") {
            let number = |place: usize| entry[place].as_u64().expect("a number");
            match (number(0), number(1)) {
                (0x01, value) => expected.qpack_max_table_capacity = value,
                (0x06, value) => expected.max_field_section_size = Some(value),
                (0x07, value) => expected.qpack_blocked_streams = value,
                (0x08, value) => expected.enable_connect_protocol = value == 1,
                (0x33, value) => expected.h3_datagram = value == 1,
                (id, value) => {
                    let varint = |number| VarInt::new(number).expect("62 bits");
                    expected.unknown.push((varint(id), varint(value)));
                }
            }
        }
        let mut again = Vec::new();
        expected.encode_frame(&mut again);
        let expected = FrameEvent::Settings(expected);
        assert_eq!(
            events[1..],
            iter::once(expected.clone()).collect::<Vec<_>>()
        );
        let (events, end) = frames(&[&again], true);
        assert_eq!((events.last(), end), (Some(&expected), Ok(())));
        if !["settings-nonminimal", "settings-qpack-zero"].contains(&vector.name.as_str()) {
            assert_eq!(again, vector.bytes, "{}", vector.name);
        }
    }
}

#[test]
fn capsule_protocol_values() {
    for vector in Vector::all("capsule-protocol-value") {
        assert!(vector.valid, "{}", vector.name);
        let decoded = vector.decoded();
        assert_eq!(vector.bytes, string(&decoded["text"]).into_bytes());
        let meaning = string(&decoded["meaning"]) == "true";
        assert_eq!(
            capsule_protocol_value(&vector.bytes),
            meaning,
            "{}",
            vector.name
        );
    }
}

#[test]
fn unidirectional_streams() {
    for vector in Vector::all("h3-uni-stream") {
        let name = &vector.name;
        let (ty, length) = VarInt::decode(&vector.bytes).expect("a stream type");
        let payload = &vector.bytes[length..];
        match UniStreamType::from_varint(ty) {
            UniStreamType::Control => {
                let (events, end) = frames_of(name, payload, false);
                if vector.valid {
                    assert_eq!(end, Ok(()), "{name}");
                    assert_eq!(events, control_stream(name), "{name}");
                } else {
                    frames_or_session(&vector, end);
                }
            }
            UniStreamType::Push => assert!(LEFT_TO_THE_SESSION.contains(&name.as_str()), "{name}"),
            UniStreamType::Unknown(ty) => {
                assert_eq!(name, "h3-uni-grease");
                assert_eq!(ty, VarInt::from_u32(0x21));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// The frames of a valid control stream.
fn control_stream(name: &str) -> Vec<FrameEvent> {
    let mut events = vec![
        header(FrameType::Settings, 4),
        FrameEvent::Settings(server_settings()),
    ];
    match name {
        "h3-control-server" | "h3-control-type-nonminimal" => {}
        "h3-control-grease-frame" => events.extend([
            header(unknown(0x21), 2),
            header(FrameType::GoAway, 8),
            FrameEvent::GoAway(VarInt::saturating((1 << 62) - 4)),
        ]),
        _ => panic!("{name}: not known to this test"),
    }
    events
}

#[test]
fn request_streams() {
    let section = |name: &str| {
        Vector::load("qpack-field-section")
            .into_iter()
            .find(|vector| vector.name == name)
            .map(|vector| Bytes::from(vector.bytes))
            .expect(name)
    };
    let request = section("qpack-req-static-literal");
    let response = section("qpack-resp-200-literal");
    let headers = |section: &Bytes| {
        [
            header(FrameType::Headers, section.len() as u64),
            FrameEvent::Headers(section.clone()),
        ]
    };

    for vector in Vector::all("h3-request-stream") {
        let name = vector.name.as_str();
        let fin = vector.json["fin"].as_bool().unwrap_or(false);
        let (events, end) = frames_of(name, &vector.bytes, fin);
        if !vector.valid {
            frames_or_session(&vector, end);
            continue;
        }
        assert_eq!(end, Ok(()), "{name}");
        let expected = match name {
            "h3-stream-request" => headers(&request).to_vec(),
            "h3-stream-response" => headers(&response).to_vec(),
            "h3-data-capsules" => {
                let mut expected = headers(&response).to_vec();
                expected.extend([
                    header(FrameType::Data, 7),
                    FrameEvent::Data(unhex("01070104c00002").into()),
                    header(unknown(0x21), 2),
                    header(FrameType::Data, 14),
                    FrameEvent::Data(unhex("0b20030a0400000000ffffffff00").into()),
                ]);
                expected
            }
            _ => panic!("{name}: not known to this test"),
        };
        assert_eq!(events, expected, "{name}");
    }
}

/// An invalid stream: either its frames are wrong as the vector says, or they are right and the
/// session refuses them.
fn frames_or_session(vector: &Vector, end: Result<(), WireErrorKind>) {
    if LEFT_TO_THE_SESSION.contains(&vector.name.as_str()) {
        assert_eq!(end, Ok(()), "{}", vector.name);
    } else {
        vector.expect(end);
    }
}

#[test]
fn what_is_left_to_the_session_exists() {
    let vectors = [
        Vector::load("h3-uni-stream"),
        Vector::load("h3-request-stream"),
    ]
    .concat();
    for name in LEFT_TO_THE_SESSION {
        assert!(
            vectors
                .iter()
                .any(|vector| vector.name == *name && !vector.valid),
            "{name}"
        );
    }
    println!("{} left to the session", LEFT_TO_THE_SESSION.len());
}

/// Every stream of frames among the vectors that has any, without the type of the stream.
fn frame_streams() -> Vec<Vec<u8>> {
    let control = Vector::load("h3-uni-stream")
        .into_iter()
        .filter_map(|vector| {
            let (ty, length) = VarInt::decode(&vector.bytes)?;
            (ty == VarInt::default()).then(|| vector.bytes[length..].to_vec())
        });
    let whole = ["settings-frame", "h3-request-stream"]
        .into_iter()
        .flat_map(Vector::load)
        .map(|vector| vector.bytes);
    control
        .chain(whole)
        .filter(|stream| !stream.is_empty())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        // An integration test has no `lib.rs` above it to keep its failures beside.
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn streams_of_frames_mean_the_same_in_any_pieces(
        stream in prop::sample::select(frame_streams()),
        mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        fin: bool,
    ) {
        let mut cuts: Vec<_> = cuts.drain(..).map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
        prop_assert_eq!(frames(&pieces, fin), frames(&[&stream], fin));
    }

    #[test]
    fn damaged_streams_of_frames_mean_the_same_in_any_pieces(
        mut stream in prop::sample::select(frame_streams()),
        at: prop::sample::Index,
        byte: u8,
        size in 1usize..20,
    ) {
        let at = at.index(stream.len());
        stream[at] = byte;
        let pieces: Vec<_> = stream.chunks(size).collect();
        prop_assert_eq!(frames(&pieces, true), frames(&[&stream], true));
    }
}
