//! Packet filters, by their content and by what they let through.

use masque::host::{ClientFilter, GatewayAccess, HostError, HostNet, ServerNet};

use crate::world::{self, Namespace, World, inside, run, settle, sysctl};
use crate::{MARK, TABLE, chain, nets, prefixes};

#[test]
fn the_clients_filter_guards_its_addresses() {
    inside(|| {
        let world = World::new();
        let before = world.snapshot();
        let mut host = world.open("one");
        let mut filter = ClientFilter {
            tun: "tun0".into(),
            fwmark: MARK,
            addresses: nets(&["10.1.0.9/32"]),
        };
        host.install_client_filter(&filter).unwrap();
        filter.addresses = nets(&["10.1.0.2/32", "10.1.0.3/24", "2001:db8::2/128"]);
        host.install_client_filter(&filter).unwrap();
        let guard = chain("masque-one", "preraw");
        assert_eq!(guard.len(), 2, "{guard:?}");
        for part in ["tun0", "10.1.0.2", "10.1.0.3", "fib", "local", "drop"] {
            assert!(guard[0].contains(part), "{part}: {}", guard[0]);
        }
        assert!(!guard[0].contains("10.1.0.9"));
        assert!(guard[1].contains("2001:db8::2"), "{}", guard[1]);
        let mark = MARK.to_string();
        let marking = |name: &str| {
            let rules = chain("masque-one", name);
            let complete = |rule: &String| rule.contains("mangle") && rule.contains(&mark);
            assert!(rules.len() <= 1 && rules.iter().all(complete), "{rules:?}");
            rules.into_iter().next()
        };
        let coming = marking("premangle").unwrap();
        // Where the kernel cannot ask the socket, connections are marked on their way out.
        assert_eq!(marking("postmangle").is_none(), coming.contains("socket"));
        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn packets_to_tunnel_addresses_from_elsewhere_are_dropped() {
    inside(|| {
        let world = World::new();
        let mut host = world.open("one");
        let neighbour = Namespace::new();
        host.create_veth("lan0", "lan1").unwrap();
        host.move_to_process("lan1", neighbour.pid()).unwrap();
        host.set_up("lan0", None).unwrap();
        host.set_up("lo", None).unwrap();
        run(&["ip", "address", "add", "10.5.0.1/24", "dev", "lan0"]);
        neighbour.run(&["ip", "address", "add", "10.5.0.2/24", "dev", "lan1"]);
        neighbour.run(&["ip", "link", "set", "lan1", "up"]);
        settle(&["lan0"], run);
        neighbour.run(&["ip", "route", "add", "10.1.0.2", "via", "10.5.0.1"]);
        host.replace_addresses("tun0", &nets(&["10.1.0.2/32"]))
            .unwrap();
        assert!(neighbour.reaches("10.1.0.2"), "the way exists");
        host.install_client_filter(&ClientFilter {
            tun: "tun0".into(),
            fwmark: MARK,
            addresses: nets(&["10.1.0.2/32"]),
        })
        .unwrap();
        assert!(!neighbour.reaches("10.1.0.2"), "and is closed");
        assert!(neighbour.reaches("10.5.0.1"), "and only that one");
        run(&["ping", "-c", "1", "-W", "1", "10.1.0.2"]);
    });
}

#[test]
fn a_servers_filter_and_forwarding_are_complete_and_undone() {
    inside(|| {
        let world = World::new();
        // Values that the kernel overwrites by itself when forwarding changes.
        world.set("net/ipv4/conf/all/accept_redirects", "0");
        world.set("net/ipv6/conf/tun0/forwarding", "1");
        let before = world.snapshot();
        let mut host = world.open("one");
        let pools = ["10.8.0.0/24", "10.9.0.0/24", "10.9.0.0/25", "fd00:8::/64"];
        let mut server = ServerNet::new("tun0", prefixes(&pools));
        server.nat = true;
        server.egress = vec!["eth0".into()];
        host.install_server(&server).unwrap();
        assert_eq!(sysctl("net/ipv4/ip_forward"), "1");
        assert_eq!(sysctl("net/ipv6/conf/all/forwarding"), "1");
        let nat = chain("masque-one", "postrouting");
        assert_eq!(nat.len(), 2, "{nat:?}");
        assert!(
            nat[0].contains("10.8.0.0") && nat[0].contains("10.9.0.0"),
            "{}",
            nat[0]
        );
        assert!(nat[1].contains("fd00:8::"), "{}", nat[1]);
        assert!(nat.iter().all(|rule| rule.contains("masquerade")));
        let forward = chain("masque-one", "forward");
        assert_eq!(forward.len(), 7, "{forward:?}");
        assert!(forward[0].contains("169.254.0.0"));
        assert!(forward[1].contains("fe80::"));
        assert_eq!(chain("masque-one", "input").len(), 2);

        // Everything allowed is a smaller table, not a second one.
        server.nat = false;
        server.tun_to_tun = true;
        server.inbound = true;
        server.egress.clear();
        server.clamp_mss = false;
        server.gateway = GatewayAccess::Open;
        host.install_server(&server).unwrap();
        assert_eq!(chain("masque-one", "forward").len(), 2);
        assert!(chain("masque-one", "input").is_empty());
        assert!(chain("masque-one", "postrouting").is_empty());

        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn clients_reach_what_the_server_allows_and_nothing_else() {
    inside(|| {
        let world = World::new();
        let mut host = world.open("one");
        // A veth stands for the tunnel: to the filter it is a name. A router needs link-local
        // addresses to find neighbours.
        world.set("net/ipv6/conf/default/addr_gen_mode", "0");
        let (client, outside) = (Namespace::new(), Namespace::new());
        for (here, there, peer) in [("vpn0", "cl0", &client), ("wan0", "out0", &outside)] {
            host.create_veth(here, there).unwrap();
            host.move_to_process(there, peer.pid()).unwrap();
            host.set_up(here, None).unwrap();
            peer.run(&["ip", "link", "set", there, "up"]);
            settle(&[here], run);
            settle(&[there], |command| peer.run(command));
            peer.run(&["ip", "link", "set", "lo", "up"]);
        }
        for (version, gateway, inner, wan, far) in [
            (
                "-4",
                "10.8.0.1/24",
                "10.8.0.2/24",
                "192.0.2.1/24",
                "192.0.2.2/24",
            ),
            (
                "-6",
                "fd00:8::1/64",
                "fd00:8::2/64",
                "2001:db8:2::1/64",
                "2001:db8:2::2/64",
            ),
        ] {
            run(&["ip", version, "address", "add", gateway, "dev", "vpn0"]);
            client.run(&["ip", version, "address", "add", inner, "dev", "cl0"]);
            let router = gateway.split('/').next().unwrap();
            client.run(&["ip", version, "route", "add", "default", "via", router]);
            run(&["ip", version, "address", "add", wan, "dev", "wan0"]);
            outside.run(&["ip", version, "address", "add", far, "dev", "out0"]);
        }
        // A TUN has no neighbour discovery, and a closed host hears none from its clients.
        let macs = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
        let know = |address, mac, link| {
            [
                "ip",
                "neighbour",
                "add",
                address,
                "lladdr",
                mac,
                "dev",
                link,
            ]
        };
        run(&["ip", "link", "set", "vpn0", "address", macs[0]]);
        client.run(&["ip", "link", "set", "cl0", "address", macs[1]]);
        run(&know("fd00:8::2", macs[1], "vpn0"));
        client.run(&know("fd00:8::1", macs[0], "cl0"));
        let mut server = ServerNet::new("vpn0", prefixes(&["10.8.0.0/24", "fd00:8::/64"]));
        server.nat = true;
        host.install_server(&server).unwrap();
        // The outside has no route back: only with NAT does an answer come.
        assert!(client.reaches("192.0.2.2"), "NAT over IPv4");
        assert!(client.reaches("2001:db8:2::2"), "NAT over IPv6");
        assert!(!client.reaches("10.8.0.1"), "the host is closed");
        assert!(!client.reaches("192.0.2.1"), "on all of its addresses");
        assert!(!client.reaches("fd00:8::1"));
        run(&["ping", "-c", "1", "-W", "1", "10.8.0.2"]);

        server.gateway = GatewayAccess::Ping;
        server.nat = false;
        host.install_server(&server).unwrap();
        assert!(client.reaches("10.8.0.1"), "the host may be pinged");
        assert!(client.reaches("fd00:8::1"));
        assert!(
            !client.reaches("192.0.2.2"),
            "without NAT there is no way back"
        );

        outside.run(&["ip", "route", "add", "10.8.0.0/24", "via", "192.0.2.1"]);
        assert!(client.reaches("192.0.2.2"), "routed");
        assert!(!outside.reaches("10.8.0.2"), "nothing comes in");
        server.inbound = true;
        host.install_server(&server).unwrap();
        assert!(outside.reaches("10.8.0.2"), "unless allowed");

        server.egress = vec!["eth0".into()];
        host.install_server(&server).unwrap();
        assert!(!client.reaches("192.0.2.2"), "by another interface only");
    });
}

#[test]
fn without_nft_the_error_says_what_to_install_and_nothing_is_changed() {
    inside(|| {
        if let Some(directory) = world::victim() {
            let mut host = HostNet::open("one", Some(&directory)).unwrap();
            host.cleanup_stale().unwrap();
            let server = ServerNet::new("tun0", prefixes(&["10.8.0.0/24"]));
            let error = host.install_server(&server).unwrap_err();
            assert!(matches!(error, HostError::NftMissing { .. }), "{error}");
            assert!(error.to_string().contains("install nftables"), "{error}");
            // What needs no filter goes on without.
            host.install_client_rules(MARK, TABLE).unwrap();
            return;
        }
        let world = World::new();
        let before = world.snapshot();
        world.without_nft();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn a_server_that_forwards_ipv6_still_listens_to_its_routers() {
    inside(|| {
        let world = World::new();
        world.uplink();
        let advertised = ["proto", "ra", "metric", "512"];
        let route = [
            "ip",
            "-6",
            "route",
            "add",
            "default",
            "via",
            "2001:db8:2::9",
        ];
        run(&[&route[..], &advertised].concat());
        let before = world.snapshot();
        let mut host = world.open("one");
        let pools = prefixes(&["fd00:8::/64"]);
        host.install_server(&ServerNet::new("tun0", pools)).unwrap();
        assert_eq!(sysctl("net/ipv6/conf/eth0/accept_ra"), "2");
        assert_eq!(sysctl("net/ipv6/conf/tun0/accept_ra"), "1");
        assert_eq!(sysctl("net/ipv4/ip_forward"), "0", "no IPv4 pool");
        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}
