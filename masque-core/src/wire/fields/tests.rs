use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{FieldList, RequestHead, RequestKind, ResponseHead, capsule_protocol_value};
use crate::error::{ErrorScope, WireErrorKind};

type Lines<'a> = &'a [(&'a str, &'a str)];

const TUNNEL: Lines<'static> = &[
    (":method", "CONNECT"),
    (":protocol", "connect-ip"),
    (":scheme", "https"),
    (":authority", "example.org"),
    (":path", "/.well-known/masque/ip/*/*/"),
    ("capsule-protocol", "?1"),
];
const GET: Lines<'static> = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "example.org"),
    (":path", "/"),
];
const RESPONSE: Lines<'static> = &[(":status", "200"), ("capsule-protocol", "?1")];

fn list(lines: Lines<'_>) -> FieldList {
    let mut fields = FieldList::default();
    for &(name, value) in lines {
        fields.push(name, value);
    }
    fields
}

fn with<'a>(lines: Lines<'a>, more: Lines<'a>) -> Vec<(&'a str, &'a str)> {
    [lines, more].concat()
}

/// `lines` with the value of one of them changed.
fn set<'a>(lines: Lines<'a>, name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    lines
        .iter()
        .map(|&line| {
            if line.0 == name {
                (line.0, value)
            } else {
                line
            }
        })
        .collect()
}

fn without<'a>(lines: Lines<'a>, name: &str) -> Vec<(&'a str, &'a str)> {
    lines
        .iter()
        .copied()
        .filter(|line| line.0 != name)
        .collect()
}

fn request(lines: Lines<'_>) -> Result<RequestHead, WireErrorKind> {
    RequestHead::parse(list(lines))
}

fn response(lines: Lines<'_>) -> Result<ResponseHead, WireErrorKind> {
    ResponseHead::parse(list(lines))
}

fn any_fields() -> impl Strategy<Value = FieldList> {
    let name = prop_oneof![
        prop::sample::select(
            &[
                ":method",
                ":protocol",
                ":scheme",
                ":authority",
                ":path",
                ":status",
                "host",
                "te",
                "capsule-protocol",
                "content-length",
                "content-type",
                "connection",
                "cookie",
            ][..]
        )
        .prop_map(|name| name.as_bytes().to_vec()),
        any::<Vec<u8>>(),
    ];
    let value = prop_oneof![
        prop::sample::select(
            &[
                "CONNECT",
                "GET",
                "OPTIONS",
                "*",
                "connect-ip",
                "https",
                "example.org",
                "example.org:443",
                "/",
                "?1",
                "200",
                "204",
                "trailers",
                "0",
            ][..]
        )
        .prop_map(|value| value.as_bytes().to_vec()),
        any::<Vec<u8>>(),
    ];
    prop::collection::vec((name, value), 0..10).prop_map(|lines| {
        let mut fields = FieldList::default();
        for (name, value) in lines {
            fields.push(name, value);
        }
        fields
    })
}

fn regular_fields() -> impl Strategy<Value = FieldList> {
    let line = ("x-[a-z0-9_-]{0,8}", "([!-~]([ -~]{0,20}[!-~])?)?");
    prop::collection::vec(line, 0..5).prop_map(|lines| {
        let mut fields = FieldList::default();
        for (name, value) in lines {
            fields.push(name, value);
        }
        fields
    })
}

