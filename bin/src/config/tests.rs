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
