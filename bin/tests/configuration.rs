//! Wrong configurations: each is named in words, with its place and exit code 3, and nothing is left.
//! And what good ones make of what they do not say.

mod common;

use std::fs;

use common::{Fixture, masque, with_config};
use masque::config::server::ServerSettings;
use masque::config::{ClientFile, ServerFile, Source};
use quinn_proto::Side;
use quinn_proto::crypto::{ClientConfig, ServerConfig};
use quinn_proto::transport_parameters::TransportParameters;

/// Runs `server` and `check` on a configuration that `edit` has spoilt.
#[track_caller]
fn server_refuses(edit: &[(&str, &str)], words: &[&str]) {
    let fixture = Fixture::new();
    let config = fixture.server(edit);
    for subcommand in ["server", "check"] {
        with_config(subcommand, &config).fails(3, words);
    }
    assert!(!fixture.path("state").exists(), "state was left behind");
    assert!(!fixture.path("run").exists(), "a journal was left behind");
}

#[track_caller]
fn client_refuses(edit: &[(&str, &str)], words: &[&str]) {
    let fixture = Fixture::new();
    let config = fixture.client(edit);
    for subcommand in ["client", "check"] {
        with_config(subcommand, &config).fails(3, words);
    }
    assert!(!fixture.path("run").exists(), "a journal was left behind");
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    server_refuses(
        &[("state_dir", "stat_dir")],
        &[
            "server.toml:6:1: unknown field `stat_dir`",
            "stat_dir = \"state\"",
            "^^^^^^^^",
        ],
    );
    server_refuses(
        &[("name = ", "nam = ")],
        &["server.toml:8:1: unknown field `nam`"],
    );
    client_refuses(
        &[("connect_timeout", "timeout")],
        &["client.toml:5:1: unknown field"],
    );
}

#[test]
fn a_wrong_type_is_named_with_its_place() {
    server_refuses(
        &[("\"state\"", "7")],
        &["server.toml:6:13", "invalid type: integer `7`"],
    );
    client_refuses(
        &[("\"1s\"", "true")],
        &["client.toml:5:19", "a time such as"],
    );
}

#[test]
fn what_is_no_toml_is_named_with_its_place() {
    server_refuses(&[("key = ", "key ")], &["server.toml:3:"]);
}

#[test]
fn a_missing_key_is_named() {
    server_refuses(
        &[("pools = [\"10.8.0.0/24\", \"fd08::/64\"]\n", "")],
        &["missing field `pools`"],
    );
}

#[test]
fn overlapping_pools_are_refused() {
    server_refuses(
        &[("fd08::/64", "10.8.0.128/25")],
        &[
            "server.toml:5:25",
            "pool 10.8.0.128/25 overlaps pool 10.8.0.0/24",
        ],
    );
}

#[test]
fn host_bits_are_refused_and_the_network_is_suggested() {
    server_refuses(
        &[("10.8.0.0/24", "10.8.0.1/24")],
        &[
            "server.toml:5:10",
            "10.8.0.1/24 has bits set below its length",
            "10.8.0.0/24",
        ],
    );
}

#[test]
fn pools_that_cannot_be_are_refused() {
    server_refuses(
        &[("10.8.0.0/24", "127.0.0.0/8")],
        &["a pool cannot be loopback"],
    );
    server_refuses(
        &[("10.8.0.0/24", "10.8.0.0/31")],
        &["prefix length of 8 to 30"],
    );
    server_refuses(&[("10.8.0.0/24", "10.8.0.0/33")], &["not 0 to 32"]);
    server_refuses(&[("10.8.0.0/24", "10.8.0/24")], &["is not an IP address"]);
}

#[test]
fn a_number_of_shards_that_cannot_be_is_refused() {
    for (wrong, said) in [
        ("0", "integer `0`"),
        ("65", "integer `65`"),
        ("-1", "integer `-1`"),
        ("\"many\"", "string \"many\""),
        ("true", "boolean `true`"),
    ] {
        server_refuses(
            &[("pools = ", &format!("shards = {wrong}\npools = "))],
            &[
                "server.toml:5:10",
                said,
                "a number of shards from 1 to 64, or \"auto\"",
            ],
        );
    }
}

#[test]
fn static_addresses_that_clash_are_refused() {
    let client = |identity: &str, address: &str| {
        format!("[[client]]\nidentity = \"{identity}\"\naddresses = [\"{address}\"]\n[tun]")
    };
    let twice = format!(
        "[[client]]\nidentity = \"a\"\naddresses = [\"10.8.0.9\"]\n{}",
        client("b", "10.8.0.8/30")
    );
    server_refuses(
        &[("[tun]", &twice)],
        &["10.8.0.8/30 overlaps 10.8.0.9/32, which belongs to \"a\""],
    );
    server_refuses(
        &[("[tun]", &client("a", "10.8.0.1"))],
        &["contains 10.8.0.1, the gateway address"],
    );
    server_refuses(
        &[("[tun]", &client("a", "ff02::1"))],
        &["a client cannot be multicast"],
    );
}