fn request_head() -> impl Strategy<Value = RequestHead> {
    let kind = prop_oneof![
        "[a-z][a-z-]{0,12}".prop_map(RequestKind::ExtendedConnect),
        Just(RequestKind::Connect),
        prop::sample::select(&["GET", "POST", "HEAD", "X-OWN"][..])
            .prop_map(|method| RequestKind::Ordinary(method.into())),
    ];
    let authority = "([a-z0-9-]{1,12}(\\.[a-z]{1,5})?|\\[[0-9a-f:]{2,20}\\])";
    let path = "/[a-z0-9/%*:._?=-]{0,30}";
    (
        kind,
        authority,
        1u16..,
        path,
        any::<bool>(),
        regular_fields(),
    )
        .prop_map(|(kind, host, port, path, capsule_protocol, fields)| {
            let is_connect = kind == RequestKind::Connect;
            RequestHead {
                kind,
                scheme: if is_connect {
                    String::new()
                } else {
                    "https".into()
                },
                authority: alloc::format!("{host}:{port}"),
                path: if is_connect { String::new() } else { path },
                capsule_protocol,
                fields,
            }
        })
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_written(mut head in request_head()) {
        let fields = head.to_fields();
        if head.capsule_protocol {
            head.fields.0.insert(0, list(&[("capsule-protocol", "?1")]).0.remove(0));
        }
        prop_assert_eq!(RequestHead::parse(fields), Ok(head));
    }

    #[test]
    fn a_response_is_read_as_it_was_written(
        status in prop_oneof![Just(100u16), 102u16..204, 207u16..600],
        capsule_protocol: bool,
        fields in regular_fields(),
    ) {
        let mut head = ResponseHead { status, capsule_protocol, fields };
        let fields = head.to_fields();
        if head.capsule_protocol {
            head.fields.0.insert(0, list(&[("capsule-protocol", "?1")]).0.remove(0));
        }
        prop_assert_eq!(ResponseHead::parse(fields), Ok(head));
    }

    #[test]
    fn what_any_fields_parse_to_is_written_so_that_it_parses_to_the_same(fields in any_fields()) {
        match RequestHead::parse(fields.clone()) {
            Ok(head) => prop_assert_eq!(RequestHead::parse(head.to_fields()), Ok(head)),
            Err(kind) => prop_assert_eq!(kind.scope(), ErrorScope::Stream),
        }
        match ResponseHead::parse(fields) {
            Ok(head) => prop_assert_eq!(ResponseHead::parse(head.to_fields()), Ok(head)),
            Err(kind) => prop_assert_eq!(kind.scope(), ErrorScope::Stream),
        }
    }

    #[test]
    fn the_order_of_pseudo_headers_among_themselves_does_not_matter(
        order in Just(TUNNEL[..5].to_vec()).prop_shuffle()
    ) {
        prop_assert_eq!(request(&with(&order, &TUNNEL[5..])), request(TUNNEL));
    }

    #[test]
    fn a_pseudo_header_after_a_regular_field_is_malformed(at in 0usize..5) {
        // 9114-4.3-03
        let mut lines = TUNNEL.to_vec();
        let late = lines.remove(at);
        lines.push(late);
        prop_assert_eq!(request(&lines), Err(WireErrorKind::PseudoHeader));
    }

    #[test]
    fn control_bytes_in_a_value_are_malformed(before: u8, byte: u8, after: u8) {
        // 9114-10.3-02
        let mut fields = list(TUNNEL);
        let value = [b'a', before, byte, after, b'z'];
        fields.push(*b"x-a", value);
        let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        let verdict = RequestHead::parse(fields).map(|_| ());
        if value.iter().any(is_control) {
            prop_assert_eq!(verdict, Err(WireErrorKind::FieldValue));
        } else {
            prop_assert_eq!(verdict, Ok(()));
        }
    }

    #[test]
    fn arbitrary_capsule_protocol_values_are_true_only_if_they_begin_so(value: Vec<u8>) {
        if capsule_protocol_value(&value) {
            prop_assert!(value.trim_ascii_start().starts_with(b"?1"));
        }
    }
}

#[test]
fn a_tunnel_request_is_understood() {
    let head = request(TUNNEL);
    assert_eq!(
        head,
        Ok(RequestHead {
            kind: RequestKind::ExtendedConnect("connect-ip".into()),
            scheme: "https".into(),
            authority: "example.org".into(),
            path: "/.well-known/masque/ip/*/*/".into(),
            capsule_protocol: true,
            fields: list(&[("capsule-protocol", "?1")]),
        })
    );
    // 9220-3-02: an unknown protocol is no malformation; 501 answers it.
    let other = request(&set(TUNNEL, ":protocol", "websocket"));
    assert_eq!(
        other.map(|head| head.kind),
        Ok(RequestKind::ExtendedConnect("websocket".into()))
    );
}

