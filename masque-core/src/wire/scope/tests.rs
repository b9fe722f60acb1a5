use alloc::format;

use proptest::prelude::*;

use super::*;

fn target(value: &str) -> Result<Target, WireErrorKind> {
    Scope::parse(Some(value), None).map(|scope| scope.target)
}

proptest! {
    #[test]
    fn any_text_parses_or_is_malformed_and_what_parses_reads_back(
        target in proptest::option::of("\\PC{0,12}|[0-9.]{0,12}(/[0-9]{0,4})?|[0-9a-f:]{0,12}(/[0-9]{0,4})?"),
        ipproto in proptest::option::of("\\PC{0,4}|[0-9]{0,4}"),
    ) {
        match Scope::parse(target.as_deref(), ipproto.as_deref()) {
            Err(kind) => prop_assert_eq!(kind, WireErrorKind::ScopeMalformed),
            Ok(scope) => prop_assert_eq!(
                Scope::parse(Some(&scope.target_value()), Some(&scope.ipproto_value())),
                Ok(scope)
            ),
        }
    }

    // 9484-4.6-05, 9484-4.6-06
    #[test]
    fn a_prefix_is_a_target_exactly_if_its_host_bits_are_zero(bits in any::<u128>(), length in 0..=140u8) {
        let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
        for bits in [bits, bits & mask] {
            let text = format!("{}/{length}", Ipv6Addr::from(bits));
            prop_assert_eq!(target(&text).is_ok(), length <= 128 && bits & !mask == 0, "{}", text);
        }
    }

    // 9484-4.6-07
    #[test]
    fn a_protocol_is_one_to_three_digits_up_to_255(number in 0..1200u32, width in 1..5usize) {
        let text = format!("{number:0width$}");
        let expected = u8::try_from(number).ok().filter(|_| text.len() <= 3);
        let parsed = Scope::parse(None, Some(&text)).ok().and_then(|scope| scope.protocol);
        prop_assert_eq!(parsed, expected);
    }
}

// 9484-4.6-01
#[test]
fn an_absent_variable_is_the_wildcard() {
    assert_eq!(Scope::parse(None, None), Ok(Scope::default()));
    assert_eq!(Scope::parse(Some("*"), Some("*")), Ok(Scope::default()));
}

// 9484-4.6-02
#[test]
fn what_the_grammar_does_not_hold_is_malformed() {
    for value in [
        "",
        "/",
        "**",
        "*.example",
        "a*b",
        "%2A",
        "a b",
        "a\0",
        "é",
        "[::1]",
        "::1%eth0",
        "fe80::1%25eth0",
        "::g",
        "1:2:3:4:5:6:7:8:9",
        "example.org:443",
        "example.org/24",
        "192.0.2.0/",
        "192.0.2.0/024",
        "192.0.2.0/-1",
        "192.0.2.0/+8",
        "192.0.2.0/1a",
        "192.0.2.0/24/24",
        "192.0.2.0/33",
        "192.0.2.1/24",
        "192.0.02.0/24",
        "192.0.2/24",
        "*/8",
        "::/129",
        "::/0000",
        "2001:db8::1/32",
        "user@example.org",
    ] {
        assert_eq!(
            target(value),
            Err(WireErrorKind::ScopeMalformed),
            "{value:?}"
        );
    }
    for value in [
        "", "**", "-1", "+6", "0x11", "udp", "1.0", "256", "0006", "1 ", "٣",
    ] {
        let parsed = Scope::parse(None, Some(value));
        assert_eq!(parsed, Err(WireErrorKind::ScopeMalformed), "{value:?}");
    }
}

#[test]
fn addresses_prefixes_and_names_are_told_apart() {
    for value in [
        "192.0.2.0/24",
        "192.0.2.0/32",
        "0.0.0.0/00",
        "::/0",
        "2001:db8::/032",
    ] {
        assert!(matches!(target(value), Ok(Target::Prefix(_))), "{value}");
    }
    for value in ["192.0.2.1", "::1", "::ffff:192.0.2.1"] {
        let host = IpPrefix::host(value.parse().unwrap());
        assert_eq!(target(value), Ok(Target::Prefix(host)));
    }
    for value in [
        "example.org",
        "xn--bcher-kva.example",
        "127.1",
        "192.0.2.256",
        "a_b",
        "a=b,c",
    ] {
        assert_eq!(target(value), Ok(Target::Name(value.into())));
    }
    let padded = Scope::parse(None, Some("017")).unwrap();
    assert_eq!(padded.protocol, Some(17));
}
