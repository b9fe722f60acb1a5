//! Tunnels to host names.

use std::net::IpAddr;

use masque_core::endpoint::{Command, CommandError, DropReason, Event, TunnelHandle};
use masque_core::wire::scope::{Scope, Target};
use masque_testkit::scenario::{Options, Star};
use masque_testkit::world::last_event;

use super::common::*;

const NAME: &str = "inner.example";

fn resolving() -> Options {
    Options {
        resolve_names: true,
        ..quiet()
    }
}

/// A star whose client waits for a tunnel to [`NAME`].
fn asked(options: &Options, protocol: Option<u8>) -> (Star, TunnelHandle) {
    let mut star = up(options);
    let target = Target::Name(NAME.to_owned());
    ask_for(&mut star, Scope { target, protocol });
    let wanted = last_event(star.world.node(star.server), |event| match event {
        Event::NameWanted { tunnel, name } if name == NAME => Some(*tunnel),
        _ => None,
    });
    let wanted = wanted.expect("the server asks");
    (star, wanted)
}

fn answer(star: &mut Star, tunnel: TunnelHandle, addresses: &[&str]) -> Result<(), CommandError> {
    let parsed = addresses.iter().map(|text| text.parse::<IpAddr>());
    let addresses = parsed.map(|it| it.expect("an address")).collect();
    let answer = Command::Resolved { tunnel, addresses };
    let server = star.server;
    let taken = star
        .world
        .act(server, |endpoint, now| endpoint.handle_command(now, answer));
    run(star, 500);
    taken.expect("running")
}

#[test]
fn the_response_waits_for_the_addresses_and_the_tunnel_leads_to_nothing_else() {
    let (mut star, wanted) = asked(&resolving(), None);
    let (server, client) = (star.server, star.client());
    // 9484-4.1-03: neither 2xx nor refusal before the addresses are known.
    assert_eq!(tunnel(&star, client), None);
    assert_eq!(refused(&star, client), None);
    // In no order, one twice, one that nobody may be led to.
    let all = [
        "2001:db8:2::1",
        "192.0.2.5",
        "192.0.2.1",
        "192.0.2.1",
        "127.0.0.1",
    ];
    assert_eq!(answer(&mut star, wanted, &all), Ok(()));
    // 9484-4.6-09
    let routes = [
        "192.0.2.1-192.0.2.1 0",
        "192.0.2.5-192.0.2.5 0",
        "2001:db8:2::1-2001:db8:2::1 0",
    ];
    assert_eq!(told_routes(&star, client).expect("told"), routes);
    for v4 in [true, false] {
        let own = address(&star, client, v4);
        send(&mut star, client, datagram(own, inner(v4), 10));
        assert_eq!(received(&mut star, server).len(), 1);
        send(&mut star, server, datagram(inner(v4), own, 10));
        assert_eq!(received(&mut star, client).len(), 1);
    }
    // Both ends keep to it.
    let own = address(&star, client, true);
    let other = "192.0.2.9".parse().expect("an address");
    send(&mut star, client, datagram(own, other, 10));
    assert_eq!(told(&mut star, client), Some((3, 0)));
    send(&mut star, server, datagram(other, own, 10));
    assert_eq!(dropped(&star, server, DropReason::SourceNotAssigned), 1);
    assert!(received(&mut star, client).is_empty());
    // The answer is taken once.
    let again = answer(&mut star, wanted, &all);
    assert_eq!(again, Err(CommandError::UnknownTunnel));
}

#[test]
fn only_addresses_of_assigned_versions_are_routed_and_the_protocol_stays() {
    let mut options = resolving();
    options.change_server = |server| server.pools.retain(|pool| pool.address().is_ipv4());
    let (mut star, wanted) = asked(&options, Some(17));
    let all = ["2001:db8:2::1", "192.0.2.5", "192.0.2.1"];
    assert_eq!(answer(&mut star, wanted, &all), Ok(()));
    // 9484-4.6-09
    let routes = ["192.0.2.1-192.0.2.1 17", "192.0.2.5-192.0.2.5 17"];
    assert_eq!(told_routes(&star, star.client()).expect("told"), routes);
}

/// A structured-field List of one member with one known parameter (RFC 8941 §3.1, RFC 9209 §2).
fn error_of(proxy_status: &str) -> String {
    let (name, parameters) = proxy_status.split_once("; ").expect("a parameter");
    let token = |text: &str| {
        let mut bytes = text.bytes();
        bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic())
            && bytes
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte))
    };
    assert!(token(name), "{proxy_status}");
    let (key, value) = parameters.split_once('=').expect("a value");
    assert_eq!(key, "error");
    assert!(token(value), "{proxy_status}");
    value.to_owned()
}

#[test]
fn what_cannot_be_resolved_or_reached_is_refused_and_said_why() {
    let options = Options {
        resolve_names: true,
        ..quiet()
    };
    for (addresses, status, error) in [
        (&[][..], 502, "dns_error"),
        (
            &["127.0.0.1", "fe80::1", "::1"],
            403,
            "destination_ip_prohibited",
        ),
    ] {
        let (mut star, wanted) = asked(&options, None);
        assert_eq!(answer(&mut star, wanted, addresses), Ok(()));
        let client = star.client();
        // 9484-4.1-04, 9484-4.1-05
        let (told, why) = refused(&star, client).expect("refused");
        assert_eq!(told, status);
        // 9209-2-01
        assert_eq!(error_of(&why), error);
        assert_eq!(usage(&star, star.server).tunnels, 0);
    }
    // Where nobody resolves, at once.
    let mut star = up(&quiet());
    let target = Target::Name(NAME.to_owned());
    let protocol = None;
    ask_for(&mut star, Scope { target, protocol });
    let (status, why) = refused(&star, star.client()).expect("refused");
    assert_eq!((status, &*error_of(&why)), (502, "dns_error"));
}

#[test]
fn a_resolver_that_does_not_answer_is_not_waited_for_and_comes_too_late() {
    let (mut star, wanted) = asked(&resolving(), None);
    run(&mut star, 15_000);
    let late = answer(&mut star, wanted, &["192.0.2.1"]);
    assert!(late.is_err());
    assert_eq!(usage(&star, star.server).tunnels, 0);
    assert_eq!(tunnel(&star, star.client()), None);
}