#[test]
fn ordinary_requests_are_well_formed() {
    let kind = |lines: Lines<'_>| request(lines).map(|head| head.kind);
    let get = Ok(RequestKind::Ordinary("GET".into()));
    assert_eq!(kind(GET), get);
    assert_eq!(
        kind(&with(
            GET,
            &[("content-length", "5"), ("content-type", "a/b")]
        )),
        get
    );
    // 9114-4.2.1-01
    assert_eq!(
        kind(&with(GET, &[("cookie", "a=b"), ("cookie", "c=d")])),
        get
    );
    // 9114-4.2-03
    assert_eq!(kind(&with(GET, &[("te", "trailers")])), get);
    // 9114-4.3.1-04: `Host` may stand in for `:authority`.
    let by_host = request(&with(
        &without(GET, ":authority"),
        &[("host", "example.org")],
    ));
    assert_eq!(by_host.map(|head| head.authority), Ok(String::new()));
    // 9114-4.3.1-03
    let options = set(GET, ":method", "OPTIONS");
    let options = set(&options, ":path", "*");
    assert_eq!(request(&options).map(|head| head.path), Ok("*".into()));
}

#[test]
fn a_plain_connect_has_an_authority_with_a_port_and_nothing_else() {
    // 9114-4.4-01
    let connect = |authority| request(&[(":method", "CONNECT"), (":authority", authority)]);
    assert_eq!(
        connect("example.org:443").map(|head| head.kind),
        Ok(RequestKind::Connect)
    );
    for authority in [
        "example.org",
        "example.org:",
        "example.org:0",
        "example.org:65536",
        "example.org:+80",
        ":443",
        "",
    ] {
        assert_eq!(
            connect(authority),
            Err(WireErrorKind::PseudoHeaderValue),
            "{authority}"
        );
    }
    for extra in [(":scheme", "https"), (":path", "/")] {
        assert_eq!(
            request(&[(":method", "CONNECT"), (":authority", "a:1"), extra]),
            Err(WireErrorKind::PseudoHeader)
        );
    }
    assert_eq!(
        request(&[(":method", "CONNECT")]),
        Err(WireErrorKind::PseudoHeader)
    );
}

#[test]
fn pseudo_headers_are_there_once_and_known() {
    for name in [":method", ":scheme", ":authority", ":path"] {
        // 9484-4.4-06, 9114-4.3.1-06
        assert_eq!(
            request(&without(TUNNEL, name)),
            Err(WireErrorKind::PseudoHeader),
            "{name}"
        );
        if name != ":authority" {
            assert_eq!(
                request(&without(GET, name)),
                Err(WireErrorKind::PseudoHeader),
                "{name}"
            );
        }
    }
    for &line in &TUNNEL[..5] {
        // 9114-4.3.1-01, 8441-4-01
        assert_eq!(
            request(&with(&[line], TUNNEL)),
            Err(WireErrorKind::PseudoHeader),
            "{line:?}"
        );
    }
    // 9114-4.3-02
    for line in [(":status", "200"), (":foo", "1"), (":", "")] {
        assert_eq!(
            request(&with(&[line], TUNNEL)),
            Err(WireErrorKind::PseudoHeader),
            "{line:?}"
        );
    }
    for line in [(":path", "/"), (":status", "200"), (":foo", "1")] {
        assert_eq!(
            response(&with(&[line], RESPONSE)),
            Err(WireErrorKind::PseudoHeader),
            "{line:?}"
        );
    }
    // 8441-4-01
    let get = set(TUNNEL, ":method", "GET");
    assert_eq!(request(&get), Err(WireErrorKind::PseudoHeader));
}

