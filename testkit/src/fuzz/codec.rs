//! Every codec: decoding does not depend on how bytes are split, what is decoded encodes to what decodes
//! the same, errors lie inside what was read, and nothing is kept that has not arrived.

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use masque_core::WireError;
use masque_core::wire::capsule::{
    Capsule, CapsuleDecoder, CapsuleEvent, CapsuleLimits, RouteAdvertisement,
};
use masque_core::wire::datagram::{self, ContextId, DatagramHeader};
use masque_core::wire::fields::{FieldList, RequestHead, ResponseHead};
use masque_core::wire::frame::{self, FrameDecoder, FrameEvent, FrameType};
use masque_core::wire::ip::fragment::fragments;
use masque_core::wire::ip::icmp::{self, IcmpError};
use masque_core::wire::ip::{self, PacketInfo};
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::qpack::{self, huffman};
use masque_core::wire::scope::Scope;
use masque_core::wire::settings::Settings;
use masque_core::wire::template::UriTemplate;
use masque_core::wire::varint::VarInt;

/// The largest HEADERS payload, the largest field section.
const LIMIT: usize = 4096;
/// The largest SETTINGS payload.
const SETTINGS_LIMIT: usize = 16 << 10;

/// A stream cut into pieces.
fn pieces(bytes: &[u8]) -> (Vec<u8>, Vec<Bytes>) {
    // The first bytes say where to cut, the rest is the stream.
    let count = usize::from(bytes.first().copied().unwrap_or_default() % 8);
    let cuts = bytes.get(1..=count).unwrap_or_default();
    let stream = bytes.get(1 + count..).unwrap_or_default();
    let mut rest = Bytes::copy_from_slice(stream);
    let mut pieces = Vec::new();
    for cut in cuts {
        pieces.push(rest.split_to(usize::from(*cut).min(rest.len())));
    }
    pieces.push(rest);
    (stream.to_vec(), pieces)
}

/// What a decoder gave, and how it ended.
type Outcome<T> = (Vec<T>, Option<WireError>);

fn within(error: &WireError, stream: &[u8]) {
    assert!(
        error.offset <= stream.len(),
        "{error:?} of {} bytes",
        stream.len()
    );
}

fn decode_capsules(stream: &[Bytes], limits: CapsuleLimits) -> Outcome<CapsuleEvent> {
    let mut decoder = CapsuleDecoder::new(limits);
    let mut events = Vec::new();
    let mut taken = 0;
    for piece in stream {
        let mut input = piece.clone();
        taken += piece.len();
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(input.is_empty(), "a decoder takes all there is");
        let held = decoder.buffered();
        let most = limits.max_value.max(limits.max_datagram);
        // What a buffer doubles to, and the smallest there is.
        assert!(
            held <= 2 * taken + 64 && held <= 2 * most + 64,
            "{held} of {taken}"
        );
    }
    (events, decoder.finish().err())
}

/// Capsules (RFC 9297 §3.2).
pub fn capsules(bytes: &[u8]) {
    let (stream, split) = pieces(bytes);
    let limits = CapsuleLimits {
        max_value: 300,
        max_datagram: 200,
        max_entries: 8,
    };
    let whole = decode_capsules(&[Bytes::copy_from_slice(&stream)], limits);
    assert_eq!(decode_capsules(&split, limits), whole, "however split");
    if let Some(error) = &whole.1 {
        within(error, &stream);
    }
    for event in whole.0 {
        if let CapsuleEvent::Capsule(capsule) = event {
            again(&capsule);
        }
    }
}

/// RFC 9484 §4.7.3, word for word: ordered by IP version, protocol and address, and disjoint within a
/// protocol.
fn check_order(routes: &RouteAdvertisement) {
    for pair in routes.ranges().windows(2) {
        let key = |range: &AddressRange| (!range.start().is_ipv4(), range.protocol());
        let (one, other) = (&pair[0], &pair[1]);
        assert!(
            key(one) < key(other) || (key(one) == key(other) && one.end() < other.start()),
            "{one:?} before {other:?}"
        );
    }
    for range in routes.ranges() {
        assert!(range.start() <= range.end(), "{range:?}");
    }
}

fn again(capsule: &Capsule) {
    if let Capsule::RouteAdvertisement(routes) = capsule {
        check_order(routes);
    }
    let mut bytes = Vec::new();
    capsule.encode(&mut bytes);
    assert_eq!(bytes.len(), capsule.encoded_len());
    // What came in its longest form leaves in its shortest: it fits, too.
    let (events, error) = decode_capsules(&[bytes.into()], CapsuleLimits::default());
    assert_eq!(events, [CapsuleEvent::Capsule(capsule.clone())]);
    assert_eq!(error, None);
}

