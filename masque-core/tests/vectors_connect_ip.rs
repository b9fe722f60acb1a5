//! The vectors of CONNECT-IP proper: capsules, HTTP Datagrams, URI templates and their values.

use std::collections::BTreeMap;

use bytes::Bytes;
use masque_core::wire::capsule::{
    AddressEntry, Capsule, CapsuleDecoder, CapsuleEvent, CapsuleLimits,
};
use masque_core::wire::datagram::{self, DatagramHeader};
use masque_core::wire::prefix::AddressRange;
use masque_core::wire::scope::Scope;
use masque_core::wire::template::{UriTemplate, Wildcard};
use masque_core::{ErrorScope, WireError, WireErrorKind};
use serde_json::Value;

/// Judged by the session: what one capsule or datagram alone does not show.
const COVERED_BY_SESSION: &[&str] = &["capsule-bad-ar-reused-id", "dgram-unknown-context"];

/// Judged by the IP layer: the HTTP Datagram is sound, the packet in it is not.
const COVERED_BY_IP: &[&str] = &[
    "dgram-empty-ip",
    "dgram-bad-ip-version0",
    "dgram-bad-ip-version5",
    "dgram-bad-ip-short4",
    "dgram-bad-ip-short6",
    "dgram-bad-ip-ihl4",
    "dgram-bad-ip-totlen-long",
    "dgram-bad-ip-checksum4",
    "dgram-bad-ip-plen6-long",
];

/// Of extensions that are not implemented: to this crate their capsules are of unknown type and
/// skipped, whether sound or not (9297-3.2-02).
const UNKNOWN_TYPES: &[(u64, &str)] = &[
    (0x11, "COMPRESSION_ASSIGN"),
    (0x12, "COMPRESSION_ACK"),
    (0x13, "COMPRESSION_CLOSE"),
    (0x1ace_79ec, "DNS_ASSIGN"),
    (0x274c_0fbc, "PREF64"),
    (0x3ee3_143f, "TEMPLATE_ASSIGN"),
    (0x3ee3_1442, "DERIVED_ASSIGN"),
    (0x3ee3_1445, "CHECKSUM_ASSIGN"),
];

/// Not in scope: the variables of CONNECT-UDP, `target_host` and `target_port`, are refused.
const CONNECT_UDP: &[&str] = &["uri-udp-default"];

/// The template the `uri-bad-*` paths are meant for.
const DEFAULT_TEMPLATE: &str = "https://example.org/.well-known/masque/ip/{target}/{ipproto}/";

// 9484-2-01, 9484-12.4-01, 9484-4.7.1-01, 9484-4.7.1-05, 9484-4.7.1-06, 9484-4.7.1-07,
// 9484-4.7.1-08, 9484-4.7.2-01, 9484-4.7.2-02, 9484-4.7.2-03, 9484-4.7.2-04, 9484-4.7.2-05,
// 9484-4.7.3-01, 9484-4.7.3-02, 9484-4.7.3-03, 9484-4.7.3-06, 9484-4.7.3-07, 9484-4.7.3-08,
// 9484-4.7.3-09, 9484-4.7.3-10, 9297-3.2-01, 9297-3.3-01, 9297-3.3-02, 9297-3.5-01, 9000-16-02
#[test]
fn every_capsule_decodes_as_stated_or_gives_the_stated_error() {
    let mut counts = BTreeMap::<&str, usize>::new();
    for vector in of_kind("capsule") {
        let name = &vector.name;
        let (events, end) = decode([&vector.bytes[..]]);
        let class = match (&events[..], end) {
            // Whether the value is sound is no matter: it is not looked at.
            ([event @ CapsuleEvent::Unknown { ty, length }], Ok(())) => {
                let known = |(known, _): &(u64, &str)| *known == ty.into_inner();
                assert!(UNKNOWN_TYPES.iter().any(known), "{name}");
                let header = ty.encoded_len() + length.encoded_len();
                assert_eq!(length.into_inner() as usize, vector.bytes.len() - header);
                if vector.is_valid() {
                    check_event(name, event, vector.decoded());
                }
                "skipped"
            }
            ([event], Ok(())) => {
                assert!(vector.is_valid(), "{name} was accepted");
                check_event(name, event, vector.decoded());
                check_encoding(&vector, &events);
                "decoded"
            }
            ([], Err(error)) => {
                assert!(!vector.is_valid(), "{name}: {error}");
                vector.check_error(error.kind);
                "refused"
            }
            other => panic!("{name}: {other:?}"),
        };
        *counts.entry(class).or_default() += 1;
    }
    println!("{counts:?}");
    assert_eq!(counts.len(), 3, "{counts:?}");
}