#[test]
fn pseudo_header_values_are_judged() {
    let cases = [
        (":method", &["", "GE T", "CONNECT\r\n"][..]),
        (":protocol", &["", "connect ip", "a/b/c", "/", "\u{e9}"]),
        (":scheme", &["", "1https", "ht tp", "https:"]),
        // 9114-4.3.1-02, 9114-4.3.1-04
        (
            ":authority",
            &[
                "",
                "user@example.org",
                "user:pw@example.org",
                "example.org/",
                "a b",
                ":443",
                "example.org:x",
                "example.org:99999",
                "::1",
                "[::1",
                "[]",
                "[::1]x",
                "\u{e9}.org",
            ],
        ),
        // 9114-4.3.1-03
        (":path", &["", "x/y", "*", "/a b", "/a#b", "/\u{e9}", "/\n"]),
    ];
    for (name, values) in cases {
        for value in values {
            let verdict = request(&set(TUNNEL, name, value));
            assert_eq!(
                verdict,
                Err(WireErrorKind::PseudoHeaderValue),
                "{name} {value:?}"
            );
        }
    }
    for authority in [
        "example.org",
        "example.org:443",
        "EXAMPLE.org",
        "192.0.2.1:4433",
        "[2001:db8::1]",
        "[2001:db8::1]:443",
        "example.org:",
    ] {
        let head = request(&set(TUNNEL, ":authority", authority));
        assert_eq!(head.map(|head| head.authority), Ok(authority.into()));
    }
}

#[test]
fn host_says_what_authority_says() {
    // 9114-4.3.1-04
    let host = |value| request(&with(TUNNEL, &[("host", value)])).map(|_| ());
    assert_eq!(host("example.org"), Ok(()));
    assert_eq!(host("Example.ORG"), Ok(()));
    for other in ["other.example", "example.org:443", ""] {
        assert_eq!(host(other), Err(WireErrorKind::HostMismatch), "{other:?}");
    }
    let twice = [("host", "example.org"), ("host", "example.org")];
    assert_eq!(
        request(&with(TUNNEL, &twice)),
        Err(WireErrorKind::HostMismatch)
    );
    let without = without(GET, ":authority");
    assert_eq!(request(&without), Err(WireErrorKind::PseudoHeader));
    for bad in ["", "user@example.org"] {
        let verdict = request(&with(&without, &[("host", bad)]));
        assert_eq!(verdict, Err(WireErrorKind::FieldValue), "{bad:?}");
    }
}

#[test]
fn connection_specific_fields_are_malformed_in_both_directions() {
    // 9114-4.2-02, 9114-4.2-03, 9114-4.1-05
    for line in [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "connect-ip"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("te", ""),
    ] {
        for lines in [TUNNEL, GET] {
            let verdict = request(&with(lines, &[line]));
            assert_eq!(verdict, Err(WireErrorKind::ConnectionField), "{line:?}");
        }
        let verdict = response(&with(RESPONSE, &[line]));
        assert_eq!(verdict, Err(WireErrorKind::ConnectionField), "{line:?}");
    }
    let te = response(&with(RESPONSE, &[("te", "trailers")]));
    assert_eq!(te, Err(WireErrorKind::ConnectionField));
}

#[test]
fn a_message_of_the_capsule_protocol_describes_no_content() {
    // 9297-3.2-06
    for line in [
        ("content-length", "0"),
        ("content-type", "application/octet-stream"),
    ] {
        assert_eq!(
            request(&with(TUNNEL, &[line])),
            Err(WireErrorKind::ContentField)
        );
        assert_eq!(
            response(&with(RESPONSE, &[line])),
            Err(WireErrorKind::ContentField)
        );
        // 9297-3.2-03: a refusal is an ordinary response.
        let refusal = set(RESPONSE, ":status", "403");
        assert_eq!(
            response(&with(&refusal, &[line])).map(|head| head.status),
            Ok(403)
        );
    }
}

#[test]
fn content_length_is_one_number() {
    // 9114-4.1.2-05
    let lengths = |values: &[&'static str]| {
        let lines: Vec<_> = values
            .iter()
            .map(|&value| ("content-length", value))
            .collect();
        request(&with(GET, &lines)).map(|_| ())
    };
    assert_eq!(lengths(&["5", "5"]), Ok(()));
    for wrong in [&["5", "6"][..], &[""], &["-1"], &["5, 5"], &["five"]] {
        assert_eq!(lengths(wrong), Err(WireErrorKind::FieldValue), "{wrong:?}");
    }
}