fn decode_frames(stream: &[Bytes]) -> Outcome<FrameEvent> {
    let mut decoder = FrameDecoder::new(LIMIT);
    let mut events: Vec<FrameEvent> = Vec::new();
    let mut taken = 0;
    for piece in stream {
        let mut input = piece.clone();
        taken += piece.len();
        loop {
            match decoder.decode(&mut input) {
                // Data comes as it arrives: what counts is what it is together.
                Ok(Some(FrameEvent::Data(data))) => match events.last_mut() {
                    Some(FrameEvent::Data(before)) => {
                        *before = [&before[..], &data[..]].concat().into();
                    }
                    _ if data.is_empty() => {}
                    _ => events.push(FrameEvent::Data(data)),
                },
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
        assert!(input.is_empty(), "a decoder takes all there is");
        let held = decoder.buffered();
        assert!(
            held <= 2 * taken.min(SETTINGS_LIMIT) + 64,
            "{held} of {taken}"
        );
    }
    (events, decoder.finish().err())
}

/// HTTP/3 frames (RFC 9114 §7) and SETTINGS.
pub fn frames(bytes: &[u8]) {
    let (stream, split) = pieces(bytes);
    let whole = decode_frames(&[Bytes::copy_from_slice(&stream)]);
    assert_eq!(decode_frames(&split), whole, "however split");
    if let Some(error) = &whole.1 {
        within(error, &stream);
    }
    for event in whole.0 {
        frame_again(event);
    }
    match Settings::decode(&stream) {
        Ok(settings) => settings_again(&settings),
        Err(error) => within(&error, &stream),
    }
}

fn frame_again(event: FrameEvent) {
    let framed = |ty, payload: &[u8]| {
        let mut bytes = Vec::new();
        frame::encode_header(ty, payload.len(), &mut bytes);
        bytes.extend_from_slice(payload);
        bytes
    };
    let bytes = match &event {
        FrameEvent::Settings(settings) => return settings_again(settings),
        FrameEvent::Data(data) => framed(FrameType::Data, data),
        FrameEvent::Headers(section) => framed(FrameType::Headers, section),
        FrameEvent::GoAway(id) => {
            let mut bytes = Vec::new();
            frame::encode_goaway(*id, &mut bytes);
            bytes
        }
        FrameEvent::Header { .. } | FrameEvent::CancelPush(_) | FrameEvent::MaxPushId(_) => return,
    };
    let (events, error) = decode_frames(&[bytes.into()]);
    assert_eq!(error, None);
    assert!(matches!(events[0], FrameEvent::Header { .. }));
    assert_eq!(events[1..], [event]);
}

fn settings_again(settings: &Settings) {
    let mut frame = Vec::new();
    settings.encode_frame(&mut frame);
    let (events, error) = decode_frames(&[frame.into()]);
    assert_eq!(error, None);
    let [FrameEvent::Header { .. }, FrameEvent::Settings(again)] = &events[..] else {
        panic!("{settings:?} encodes as {events:?}");
    };
    assert_eq!(again, settings);
}

/// Field sections: QPACK (RFC 9204), requests and responses (RFC 9114 §4.3).
pub fn fields(bytes: &[u8]) {
    match qpack::decode(bytes, LIMIT) {
        Err(error) => within(&error, bytes),
        Ok(fields) => {
            assert!(fields.size() <= LIMIT, "{} bytes", fields.size());
            let mut section = Vec::new();
            qpack::encode(&fields, &mut section);
            assert_eq!(qpack::decode(&section, LIMIT), Ok(fields.clone()));
            if let Ok(request) = RequestHead::parse(fields.clone()) {
                assert_eq!(RequestHead::parse(request.to_fields()), Ok(request));
            }
            if let Ok(response) = ResponseHead::parse(fields) {
                assert_eq!(ResponseHead::parse(response.to_fields()), Ok(response));
            }
        }
    }
    let mut coded = Vec::new();
    huffman::encode(bytes, &mut coded);
    assert_eq!(coded.len(), huffman::encoded_len(bytes));
    assert_eq!(huffman::decode(&coded), Ok(bytes.to_vec()));
    if let Ok(text) = huffman::decode(bytes) {
        let mut coded = Vec::new();
        huffman::encode(&text, &mut coded);
        assert_eq!(coded, bytes, "a text has one Huffman code");
    }
}

#[derive(Arbitrary, Debug)]
struct Section {
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    raw: Vec<u8>,
}

/// Varints and QPACK against other people's: octets and qpack.
pub fn differential(bytes: &[u8]) {
    let _: Result<()> = compare(&mut Unstructured::new(bytes));
    varints(bytes);
}

fn varints(bytes: &[u8]) {
    let theirs = octets::Octets::with_slice(bytes).get_varint().ok();
    let ours = VarInt::decode(bytes);
    assert_eq!(ours.map(|(value, _)| value.into_inner()), theirs);
    if let Some((value, length)) = ours {
        assert!(length <= bytes.len());
        let mut out = Vec::new();
        value.encode(&mut out);
        assert_eq!(out.len(), value.encoded_len());
        assert!(out.len() <= length, "the shortest form");
        let mut theirs = [0; 8];
        let mut writer = octets::OctetsMut::with_slice(&mut theirs);
        let written = writer.put_varint(value.into_inner()).map(|it| it.len());
        assert_eq!(written.ok(), Some(out.len()));
        assert_eq!(theirs[..out.len()], out);
    }
}

fn compare(bytes: &mut Unstructured<'_>) -> Result<()> {
    let section = Section::arbitrary(bytes)?;
    let mut ours = FieldList::default();
    let mut theirs = Vec::new();
    for (name, value) in section.fields {
        ours.push(name.clone(), value.clone());
        theirs.push(::qpack::HeaderField::new(name, value));
    }
    let plain = |fields: Vec<::qpack::HeaderField>| -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = fields.into_iter().map(::qpack::HeaderField::into_inner);
        pairs
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect()
    };
    let pairs = |list: FieldList| -> Vec<(Vec<u8>, Vec<u8>)> {
        let fields = list.0.into_iter();
        fields
            .map(|field| (field.name.to_vec(), field.value.to_vec()))
            .collect()
    };
    let expected = pairs(ours.clone());
    // What we write, they read.
    let mut coded = Vec::new();
    qpack::encode(&ours, &mut coded);
    let read = ::qpack::decode_stateless(&mut Bytes::from(coded), u64::MAX);
    let read = read.map(|decoded| plain(decoded.fields));
    assert_eq!(read.ok(), Some(expected.clone()));
    // What they write, we read.
    let mut coded = Vec::new();
    if ::qpack::encode_stateless(&mut coded, &theirs).is_ok() {
        let read = qpack::decode(&coded, usize::MAX).map(pairs);
        assert_eq!(read, Ok(expected));
    }
    // What both read, they read alike.
    let theirs = ::qpack::decode_stateless(&mut Bytes::from(section.raw.clone()), u64::MAX);
    let ours = qpack::decode(&section.raw, usize::MAX);
    if let (Ok(theirs), Ok(ours)) = (theirs, ours) {
        assert_eq!(plain(theirs.fields), pairs(ours));
    }
    Ok(())
}

/// What is text: templates, scopes, prefixes, scenarios.
pub fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(prefix) = text.parse::<IpPrefix>() {
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
        assert!(prefix.contains(prefix.address()) && prefix.contains(prefix.last()));
    }
    let (one, other) = text.split_once('\n').unwrap_or((text, "*"));
    if let Ok(scope) = Scope::parse(Some(one), Some(other)) {
        let again = Scope::parse(Some(&scope.target_value()), Some(&scope.ipproto_value()));
        assert_eq!(again, Ok(scope));
    }
    if let Ok(template) = UriTemplate::parse(one) {
        // Any path may be asked for.
        let _ = template.match_path(other);
        assert!(!template.authority().is_empty());
    }
    // A scenario is what its user wrote: read or refused.
    let _ = crate::scenario::file::ScenarioFile::parse(text);
}