// 9297-3.2-02, 9297-3.2-09, 9297-3.3-03, 9297-3.5-03, 9297-5.4-01
#[test]
fn every_capsule_stream_decodes_as_stated_or_gives_the_stated_error() {
    for vector in of_kind("capsule-stream") {
        let name = &vector.name;
        let (events, end) = decode([&vector.bytes[..]]);
        if vector.is_one_of(COVERED_BY_SESSION) {
            assert_eq!((events.len(), end), (2, Ok(())), "{name}");
        } else if vector.is_valid() {
            assert_eq!(end, Ok(()), "{name}");
            let expected = vector.decoded().as_array().unwrap();
            assert_eq!(events.len(), expected.len(), "{name}");
            for (event, expected) in events.iter().zip(expected) {
                check_event(name, event, expected);
            }
            assert!(vector.bytes.ends_with(&encode(&events)), "{name}");
        } else if vector.error_scope() == "drop" {
            // Only the header is there: what it announces is skipped without an error.
            let [CapsuleEvent::Unknown { .. } | CapsuleEvent::DatagramTooLarge { .. }] = events[..]
            else {
                panic!("{name}: {events:?}");
            };
        } else {
            let error = end.unwrap_err();
            vector.check_error(error.kind);
            let ended = vector.json["fin"].as_bool() == Some(true);
            let kind = match ended {
                true => WireErrorKind::CapsuleTruncated,
                false => WireErrorKind::CapsuleTooLarge,
            };
            assert_eq!(error.kind, kind, "{name}");
            assert!(error.offset <= vector.bytes.len(), "{name}");
        }
    }
}

// 9297-3.1-01, 9000-16-04
#[test]
fn no_split_of_a_capsule_vector_changes_its_outcome() {
    let mut splits = 0;
    for vector in [of_kind("capsule"), of_kind("capsule-stream")].concat() {
        let name = &vector.name;
        let bytes = &vector.bytes[..];
        let whole = decode([bytes]);
        assert_eq!(decode(bytes.chunks(1)), whole, "{name} byte by byte");
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(decode(pieces), whole, "{name} at {first} and {second}");
                splits += 1;
            }
        }
    }
    println!("{splits} splits");
}

// 9297-2.1-01, 9297-2.1-02, 9297-2.1-03, 9297-2.1-04, 9484-6-01
#[test]
fn every_datagram_opens_as_stated_or_gives_the_stated_error() {
    for vector in of_kind("http3-datagram") {
        let name = &vector.name;
        let opened = datagram::open(&vector.bytes);
        if vector.is_valid() {
            check_datagram(&vector);
        } else if vector.error_scope() == "drop" {
            let (_, at) = opened.unwrap();
            match datagram::open_context(&vector.bytes[at..]) {
                None => assert!(name == "dgram-no-context" || name == "dgram-half-context"),
                Some((datagram::ContextId::IP_PACKET, _)) => {
                    assert!(vector.is_one_of(COVERED_BY_IP), "{name}");
                }
                Some(_) => assert!(vector.is_one_of(COVERED_BY_SESSION), "{name}"),
            }
        } else {
            vector.check_error(opened.unwrap_err().kind);
        }
    }
}

