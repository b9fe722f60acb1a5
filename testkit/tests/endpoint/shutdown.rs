//! The end.

use std::time::Duration;

use masque_core::endpoint::{CloseReason, Command, Deadline, Event, PortId, TimerReason, Usage};
use masque_core::wire::offload::VnetHdr;
use masque_testkit::scenario::Options;
use masque_testkit::world::{Input, LinkConfig};

use super::common::*;

const GRACE: Duration = Duration::from_secs(2);

fn complete(event: &Event) -> bool {
    matches!(event, Event::ShutdownComplete)
}

#[test]
fn a_shutdown_is_complete_once_after_everything_and_leaves_nothing() {
    for silent in [false, true] {
        let mut star = up(&Options {
            clients: 3,
            ..quiet()
        });
        let server = star.server;
        if silent {
            for b in star.clients.clone() {
                let config = LinkConfig {
                    up: false,
                    ..LinkConfig::default()
                };
                star.world.schedule_in(
                    Duration::ZERO,
                    Input::Link {
                        a: server,
                        b,
                        config,
                    },
                );
            }
        }
        command(&mut star, server, Command::Shutdown { grace: GRACE });
        let asked = star.world.now();
        run(&mut star, 20_000);
        let events = star.world.node(server).events();
        let at = events
            .iter()
            .find(|(_, event)| complete(event))
            .expect("told")
            .0;
        let took = at - asked;
        assert!(
            if silent {
                took == GRACE
            } else {
                took < Duration::from_millis(100)
            },
            "{took:?}"
        );
        assert_eq!(count(&star, server, complete), 1);
        assert!(complete(&events.last().expect("some").1), "the last word");
        assert_eq!(
            count(&star, server, |event| matches!(
                event,
                Event::ConnectionClosed { .. }
            )),
            3
        );
        assert_eq!(
            count(&star, server, |event| matches!(
                event,
                Event::TunnelDown { .. }
            )),
            3
        );
        assert_eq!(usage(&star, server), Usage::default());
        let endpoint = star
            .world
            .act(server, |endpoint, _| endpoint.poll_timeout());
        assert_eq!(endpoint.expect("running"), None, "nothing is armed");
    }
}

#[test]
fn no_new_connection_is_started_or_let_in() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    command(
        &mut star,
        client,
        Command::Shutdown {
            grace: Duration::MAX,
        },
    );
    run(&mut star, 100);
    connect(&mut star, 0);
    run(&mut star, 100);
    assert_eq!(star.world.node(client).errors(), ["shutting down"]);
    assert_eq!(count(&star, client, complete), 1);
    run(&mut star, 10_000);
    assert_eq!(usage(&star, server), Usage::default());
}

#[test]
fn a_second_shutdown_changes_the_time_and_not_the_number_of_ends() {
    let mut star = up(&quiet());
    let (server, b) = (star.server, star.client());
    let config = LinkConfig {
        up: false,
        ..LinkConfig::default()
    };
    star.world.schedule_in(
        Duration::ZERO,
        Input::Link {
            a: server,
            b,
            config,
        },
    );
    for grace in [
        Duration::from_secs(4),
        Duration::from_secs(1),
        Duration::from_secs(1),
    ] {
        command(&mut star, server, Command::Shutdown { grace });
        run(&mut star, 700);
    }
    run(&mut star, 40_000);
    command(
        &mut star,
        server,
        Command::Shutdown {
            grace: Duration::from_secs(1),
        },
    );
    run(&mut star, 40_000);
    assert_eq!(count(&star, server, complete), 1);
    assert_eq!(usage(&star, server), Usage::default());
}

#[test]
fn the_end_is_not_told_before_goodbye_was_said() {
    let mut star = up(&quiet());
    let (node, target) = (star.client(), star.targets[0].clone());
    disconnect(&mut star, node);
    run(&mut star, 5000);
    let told = star.world.act(node, |endpoint, now| {
        endpoint.connect(now, target).expect("possible");
        let grace = GRACE;
        endpoint
            .handle_command(now, Command::Shutdown { grace })
            .expect("taken");
        std::iter::from_fn(|| endpoint.poll_event()).any(|event| complete(&event))
    });
    assert_eq!(told, Some(false));
    assert_eq!(count(&star, node, complete), 1);
}

#[test]
fn whoever_forgets_to_drain_is_due_at_once() {
    let mut star = up(&quiet());
    let (server, client) = (star.server, star.client());
    let packet = datagram(inner(true), address(&star, client, true), 100);
    let due = star.world.act(server, |endpoint, now| {
        let accepted = endpoint.handle_tun(now, PortId(0), VnetHdr::default(), &packet);
        assert_eq!(accepted.queued, 1);
        (endpoint.poll_timeout(), now)
    });
    let (deadline, now) = due.expect("running");
    let (at, reason) = (now, TimerReason::QueuedOutput);
    assert_eq!(deadline, Some(Deadline { at, reason }));
    run(&mut star, 100);
    assert_eq!(received(&mut star, client).len(), 1);
}

/// quinn-proto held CONNECTION_CLOSE back where the congestion window was full, and for ever, since a closed
/// connection looks at no ACK: the other side then knew nothing until its time was up.
#[test]
fn the_end_is_told_however_full_the_window_is() {
    let mut options = quiet();
    options.link.rate = Some(1_000_000);
    let mut star = up(&options);
    let (server, client) = (star.server, star.client());
    let packet = datagram(address(&star, client, true), inner(true), 1000);
    for _ in 0..400 {
        send_later(&mut star, client, packet.clone());
    }
    run(&mut star, 200);
    assert!(
        usage(&star, client).queued_datagrams > 0,
        "there is more to send than may be"
    );
    disconnect(&mut star, client);
    run(&mut star, 2_000);
    assert!(
        matches!(
            closed(&star, server),
            Some(CloseReason::Peer { code: 0x100, .. })
        ),
        "{:?}",
        closed(&star, server)
    );
}
