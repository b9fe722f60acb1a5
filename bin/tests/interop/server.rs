//! The independent client against our server.

use std::time::Duration;

use masque_core::endpoint::{Command, DropReason, Event, Identity, Limits, TransportProfile};
use masque_core::session::TunnelEnd;
use masque_core::wire::prefix::IpPrefix;
use masque_core::wire::template::UriTemplate;
use serde_json::json;

use crate::capsules;
use crate::ours::{Ours, RUNTIMES, Setup};
use crate::peer::{Outcome, peer};
use crate::pki::{CLIENT_NAME, Pki};

const PINGS: &str = "--ping 192.0.2.1 --ping 2001:db8::1";

/// A server that sends packets of 1280 bytes from the start. By default it finds out first whether the
/// path takes them, and drops what is larger, and IPv6, for as long as that takes.
fn setup() -> Setup {
    Setup {
        transport: TransportProfile {
            initial_mtu: 1350,
            ..TransportProfile::default()
        },
        ..Setup::default()
    }
}

/// Runs the client with those arguments against a server of that setup; `None` without a peer.
fn run_with(setup: Setup, arguments: &str) -> Option<(Outcome, Ours)> {
    let peer = peer()?;
    let pki = Pki::new();
    let server = Ours::server(&pki, setup);
    let outcome = peer.client(server.address, &pki, arguments).finish();
    Some((outcome, server))
}

fn run(arguments: &str) -> Option<(Outcome, Ours)> {
    run_with(setup(), arguments)
}

#[test]
fn a_tunnel_carries_both_versions_on_every_runtime() {
    for &runtime in RUNTIMES {
        let setup = Setup { runtime, ..setup() };
        let arguments = format!("{PINGS} --udp 192.0.2.1,53 --udp 2001:db8::1,53");
        let Some((outcome, server)) = run_with(setup, &arguments) else {
            return;
        };
        outcome
            .succeeded()
            // 9484-4.4-01
            .saw("settings", |e| {
                e["settings"]["0x8"] == 1 && e["settings"]["0x33"] == 1
            })
            // 9484-4.5-01
            .saw("response", |e| {
                e["status"] == 200 && e["headers"]["capsule-protocol"] == "?1"
            })
            .saw("pong", |e| {
                e["dst"] == "192.0.2.1" && e["via"] == "datagram"
            })
            .saw("pong", |e| e["dst"] == "2001:db8::1")
            .saw("udp_reply", |e| e["dst"] == "2001:db8::1")
            .saw("stream_end", |_| true)
            .saw_no("note", |_| true)
            .saw_no("bad_packet", |_| true);
        // 9484-4.1-11
        server.events.wait("end of the tunnel", |event| {
            matches!(
                event,
                Event::TunnelDown {
                    reason: TunnelEnd::Finished,
                    ..
                }
            )
            .then_some(())
        });
        assert!(server.stop().packets_out >= 8);
    }
}

#[test]
fn packets_come_unasked_from_behind_the_server() {
    let Some(peer) = peer() else { return };
    let pki = Pki::new();
    let server = Ours::server(&pki, setup());
    let client = peer.client(server.address, &pki, "--ping 192.0.2.1 --count 1 --hold 3");
    client.wait("pong");
    server.host.send_ping("198.51.100.7", "10.99.0.2", 100);
    server.host.send_ping("2001:db8::7", "fd00:99::2", 100);
    client.wait_where("packet", |e| e["src"] == "198.51.100.7");
    client.wait_where("packet", |e| e["src"] == "2001:db8::7");
    client.finish().succeeded();
}

#[test]
fn capsules_may_come_a_byte_at_a_time() {
    let arguments = format!("{PINGS} --chunk 1 --request 0.0.0.0/32,::/128");
    let Some((outcome, _server)) = run(&arguments) else {
        return;
    };
    outcome.succeeded();
}

