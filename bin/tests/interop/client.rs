//! The independent server against our client.

use std::time::Duration;

use masque_core::endpoint::{CloseReason, DropReason, Event};
use masque_core::session::{AddressRequestPolicy, SessionConfig, TunnelEnd};
use masque_core::wire::scope::Scope;
use serde_json::json;

use crate::capsules;
use crate::ours::{Ours, RUNTIMES, Setup};
use crate::peer::{Server, peer};
use crate::pki::Pki;

/// The addresses the server gives unless told otherwise.
const ADDRESSES: [&str; 2] = ["10.99.0.2/32", "fd00:99::2/128"];

/// A server with those arguments and our client on the way to it; `None` without a peer.
fn start_with(setup: Setup, arguments: &str) -> Option<(Server, Ours)> {
    let peer = peer()?;
    let pki = Pki::new();
    let server = peer.server(&pki, arguments);
    let client = Ours::client(&pki, setup, server.address);
    Some((server, client))
}

fn start(arguments: &str) -> Option<(Server, Ours)> {
    start_with(Setup::default(), arguments)
}

/// A client that asks for addresses.
fn asking(policy: AddressRequestPolicy, wanted: &[&str]) -> Setup {
    Setup {
        session: SessionConfig {
            address_request: policy,
            wanted_addresses: wanted
                .iter()
                .map(|text| text.parse().expect("a prefix"))
                .collect(),
            ..SessionConfig::default()
        },
        ..Setup::default()
    }
}

/// Pings through the tunnel in both versions, once it has the usual addresses.
#[track_caller]
fn pings(client: &Ours) {
    ready(client);
    client.host.ping("10.99.0.2", "192.0.2.1", 56);
    client.host.ping("fd00:99::2", "2001:db8::1", 56);
}

/// Waits for the usual addresses and for routes.
#[track_caller]
fn ready(client: &Ours) {
    client.has_addresses(&ADDRESSES);
    client.has_routes();
}

/// Has it that the tunnel, open or on the way, ends for the reason that `wanted` takes.
#[track_caller]
fn ends(client: &Ours, wanted: impl Fn(TunnelEnd) -> bool) {
    client
        .events
        .wait("end of the tunnel", |event| match event {
            Event::TunnelDown { reason, .. } => wanted(*reason).then_some(()),
            _ => None,
        });
}

#[test]
fn a_tunnel_carries_both_versions_both_ways_on_every_runtime() {
    for &runtime in RUNTIMES {
        let setup = Setup {
            runtime,
            ..Setup::default()
        };
        let arguments = "--ping 10.99.0.2 --ping fd00:99::2";
        let Some((server, client)) = start_with(setup, arguments) else {
            return;
        };
        pings(&client);
        // Our answers to the server's own echo requests.
        server.process.wait_where("packet", |e| {
            e["icmp"] == json!([0, 0]) && e["via"] == "datagram"
        });
        server
            .process
            .wait_where("packet", |e| e["icmp"] == json!([129, 0]));
        client.stop();
        server
            .process
            .stop()
            // 9484-4.4-02, 9484-4.4-03, 9297-3.4-05
            .saw("request", |e| {
                let headers = &e["headers"];
                headers[":method"] == "CONNECT"
                    && headers[":protocol"] == "connect-ip"
                    && headers[":scheme"] == "https"
                    && headers[":path"] == "/.well-known/masque/ip/%2A/%2A/"
                    && headers["capsule-protocol"] == "?1"
            })
            .saw_no("note", |_| true)
            .saw_no("dropped", |_| true)
            .saw_no("bad_packet", |_| true);
    }
}

#[test]
fn capsules_may_come_a_byte_at_a_time() {
    let Some((server, client)) = start("--chunk 1") else {
        return;
    };
    pings(&client);
    server.process.stop();
}

#[test]
fn datagram_capsules_are_taken() {
    let Some((server, client)) = start("--datagram-capsules") else {
        return;
    };
    pings(&client);
    server.process.stop();
}

/// 9297-3.2-02, 9484-6-02.
#[test]
fn unknown_capsules_and_contexts_are_passed_over() {
    let Some((server, client)) = start("--grease") else {
        return;
    };
    pings(&client);
    assert!(client.stop().dropped(DropReason::UnknownContext) >= 1);
    server.process.stop();
}

#[test]
fn a_retry_is_followed() {
    let Some((server, client)) = start("--retry") else {
        return;
    };
    pings(&client);
    server.process.stop();
}

#[test]
fn a_response_without_the_capsule_header_and_with_another_2xx_is_a_success() {
    for arguments in ["--no-capsule-header", "--status 201", "--status 299"] {
        let Some((server, client)) = start(arguments) else {
            return;
        };
        pings(&client);
        server.process.stop();
    }
}