#[test]
fn missing_files_are_named() {
    server_refuses(
        &[("server.key", "nowhere.key")],
        &[
            "server.toml:3:7",
            "cannot read",
            "nowhere.key",
            "No such file",
            "pki issue",
        ],
    );
    client_refuses(
        &[("ca.pem", "nowhere.pem")],
        &["client.toml:2:6", "nowhere.pem"],
    );
    masque(&["server", "-c", "/nonexistent/x.toml"])
        .fails(3, &["/nonexistent/x.toml", "No such file"]);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    server_refuses(
        &[("server.key", "client.key")],
        &[
            "server.toml:3:7",
            "the key does not belong to the certificate",
        ],
    );
    client_refuses(
        &[("client.key", "server.key")],
        &["does not belong to the certificate"],
    );
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused() {
    server_refuses(
        &[("\"server.pem\"", "\"server.key\"")],
        &["no PEM certificate in it"],
    );
    server_refuses(
        &[("\"server.key\"", "\"server.pem\"")],
        &["no PEM private key in it"],
    );
    server_refuses(&[("\"ca.pem\"", "\"client.pem\"")], &["is not a CA's"]);
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    client_refuses(
        &[("key = \"client.key\"\n", "")],
        &["certificate is given without key"],
    );
}

#[test]
fn templates_that_rfc_9484_forbids_are_refused() {
    client_refuses(
        &[("https://", "http://")],
        &["client.toml:1:7", "not an absolute https URI"],
    );
    client_refuses(&[("{target}", "{+target}")], &["operator not allowed"]);
    client_refuses(&[("{ipproto}", "{protocol}")], &["variable name"]);
}

#[test]
fn settings_out_of_range_are_refused() {
    let transport = |line: &str| format!("[transport]\n{line}\n[tun]");
    for (line, words) in [
        ("initial_mtu = 1000", "at least 1200"),
        (
            "initial_mtu = 1350\nmax_mtu = 1300",
            "max_mtu is below initial_mtu",
        ),
        ("congestion = \"reno\"", "unknown variant"),
        ("congestion = \"fixed\"", "needs transport.rate"),
        ("rate = 1000000", "only for congestion"),
        (
            "congestion = \"fixed\"\nrate = 9999",
            "at least 10000 bit/s",
        ),
        (
            "congestion = \"fixed\"\nrate = \"100 MBit\"",
            "is not a rate such as",
        ),
        ("initial_window = 2399", "must be 2400 bytes to"),
        ("initial_window = \"65MiB\"", "must be 2400 bytes to"),
        (
            "congestion = \"fixed\"\nrate = \"1Mbit/s\"\ninitial_window = 14720",
            "means nothing with",
        ),
        ("initial_rtt = \"0ms\"", "must be \"1ms\" to \"10s\""),
        ("ack_threshold = 1001", "must be 0 to 1000 packets"),
        ("max_ack_delay = \"2s\"", "must be \"1ms\" to \"1s\""),
        ("ciphers = []", "ciphers needs at least one entry"),
        (
            "ciphers = [\"aes-128-gcm\", \"aes-128-gcm\"]",
            "server.toml:8:27: aes-128-gcm is listed twice",
        ),
        (
            "ciphers = [\"aes-128-cbc\"]",
            "server.toml:8:12: unknown variant `aes-128-cbc`",
        ),
        ("keep_alive = \"60s\"", "below idle_timeout"),
        ("idle_timeout = \"5\"", "is not a time"),
    ] {
        server_refuses(&[("[tun]", &transport(line))], &[words]);
    }
    server_refuses(
        &[("mqserver", "much-too-long-name")],
        &["is not a device name"],
    );
    server_refuses(
        &[("[tun]", "[limits]\nconnections = 0\n[tun]")],
        &["would refuse everything"],
    );
    server_refuses(&[("[tun]", "[tun]\nmtu = 576")], &["1280 to 65535"]);
    client_refuses(
        &[("[tun]", "[reconnect]\njitter = 2.0\n[tun]")],
        &["jitter must be 0 to 1"],
    );
    client_refuses(
        &[("[tun]", "[reconnect]\nmaximum = \"1s\"\n[tun]")],
        &["unknown field `maximum`"],
    );
}

#[test]
fn addresses_that_take_each_others_port_are_refused() {
    let fixture = Fixture::new();
    let one = format!("\"127.0.0.1:{}\"", fixture.port);
    let config = fixture.server(&[(
        &one,
        &format!("\"[::]:{0}\", \"0.0.0.0:{0}\"", fixture.port),
    )]);
    with_config("server", &config).fails(3, &["takes IPv4 as well"]);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    masque(&[]).fails(2, &["Usage"]);
    masque(&["server"]).fails(2, &["--config <FILE>"]);
    masque(&["serve"]).fails(2, &["unrecognized subcommand"]);
    let help = masque(&["--help"]);
    help.succeeds();
    assert!(help.stdout.contains("Exit codes:"));
}

#[test]
fn errors_are_one_json_object_where_that_is_asked_for() {
    let outcome = masque(&["--log-format", "json", "server", "-c", "/nonexistent"]);
    assert_eq!(outcome.code, Some(3));
    let line: serde_json::Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
    assert_eq!(line["exit_code"], 3);
}

#[test]
fn the_documented_examples_are_valid_but_for_their_files() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for name in ["server.toml", "client.toml"] {
        let path = format!("{folder}/{name}");
        masque(&["check", "-c", &path]).fails(3, &["cannot read", "pki/ca.pem"]);
        // Everything that is commented out must be as valid; a rate is, with another congestion control.
        let text = fs::read_to_string(&path).unwrap();
        let all: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && !rest.starts_with("rate ") => {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        let fixture = Fixture::new();
        fs::create_dir(fixture.path("pki")).unwrap();
        for (from, to) in [
            ("ca.pem", "ca.pem"),
            ("server.pem", "vpn.example.org.pem"),
            ("server.key", "vpn.example.org.key"),
            ("client.pem", "alice-laptop.pem"),
            ("client.key", "alice-laptop.key"),
        ] {
            fs::copy(fixture.path(from), fixture.path(&format!("pki/{to}"))).unwrap();
        }
        let path = fixture.path(name);
        fs::write(&path, all).unwrap();
        let outcome = masque(&["check", "-c", path.to_str().unwrap()]);
        assert!(
            outcome.stdout.contains("ok       configuration"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn without_templates_the_well_known_place_answers() {
    let fixture = Fixture::new();
    let settings = server_settings(&fixture);
    assert!(!settings.templates.is_empty());
    for (text, template) in &settings.templates {
        // 9484-3-12
        let matched = template.match_path("/.well-known/masque/ip/192.0.2.1/17/");
        let values = (Some("192.0.2.1".to_owned()), Some("17".to_owned()));
        assert_eq!(matched, Ok(Some(values)), "{text}");
    }
}

fn server_settings(fixture: &Fixture) -> ServerSettings {
    let source = Source::read(&fixture.server(&[]));
    source
        .and_then(|source| ServerFile::load(&source))
        .unwrap_or_else(|failure| panic!("{failure:?}"))
}

/// Transport parameters that say nothing.
fn parameters() -> TransportParameters {
    TransportParameters::read(Side::Server, &mut &[][..]).unwrap()
}

/// The ClientHello of a client, which names what it wants in clear.
fn client_hello(fixture: &Fixture, server_name: &str) -> Vec<u8> {
    let source = Source::read(&fixture.client(&[]));
    let settings = source.and_then(|source| ClientFile::load(&source));
    let config = settings.and_then(|settings| settings.credentials.client());
    let config = config.unwrap_or_else(|failure| panic!("{failure:?}"));
    let mut session = config.start_session(1, server_name, &parameters()).unwrap();
    let mut hello = Vec::new();
    assert!(session.write_handshake(&mut hello).is_none());
    assert!(session.early_crypto().is_none(), "no 0-RTT");
    hello
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn tls_names_the_server_and_the_one_protocol_spoken() {
    let fixture = Fixture::new();
    // ALPN (16): a list of 3 bytes with one protocol of 2.
    let alpn = b"\x00\x10\x00\x05\x00\x03\x02h3";
    let name = client_hello(&fixture, "vpn.example");
    let literal = client_hello(&fixture, "192.0.2.1");
    // 9114-3.2-02: of an address there is no name to say.
    assert!(contains(&name, b"\x00\x0bvpn.example"));
    assert!(!contains(&literal, b"192.0.2.1"));
    let server = server_settings(&fixture).credentials.server();
    let server = server.unwrap_or_else(|failure| panic!("{failure:?}"));
    for hello in [name, literal] {
        // 9114-3.2-01: h3 and nothing else is offered,
        assert!(contains(&hello, alpn));
        let mut session = server.clone().start_session(1, &parameters());
        assert!(session.read_handshake(&hello).is_ok());
        // and nothing else taken: no_application_protocol.
        let at = hello.windows(alpn.len()).position(|it| it == alpn).unwrap();
        let mut other = hello;
        other[at + alpn.len() - 1] = b'2';
        let mut session = server.clone().start_session(1, &parameters());
        let error = session.read_handshake(&other).unwrap_err();
        assert_eq!(u64::from(error.code), 0x100 + 120);
    }
}