// 9484-4-01, 9484-4.1-01, 9484-4.1-02, 9484-4.6-01, 9484-4.6-02, 9484-4.6-03, 9484-4.6-04,
// 9484-4.6-05, 9484-4.6-06, 9484-4.6-07, 9484-3-05, 9484-3-06
#[test]
fn every_uri_expands_and_matches_as_stated_or_is_malformed() {
    for vector in of_kind("uri") {
        let name = &vector.name;
        let decoded = vector.decoded();
        let path = decoded["path"].as_str().unwrap();
        assert_eq!(path.as_bytes(), vector.bytes, "{name}");
        let text = decoded["template"].as_str().unwrap_or(DEFAULT_TEMPLATE);
        if vector.is_one_of(CONNECT_UDP) {
            assert!(UriTemplate::parse(text).is_err(), "{name}");
            continue;
        }
        let template = UriTemplate::parse(text).unwrap();
        let values = template.match_path(path);
        if vector.is_valid() {
            let variable = |name: &str| decoded["vars"][name].as_str();
            let (target, ipproto) = (variable("target"), variable("ipproto"));
            let wildcard = match path.contains('*') {
                true => Wildcard::Bare,
                false => Wildcard::Encoded,
            };
            assert_eq!(template.expand(target, ipproto, wildcard), path, "{name}");
            let expected = (target.map(String::from), ipproto.map(String::from));
            assert_eq!(values, Ok(Some(expected)), "{name}");
            let scope = Scope::parse(target, ipproto).unwrap();
            assert_eq!(scope.target_value(), target.unwrap_or("*"), "{name}");
            assert_eq!(scope.ipproto_value(), ipproto.unwrap_or("*"), "{name}");
        } else {
            let scope = values.and_then(|values| {
                let (target, ipproto) = values.expect("the path matches the template");
                Scope::parse(target.as_deref(), ipproto.as_deref())
            });
            assert_eq!(scope, Err(WireErrorKind::ScopeMalformed), "{name}");
            vector.check_error(WireErrorKind::ScopeMalformed);
        }
    }
}

// 9484-3-01, 9484-3-02, 9484-3-03, 9484-3-04, 9484-3-07, 9484-3-08, 9484-3-09, 9484-3-10, 6570-3-01
#[test]
fn every_bad_template_is_refused() {
    for vector in of_kind("uri-template") {
        let name = &vector.name;
        let text = vector.decoded()["template"].as_str().unwrap();
        assert_eq!(text.as_bytes(), vector.bytes, "{name}");
        let parsed = UriTemplate::parse(text);
        assert_eq!(parsed.is_ok(), vector.is_valid(), "{name}: {parsed:?}");
    }
}

#[test]
fn what_is_left_to_others_exists() {
    let names: Vec<_> = all().into_iter().map(|vector| vector.name).collect();
    for name in [COVERED_BY_SESSION, COVERED_BY_IP, CONNECT_UDP].concat() {
        assert!(names.iter().any(|existing| existing == name), "{name}");
    }
}

/// All events, and how the stream ends if it ends after the last piece.
type Outcome = (Vec<CapsuleEvent>, Result<(), WireError>);

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = CapsuleDecoder::new(CapsuleLimits::default());
    let mut events = Vec::new();
    for piece in pieces {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, decoder.finish())
}

fn encode(events: &[CapsuleEvent]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if let CapsuleEvent::Capsule(capsule) = event {
            capsule.encode(&mut bytes);
        }
    }
    bytes
}

fn check_event(name: &str, event: &CapsuleEvent, expected: &Value) {
    let of_type = |name: &str| expected["type"] == name;
    match event {
        CapsuleEvent::Unknown { ty, .. } => {
            let skipped = expected["skipped_type"].as_u64();
            let of_extension = UNKNOWN_TYPES.iter().find(|(_, name)| of_type(name));
            let expected = skipped.or(of_extension.map(|(ty, _)| *ty));
            assert_eq!(Some(ty.into_inner()), expected, "{name}");
        }
        CapsuleEvent::Capsule(Capsule::Datagram(value)) => {
            assert!(of_type("DATAGRAM"), "{name}");
            let (context, at) = datagram::open_context(value).unzip();
            let context = context.map(|context| context.0.into_inner());
            assert_eq!(context, expected["context_id"].as_u64(), "{name}");
            assert_eq!(value[at.unwrap_or(0)..], payload(expected), "{name}");
        }
        CapsuleEvent::Capsule(Capsule::AddressAssign(assign)) => {
            assert!(of_type("ADDRESS_ASSIGN"), "{name}");
            assert_eq!(entries(&assign.0), expected["entries"], "{name}");
        }
        CapsuleEvent::Capsule(Capsule::AddressRequest(request)) => {
            assert!(of_type("ADDRESS_REQUEST"), "{name}");
            assert_eq!(entries(request.entries()), expected["entries"], "{name}");
        }
        CapsuleEvent::Capsule(Capsule::RouteAdvertisement(routes)) => {
            assert!(of_type("ROUTE_ADVERTISEMENT"), "{name}");
            assert_eq!(ranges(routes.ranges()), expected["ranges"], "{name}");
        }
        CapsuleEvent::DatagramTooLarge { .. } => panic!("{name}: {event:?}"),
    }
}