/// 9297-3.2-08: these statuses have no place with the Capsule Protocol.
#[test]
fn a_response_that_cannot_carry_capsules_is_no_success() {
    for arguments in ["--status 204", "--status 205", "--status 206"] {
        let Some((server, client)) = start(arguments) else {
            return;
        };
        ends(&client, |end| matches!(end, TunnelEnd::Violation(_)));
        server.process.wait("stream_reset");
        server.process.stop();
    }
}

#[test]
fn packets_of_1280_bytes_pass_and_a_server_with_small_packets_is_lived_with() {
    let Some((server, client)) = start("") else {
        return;
    };
    ready(&client);
    client.host.ping("fd00:99::2", "2001:db8::1", 1232);
    server.process.stop();

    let Some((server, client)) = start("--packet-size 1200") else {
        return;
    };
    pings(&client);
    client.host.send_ping("fd00:99::2", "2001:db8::1", 1232);
    server.process.wait("too_big");
    pings(&client);
    server.process.stop();
}

/// RFC 9484 §10.1: IPv6 needs 1280 bytes. Where our side cannot send them IPv4 still works.
#[test]
fn a_server_that_takes_small_datagrams_only_carries_ipv4() {
    let Some((server, client)) = start("--max-datagram-frame-size 1180") else {
        return;
    };
    ready(&client);
    client.host.ping("10.99.0.2", "192.0.2.1", 1000);
    let large = client
        .events
        .has(|event| matches!(event, Event::Mtu { mtu, .. } if *mtu > 1180));
    assert!(!large, "{}", client.events.text());
    server.process.stop();
}

/// 9484-4.4-01: without HTTP Datagrams or extended CONNECT the client does not even ask.
#[test]
fn a_server_without_what_the_tunnel_needs_is_not_asked() {
    for arguments in ["--no-h3-datagram", "--setting 8="] {
        let Some((server, client)) = start(arguments) else {
            return;
        };
        client.events.wait("end", |event| match event {
            Event::TunnelDown {
                reason: TunnelEnd::Unsupported,
                ..
            }
            | Event::ConnectionClosed { .. } => Some(()),
            _ => None,
        });
        server.process.stop().saw_no("request", |_| true);
    }
}

/// RFC 9297 §2.1.1: the setting needs the transport parameter.
#[test]
fn the_setting_without_the_transport_parameter_ends_the_connection() {
    let Some((server, client)) = start("--max-datagram-frame-size 0") else {
        return;
    };
    client
        .events
        .wait("end of the connection", |event| match event {
            Event::ConnectionClosed {
                reason: CloseReason::Violation(_),
                ..
            } => Some(()),
            _ => None,
        });
    server
        .process
        .wait_where("connection_closed", |e| e["code"] == "0x109");
    server.process.stop();
}

/// 9484-4.7.1-11.
#[test]
fn addresses_are_asked_for_when_none_come() {
    let wanted = ["0.0.0.0/32", "::/128"];
    for policy in [
        AddressRequestPolicy::After(Duration::from_millis(200)),
        AddressRequestPolicy::AtOnce,
    ] {
        let setup = asking(policy, &wanted);
        let Some((server, client)) = start_with(setup, "--require-request") else {
            return;
        };
        pings(&client);
        server
            .process
            .stop()
            // 9484-4.7.2-03: never 0.
            .saw("address_request", |e| {
                e["addresses"]
                    == json!([
                        {"request_id": 1, "prefix": "0.0.0.0/32"},
                        {"request_id": 2, "prefix": "::/128"},
                    ])
            });
    }
}

#[test]
fn addresses_that_come_unasked_are_not_asked_for() {
    let setup = asking(
        AddressRequestPolicy::After(Duration::from_millis(200)),
        &["0.0.0.0/32"],
    );
    let Some((server, client)) = start_with(setup, "--reassign-after 1") else {
        return;
    };
    client.has_addresses(&[
        "10.99.0.2/32",
        "fd00:99::2/128",
        "10.99.0.3/32",
        "fd00:99::3/128",
    ]);
    server.process.stop().saw_no("address_request", |_| true);
}

#[test]
fn a_certain_address_can_be_asked_for() {
    let setup = asking(AddressRequestPolicy::AtOnce, &["10.99.0.77/32"]);
    let arguments = "--require-request --honour-request";
    let Some((server, client)) = start_with(setup, arguments) else {
        return;
    };
    client.has_addresses(&["10.99.0.77/32"]);
    client.has_routes();
    client.host.ping("10.99.0.77", "192.0.2.1", 56);
    server.process.stop();
}

