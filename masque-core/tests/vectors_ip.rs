//! The vectors of `testdata/vectors.json` about IP packets, ICMP errors and datagrams that carry none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use masque_core::wire::datagram::{ContextId, open, open_context};
use masque_core::wire::ip::checksum::{Sum, pseudo_header};
use masque_core::wire::ip::icmp::{IcmpError, build, is_icmp_error};
use masque_core::wire::ip::{PacketError, PacketInfo, decrement_hop_limit};
use serde_json::Value;

fn vectors() -> BTreeMap<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/vectors.json");
    let text = std::fs::read_to_string(path).expect("the vectors are part of the repository");
    let all: Vec<Value> = serde_json::from_str(&text).expect("a list of vectors");
    all.into_iter()
        .map(|vector| (vector["name"].as_str().expect("a name").to_owned(), vector))
        .collect()
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits"))
        .collect()
}

fn bytes(vector: &Value) -> Vec<u8> {
    unhex(vector["hex"].as_str().expect("bytes in hex"))
}

/// What each invalid packet is refused as.
fn expected_error(name: &str) -> PacketError {
    match name {
        "ip-v6-ext-chain-truncated" | "ip-v6-hbh-not-first" => PacketError::ExtensionHeader,
        "dgram-bad-ip-version0" | "dgram-bad-ip-version5" => PacketError::Version,
        "dgram-bad-ip-ihl4" => PacketError::HeaderLength,
        "dgram-bad-ip-checksum4" => PacketError::Checksum,
        "dgram-bad-ip-short4"
        | "dgram-bad-ip-short6"
        | "dgram-bad-ip-totlen-long"
        | "dgram-bad-ip-plen6-long"
        | "dgram-empty-ip" => PacketError::Truncated,
        other => panic!("{other}: a new vector without an expected error"),
    }
}

/// 9484-4.8-01, 8200-4-02, 8200-4.5-01, 1812-5.2.2-01
#[test]
fn every_ip_packet_is_read_as_the_vectors_say() {
    let (mut good, mut bad) = (0, 0);
    for (name, vector) in vectors().iter().filter(|(_, v)| v["kind"] == "ip-packet") {
        let packet = bytes(vector);
        let parsed = PacketInfo::parse(&packet);
        if vector["valid"] != true {
            assert_eq!(parsed, Err(expected_error(name)), "{name}");
            bad += 1;
            continue;
        }
        good += 1;
        let info = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let decoded = &vector["decoded"];
        let address = |key: &str| {
            decoded[key]
                .as_str()
                .map(|text| text.parse().expect("an address"))
        };
        assert!(
            address("src").is_none_or(|source: IpAddr| source == info.source),
            "{name}"
        );
        assert!(
            address("dst").is_none_or(|to: IpAddr| to == info.destination),
            "{name}"
        );
        for key in ["proto", "match_protocol"] {
            let protocol = decoded[key].as_u64();
            assert!(
                protocol.is_none_or(|p| p == u64::from(info.protocol)),
                "{name}"
            );
        }
        for key in ["ttl", "hop_limit"] {
            let limit = decoded[key].as_u64();
            assert!(
                limit.is_none_or(|limit| limit == u64::from(info.hop_limit)),
                "{name}"
            );
        }
        let length = decoded["len"].as_u64();
        assert!(length.is_none_or(|len| len == info.length as u64), "{name}");
        if let Some(payload) = decoded["payload"].as_str() {
            assert_eq!(
                &packet[info.transport_offset + 8..],
                payload.as_bytes(),
                "{name}"
            );
        }
        let later = decoded["fragment_offset"]
            .as_u64()
            .is_some_and(|offset| offset > 0);
        assert_eq!(info.later_fragment, later, "{name}");
        if let Some(ihl) = decoded["ihl"].as_u64() {
            assert_eq!(info.transport_offset as u64, ihl * 4, "{name}");
        }
        assert_upper_layer_checksum(name, &packet, &info);
    }
    println!("ip-packet: {good} valid, {bad} invalid");
    assert!(
        good >= 20 && bad >= 2,
        "{good} valid and {bad} invalid vectors found"
    );
}

/// Our sums agree with those of the tool that made the vectors.
fn assert_upper_layer_checksum(name: &str, packet: &[u8], info: &PacketInfo) {
    let upper = &packet[info.transport_offset..];
    if info.fragment || upper.is_empty() {
        return;
    }
    let sum = match info.protocol {
        1 => Sum::default(),
        17 | 58 => pseudo_header(
            info.source,
            info.destination,
            info.protocol,
            upper.len() as u32,
        ),
        _ => return,
    };
    assert!(sum.add(upper).is_valid(), "{name}");
}

