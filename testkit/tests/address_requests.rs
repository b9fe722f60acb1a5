//! What ADDRESS_REQUEST is answered with.

use std::time::Duration;

use masque_core::endpoint::Command;
use masque_testkit::scenario::{Options, star};
use masque_testkit::world::Input;

/// 9484-4.7.2-08, 9484-4.7.2-09: a client that a server asks for addresses has none to give, and says
/// so. It once said nothing.
#[test]
fn a_client_answers_a_server_that_asks_it_for_addresses() {
    let mut star = star(&Options {
        trace: true,
        client_plan: None,
        server_plan: None,
        ..Options::default()
    })
    .expect("valid");
    star.world.run_until(Duration::from_secs(1));
    let server = star.world.node(star.server).endpoint().expect("up");
    let tunnel = server.tunnels().next().expect("open");
    let before = star.world.trace().lines().len();
    star.world.schedule_in(
        Duration::ZERO,
        Input::Command {
            node: star.server,
            command: Command::RequestAddresses {
                tunnel,
                prefixes: vec!["0.0.0.0/32".parse().expect("a prefix")],
            },
        },
    );
    star.world.run_until(Duration::from_secs(2));
    let answered = star.world.trace().lines()[before..]
        .iter()
        .any(|line| line.contains("client") && line.contains("assign addresses"));
    assert!(answered, "{}", star.world.trace().text());
}