/// 9484-4.7.2-09: what is refused is no address, and a server that says nothing is waited for.
#[test]
fn a_request_that_is_refused_or_passed_over_gives_no_address() {
    for (arguments, answered) in [
        ("--require-request --decline", true),
        ("--require-request --ignore-request", false),
    ] {
        let setup = asking(AddressRequestPolicy::AtOnce, &["0.0.0.0/32"]);
        let Some((server, client)) = start_with(setup, arguments) else {
            return;
        };
        server.process.wait("address_request");
        if answered {
            server.process.wait("sent_assign");
            client.has_addresses(&[]);
        }
        client.has_routes();
        let assigned = client.events.has(
            |event| matches!(event, Event::Addresses { addresses, .. } if !addresses.is_empty()),
        );
        assert!(!assigned, "{}", client.events.text());
        // 9484-4.7.1-11: without an address nothing is sent.
        client.host.send_ping("0.0.0.0", "192.0.2.1", 8);
        client.host.send_ping("10.99.0.2", "192.0.2.1", 8);
        assert_eq!(client.stop().packets_in, 0);
        server.process.stop().saw_no("packet", |_| true);
    }
}

/// 9484-4.7.2-08, 9484-4.7.2-09: a server may ask too, and is answered.
#[test]
fn a_request_of_the_server_is_refused_in_good_form() {
    let Some((server, client)) = start("--ask 0.0.0.0/32,::/128") else {
        return;
    };
    pings(&client);
    let answer = server.process.wait("address_assign");
    assert_eq!(
        answer["addresses"],
        json!([
            {"request_id": 1, "prefix": "0.0.0.0/32", "declined": true},
            {"request_id": 2, "prefix": "::/128", "declined": true},
        ])
    );
    server.process.stop();
}

#[test]
fn new_addresses_and_routes_are_followed() {
    let Some((server, client)) = start("--reassign-after 2") else {
        return;
    };
    pings(&client);
    client
        .host
        .ping_in_vain("10.99.0.3", "192.0.2.1", ("10.99.0.2", "192.0.2.1"));
    client.has_addresses(&[
        "10.99.0.2/32",
        "fd00:99::2/128",
        "10.99.0.3/32",
        "fd00:99::3/128",
    ]);
    // 9484-4.7.3-05: the server routes nothing any more.
    client.events.wait("empty routes", |event| {
        matches!(event, Event::Routes { routes, .. } if routes.ranges().is_empty()).then_some(())
    });
    client.host.send_ping("10.99.0.2", "192.0.2.200", 8);
    assert!(client.stop().dropped(DropReason::DestinationNotRouted) >= 1);
    server
        .process
        .stop()
        .saw_no("packet", |e| e["dst"] == "192.0.2.200");
}

#[test]
fn an_unassigned_source_does_not_leave() {
    let Some((server, client)) = start("") else {
        return;
    };
    pings(&client);
    client
        .host
        .ping_in_vain("10.99.0.9", "192.0.2.1", ("10.99.0.2", "192.0.2.1"));
    assert!(client.stop().dropped(DropReason::SourceNotAssigned) >= 1);
    server.process.stop().saw_no("dropped", |_| true);
}

/// 9484-7.2.1-06: a router on the way may report from anywhere, so ICMP is let in; what answers it is
/// held to the routes.
#[test]
fn icmp_comes_from_where_nothing_is_routed_and_no_answer_goes_there() {
    let arguments = "--route 192.0.2.0/24 --ping 10.99.0.2 --ping-source 198.51.100.1";
    let Some((server, client)) = start(arguments) else {
        return;
    };
    ready(&client);
    client.host.wait_from("198.51.100.1");
    client
        .host
        .ping_in_vain("10.99.0.2", "198.51.100.1", ("10.99.0.2", "192.0.2.1"));
    let counters = client.stop();
    assert!(counters.dropped(DropReason::DestinationNotRouted) >= 2);
    server.process.stop().saw_no("dropped", |_| true);
}

#[test]
fn every_end_of_the_server_ends_the_tunnel() {
    for how in ["fin", "reset", "connection"] {
        let arguments = format!("--close-after 1 --close-how {how}");
        let Some((server, client)) = start(&arguments) else {
            return;
        };
        client.tunnel();
        ends(&client, |end| match how {
            "fin" => end == TunnelEnd::Finished,
            "reset" => end == TunnelEnd::ResetByPeer { code: 0x100 },
            _ => end == TunnelEnd::ConnectionEnded,
        });
        server.process.wait_where("session_over", |e| {
            how != "connection" || e["how"] == "connection closed"
        });
        server.process.stop();
    }
}