/// IP packets and HTTP Datagrams.
pub fn packets(bytes: &[u8]) {
    let (head, packet) = bytes.split_at(bytes.len().min(2));
    match datagram::open(packet) {
        Ok((stream, offset)) => {
            assert!(stream.is_request() && offset <= packet.len());
            let payload = &packet[offset..];
            if let Some((_, offset)) = datagram::open_context(payload) {
                assert!(offset <= payload.len());
            }
            // What is sealed for the same stream opens as it was.
            let header = DatagramHeader::ip_packet(stream);
            let sealed = [header.as_slice(), payload].concat();
            assert_eq!(header.strip(&sealed), Some(payload));
            let (again, offset) = datagram::open(&sealed).expect("sealed well");
            let context = datagram::open_context(&sealed[offset..]);
            assert_eq!((again, context), (stream, Some((ContextId::IP_PACKET, 1))));
        }
        Err(error) => within(&error, packet),
    }
    let Ok(info) = PacketInfo::parse(packet) else {
        return;
    };
    let mtu = usize::from(u16::from_be_bytes([
        head.first().copied().unwrap_or_default() & 0x0f,
        head.get(1).copied().unwrap_or_default(),
    ]));
    if let Ok(parts) = fragments(packet, mtu) {
        for part in parts {
            let mut out = Vec::new();
            part.put(&mut out);
            assert_eq!(out.len(), part.len());
            assert!(out.len() <= mtu, "{} of {mtu}", out.len());
            assert!(PacketInfo::parse(&out).is_ok());
        }
    }
    let mut copy = packet.to_vec();
    let before = ip::hop_limit(packet);
    let lived = ip::decrement_hop_limit(&mut copy);
    if lived {
        assert_eq!(ip::hop_limit(&copy).map(|hops| hops + 1), before);
        let again = PacketInfo::parse(&copy).map(|info| (info.source, info.destination));
        assert_eq!(again, Ok((info.source, info.destination)));
    }
    let is_error = icmp::is_icmp_error(packet, &info);
    if let Some(answer) = icmp::build(IcmpError::TimeExceeded, info.destination, packet) {
        let about = PacketInfo::parse(&answer).expect("what we make is a packet");
        assert!(icmp::is_icmp_error(&answer, &about));
        assert!(!is_error, "no error about an error (RFC 1122 §3.2.2)");
    }
}
