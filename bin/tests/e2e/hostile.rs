//! A client that floods, beside one that does not. Who gets how much of the machine is the scheduler's
//! business as well here; exact shares are held in `bench/src/hostile/tests.rs`.

use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::namespace::{Namespace, inside, say};
use crate::process::Binary;
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

const SOME: u64 = 20_000_000;

/// Sends UDP datagrams as fast as the kernel takes them, to a port where nobody listens.
fn flood(from: &Namespace, to: IpAddr, on: &AtomicBool, sent: &AtomicU64) {
    from.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        while on.load(Ordering::Relaxed) {
            // A socket of its own each: an ICMP error would be reported at a later call.
            let socket = UdpSocket::bind(any).unwrap();
            for _ in 0..1000 {
                let went = socket.send_to(&[0x5a; 1300], (to, 9)).is_ok();
                sent.fetch_add(u64::from(went), Ordering::Relaxed);
            }
        }
    });
}

/// Mbit/s up and down.
fn rates(world: &World) -> [f64; 2] {
    [Direction::Up, Direction::Down].map(|direction| {
        let time = world
            .second
            .run(|| traffic::transfer(direction, ip(INET[0]), SOME));
        SOME as f64 * 8e-6 / time.as_secs_f64()
    })
}

fn is_not_starved(binary: Binary) {
    let world = World::new(Egress::Routed);
    let server = world.start_server(binary, "");
    let careless = "transport.congestion = \"fixed\"\ntransport.rate = 10000000000";
    let alice = world.start_client(Binary::Mio, Underlay::V4, careless);
    let own = alice.wait_up();
    let bob = world.start_second(Binary::Mio, "");
    bob.wait_up();
    let before = rates(&world);
    let (on, sent) = (AtomicBool::new(true), AtomicU64::new(0));
    let (under, slowest) = thread::scope(|scope| {
        scope.spawn(|| flood(&world.client, ip(INET[0]), &on, &sent));
        scope.spawn(|| flood(&world.inet, own[0], &on, &sent));
        let under = rates(&world);
        let slowest = world.second.run(|| {
            let pings = (0..50).map(|_| traffic::ping_once(ip(INET[0]), Duration::from_secs(1)));
            pings
                .map(|time| time.unwrap_or(Duration::from_secs(1)))
                .max()
        });
        on.store(false, Ordering::Relaxed);
        (under, slowest.unwrap())
    });
    say(&format!(
        "{binary:?}: TCP {:.0} and {:.0} Mbit/s alone, {:.0} and {:.0} beside {} flooding datagrams; slowest ping {slowest:.1?}",
        before[0],
        before[1],
        under[0],
        under[1],
        sent.load(Ordering::Relaxed),
    ));
    assert!(sent.load(Ordering::Relaxed) > 10_000);
    // Two floods, three tunnel processes and a few stacks share the processors with it.
    for (under, before) in under.into_iter().zip(before) {
        assert!(under > before / 20.0, "{under} of {before} Mbit/s");
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    alice.stop();
    bob.stop();
    server.stop();
}

#[test]
fn a_client_that_floods_both_ways_does_not_starve_another() {
    inside(|| is_not_starved(Binary::Mio));
}
