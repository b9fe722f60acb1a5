use alloc::string::ToString;

use proptest::prelude::*;

use super::*;
use crate::WireErrorKind;

fn template(text: &str) -> UriTemplate {
    UriTemplate::parse(text).unwrap()
}

fn pair(target: &str, ipproto: &str) -> (Option<String>, Option<String>) {
    (Some(target.to_string()), Some(ipproto.to_string()))
}

const BOTH: &[&str] = &[
    "https://h/.well-known/masque/ip/{target}/{ipproto}/",
    "https://h/{ipproto}/x/{target}",
    "https://h/{target}.{ipproto}",
    "https://h/{ipproto}-{target}/",
    "https://h/{target,ipproto}",
    "https://h/p{?target,ipproto}",
    "https://h/p{?target}{&ipproto}",
    "https://h/p{?ipproto}&x=1{&target}",
    "https://h/p?x=1{&target,ipproto}&y=2",
    "https://h/p?t={target}&i={ipproto}",
    "https://h/p?q={target,ipproto}&y",
    "https://h/{target}/p{?ipproto}",
    "https://h/{ipproto}/p?user=bob&{target}",
];

proptest! {
    // 9484-4-01, 9484-4.1-01, 6570-3.2.1-01, 6570-3.2.2-01
    #[test]
    fn matching_undoes_expansion(
        target in "[*]|\\PC{0,20}", ipproto in "[*]|[0-9]{1,3}", bare in any::<bool>(),
    ) {
        let wildcard = if bare { Wildcard::Bare } else { Wildcard::Encoded };
        for text in BOTH {
            let template = template(text);
            let path = template.expand(Some(&target), Some(&ipproto), wildcard);
            prop_assert!(path.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
            prop_assert_eq!(template.match_path(&path), Ok(Some(pair(&target, &ipproto))), "{}", text);
        }
    }

    #[test]
    fn any_path_matches_or_not_without_panic(path in "[/?&=%{}a-z0-9*,.:é-]{0,24}", tail in "\\PC{0,8}") {
        for text in BOTH {
            let template = template(text);
            for path in [&path, &tail, &alloc::format!("/p?{path}"), &alloc::format!("/{path}/p{tail}")] {
                if let Err(kind) = template.match_path(path) {
                    prop_assert_eq!(kind, WireErrorKind::ScopeMalformed);
                }
            }
        }
    }

    // 9484-3-10
    #[test]
    fn any_template_is_judged_without_panic(text in "(https://)?[h{}?&/#:%@a,*+.\\[\\]]{0,24}", name in "\\PC{0,12}") {
        let _ = UriTemplate::parse(&name);
        let _ = UriTemplate::well_known(&name);
        if let Ok(template) = UriTemplate::parse(&text) {
            let path = template.expand(Some("*"), Some("6"), Wildcard::Encoded);
            prop_assert!(path.starts_with('/'));
            prop_assert!(!template.host().is_empty());
        }
    }
}

// 6570-3.2.8-01, 6570-3.2.9-01
#[test]
fn undefined_variables_vanish_from_the_query() {
    for (text, target, ipproto, path) in [
        ("https://h/p{?target,ipproto}", None, None, "/p"),
        (
            "https://h/p{?target,ipproto}",
            Some("*"),
            None,
            "/p?target=%2A",
        ),
        (
            "https://h/p{?target,ipproto}",
            None,
            Some("6"),
            "/p?ipproto=6",
        ),
        (
            "https://h/p{?target,ipproto}",
            Some("a"),
            Some("6"),
            "/p?target=a&ipproto=6",
        ),
        (
            "https://h/p?x=1{&target}",
            Some("%2F"),
            None,
            "/p?x=1&target=%252F",
        ),
        ("https://h/p?x=1{&target}", None, None, "/p?x=1"),
    ] {
        let template = template(text);
        assert_eq!(template.expand(target, ipproto, Wildcard::Encoded), path);
        let expected = (target.map(String::from), ipproto.map(String::from));
        assert_eq!(
            template.match_path(path),
            Ok(Some(expected)),
            "{text} {path}"
        );
    }
    let empty = template("https://h/p{?target}").expand(Some(""), None, Wildcard::Bare);
    assert_eq!(empty, "/p?target=");
}

#[test]
fn parameters_match_in_any_order_but_neither_twice_nor_with_others() {
    let optional = template("https://h/p{?target,ipproto}");
    let fixed = template("https://h/p?x=1&t={target}{&ipproto}");
    for (template, path, expected) in [
        (&optional, "/p?ipproto=6&target=a", Some(pair("a", "6"))),
        (&optional, "/p?target=a&target=b", None),
        (&optional, "/p?target=a&x=1", None),
        (&optional, "/p?target", None),
        (&optional, "/p?", None),
        (&fixed, "/p?ipproto=6&t=a&x=1", Some(pair("a", "6"))),
        (&fixed, "/p?t=a&x=1", Some((Some("a".into()), None))),
        (&fixed, "/p?t=a", None),
        (&fixed, "/p", None),
    ] {
        assert_eq!(template.match_path(path), Ok(expected), "{path}");
    }
}

// 9484-3-05
#[test]
fn a_template_without_variables_matches_its_path_byte_for_byte() {
    for (text, path) in [
        ("https://h/", "/"),
        ("https://h/vpn?a=1&b=2", "/vpn?a=1&b=2"),
    ] {
        let template = template(text);
        assert_eq!(
            template.expand(Some("*"), Some("6"), Wildcard::Encoded),
            path
        );
        assert_eq!(template.match_path(path), Ok(Some((None, None))));
        for other in [
            "",
            "/VPN",
            "/vpn/",
            "/vpn",
            "/vpn?b=2&a=1",
            "/?",
            "/%76pn?a=1&b=2",
        ] {
            assert_eq!(template.match_path(other), Ok(None), "{other}");
        }
    }
}

// 9484-4.6-04: a bare `/` never belongs to a value.
#[test]
fn a_slash_ends_a_value() {
    let template = template(BOTH[0]);
    let path = "/.well-known/masque/ip/192.0.2.0/24/6/";
    assert_eq!(template.match_path(path), Ok(None));
    for path in [
        "/.well-known/masque/ip/",
        "/.well-known/masque/ip/*/",
        "/ip/*/*/",
    ] {
        assert_eq!(template.match_path(path), Ok(None));
    }
    let query = UriTemplate::parse("https://h/p{?target}").unwrap();
    let malformed = Err(WireErrorKind::ScopeMalformed);
    assert_eq!(query.match_path("/p?target=192.0.2.0/24"), malformed);
}

// 9484-4.1-01, 9484-4.1-02
#[test]
fn values_are_decoded_once() {
    let template = template(BOTH[0]);
    for (value, decoded) in [
        ("%2A", Ok("*")),
        ("*", Ok("*")),
        ("%252A", Ok("%2A")),
        ("2001:db8::1", Ok("2001:db8::1")),
        ("2001%3adb8%3A%3a%2f32", Ok("2001:db8::/32")),
        ("%C3%A9", Ok("é")),
        ("%", Err(WireErrorKind::ScopeMalformed)),
        ("%2", Err(WireErrorKind::ScopeMalformed)),
        ("%+2", Err(WireErrorKind::ScopeMalformed)),
        ("%ff", Err(WireErrorKind::ScopeMalformed)),
        ("a b", Err(WireErrorKind::ScopeMalformed)),
        ("a#b", Err(WireErrorKind::ScopeMalformed)),
    ] {
        let path = alloc::format!("/.well-known/masque/ip/{value}/%31%37/");
        let expected = decoded.map(|value| Some(pair(value, "17")));
        assert_eq!(template.match_path(&path), expected, "{value}");
    }
}

#[test]
fn a_list_with_one_value_is_ambiguous() {
    let template = template("https://h/{target,ipproto}/");
    assert_eq!(
        template.match_path("/6/"),
        Err(WireErrorKind::ScopeMalformed)
    );
    assert_eq!(template.match_path("/a,b,6/"), Ok(Some(pair("a,b", "6"))));
}

#[test]
fn authority_host_and_port_are_told_apart() {
    for (text, authority, host, port) in [
        ("https://example.org/", "example.org", "example.org", 443),
        (
            "HTTPS://example.org:4443/",
            "example.org:4443",
            "example.org",
            4443,
        ),
        (
            "https://[2001:db8::1]/",
            "[2001:db8::1]",
            "2001:db8::1",
            443,
        ),
        ("https://[::1]:65535/x", "[::1]:65535", "::1", 65535),
    ] {
        let template = template(text);
        assert_eq!(
            (template.authority(), template.host(), template.port()),
            (authority, host, port)
        );
    }
    // 9484-3-11
    let default = UriTemplate::well_known("[::1]:4433").unwrap();
    assert_eq!(default.authority(), "[::1]:4433");
    let path = default.expand(Some("*"), Some("*"), Wildcard::Bare);
    assert_eq!(path, "/.well-known/masque/ip/*/*/");
}

// 9484-3-01, 9484-3-02, 9484-3-03, 9484-3-04, 9484-3-07, 9484-3-08, 6570-2.1-01, 6570-3-01
#[test]
fn a_refused_template_says_why() {
    use TemplateError::*;
    for (text, why) in [
        ("", NotAbsolute),
        ("/masque/ip", NotAbsolute),
        ("//host/x", NotAbsolute),
        ("http://h/", NotAbsolute),
        ("https:///x", NotAbsolute),
        ("https://h", NotAbsolute),
        ("https://h?x={target}", NotAbsolute),
        ("https://u@h/", NotAbsolute),
        ("https://h:/", NotAbsolute),
        ("https://h:0/", NotAbsolute),
        ("https://h:+1/", NotAbsolute),
        ("https://h:65536/", NotAbsolute),
        ("https://[::1/", NotAbsolute),
        ("https://[h]/", NotAbsolute),
        ("https://::1/", NotAbsolute),
        ("https://h/x#f", NotAbsolute),
        ("{target}", NotAbsolute),
        ("https://h/a b", Character),
        ("https://h/\u{7f}", Character),
        ("https://h/é", Character),
        ("https://h/<", Character),
        ("https://h/%2", Character),
        ("https://h/%2{target}", Character),
        ("https://h/{target", Braces),
        ("https://h/target}", Braces),
        ("https://h/{{target}}", Braces),
        ("https://h/{target{ipproto}}", Braces),
        ("https://h/{+target}", Operator),
        ("https://h/{!target}", Operator),
        ("https://h/{|target}", Operator),
        ("https://h{/target}", Operator),
        ("https://h/{target*}", Modifier),
        ("https://h/{target:3}", Modifier),
        ("https://{target}/x", Position),
        ("https://h:{ipproto}/", Position),
        ("https://h{target}/x", Position),
        ("https://h/x#{target}", Position),
        ("https://h/p{&target}", Position),
        ("https://h/p?x{?target}", Position),
        ("https://h/p{?target}x", Position),
        ("https://h/p{?target}{ipproto}", Position),
        ("https://h/{}", Variable),
        ("https://h/{?}", Variable),
        ("https://h/{target,}", Variable),
        ("https://h/{other}", Variable),
        ("https://h/{target}/{target}", Variable),
    ] {
        assert_eq!(UriTemplate::parse(text), Err(why), "{text:?}");
    }
    for authority in ["", "h/x", "h?x", "h{target}", "u@h"] {
        assert!(UriTemplate::well_known(authority).is_err(), "{authority}");
    }
}