#[test]
fn names_are_lower_case_tokens() {
    // 9114-4.2-01, 9114-10.3-01
    for name in ["", "X-A", "x a", "x:a", "x\u{e9}", "x\0", "x("] {
        let verdict = request(&with(TUNNEL, &[(name, "b")]));
        assert_eq!(verdict, Err(WireErrorKind::FieldName), "{name:?}");
    }
    assert!(request(&with(TUNNEL, &[("x-a_b.c!#$%&'*+^`|~1", "")])).is_ok());
}

#[test]
fn values_have_no_blanks_at_their_ends() {
    // 9114-10.3-02
    for value in [" b", "b ", "\tb", "b\t", " ", "b\r\nc", "b\0c", "b\x7f"] {
        let verdict = request(&with(TUNNEL, &[("x-a", value)]));
        assert_eq!(verdict, Err(WireErrorKind::FieldValue), "{value:?}");
    }
    for value in ["", "b c", "b\tc", "\u{e9}"] {
        assert!(
            request(&with(TUNNEL, &[("x-a", value)])).is_ok(),
            "{value:?}"
        );
    }
}

#[test]
fn statuses_are_judged() {
    let status = |value| response(&set(RESPONSE, ":status", value)).map(|head| head.status);
    for (value, number) in [
        ("100", 100),
        ("103", 103),
        ("200", 200),
        ("203", 203),
        ("299", 299),
        ("599", 599),
    ] {
        assert_eq!(status(value), Ok(number));
    }
    // 9114-4.5-01, 9297-3.2-08
    for value in ["101", "204", "205", "206"] {
        assert_eq!(
            status(value),
            Err(WireErrorKind::StatusNotAllowed),
            "{value}"
        );
    }
    // 9114-4.3.2-01
    for value in ["", "abc", "20", "2000", "099", "600", "+20", "2 0"] {
        assert_eq!(
            status(value),
            Err(WireErrorKind::PseudoHeaderValue),
            "{value}"
        );
    }
    assert_eq!(response(&RESPONSE[1..]), Err(WireErrorKind::PseudoHeader));
}

#[test]
fn capsule_protocol_is_one_structured_boolean() {
    // 9297-3.4-01, 9297-3.4-02, 9297-3.4-03
    for value in [
        "?1",
        " ?1 ",
        "?1;a",
        "?1; a=1;b=-2.5",
        "?1;a=\"x\\\"y\"",
        "?1;a=tok/en:*",
        "?1;a=:aGk=:",
        "?1;a=?0",
        "?1;*a.b_c-d",
    ] {
        assert!(capsule_protocol_value(value.as_bytes()), "{value}");
    }
    for value in [
        "",
        "?",
        "?0",
        "?2",
        "?11",
        "1",
        "true",
        "\"?1\"",
        "?1, ?1",
        "?1 ;a",
        "?1;",
        "?1;A",
        "?1;a=",
        "?1;a=\"x",
        "?1;a=\"\\x\"",
        "?1;a=1.",
        "?1;a=1.2345",
        "?1;a=1234567890123456",
        "?1;a=:aGk=",
        "?1;a=?2",
        "?1;a=(1)",
        "?1\t",
        "(?1)",
    ] {
        assert!(!capsule_protocol_value(value.as_bytes()), "{value}");
    }
    let twice = with(TUNNEL, &[("capsule-protocol", "?1")]);
    assert_eq!(request(&twice).map(|head| head.capsule_protocol), Ok(false));
    let absent = without(RESPONSE, "capsule-protocol");
    assert_eq!(
        response(&absent).map(|head| head.capsule_protocol),
        Ok(false)
    );
}

#[test]
fn sizes_count_32_bytes_a_line() {
    // 9114-4.2.2-01
    assert_eq!(list(&[]).size(), 0);
    assert_eq!(list(&[("a", "bc"), ("", "")]).size(), 3 + 64);
    let fields = list(&[("a", "1"), ("b", "2"), ("a", "3")]);
    let values: Vec<_> = fields.values("a").collect();
    assert_eq!(values, [b"1", b"3"]);
}
