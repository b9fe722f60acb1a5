//! The vectors of whole streams, fed to a session in the role they are for, however they are cut.

use bytes::Bytes;
use masque_core::error::H3Code;
use masque_core::session::{
    Command, DatagramDrop, DatagramVerdict, Event, QuicInput, QuicOutput, Session, SessionConfig,
    TunnelEnd, TunnelId, TunnelRequest,
};
use masque_core::wire::fields::{FieldList, RequestHead, RequestKind, ResponseHead};
use masque_core::wire::frame::{self, FrameDecoder, FrameEvent, FrameType};
use masque_core::wire::qpack;
use masque_core::wire::scope::Scope;
use masque_core::wire::stream::{Direction, Role, StreamId};
use masque_core::wire::template::UriTemplate;
use serde_json::Value;

const DEFAULT_TEMPLATE: &str = "https://example.org/.well-known/masque/ip/{target}/{ipproto}/";
const DEFAULT_PATH: &str = "/.well-known/masque/ip/*/*/";

struct Vector(Value);

impl Vector {
    fn all(kind: &str) -> Vec<Self> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors.json");
        let text = std::fs::read_to_string(path).expect("testdata is there");
        let all: Vec<Value> = serde_json::from_str(&text).expect("testdata is JSON");
        let found: Vec<_> = all
            .into_iter()
            .map(Self)
            .filter(|v| v.text("kind") == kind)
            .collect();
        assert!(!found.is_empty(), "no vectors of kind {kind}");
        found
    }

    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.text("name")
    }

    fn bytes(&self) -> Vec<u8> {
        let hex = self.text("hex");
        (0..hex.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex"))
            .collect()
    }

    fn fin(&self) -> bool {
        self.0["fin"].as_bool().unwrap_or(false)
    }

    fn error_scope(&self) -> &str {
        self.0["error"]["scope"].as_str().unwrap_or("none")
    }

    fn error_code(&self) -> H3Code {
        let hex = self.0["error"]["code_hex"].as_str().unwrap_or("0x0");
        H3Code(u64::from_str_radix(&hex[2..], 16).expect("a code"))
    }

    fn expected(&self) -> Outcome {
        match self.error_scope() {
            "connection" => Outcome::Connection(self.error_code()),
            "stream" | "policy" => Outcome::Stream(self.error_code()),
            _ => Outcome::Fine,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Fine,
    Stream(H3Code),
    Connection(H3Code),
}

/// A session whose owner accepts whatever it is asked.
struct Subject {
    session: Session,
    role: Role,
    outputs: Vec<QuicOutput>,
    events: Vec<Event>,
}

impl Subject {
    fn new(role: Role, template: &str) -> Self {
        let config = SessionConfig {
            templates: UriTemplate::parse(template).into_iter().collect(),
            ..SessionConfig::default()
        };
        let mut subject = Self {
            session: Session::new(role, config),
            role,
            outputs: Vec::new(),
            events: Vec::new(),
        };
        subject.take(QuicInput::Connected {
            peer_max_datagram_frame_size: Some(65535),
        });
        for index in 0..3 {
            subject.take(QuicInput::Opened {
                stream: StreamId::nth(role, Direction::Unidirectional, index),
            });
        }
        subject
    }

    /// With the peer's SETTINGS, and in a client a request under way.
    fn ready(role: Role, template: &str) -> Self {
        let mut subject = Self::new(role, template);
        // {8=1, 33=1}: the first is without effect on a server (8441-3-04).
        let settings = Bytes::from_static(&[0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01]);
        subject.take(QuicInput::Data {
            stream: subject.peer_uni(0),
            data: settings,
            fin: false,
        });
        if role == Role::Client {
            let request = TunnelRequest {
                authority: "example.org".into(),
                path: DEFAULT_PATH.into(),
                protocol: "connect-ip".into(),
                scope: Scope::default(),
                fields: FieldList::default(),
            };
            subject.session.open_tunnel(request).expect("a tunnel");
            subject.take(QuicInput::Opened {
                stream: request_stream(0),
            });
        }
        subject
    }

    fn peer_uni(&self, index: u32) -> StreamId {
        StreamId::nth(self.role.peer(), Direction::Unidirectional, index)
    }

    fn take(&mut self, input: QuicInput) {
        self.session.handle_quic(input);
        loop {
            let mut moved = false;
            while let Some(output) = self.session.poll_quic() {
                moved = true;
                if let QuicOutput::Write { stream, data } = &output {
                    let (stream, bytes) = (*stream, data.len());
                    self.session
                        .handle_quic(QuicInput::Written { stream, bytes });
                }
                self.outputs.push(output);
            }
            while let Some(event) = self.session.poll_event() {
                moved = true;
                if let Event::Requested { tunnel, .. } = event {
                    let accept = Command::Accept { tunnel };
                    self.session.handle_command(accept).expect("pending");
                }
                self.events.push(event);
            }
            if !moved {
                return;
            }
        }
    }

    fn feed(&mut self, stream: StreamId, chunks: &[&[u8]], fin: bool) {
        for (at, chunk) in chunks.iter().enumerate() {
            let data = Bytes::copy_from_slice(chunk);
            let fin = fin && at + 1 == chunks.len();
            self.take(QuicInput::Data { stream, data, fin });
        }
    }

    fn outcome(&self, stream: StreamId) -> Outcome {
        if let Some(QuicOutput::Close { code, .. }) = self.outputs.last() {
            return Outcome::Connection(*code);
        }
        let reset = self.outputs.iter().find_map(|output| match output {
            QuicOutput::Reset { stream: s, code } if *s == stream => Some(*code),
            _ => None,
        });
        let stop = self.outputs.iter().find_map(|output| match output {
            QuicOutput::Stop { stream: s, code } if *s == stream => Some(*code),
            _ => None,
        });
        match reset {
            Some(code) => {
                assert!(stop.is_none_or(|stop| stop == code));
                Outcome::Stream(code)
            }
            None => Outcome::Fine,
        }
    }

    fn written(&self, stream: StreamId) -> Bytes {
        self.outputs
            .iter()
            .filter_map(|output| match output {
                QuicOutput::Write { stream: s, data } if *s == stream => Some(&data[..]),
                _ => None,
            })
            .collect::<Vec<_>>()
            .concat()
            .into()
    }

    fn response(&self, stream: StreamId) -> Option<ResponseHead> {
        let mut decoder = FrameDecoder::new(1 << 16);
        let mut bytes = self.written(stream);
        while let Some(event) = decoder.decode(&mut bytes).expect("our own frames") {
            if let FrameEvent::Headers(section) = event {
                let fields = qpack::decode(&section, 1 << 16).expect("our own section");
                return Some(ResponseHead::parse(fields).expect("our own response"));
            }
        }
        None
    }
}

fn request_stream(index: u32) -> StreamId {
    StreamId::nth(Role::Client, Direction::Bidirectional, index)
}

/// Whole, in two parts at every place, and byte by byte.
fn splits(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut splits = vec![vec![bytes]];
    splits.extend((1..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]));
    splits.push(bytes.chunks(1).collect());
    // A FIN may come alone.
    splits.push(vec![bytes, &[]]);
    splits.retain(|chunks| !chunks.is_empty());
    splits
}

fn framed(ty: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_header(ty, payload.len(), &mut out);
    out.extend_from_slice(payload);
    out
}

fn head_frame(fields: &FieldList) -> Vec<u8> {
    let mut section = Vec::new();
    qpack::encode(fields, &mut section);
    framed(FrameType::Headers, &section)
}

fn request_head(path: &str) -> Vec<u8> {
    let head = RequestHead {
        kind: RequestKind::ExtendedConnect("connect-ip".into()),
        scheme: "https".into(),
        authority: "example.org".into(),
        path: path.into(),
        capsule_protocol: true,
        fields: FieldList::default(),
    };
    head_frame(&head.to_fields())
}

fn response_head() -> Vec<u8> {
    let head = ResponseHead {
        status: 200,
        capsule_protocol: true,
        fields: FieldList::default(),
    };
    head_frame(&head.to_fields())
}

/// What opens a tunnel towards a session of this role.
fn opening(role: Role) -> Vec<u8> {
    match role {
        Role::Client => response_head(),
        Role::Server => request_head(DEFAULT_PATH),
    }
}

const BOTH: &[Role] = &[Role::Client, Role::Server];

// Proves 9114-6.2.1-02, 9114-6.2.2-01, 9114-4.6-01, 9114-6.2-04, 9114-5.2-02, 9114-7.2.6-02,
// 9114-7.2.1-01, 9114-7.2.2-01, 9114-7.2.4-01, 9114-7.2.8-02, 9114-7.1-01, 9114-9-02.
#[test]
fn unidirectional_streams_are_judged_alike_however_they_are_cut() {
    for vector in Vector::all("h3-uni-stream") {
        let roles: &[Role] = match (vector.text("receiver"), vector.name()) {
            ("server", _) => &[Role::Server],
            ("client", _) | (_, "h3-control-bad-goaway-stream1") => &[Role::Client],
            _ => BOTH,
        };
        let bytes = vector.bytes();
        for (&role, chunks) in roles
            .iter()
            .flat_map(|r| splits(&bytes).into_iter().map(move |s| (r, s)))
        {
            let mut subject = Subject::new(role, DEFAULT_TEMPLATE);
            let stream = subject.peer_uni(0);
            subject.feed(stream, &chunks, vector.fin());
            assert_eq!(
                subject.outcome(stream),
                vector.expected(),
                "{} as {role:?} in {chunks:02x?}",
                vector.name()
            );
            let unknown = vector.name() == "h3-uni-grease";
            let stop = QuicOutput::Stop {
                stream,
                code: H3Code::STREAM_CREATION_ERROR,
            };
            // 9114-6.2-05
            assert_eq!(
                subject.outputs.contains(&stop),
                unknown,
                "{}",
                vector.name()
            );
        }
    }
}

// Proves 9114-4.1-03, 9114-4.1-07, 9114-4.4-02, 9297-3.2-05, 9114-7.1-02, 9114-7.2.3-01,
// 9114-7.2.4-02, 9114-7.2.6-01, 9114-7.2.7-01, 9114-7.2.8-01, 9114-7.2.8-02.
#[test]
fn request_streams_are_judged_alike_however_they_are_cut() {
    for vector in Vector::all("h3-request-stream") {
        let roles: &[Role] = match vector.name() {
            "h3-stream-response" | "h3-data-capsules" => &[Role::Client],
            "h3-stream-data-first"
            | "h3-stream-settings"
            | "h3-stream-goaway"
            | "h3-stream-max-push-id"
            | "h3-stream-cancel-push" => BOTH,
            _ => &[Role::Server],
        };
        let bytes = vector.bytes();
        for &role in roles {
            for chunks in splits(&bytes) {
                let mut subject = Subject::ready(role, DEFAULT_TEMPLATE);
                subject.feed(request_stream(0), &chunks, vector.fin());
                assert_eq!(
                    subject.outcome(request_stream(0)),
                    vector.expected(),
                    "{} as {role:?} in {chunks:02x?}",
                    vector.name()
                );
                if vector.name() == "h3-data-capsules" {
                    // 9297-3.1-01: capsules do not care for the DATA frames that carry them.
                    let told = &subject.events[subject.events.len() - 2..];
                    assert!(
                        matches!(
                            told,
                            [
                                Event::AddressesAssigned { .. },
                                Event::RoutesAdvertised { .. }
                            ]
                        ),
                        "{told:?}"
                    );
                }
            }
        }
    }
}

// Proves 9297-3.3-01, 9297-3.3-03, 9297-3.2-02, 9297-3.2-09, 9297-3.5-03, 9484-4.7.2-04.
#[test]
fn capsule_streams_are_judged_alike_in_both_roles_and_whatever_frames_carry_them() {
    for vector in Vector::all("capsule-stream") {
        let capsules = vector.bytes();
        for &role in BOTH {
            let mut streams = vec![[opening(role), framed(FrameType::Data, &capsules)].concat()];
            for at in 1..capsules.len() {
                let (a, b) = capsules.split_at(at);
                let frames = [framed(FrameType::Data, a), framed(FrameType::Data, b)];
                streams.push([opening(role), frames.concat()].concat());
            }
            let mut results = Vec::new();
            for (index, stream) in streams.iter().enumerate() {
                let cuts = if index == 0 {
                    splits(stream)
                } else {
                    vec![vec![&stream[..]], stream.chunks(1).collect()]
                };
                for chunks in cuts {
                    let mut subject = Subject::ready(role, DEFAULT_TEMPLATE);
                    subject.feed(request_stream(0), &chunks, vector.fin());
                    assert_eq!(
                        subject.outcome(request_stream(0)),
                        vector.expected(),
                        "{} as {role:?} in {chunks:02x?}",
                        vector.name()
                    );
                    let violated = subject.events.iter().any(|event| {
                        matches!(
                            event,
                            Event::TunnelEnded {
                                end: TunnelEnd::Violation(_),
                                ..
                            }
                        )
                    });
                    assert_eq!(
                        violated,
                        vector.expected() != Outcome::Fine,
                        "{}",
                        vector.name()
                    );
                    results.push(subject.events);
                }
            }
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}

// Proves 9114-4.1.2-01, 9114-4.1.2-03, 9110-9.3.6-01, 9220-3-02, 9114-4.2-01, 9484-4.4-06 at the level of streams.
#[test]
fn malformed_messages_abort_their_stream_and_nothing_else() {
    let mut judged = 0;
    for vector in Vector::all("qpack-field-section") {
        let bad = vector.name().starts_with("fs-bad");
        if !bad && vector.name() != "fs-501-unknown-protocol" {
            continue;
        }
        judged += 1;
        let role = match vector.text("receiver") {
            "client" => Role::Client,
            _ => Role::Server,
        };
        let mut subject = Subject::ready(role, DEFAULT_TEMPLATE);
        let stream = request_stream(0);
        subject.feed(
            stream,
            &[&framed(FrameType::Headers, &vector.bytes())],
            false,
        );
        assert_eq!(
            subject.outcome(stream),
            vector.expected(),
            "{}",
            vector.name()
        );
        if bad {
            let stop = QuicOutput::Stop {
                stream,
                code: H3Code::MESSAGE_ERROR,
            };
            assert!(subject.outputs.contains(&stop), "{}", vector.name());
        } else {
            assert_eq!(subject.response(stream).map(|r| r.status), Some(501));
        }
        if role == Role::Server {
            // A sibling is none the worse.
            subject.feed(request_stream(1), &[&request_head(DEFAULT_PATH)], false);
            let established = Event::Established {
                tunnel: TunnelId(0),
                status: 200,
            };
            assert_eq!(subject.events.last(), Some(&established));
        }
    }
    assert!(judged > 30);
}

// Proves 9484-4.1-01, 9484-4.1-02, 9484-4.1-04, 9484-4.1-05, 9484-4.6-01, 9484-4.6-02, 9484-4.6-05,
// 9484-4.6-06, 9484-4.6-07 at the level of streams.
#[test]
fn paths_give_scopes_and_bad_ones_abort_their_stream() {
    for vector in Vector::all("uri") {
        let decoded = &vector.0["decoded"];
        let template = decoded["template"].as_str().unwrap_or(DEFAULT_TEMPLATE);
        if UriTemplate::parse(template).is_err() {
            // One template is for CONNECT-UDP.
            assert_eq!(vector.name(), "uri-udp-default");
            continue;
        }
        let path = decoded["path"].as_str().expect("a path");
        let mut subject = Subject::ready(Role::Server, template);
        subject.feed(request_stream(0), &[&request_head(path)], false);
        assert_eq!(
            subject.outcome(request_stream(0)),
            vector.expected(),
            "{}",
            vector.name()
        );
        if vector.expected() != Outcome::Fine {
            continue;
        }
        if vector.name() == "uri-dns" {
            let response = subject.response(request_stream(0)).expect("a response");
            assert_eq!(response.status, 502);
            let field = &response.fields.0[0];
            assert_eq!(field.name, b"proxy-status");
            assert_eq!(field.value, b"masque; error=dns_error");
            continue;
        }
        let asked = subject.events.iter().find_map(|event| match event {
            Event::Requested { request, .. } => Some(request),
            _ => None,
        });
        let scope = &asked.unwrap_or_else(|| panic!("{}", vector.name())).scope;
        let vars = &decoded["vars"];
        let expected = Scope::parse(vars["target"].as_str(), vars["ipproto"].as_str());
        assert_eq!(Ok(scope), expected.as_ref(), "{}", vector.name());
    }
}

// Proves 9297-2.1-01, 9297-2.1-02, 9297-2.1-03, 9297-2.1-07, 9484-6-02.
#[test]
fn datagrams_are_opened_dropped_or_end_the_connection() {
    for vector in Vector::all("http3-datagram") {
        let mut subject = Subject::ready(Role::Server, DEFAULT_TEMPLATE);
        for index in [0, 11, 64] {
            subject.feed(request_stream(index), &[&request_head(DEFAULT_PATH)], false);
        }
        let bytes = vector.bytes();
        let verdict = subject.session.open_datagram(&bytes);
        let name = vector.name();
        match (name, vector.error_scope()) {
            ("dgram-max-qsid", _) => {
                let drop = DatagramVerdict::Drop(DatagramDrop::UnknownStream);
                assert_eq!(verdict, drop);
            }
            ("dgram-no-context" | "dgram-half-context", _) => {
                assert_eq!(verdict, DatagramVerdict::Drop(DatagramDrop::NoContext));
            }
            ("dgram-unknown-context", _) => {
                assert_eq!(verdict, DatagramVerdict::Drop(DatagramDrop::UnknownContext));
            }
            (_, "connection") => {
                assert_eq!(verdict, DatagramVerdict::Error, "{name}");
                let close = subject.session.poll_quic();
                let code = vector.error_code();
                assert!(
                    matches!(close, Some(QuicOutput::Close { code: c, .. }) if c == code),
                    "{name}: {close:?}"
                );
                assert_eq!(subject.session.poll_quic(), None);
            }
            // What is wrong with an IP packet is not for this layer to say (9484-7.2-01).
            _ => {
                let DatagramVerdict::IpPacket { tunnel, offset } = verdict else {
                    panic!("{name}: {verdict:?}");
                };
                let expected = match name {
                    "dgram-qsid0-ipv6" => TunnelId(0),
                    "dgram-qsid64-ipv4" => TunnelId(2),
                    _ => TunnelId(1),
                };
                assert_eq!(tunnel, expected, "{name}");
                let version = bytes.get(offset).map(|byte| byte >> 4);
                assert!(matches!(version, None | Some(0 | 4 | 5 | 6)), "{name}");
            }
        }
    }
}

// 9484-4.7.1-06, 9484-4.7.1-10, 9484-4.7.2-05, 9484-4.7.3-02, 9484-4.7.3-12, 9484-4.7.3-15: the bad
// ones abort their stream, both ways, with the stated code.
#[test]
fn a_bad_capsule_aborts_its_stream_and_nothing_else() {
    let mut bad = 0;
    for vector in Vector::all("capsule") {
        let expected = vector.expected();
        // The sound ones, and those of extensions, which are skipped.
        if expected == Outcome::Fine {
            continue;
        }
        for &role in BOTH {
            let mut subject = Subject::ready(role, DEFAULT_TEMPLATE);
            let (stream, sibling) = (request_stream(0), request_stream(1));
            if role == Role::Client {
                let request = TunnelRequest {
                    authority: "example.org".into(),
                    path: DEFAULT_PATH.into(),
                    protocol: "connect-ip".into(),
                    scope: Scope::default(),
                    fields: FieldList::default(),
                };
                subject.session.open_tunnel(request).expect("room");
                subject.take(QuicInput::Opened { stream: sibling });
            }
            subject.feed(sibling, &[&opening(role)], false);
            let bytes = vector.bytes();
            let capsule = framed(FrameType::Data, &bytes);
            subject.feed(stream, &[&opening(role), &capsule], false);
            let name = vector.name();
            if subject.outcome(stream) == Outcome::Fine {
                // Of an extension: its type is not known here.
                let known = bytes.first().is_some_and(|first| *first < 4);
                assert!(!known, "{name} as {role:?}");
                continue;
            }
            bad += 1;
            assert_eq!(subject.outcome(stream), expected, "{name} as {role:?}");
            let Outcome::Stream(code) = expected else {
                panic!("{name} is no error of the connection");
            };
            let stop = QuicOutput::Stop { stream, code };
            assert!(subject.outputs.contains(&stop), "{name} as {role:?}");
            let told = subject.events.len();
            subject.feed(sibling, &[&framed(FrameType::Data, &[1, 0])], false);
            let events = &subject.events[told..];
            assert!(
                matches!(events, [Event::AddressesAssigned { .. }]),
                "{name}"
            );
        }
    }
    assert!(bad > 100, "{bad}");
}