/// 9297-3.5-01: either form of an HTTP Datagram is taken.
#[test]
fn datagram_capsules_are_taken_beside_quic_datagrams() {
    let Some((outcome, _server)) = run(&format!("{PINGS} --datagram-capsules")) else {
        return;
    };
    outcome.succeeded().saw("pong", |e| e["via"] == "datagram");
}

/// 9297-3.2-02, 9484-6-02.
#[test]
fn unknown_capsules_and_contexts_are_passed_over() {
    let Some((outcome, server)) = run(&format!("{PINGS} --grease")) else {
        return;
    };
    outcome.succeeded();
    assert!(server.stop().dropped(DropReason::UnknownContext) >= 1);
}

#[test]
fn a_client_without_http_datagrams_gets_capsules() {
    for without in [
        "--no-h3-datagram",
        "--no-h3-datagram --max-datagram-frame-size 0",
    ] {
        let arguments = format!("{PINGS} {without} --datagram-capsules");
        let Some((outcome, _server)) = run(&arguments) else {
            return;
        };
        outcome
            .succeeded()
            .saw("pong", |e| e["dst"] == "192.0.2.1" && e["via"] == "capsule")
            .saw("pong", |e| {
                e["dst"] == "2001:db8::1" && e["via"] == "capsule"
            });
    }
}

/// RFC 9297 §2.1.1: the setting needs the transport parameter.
#[test]
fn the_setting_without_the_transport_parameter_ends_the_connection() {
    let Some((outcome, _server)) = run("--max-datagram-frame-size 0 --ping 192.0.2.1") else {
        return;
    };
    outcome
        .exited(1)
        .saw("connection_closed", |e| e["code"] == "0x109");
}

#[test]
fn packets_of_1280_bytes_pass_both_ways() {
    let Some((outcome, _server)) = run("--ping 2001:db8::1 --size 1232") else {
        return;
    };
    outcome.succeeded().saw("pong", |e| e["length"] == 1280);
}

/// By default too, once the server has found out that the path takes them: the first may be lost.
#[test]
fn packets_of_1280_bytes_pass_once_the_path_is_known() {
    let arguments = "--ping 2001:db8::1 --size 1232 --timeout 1";
    let Some((outcome, _server)) = run_with(Setup::default(), arguments) else {
        return;
    };
    outcome.saw("pong", |e| e["length"] == 1280 && e["seq"] == 3);
}

/// With 1200-byte packets the client cannot send 1280 bytes; what is smaller passes.
#[test]
fn a_client_with_small_packets_is_served() {
    let arguments = format!("{PINGS} --packet-size 1200 --size 1000");
    let Some((outcome, _server)) = run(&arguments) else {
        return;
    };
    outcome.succeeded();
    let Some((outcome, _server)) = run("--ping 2001:db8::1 --packet-size 1200 --size 1232") else {
        return;
    };
    outcome.exited(1).saw("too_big", |_| true);
}

/// A path that never takes more than 1200 bytes from us: our server must cope, and say what it does.
#[test]
fn a_client_that_takes_small_datagrams_only_is_served() {
    let arguments = "--ping 192.0.2.1 --max-datagram-frame-size 1180";
    let Some((outcome, _server)) = run(arguments) else {
        return;
    };
    outcome.succeeded();
}

#[test]
fn a_retry_is_followed_and_the_tunnel_opens() {
    let setup = Setup {
        limits: Limits {
            retry_threshold: 0,
            ..Limits::default()
        },
        ..setup()
    };
    let Some((outcome, server)) = run_with(setup, PINGS) else {
        return;
    };
    outcome.succeeded();
    assert!(server.stop().retries >= 1);
}

/// 9484-4.7.2-08: each entry is answered, with its Request ID, refusals included.
#[test]
fn requested_addresses_are_assigned_or_refused() {
    let arguments = "--request 0.0.0.0/32,::/128,192.0.2.77/32 --ping 192.0.2.1 --hold 1";
    let Some((outcome, _server)) = run(arguments) else {
        return;
    };
    outcome.succeeded().saw("address_assign", |e| {
        e["addresses"]
            == json!([
                {"request_id": 1, "prefix": "10.99.0.2/32", "declined": false},
                {"request_id": 2, "prefix": "fd00:99::2/128", "declined": false},
                {"request_id": 3, "prefix": "0.0.0.0/32", "declined": true},
            ])
    });
}

