//! A real device with two queues, in a namespace of its own.

use std::net::UdpSocket;
use std::num::NonZeroU16;
use std::process::Command;

use masque_core::endpoint::ConnId;
use masque_core::session::TunnelId;

use super::*;
use crate::tun::TunConfig;

fn prefix(text: &str) -> IpPrefix {
    let (address, length) = text.split_once('/').expect("a prefix");
    let address = address.parse().expect("an address");
    IpPrefix::new(address, length.parse().expect("a length")).expect("a prefix")
}

fn tunnel(conn: u64) -> TunnelHandle {
    TunnelHandle {
        conn: ConnId(conn),
        tunnel: TunnelId(0),
    }
}

#[test]
fn packets_come_out_of_the_queue_of_their_destination() {
    // A namespace belongs to a thread, and goes with it.
    let tested = std::thread::spawn(|| {
        let ready = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(std::io::Error::from)
            .and_then(|()| std::fs::OpenOptions::new().write(true).open("/dev/net/tun"))
            .and_then(|_| Command::new("ip").arg("-V").output())
            .and_then(|_| PrefixMap::new(1));
        match ready {
            Ok(_) => in_a_namespace(),
            // Past the test harness, which keeps what a passing test prints to itself.
            Err(error) => {
                let line = format!("SKIPPED: the test of steered TUN queues: {error}\n");
                let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
            }
        }
    });
    tested.join().expect("queues are steered");
}

fn in_a_namespace() {
    for offload in [true, false] {
        let config = TunConfig {
            name: Some("kit-mq%d".to_owned()),
            offload,
            ..TunConfig::default()
        };
        let two = NonZeroU16::MIN.saturating_add(1);
        let queues = TunDevice::create_queues(&config, two, true).expect("a device");
        assert!(queues.failure.is_none(), "{:?}", queues.failure);
        let [first, second] = queues.devices.as_slice() else {
            panic!("two queues");
        };
        assert_eq!(first.index(), second.index());
        assert_eq!(
            (first.offload(), first.is_write_only()),
            (second.offload(), false)
        );
        let steered = Destinations::attach(first).expect("bpf");
        for command in [
            "address add 10.9.0.1/16 dev",
            "-6 address add fd99::1/64 nodad dev",
        ] {
            let words = command.split(' ').chain([first.name()]);
            let done = Command::new("ip").args(words).status();
            assert!(done.expect("ip runs").success(), "{command}");
        }
        let arrives = |to: &str| queue_of(to, &queues.devices);
        assert_eq!(arrives("10.9.0.2"), 0, "of nobody");
        let give = |tunnel, shard, prefixes: &[&str]| {
            let prefixes: Vec<IpPrefix> = prefixes.iter().map(|text| prefix(text)).collect();
            steered.set(tunnel, shard, &prefixes).expect("room");
        };
        let (old, new, third) = (tunnel(1), tunnel(2), tunnel(3));
        give(old, 1, &["10.9.0.2/32", "fd99::2/128", "10.9.128.0/17"]);
        for (to, queue) in [
            ("10.9.0.2", 1),
            ("10.9.0.3", 0),
            ("10.9.200.1", 1),
            ("fd99::2", 1),
            ("fd99::3", 0),
        ] {
            assert_eq!(arrives(to), queue, "{to}");
        }
        // The most specific prefix counts.
        give(third, 0, &["10.9.200.1/32"]);
        assert_eq!((arrives("10.9.200.1"), arrives("10.9.200.2")), (0, 1));
        // The client comes back on the other shard, and then its old tunnel ends.
        give(new, 0, &["10.9.0.2/32", "fd99::2/128"]);
        assert_eq!((arrives("10.9.0.2"), arrives("fd99::2")), (0, 0));
        give(new, 1, &["10.9.0.2/32", "fd99::2/128"]);
        give(old, 1, &[]);
        assert_eq!((arrives("10.9.0.2"), arrives("fd99::2")), (1, 1));
        assert_eq!(arrives("10.9.200.2"), 0);
        // Fewer than before, then none.
        give(new, 1, &["fd99::2/128"]);
        assert_eq!((arrives("10.9.0.2"), arrives("fd99::2")), (0, 1));
        give(new, 1, &[]);
        assert_eq!(arrives("fd99::2"), 0);
        assert_eq!(steered.failures(), 0);
    }
}

/// Sends a datagram and finds the queue it comes out of.
fn queue_of(to: &str, queues: &[TunDevice]) -> usize {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let to: IpAddr = to.parse().expect("an address");
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // From a port of its own each: another queue for every other flow, if nothing steered.
    let socket = UdpSocket::bind(any).expect("bound");
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mark = format!("steered packet {number:08}");
    socket.send_to(mark.as_bytes(), (to, 9)).expect("a route");
    let mut buffer = vec![0; crate::io::TUN_READ];
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 10 {
        for (queue, device) in queues.iter().enumerate() {
            // Router solicitations and the like come out, too.
            while let Ok(length) = device.recv(&mut buffer) {
                if buffer[..length].ends_with(mark.as_bytes()) {
                    return queue;
                }
            }
        }
        std::thread::yield_now();
    }
    panic!("nothing for {to} comes out");
}