/// The shortest encoding is the vector itself unless the vector is longer than need be.
fn check_encoding(vector: &Vector, events: &[CapsuleEvent]) {
    let bytes = encode(events);
    if vector.name.contains("nonminimal") {
        assert!(bytes.len() < vector.bytes.len(), "{}", vector.name);
        assert_eq!(decode([&bytes[..]]), (events.to_vec(), Ok(())));
    } else {
        assert_eq!(bytes, vector.bytes, "{}", vector.name);
    }
}

fn check_datagram(vector: &Vector) {
    let name = &vector.name;
    let decoded = vector.decoded();
    let (stream, at) = datagram::open(&vector.bytes).unwrap();
    let quarter = decoded["quarter_stream_id"].as_u64().unwrap();
    let id = decoded["stream_id"].as_u64().unwrap_or(quarter * 4);
    assert_eq!(stream.into_inner(), id, "{name}");
    assert_eq!(quarter, id / 4, "{name}");
    let (context, len) = datagram::open_context(&vector.bytes[at..]).unwrap();
    assert_eq!(Some(context.0.into_inner()), decoded["context_id"].as_u64());
    let packet = payload(decoded);
    assert_eq!(vector.bytes[at + len..], packet, "{name}");
    let again = [DatagramHeader::ip_packet(stream).as_slice(), &packet].concat();
    if name.contains("nonminimal") {
        assert!(again.len() < vector.bytes.len());
        assert_eq!(datagram::open(&again).unwrap().0, stream);
    } else {
        assert_eq!(again, vector.bytes, "{name}");
    }
}

fn entries(entries: &[AddressEntry]) -> Value {
    let entry = |entry: &AddressEntry| {
        serde_json::json!({
            "request_id": entry.request_id.0.into_inner(),
            "prefix": entry.prefix.to_string(),
        })
    };
    entries.iter().map(entry).collect()
}

fn ranges(ranges: &[AddressRange]) -> Value {
    let range = |range: &AddressRange| {
        serde_json::json!({
            "start": range.start().to_string(),
            "end": range.end().to_string(),
            "protocol": range.protocol(),
        })
    };
    ranges.iter().map(range).collect()
}

/// Payloads are given in hex or by the name of another vector.
fn payload(decoded: &Value) -> Vec<u8> {
    let text = decoded["payload"].as_str().unwrap();
    all()
        .into_iter()
        .find(|vector| vector.name == text)
        .map_or_else(|| unhex(text), |vector| vector.bytes)
}

#[derive(Clone)]
struct Vector {
    name: String,
    bytes: Vec<u8>,
    json: Value,
}

impl Vector {
    fn is_valid(&self) -> bool {
        self.json["valid"].as_bool().unwrap()
    }

    fn decoded(&self) -> &Value {
        &self.json["decoded"]
    }

    fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    fn error_scope(&self) -> &str {
        self.json["error"]["scope"].as_str().unwrap()
    }

    /// `error` closes what the vector says, with the code it says.
    fn check_error(&self, error: WireErrorKind) {
        let scope = match self.error_scope() {
            // `policy` is a limit of ours, answered on the stream.
            "stream" | "policy" => ErrorScope::Stream,
            "connection" => ErrorScope::Connection,
            other => panic!("{}: unknown scope {other}", self.name),
        };
        assert_eq!(error.scope(), scope, "{}: {error}", self.name);
        let code = format!("{:#x}", error.code().0);
        assert_eq!(
            self.json["error"]["code_hex"], code,
            "{}: {error}",
            self.name
        );
    }
}

fn all() -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors.json");
    let text = std::fs::read_to_string(path).unwrap();
    let json: Vec<Value> = serde_json::from_str(&text).unwrap();
    let vector = |json: Value| Vector {
        name: json["name"].as_str().unwrap().to_owned(),
        bytes: unhex(json["hex"].as_str().unwrap()),
        json,
    };
    json.into_iter().map(vector).collect()
}

/// The vectors of a kind; there must be some.
fn of_kind(kind: &str) -> Vec<Vector> {
    let mut vectors = all();
    vectors.retain(|vector| vector.json["kind"] == kind);
    assert!(!vectors.is_empty(), "no vector of kind {kind}");
    println!("{kind}: {} vectors", vectors.len());
    vectors
}

fn unhex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0);
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}