/// 9484-7.1-02.
#[test]
fn capsules_before_the_response_are_kept_and_packets_do_no_harm() {
    let arguments = format!(
        "{PINGS} --early --request 0.0.0.0/32 --early-ping 10.99.0.2,192.0.2.9 --no-wait-settings"
    );
    let Some((outcome, _server)) = run(&arguments) else {
        return;
    };
    outcome
        .succeeded()
        .saw("address_assign", |e| e["addresses"][0]["request_id"] == 1);
}

#[test]
fn a_connection_carries_several_tunnels() {
    let Some((outcome, server)) = run(&format!("{PINGS} --sessions 3")) else {
        return;
    };
    outcome
        .succeeded()
        .saw("pong", |e| e["stream"] == 0)
        .saw("pong", |e| e["stream"] == 4)
        .saw("pong", |e| e["stream"] == 8);
    assert_eq!(server.stop().dropped(DropReason::SourceNotAssigned), 0);
}

#[test]
fn too_many_tunnels_are_refused_by_status() {
    let setup = Setup {
        limits: Limits {
            tunnels_per_connection: 1,
            ..Limits::default()
        },
        ..setup()
    };
    let Some((outcome, _server)) = run_with(setup, "--sessions 2 --hold 1") else {
        return;
    };
    outcome
        .exited(1)
        .saw("response", |e| e["status"] == 200)
        .saw("response", |e| e["status"] == 429);
}

#[test]
fn a_request_that_cannot_be_served_gets_its_status() {
    for (status, arguments) in [
        // 9484-4.4-03: another protocol.
        (501, "--header :protocol=connect-udp"),
        (501, "--header :protocol=CONNECT-IP"),
        (404, "--header :path=/nowhere"),
        (404, "--header :path=/.well-known/masque/ip/*/*/more"),
        (404, "--header :method=GET --header :protocol="),
        // Names are not resolved here.
        (502, "--target app.example"),
    ] {
        let arguments = format!("{arguments} --expect-status {status}");
        let Some((outcome, server)) = run(&arguments) else {
            return;
        };
        outcome
            .succeeded()
            .saw("response", |e| e["headers"]["capsule-protocol"].is_null());
        assert!(
            !server
                .events
                .has(|event| matches!(event, Event::TunnelUp { .. }))
        );
    }
}

/// 9484-4.4-06, 9484-4.1-02: a malformed request is a stream error, and nothing more than that.
#[test]
fn a_malformed_request_is_a_stream_error() {
    for arguments in [
        "--header :scheme=",
        "--header :path=",
        "--header :authority=",
        "--target 192.0.2.1/24",
        "--target 192.0.2.0/33",
        "--ipproto 256",
        "--ipproto udp",
        "--header content-length=0x",
        "--header connection=close",
        "--header Upper=case",
    ] {
        let Some((outcome, _server)) = run(arguments) else {
            return;
        };
        outcome
            .exited(1)
            .saw("stream_reset", |e| e["code"] == "0x10e")
            .saw_no("connection_closed", |e| e["code"] != "0x100");
    }
}

#[test]
fn every_form_of_the_wildcard_is_taken() {
    for path in [
        "/.well-known/masque/ip/*/*/",
        "/.well-known/masque/ip/%2A/%2a/",
        "/.well-known/masque/ip/%2a/*/",
    ] {
        let arguments = format!("--header :path={path} --ping 192.0.2.1 --count 1");
        let Some((outcome, _server)) = run(&arguments) else {
            return;
        };
        outcome.succeeded();
    }
}