#[test]
fn a_refusal_is_told_with_its_status() {
    for (status, arguments) in [
        (403, "--reject 403"),
        (301, "--reject 301"),
        (501, "--token cf-connect-ip"),
        (404, "--template /elsewhere/{target}/{ipproto}/"),
    ] {
        let Some((server, client)) = start(arguments) else {
            return;
        };
        let told = client.events.wait("refusal", |event| match event {
            Event::TunnelRefused { status, .. } => Some(*status),
            _ => None,
        });
        assert_eq!(told, status);
        server.process.stop();
    }
}

#[test]
fn a_scope_is_asked_for_and_kept() {
    let scope = Scope::parse(Some("192.0.2.0/24"), Some("17")).expect("a good scope");
    let setup = Setup {
        scope,
        ..Setup::default()
    };
    let Some((server, client)) = start_with(setup, "") else {
        return;
    };
    ready(&client);
    // 9484-4.7.3-04: ICMP passes beside the protocol of the scope.
    client.host.ping("10.99.0.2", "192.0.2.9", 56);
    client.host.send_ping("10.99.0.2", "198.51.100.1", 8);
    client.stop();
    server
        .process
        .stop()
        // 9484-4.6-04
        .saw("request", |e| {
            e["headers"][":path"] == "/.well-known/masque/ip/192.0.2.0%2F24/17/"
        })
        .saw("accepted", |e| {
            e["target"] == "192.0.2.0/24" && e["ipproto"] == "17"
        })
        .saw_no("dropped", |_| true);
}

#[test]
fn a_target_of_version_6_is_encoded_as_the_server_reads_it() {
    let scope = Scope::parse(Some("2001:db8::/32"), None).expect("a good scope");
    let setup = Setup {
        scope,
        ..Setup::default()
    };
    let Some((server, client)) = start_with(setup, "") else {
        return;
    };
    ready(&client);
    client.host.ping("fd00:99::2", "2001:db8::1", 56);
    server
        .process
        .stop()
        // 9484-4.6-03
        .saw("request", |e| {
            e["headers"][":path"] == "/.well-known/masque/ip/2001%3Adb8%3A%3A%2F32/%2A/"
        })
        .saw("accepted", |e| e["target"] == "2001:db8::/32");
}

#[test]
fn a_template_may_have_a_query_or_no_variables() {
    for template in ["/masque{?target,ipproto}", "/vpn"] {
        let setup = Setup {
            template: Some(template),
            ..Setup::default()
        };
        let arguments = format!("--template {template}");
        let Some((server, client)) = start_with(setup, &arguments) else {
            return;
        };
        pings(&client);
        server.process.stop();
    }
}

#[test]
fn a_bad_capsule_costs_its_stream() {
    for (what, capsule) in capsules::BAD {
        let Some((server, client)) = start(&format!("--raw-capsule {capsule}")) else {
            return;
        };
        ends(&client, |end| match end {
            TunnelEnd::Violation(_) => true,
            other => panic!("{what}: {other:?}"),
        });
        server.process.wait("stream_reset");
        server.process.stop();
    }
}

/// 9484-4.7.3-09: routes out of order are malformed.
#[test]
fn routes_out_of_order_cost_the_stream() {
    for routes in [
        "10.1.0.0/16,10.0.0.0/16",
        "::/0,0.0.0.0/0",
        "10.0.0.0/8,10.1.0.0/16",
        "10.0.0.0/8@17,11.0.0.0/8@6",
    ] {
        let Some((server, client)) = start(&format!("--keep-order --route {routes}")) else {
            return;
        };
        ends(&client, |end| matches!(end, TunnelEnd::Violation(_)));
        server.process.wait("stream_reset");
        server.process.stop();
    }
}

#[test]
fn datagrams_that_are_no_packets_are_dropped_in_silence() {
    let rubbish = "--raw-datagram 40 --raw-datagram 00 --raw-datagram 0045 \
                   --raw-datagram 0070ffff --raw-capsule 0: --raw-capsule 0:00";
    let Some((server, client)) = start(rubbish) else {
        return;
    };
    pings(&client);
    assert!(client.stop().dropped(DropReason::Malformed) >= 2);
    server.process.stop();
}

#[test]
fn leaving_is_noticed_by_the_server() {
    let Some((server, client)) = start("") else {
        return;
    };
    pings(&client);
    let tunnel = client.tunnel();
    client.order(move |cx| {
        let command = masque_core::endpoint::Command::CloseTunnel { tunnel };
        cx.endpoint
            .handle_command(cx.now, command)
            .expect("an open tunnel");
    });
    server
        .process
        .wait_where("session_over", |e| e["how"] == "fin");
    ends(&client, |end| end == TunnelEnd::Local);
    server.process.stop();
}