/// 9484-7.2-03, 1624-3-01
#[test]
fn decrementing_gives_the_packets_that_go_into_the_tunnel() {
    let vectors = vectors();
    let mut count = 0;
    for (name, vector) in &vectors {
        let decoded = &vector["decoded"];
        let (mut packet, after) = if let Some(from) = decoded["from"].as_str() {
            (bytes(&vectors[from]), bytes(vector))
        } else if let Some(after) = decoded["after_decrement"].as_str() {
            (bytes(vector), unhex(after))
        } else {
            continue;
        };
        if vector["kind"] != "ip-packet" {
            continue;
        }
        assert!(decrement_hop_limit(&mut packet), "{name}");
        assert_eq!(packet, after, "{name}");
        assert!(PacketInfo::parse(&packet).is_ok(), "{name}");
        count += 1;
    }
    println!("decremented: {count}");
    assert!(count >= 4, "{count} vectors found");
}

/// 9484-7.2.1-02, 9484-7.2.1-03, 9484-7.2.1-04, 4443-2.4-04, 4443-3.1-01, 4443-3.2-01, 4443-3.3-01,
/// 1191-4-01, 1812-4.3.2.3-01, 1812-5.2.7.1-01, 1812-5.3.1-01
#[test]
fn icmp_errors_are_built_byte_for_byte() {
    let mut count = 0;
    for (name, vector) in &vectors() {
        let error = match name.as_str() {
            "icmp6-unreach-noroute" | "icmp4-unreach-net" => IcmpError::NoRoute,
            "icmp6-unreach-admin" | "icmp4-unreach-admin" => IcmpError::Prohibited,
            "icmp6-unreach-badsource" => IcmpError::SourcePolicy,
            "icmp6-time-exceeded" | "icmp4-time-exceeded" => IcmpError::TimeExceeded,
            "icmp6-ptb-1280" | "icmp4-fragneeded" => IcmpError::PacketTooBig { mtu: 1280 },
            other => {
                assert!(
                    !other.starts_with("icmp") || other.contains("echo"),
                    "{other}: not built"
                );
                continue;
            }
        };
        let expected = bytes(vector);
        let info = PacketInfo::parse(&expected).expect("a valid packet");
        assert!(is_icmp_error(&expected, &info), "{name}");
        // The quote may be cut: what is missing of the packet does not show, so zeroes do.
        let mut about = expected[info.transport_offset + 8..].to_vec();
        let stated = match info.source {
            IpAddr::V4(_) => usize::from(u16::from_be_bytes([about[2], about[3]])),
            IpAddr::V6(_) => usize::from(u16::from_be_bytes([about[4], about[5]])) + 40,
        };
        about.resize(stated, 0);
        assert_eq!(
            build(error, info.source, &about),
            Some(expected.clone()),
            "{name}"
        );
        if name == "icmp4-unreach-admin" {
            let answer = build(IcmpError::SourcePolicy, info.source, &about);
            assert_eq!(answer, Some(expected), "{name}");
        }
        count += 1;
    }
    println!("ICMP errors: {count}");
    assert!(count >= 9, "{count} vectors found");
}

/// 9484-7.2-01, 9484-6-03, 9484-6-04
#[test]
fn datagrams_without_an_ip_packet_are_opened_and_their_packet_refused() {
    let (mut good, mut bad) = (0, 0);
    for (name, vector) in vectors()
        .iter()
        .filter(|(_, v)| v["kind"] == "http3-datagram")
    {
        let refused = name.starts_with("dgram-bad-ip-") || name == "dgram-empty-ip";
        let carries = vector["decoded"]["payload"]
            .as_str()
            .is_some_and(|name| !name.is_empty());
        if !refused && !carries {
            continue;
        }
        let datagram = bytes(vector);
        // A forwarding error, never a protocol error: the layers above see nothing wrong.
        let (_, at) = open(&datagram).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (context, len) = open_context(&datagram[at..]).expect("a context");
        assert_eq!(context, ContextId::IP_PACKET, "{name}");
        let parsed = PacketInfo::parse(&datagram[at + len..]);
        if refused {
            assert_eq!(parsed, Err(expected_error(name)), "{name}");
            bad += 1;
        } else {
            assert!(parsed.is_ok(), "{name}");
            good += 1;
        }
    }
    println!("http3-datagram: {good} with a packet, {bad} without");
    assert!(
        good >= 4 && bad >= 9,
        "{good} good and {bad} bad vectors found"
    );
}