#[test]
fn a_template_may_have_a_query_or_no_variables() {
    let Some(peer) = peer() else { return };
    for template in ["/masque{?target,ipproto}", "/vpn"] {
        let pki = Pki::new();
        let setup = Setup {
            template: Some(template),
            ..setup()
        };
        let server = Ours::server(&pki, setup);
        let url = format!("https://localhost:{}{template}", server.address.port());
        assert!(UriTemplate::parse(&url).is_ok());
        let client = peer.client_for(&url, server.address, &pki, "--ping 192.0.2.1 --count 1");
        client.finish().succeeded();
    }
}

/// 9484-4.6-08, 9484-4.6-10: what lies outside the scope is not carried.
#[test]
fn a_scope_bounds_routes_and_packets() {
    let arguments = "--target 192.0.2.0/24 --ipproto 17 --udp 192.0.2.9,9 --udp 198.51.100.1,9";
    let Some((outcome, server)) = run(&format!("{arguments} --timeout 2")) else {
        return;
    };
    outcome
        .exited(1)
        .saw("route_advertisement", |e| {
            e["routes"] == json!(["192.0.2.0-192.0.2.255@17"])
        })
        .saw("udp_reply", |e| e["dst"] == "192.0.2.9")
        .saw_no("udp_reply", |e| e["dst"] == "198.51.100.1");
    let counters = server.stop();
    let refused = counters.dropped(DropReason::OutOfScope)
        + counters.dropped(DropReason::DestinationNotRouted);
    assert!(refused >= 1);
}

/// 2827-4-01: a source that was not assigned goes no further.
#[test]
fn a_spoofed_source_is_dropped() {
    for spoofed in ["--source4 10.98.0.1", "--source4 10.99.0.77"] {
        let arguments = format!("--ping 192.0.2.1 --count 1 --timeout 2 {spoofed}");
        let Some((outcome, server)) = run(&arguments) else {
            return;
        };
        outcome.exited(1).saw_no("pong", |_| true);
        assert!(!server.host.has_from("10.98.0.1"));
        assert!(!server.host.has_from("10.99.0.77"));
        assert!(server.stop().dropped(DropReason::SourceNotAssigned) >= 1);
    }
}

#[test]
fn a_denied_destination_is_not_reached() {
    let Some((outcome, server)) = run("--ping 203.0.113.5 --count 1 --timeout 2") else {
        return;
    };
    outcome.exited(1).saw_no("pong", |_| true);
    assert!(server.stop().dropped(DropReason::Prohibited) >= 1);
}

#[test]
fn a_bad_capsule_costs_its_stream_and_no_more() {
    for (what, capsule) in capsules::BAD {
        let arguments = format!("--raw-capsule {capsule} --expect-abort");
        let Some((outcome, server)) = run(&arguments) else {
            return;
        };
        outcome
            .succeeded()
            .saw("stream_reset", |_| true)
            .saw_no("connection_closed", |e| e["code"] != "0x100");
        server.events.wait(what, |event| {
            matches!(
                event,
                Event::TunnelDown {
                    reason: TunnelEnd::Violation(_),
                    ..
                }
            )
            .then_some(())
        });
    }
}

/// 9297-3.3-03: a stream that ends inside a capsule was malformed.
#[test]
fn a_stream_that_ends_inside_a_capsule_is_malformed() {
    let Some((outcome, server)) = run("--raw-capsule 0105") else {
        return;
    };
    outcome.exited(0);
    server.events.wait("violation", |event| {
        matches!(
            event,
            Event::TunnelDown {
                reason: TunnelEnd::Violation(_),
                ..
            }
        )
        .then_some(())
    });
}

#[test]
fn datagrams_that_are_no_packets_are_dropped_in_silence() {
    // No payload, a cut context ID, no packet, a cut packet, IP version 7.
    let rubbish = "--raw-datagram 40 --raw-datagram 00 --raw-datagram 0045 \
                   --raw-datagram 00450000ff --raw-datagram 0070ffff --raw-capsule 0: \
                   --raw-capsule 0:00 --raw-capsule 0:0045";
    let Some((outcome, server)) = run(&format!("{PINGS} {rubbish}")) else {
        return;
    };
    outcome.succeeded();
    let counters = server.stop();
    assert!(counters.dropped(DropReason::Malformed) >= 4);
    assert!(counters.dropped(DropReason::UnknownContext) >= 1);
}

