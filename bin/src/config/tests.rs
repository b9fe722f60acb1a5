use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn source(text: &str) -> Source {
    Source::from_text(Path::new("vpn.toml"), text)
}

proptest! {
    #[test]
    fn a_prefix_is_taken_exactly_when_no_host_bit_is_set(bits in any::<u32>(), length in 0..=32u8) {
        let net = ipnet::Ipv4Net::new_assert(bits.into(), length);
        let text = format!("{}/{length}", net.addr());
        match Prefix::parse(&text) {
            Ok(prefix) => {
                prop_assert_eq!(net.trunc(), net);
                prop_assert_eq!(prefix.to_string(), text);
            }
            Err(message) => {
                prop_assert_ne!(net.trunc(), net);
                prop_assert!(message.contains(&net.trunc().to_string()), "{}", message);
            }
        }
    }

    #[test]
    fn an_address_alone_is_a_prefix_of_full_length(bits in any::<u128>()) {
        let address = IpAddr::V6(bits.into());
        let prefix = Prefix::parse(&address.to_string()).unwrap();
        prop_assert!(prefix.0.is_host());
        prop_assert_eq!(prefix.0.address(), address);
    }

    #[test]
    fn a_time_is_its_number_times_its_unit(number in 0..100_000u64) {
        for (unit, millis) in [("ms", 1), ("s", 1_000), ("m", 60_000)] {
            let span = Span::parse(&format!("{number}{unit}")).unwrap();
            prop_assert_eq!(span.0.as_millis(), u128::from(number * millis));
        }
    }

    #[test]
    fn a_rate_is_its_number_times_its_unit(whole in 0..1_000_000u64, thousandths in 0..1000u64) {
        for (unit, factor) in [("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)] {
            let rate = BitRate::parse(&format!("{whole}.{thousandths:03} {unit}")).unwrap();
            prop_assert_eq!(rate.0, whole * factor + thousandths * factor / 1000);
            let rate = BitRate::parse(&format!("{whole}{unit}")).unwrap();
            prop_assert_eq!(rate.0, whole * factor);
        }
    }

    #[test]
    fn no_text_makes_a_value_panic(text in ".{0,40}") {
        let _ = (Prefix::parse(&text), Span::parse(&text), ByteSize::parse(&text), BitRate::parse(&text), Template::parse(&text));
    }

    #[test]
    fn no_file_and_no_span_makes_an_error_panic(text in "(?s).{0,80}", start in 0..100usize, length in 0..100usize) {
        let source = source(&text);
        let _ = source.at(Some(start..start + length), "wrong");
        let _ = (ServerFile::load(&source), ClientFile::load(&source), source.schema());
    }

    #[test]
    fn an_error_points_at_line_and_column(before in 0..20usize, indent in 0..10usize) {
        let text = format!("{}{}bogus = 1\n", "# ü\n".repeat(before), " ".repeat(indent));
        let at = text.find("bogus").unwrap();
        let failure = source(&text).at(Some(at..at + 5), "no such key");
        let place = format!("vpn.toml:{}:{}: no such key\n", before + 1, indent + 1);
        prop_assert!(failure.message.starts_with(&place), "{}", failure.message);
        prop_assert!(failure.message.ends_with("^^^^^"));
    }
}

#[test]
fn a_private_key_is_never_shown() {
    let pem = Pem::Inline("-----BEGIN PRIVATE KEY-----\nsecret".to_owned());
    assert!(!format!("{pem:?}").contains("secret"));
}

#[test]
fn a_file_with_a_url_is_a_client() {
    let schema = |text| source(text).schema().unwrap();
    assert_eq!(schema("url = 'x'"), Schema::Client);
    assert_eq!(schema("pools = []"), Schema::Server);
}

#[test]
fn the_gateway_is_the_first_host_address() {
    for (pool, gateway) in [("10.8.0.0/24", "10.8.0.1"), ("fd00:1::/64", "fd00:1::1")] {
        let pool = Prefix::parse(pool).unwrap().0;
        assert_eq!(
            server::gateway_of(&pool),
            gateway.parse::<IpAddr>().unwrap()
        );
    }
}

#[test]
fn the_transport_section_becomes_the_profile_of_the_core() {
    use masque_core::endpoint::{Cipher, CongestionControl};

    let section = |text: &str| {
        let source = source(text);
        let section: shared::TransportSection = source.parse().unwrap();
        let profile = section.profile(&source).unwrap();
        (profile, section.ciphers(&source).unwrap())
    };
    let (profile, ciphers) = section(
        "congestion = 'newreno'\ninitial_window = '32KiB'\ninitial_rtt = '30ms'\n\
         ack_threshold = 10\nmax_ack_delay = '5ms'\nciphers = ['chacha20-poly1305', 'aes-256-gcm']",
    );
    assert_eq!(profile.congestion, CongestionControl::NewReno);
    assert_eq!(profile.initial_window, Some(32 << 10));
    assert_eq!(profile.initial_rtt.as_millis(), 30);
    assert_eq!(profile.ack_threshold, Some(10));
    assert_eq!(
        profile.max_ack_delay.map(|delay| delay.as_millis()),
        Some(5)
    );
    assert_eq!(ciphers, [Cipher::Chacha20Poly1305, Cipher::Aes256Gcm]);
    assert_eq!(section("max_mtu = 1460").0.max_mtu, 1460);
    for text in [
        "rate = '100Mbit/s'",
        "rate = '0.1 Gbit/s'",
        "rate = 100_000_000",
    ] {
        let (profile, ciphers) = section(&format!("congestion = 'fixed'\n{text}"));
        assert_eq!(profile.congestion, CongestionControl::Fixed(100_000_000));
        assert_eq!(ciphers, crate::tls::default_ciphers());
    }
}

const SERVER: &str = include_str!("../../examples/server.toml");
const CLIENT: &str = include_str!("../../examples/client.toml");
const LIMITS: &str = include_str!("../../../docs/limits.md");

/// An example with its comments that are settings taken for settings.
fn in_full(example: &str) -> String {
    let lines = example.lines().map(|line| {
        let setting = line.strip_prefix('#').filter(|rest| {
            let word = rest.trim_start_matches('[').split([' ', ']']).next();
            let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            rest.contains(['=', '['])
                && word.is_some_and(|it| !it.is_empty() && it.chars().all(is_key))
        });
        setting.unwrap_or(line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The keys of a table of an example.
fn keys(example: &str, section: Option<&str>) -> Vec<String> {
    let whole: toml::Table = toml::from_str(&in_full(example)).unwrap();
    let table = match section {
        Some(name) => whole[name].as_table().unwrap(),
        None => &whole,
    };
    table.keys().cloned().collect()
}

/// The keys that a schema takes, as it says when it is given another.
fn schema<T: serde::de::DeserializeOwned>() -> Vec<String> {
    let Err(refusal) = toml::from_str::<T>("no_such_key = 1") else {
        panic!("an unknown key is taken");
    };
    let refusal = refusal.message().to_owned();
    let quoted = refusal.split('`').skip(3).step_by(2);
    quoted.map(str::to_owned).collect()
}

#[test]
fn the_examples_show_every_key_there_is_and_no_other() {
    let same = |mut shown: Vec<String>, mut taken: Vec<String>| {
        shown.sort();
        taken.sort();
        assert!(taken.len() > 2, "{taken:?}");
        assert_eq!(shown, taken);
    };
    same(keys(SERVER, None), schema::<ServerFile>());
    same(keys(SERVER, Some("tun")), schema::<shared::TunSection>());
    same(
        keys(SERVER, Some("limits")),
        schema::<server::LimitsSection>(),
    );
    same(
        keys(SERVER, Some("transport")),
        schema::<shared::TransportSection>(),
    );
    same(keys(CLIENT, None), schema::<ClientFile>());
    same(
        keys(CLIENT, Some("reconnect")),
        schema::<client::ReconnectSection>(),
    );
}

/// Every key that `docs/limits.md` names is there, and every limit that can be set is in it.
#[test]
fn the_limits_are_those_that_can_be_set() {
    let limits = keys(SERVER, Some("limits"));
    let (client, transport) = (keys(CLIENT, None), keys(SERVER, Some("transport")));
    let rows = LIMITS.lines().filter(|line| line.starts_with("| "));
    let column = rows.skip(1).filter_map(|row| row.split(" | ").nth(2));
    let mut named = Vec::new();
    for cell in column {
        for key in cell.split('`').skip(1).step_by(2) {
            match key.split_once('.') {
                Some(("transport", key)) => assert!(transport.contains(&key.to_owned()), "{key}"),
                Some(_) => panic!("{key} is of no section"),
                None if limits.contains(&key.to_owned()) => named.push(key.to_owned()),
                None => assert!(client.contains(&key.to_owned()), "there is no {key}"),
            }
        }
    }
    for key in limits {
        assert!(named.contains(&key), "docs/limits.md is silent about {key}");
    }
}

#[test]
fn ipv6_may_be_made_a_condition() {
    use masque_core::endpoint::Ipv6Minimum;

    let minimum = |text: &str| {
        let source = source(text);
        let section: shared::TransportSection = source.parse().unwrap();
        section.profile(&source).unwrap().ipv6_minimum
    };
    assert_eq!(minimum(""), Ipv6Minimum::Follow);
    assert_eq!(minimum("ipv6_minimum = 'follow'"), Ipv6Minimum::Follow);
    assert!(matches!(
        minimum("ipv6_minimum = 'require'"),
        Ipv6Minimum::Require { .. }
    ));
}