#[test]
fn every_way_to_leave_ends_the_tunnel() {
    for close in ["fin", "stop", "reset", "none"] {
        let Some((outcome, server)) = run(&format!("--ping 192.0.2.1 --close {close}")) else {
            return;
        };
        outcome.succeeded();
        let reason = server
            .events
            .wait("end of the tunnel", |event| match event {
                Event::TunnelDown { reason, .. } => Some(*reason),
                _ => None,
            });
        let expected = match close {
            "reset" => matches!(reason, TunnelEnd::ResetByPeer { .. }),
            "none" => reason == TunnelEnd::ConnectionEnded,
            "fin" => reason == TunnelEnd::Finished,
            _ => matches!(reason, TunnelEnd::Finished | TunnelEnd::ResetByPeer { .. }),
        };
        assert!(expected, "{close}: {reason:?}");
    }
}

#[test]
fn a_site_may_tell_its_addresses_and_routes() {
    let arguments = format!("{PINGS} --advertise 10.5.0.0/16 --assign 192.0.2.1/32");
    let Some((outcome, server)) = run(&arguments) else {
        return;
    };
    outcome.succeeded();
    server.events.wait("routes of the client", |event| {
        matches!(event, Event::Routes { routes, .. } if routes.ranges().len() == 1).then_some(())
    });
}

#[test]
fn the_server_changes_addresses_while_the_tunnel_stands() {
    let Some(peer) = peer() else { return };
    let pki = Pki::new();
    let server = Ours::server(&pki, setup());
    let client = peer.client(server.address, &pki, "--ping 192.0.2.1 --count 1 --hold 5");
    client.wait("pong");
    let tunnel = server.tunnel();
    server.order(move |cx| {
        let addresses: Vec<IpPrefix> = vec!["10.99.0.2/32".parse().expect("a prefix")];
        let command = Command::AssignAddresses { tunnel, addresses };
        cx.endpoint
            .handle_command(cx.now, command)
            .expect("an open tunnel");
    });
    client.wait_where("address_assign", |e| {
        e["addresses"] == json!([{"request_id": 0, "prefix": "10.99.0.2/32", "declined": false}])
    });
    client.finish().succeeded();
}

#[test]
fn a_shutdown_says_goodbye() {
    let Some(peer) = peer() else { return };
    let pki = Pki::new();
    let server = Ours::server(&pki, setup());
    let client = peer.client(server.address, &pki, "--ping 192.0.2.1 --count 1 --hold 20");
    client.wait("pong");
    server.order(|cx| {
        let grace = Duration::from_secs(2);
        let command = Command::Shutdown { grace };
        cx.endpoint
            .handle_command(cx.now, command)
            .expect("it is not shut down yet");
    });
    client.wait("stream_end");
    client
        .finish()
        .saw("connection_closed", |e| e["code"] == "0x100");
}

#[test]
fn only_a_client_with_a_certificate_gets_in_where_one_is_required() {
    let Some(peer) = peer() else { return };
    let pki = Pki::new();
    let setup = Setup {
        require_identity: true,
        ..setup()
    };
    let server = Ours::server(&pki, setup);
    peer.client(server.address, &pki, "--ping 192.0.2.1")
        .finish()
        .exited(1)
        .saw_no("response", |_| true);
    let arguments = format!("--ping 192.0.2.1 {}", pki.client_arguments());
    peer.client(server.address, &pki, &arguments)
        .finish()
        .succeeded();
    let identity = server.events.wait("tunnel", |event| match event {
        Event::TunnelUp { identity, .. } => identity.clone(),
        _ => None,
    });
    assert_eq!(identity, Identity(CLIENT_NAME.to_owned()));
}
