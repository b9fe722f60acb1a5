//! Host networking against the real kernel. Each test runs again as a child process in a network namespace of its
//! own, so that nothing of it reaches the machine, and a crash can be a real one.

#[path = "host_netns/filters.rs"]
mod filters;
#[path = "host_netns/world.rs"]
mod world;

use std::net::IpAddr;

use ipnet::IpNet;
use masque::host::{HostError, HostNet, ServerNet, Table};
use masque_core::wire::prefix::IpPrefix;
use serde_json::Value;
use world::{World, inside, nft_ruleset, run, sysctl};

const MARK: u32 = 0x4d51;
const TABLE: Table = Table(7_777);

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn prefixes(list: &[&str]) -> Vec<IpPrefix> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The addresses on an interface, as `ip` sees them, sorted, each with its remaining lifetime.
fn addresses(link: &str) -> Vec<(String, u64)> {
    let listing: Value =
        serde_json::from_str(&run(&["ip", "-j", "address", "show", link])).unwrap();
    let mut list: Vec<(String, u64)> = listing[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let text = format!("{}/{}", one["local"].as_str().unwrap(), one["prefixlen"]);
            (text, one["valid_life_time"].as_u64().unwrap())
        })
        .collect();
    list.sort();
    list
}

fn routes(version: &str, table: Table) -> Vec<Value> {
    let table = table.0.to_string();
    let text = run(&["ip", "-j", version, "route", "show", "table", &table]);
    serde_json::from_str::<Vec<Value>>(&text).unwrap()
}

/// The expressions of all rules of a chain, as one text each.
fn chain(table: &str, name: &str) -> Vec<String> {
    let ruleset = nft_ruleset();
    let rules = ruleset.iter().filter_map(|object| object.get("rule"));
    rules
        .filter(|rule| rule["table"] == table && rule["chain"] == name)
        .map(|rule| rule["expr"].to_string())
        .collect()
}

#[test]
fn addresses_change_by_the_difference_and_others_stay() {
    inside(|| {
        let world = World::new();
        run(&["ip", "address", "add", "192.0.2.9/24", "dev", "tun0"]);
        let before = world.snapshot();
        let mut host = world.open("one");
        let first = nets(&[
            "10.1.0.2/32",
            "10.1.0.3/32",
            "2001:db8::2/128",
            "2001:db8::3/64",
        ]);
        host.replace_addresses("tun0", &first).unwrap();
        let mut known: Vec<IpNet> = host.addresses("tun0").unwrap();
        known.sort();
        let mut expected = first.clone();
        expected.extend(nets(&["192.0.2.9/24"]));
        expected.sort();
        assert_eq!(known, expected);

        // What stays keeps a property that a removal and an addition would lose.
        let lifetime = [
            "valid_lft",
            "9000",
            "preferred_lft",
            "8000",
            "noprefixroute",
        ];
        for kept in ["10.1.0.2/32", "2001:db8::2/128"] {
            run(&[
                &["ip", "address", "change", kept, "dev", "tun0"],
                &lifetime[..],
            ]
            .concat());
        }
        let second = nets(&[
            "10.1.0.2/32",
            "10.1.0.4/32",
            "2001:db8::2/128",
            "192.0.2.9/24",
        ]);
        host.replace_addresses("tun0", &second).unwrap();
        let now = addresses("tun0");
        let names: Vec<&str> = now.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = [
            "10.1.0.2/32",
            "10.1.0.4/32",
            "192.0.2.9/24",
            "2001:db8::2/128",
        ];
        assert_eq!(names, wanted);
        for (name, left) in &now {
            let kept = name == "10.1.0.2/32" || name == "2001:db8::2/128";
            assert_eq!(kept, *left <= 9000, "{name} {left}");
        }
        assert!(run(&["ip", "-6", "address", "show", "tentative"]).is_empty());

        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn removing_an_address_brings_back_what_the_kernel_takes_with_it() {
    inside(|| {
        let world = World::new();
        let mut host = world.open("one");
        // The second is secondary to the first, and vanishes with it.
        host.replace_addresses("tun0", &nets(&["10.1.0.2/24", "10.1.0.3/24"]))
            .unwrap();
        host.replace_addresses("tun0", &nets(&["10.1.0.3/24"]))
            .unwrap();
        assert_eq!(host.addresses("tun0").unwrap(), nets(&["10.1.0.3/24"]));
    });
}

#[test]
fn routes_change_by_the_difference_and_others_stay() {
    inside(|| {
        let world = World::new();
        let table = TABLE.0.to_string();
        run(&[
            "ip",
            "route",
            "add",
            "10.99.0.0/16",
            "dev",
            "tun0",
            "table",
            &table,
        ]);
        let before = world.snapshot();
        let mut host = world.open("one");
        let first = prefixes(&[
            "0.0.0.0/0",
            "10.2.0.0/16",
            "10.3.0.0/16",
            "::/0",
            "2001:db8:2::/48",
        ]);
        host.replace_routes("tun0", TABLE, &first).unwrap();
        assert_eq!(routes("-4", TABLE).len(), 4);
        assert_eq!(routes("-6", TABLE).len(), 2);

        let kept = [
            "10.2.0.0/16",
            "dev",
            "tun0",
            "table",
            &table,
            "proto",
            "0x9c",
        ];
        let mtu = ["scope", "link", "mtu", "1300"];
        run(&[&["ip", "route", "replace"], &kept[..], &mtu[..]].concat());
        let second = prefixes(&["10.2.0.0/16", "10.4.0.0/16", "::/0", "2001:db8:4::/48"]);
        host.replace_routes("tun0", TABLE, &second).unwrap();
        let mut now: Vec<String> = Vec::new();
        for route in [routes("-4", TABLE), routes("-6", TABLE)].concat() {
            let destination = route["dst"].as_str().unwrap().to_owned();
            let has_mtu = route["metrics"][0]["mtu"] == 1300;
            assert_eq!(has_mtu, destination == "10.2.0.0/16", "{route}");
            now.push(destination);
        }
        now.sort();
        let wanted = [
            "10.2.0.0/16",
            "10.4.0.0/16",
            "10.99.0.0/16",
            "2001:db8:4::/48",
            "default",
        ];
        assert_eq!(now, wanted);
        let ours = host
            .routes()
            .unwrap()
            .into_iter()
            .filter(|route| route.ours);
        assert_eq!(ours.count(), 4);

        let taken = host.replace_routes("tun0", TABLE, &prefixes(&["10.99.0.0/16"]));
        assert!(matches!(taken, Err(HostError::Exists { .. })), "{taken:?}");
        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn marked_packets_pass_by_the_tunnel_and_all_others_through_it() {
    inside(|| {
        let world = World::new();
        world.uplink();
        run(&[
            "ip",
            "rule",
            "add",
            "from",
            "203.0.113.1",
            "lookup",
            "5",
            "priority",
            "30000",
        ]);
        let before = world.snapshot();
        let mut host = world.open("one");
        host.set_up("tun0", Some(1380)).unwrap();
        host.replace_addresses("tun0", &nets(&["10.1.0.2/32", "2001:db8:1::2/128"]))
            .unwrap();
        host.replace_routes("tun0", TABLE, &prefixes(&["0.0.0.0/0", "::/0"]))
            .unwrap();
        host.install_client_rules(MARK, TABLE).unwrap();
        for (far, near, gateway) in [
            ("198.51.100.1", "192.0.2.77", "192.0.2.1"),
            ("2001:db8:f::1", "2001:db8:2::77", "2001:db8:2::1"),
        ] {
            let through = host.way_to(ip(far), None).unwrap();
            assert_eq!((through.link.as_str(), through.mtu), ("tun0", 1380));
            let around = host.way_to(ip(far), Some(MARK)).unwrap();
            assert_eq!((around.link.as_str(), around.mtu), ("eth0", 1500));
            assert_eq!(around.gateway, Some(ip(gateway)));
            assert_eq!(host.way_to(ip(near), None).unwrap().link, "eth0");
        }
        assert_eq!(sysctl("net/ipv4/conf/all/src_valid_mark"), "1");
        // Installed again with another mark, the old rules are gone.
        host.install_client_rules(MARK + 1, TABLE).unwrap();
        assert_eq!(
            host.way_to(ip("198.51.100.1"), Some(MARK)).unwrap().link,
            "tun0"
        );
        let rules = run(&["ip", "rule"]) + &run(&["ip", "-6", "rule"]);
        assert_eq!(
            rules.matches("suppress_prefixlength 0").count(),
            2,
            "{rules}"
        );

        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
        let none = host.install_client_rules(0, TABLE).unwrap_err();
        assert!(matches!(none, HostError::Unsupported { .. }), "{none}");
    });
}

#[test]
fn a_killed_process_is_cleaned_up_at_the_next_start() {
    inside(|| {
        if let Some(directory) = world::victim() {
            let mut host = HostNet::open("one", Some(&directory)).unwrap();
            change_everything(&mut host, "tun0", TABLE);
            world::wait_to_be_killed();
        }
        let world = World::new();
        let before = world.snapshot();
        world.kill_a_victim();
        let crashed = world.snapshot();
        assert!(crashed != before, "the victim left something");

        let mut other = world.open("two");
        assert!(other.cleanup_stale().unwrap().is_empty());
        drop(other);
        crashed.assert_is(&world.snapshot(), "another instance leaves it alone");

        let mut host = world.open("one");
        let undone = host.cleanup_stale().unwrap();
        assert!(undone.len() >= 8, "{undone:#?}");
        before.assert_is(&world.snapshot(), "all is as it was");
        assert!(host.cleanup_stale().unwrap().is_empty());
        drop(host);
        assert_eq!(world.leftovers(), ["settings.lock"]);
    });
}

#[test]
fn a_packet_filter_is_found_by_its_name_when_the_journal_is_lost() {
    inside(|| {
        let world = World::new();
        run(&["nft", "add", "table", "inet", "masque-two"]);
        let before = world.snapshot();
        run(&["nft", "add", "table", "inet", "masque-one"]);
        assert_eq!(world.open("one").cleanup_stale().unwrap().len(), 1);
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn two_instances_do_not_take_from_each_other() {
    inside(|| {
        let world = World::new();
        let before = world.snapshot();
        let mut one = world.open("one");
        change_everything(&mut one, "tun0", TABLE);
        let with_one = world.snapshot();
        let mut two = world.open("two");
        change_everything(&mut two, "tun1", Table(TABLE.0 + 1));
        two.undo_all().unwrap();
        with_one.assert_is(&world.snapshot(), "all is as it was");
        change_everything(&mut two, "tun1", Table(TABLE.0 + 1));

        one.undo_all().unwrap();
        drop(one);
        assert_eq!(
            sysctl("net/ipv4/ip_forward"),
            "1",
            "the second still forwards"
        );
        assert_eq!(sysctl("net/ipv4/conf/all/src_valid_mark"), "1");
        assert_eq!(chain("masque-two", "forward").len(), 6);
        assert_eq!(chain("masque-one", "forward").len(), 0);
        assert_eq!(routes("-4", Table(TABLE.0 + 1)).len(), 2);
        assert_eq!(routes("-4", TABLE).len(), 0);
        assert_eq!(addresses("tun1").len(), 2);
        let rules = run(&["ip", "rule"]);
        assert_eq!(
            rules.matches("suppress_prefixlength 0").count(),
            1,
            "{rules}"
        );

        drop(two);
        before.assert_is(&world.snapshot(), "dropping is undoing");
    });
}

/// One of everything a client and a server do.
fn change_everything(host: &mut HostNet, tun: &str, table: Table) {
    host.set_up("lo", None).unwrap();
    host.set_up(tun, Some(1400)).unwrap();
    let last = &tun[3..];
    let own = [format!("10.1.{last}.1/32"), format!("2001:db8::{last}/128")];
    let own: Vec<IpNet> = own.iter().map(|text| text.parse().unwrap()).collect();
    host.replace_addresses(tun, &own).unwrap();
    let routed = prefixes(&["0.0.0.0/0", "10.2.0.0/16", "::/0"]);
    host.replace_routes(tun, table, &routed).unwrap();
    host.install_client_rules(table.0, table).unwrap();
    host.create_veth(&format!("made{last}"), &format!("peer{last}"))
        .unwrap();
    let pools = prefixes(&["10.8.0.0/24", "fd00:8::/64"]);
    host.install_server(&ServerNet::new(tun, pools)).unwrap();
}

#[test]
fn a_link_gets_its_state_back_and_made_links_go() {
    inside(|| {
        let world = World::new();
        run(&["ip", "link", "set", "tun1", "down", "mtu", "1450"]);
        let before = world.snapshot();
        let mut host = world.open("one");
        host.set_up("tun1", Some(1350)).unwrap();
        host.set_mtu("tun1", 1300).unwrap();
        let link = host.link("tun1").unwrap();
        assert_eq!((link.up, link.mtu, link.loopback), (true, 1300, false));
        host.create_veth("va", "vb").unwrap();
        let made = host.links().unwrap();
        assert!(made.iter().any(|link| link.name == "vb"));
        let again = host.create_veth("va", "vc").unwrap_err();
        assert!(matches!(again, HostError::Exists { .. }), "{again}");
        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
        assert!(run(&["ip", "link", "show", "tun1"]).contains("mtu 1450"));
    });
}

#[test]
fn connected_networks_are_the_local_ones() {
    inside(|| {
        let world = World::new();
        world.uplink();
        run(&["ip", "address", "add", "169.254.3.3/16", "dev", "eth0"]);
        run(&["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1"]);
        let mut host = world.open("one");
        host.replace_addresses("tun0", &nets(&["10.1.0.2/32"]))
            .unwrap();
        host.replace_routes("tun0", Table::MAIN, &prefixes(&["10.0.0.0/8"]))
            .unwrap();
        let local = host.local_networks(Some("tun0")).unwrap();
        assert_eq!(local, prefixes(&["192.0.2.0/24", "2001:db8:2::/64"]));
        let nowhere = host
            .way_to(ip("2001:db8:ffff::1"), None)
            .map(|way| way.link);
        assert_eq!(nowhere.unwrap(), "eth0");
        run(&["ip", "route", "add", "unreachable", "203.0.113.0/24"]);
        let forbidden = host.way_to(ip("203.0.113.1"), None).unwrap_err();
        assert!(forbidden.is_not_found(), "{forbidden}");
    });
}

#[test]
fn a_missing_link_is_named_and_changes_nothing() {
    inside(|| {
        let world = World::new();
        let before = world.snapshot();
        let mut host = world.open("one");
        for error in [
            host.set_up("gone0", None).unwrap_err(),
            host.replace_addresses("gone0", &nets(&["10.0.0.1/32"]))
                .unwrap_err(),
            host.replace_routes("gone0", TABLE, &[]).unwrap_err(),
            host.link_index("a-name-beyond-all-lengths").unwrap_err(),
        ] {
            assert!(matches!(error, HostError::NoSuchLink { .. }), "{error}");
            assert!(error.is_not_found() && !error.is_permission());
        }
        run(&["ip", "link", "set", "tun1", "down"]);
        let down = host
            .replace_routes("tun1", TABLE, &prefixes(&["10.0.0.0/8"]))
            .unwrap_err();
        assert!(
            down.to_string().contains("10.0.0.0/8 through tun1"),
            "{down}"
        );
        run(&["ip", "link", "set", "tun1", "up"]);
        host.undo_all().unwrap();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn without_privileges_every_change_is_refused_as_such() {
    inside(|| {
        if let Some(directory) = world::victim() {
            let mut host = HostNet::open("one", Some(&directory)).unwrap();
            let filter = ServerNet::new("tun0", prefixes(&["10.8.0.0/24"]));
            for error in [
                host.set_mtu("tun0", 1300).unwrap_err(),
                host.replace_addresses("tun0", &nets(&["10.0.0.1/32"]))
                    .unwrap_err(),
                host.replace_routes("tun0", TABLE, &prefixes(&["10.0.0.0/8"]))
                    .unwrap_err(),
                host.install_client_rules(MARK, TABLE).unwrap_err(),
                host.install_server(&filter).unwrap_err(),
            ] {
                assert!(matches!(error, HostError::Permission { .. }), "{error}");
                assert!(error.is_permission());
            }
            assert!(
                host.addresses("tun0").unwrap().is_empty(),
                "asking is allowed"
            );
            return;
        }
        let world = World::new();
        let before = world.snapshot();
        world.without_privileges();
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn an_ipv6_address_where_ipv6_is_off_is_unsupported() {
    inside(|| {
        let world = World::new();
        world.set("net/ipv6/conf/tun1/disable_ipv6", "1");
        let before = world.snapshot();
        let mut host = world.open("one");
        let own = nets(&["10.1.0.2/32", "2001:db8::2/128"]);
        let error = host.replace_addresses("tun1", &own).unwrap_err();
        assert!(matches!(error, HostError::Unsupported { .. }), "{error}");
        assert!(!error.is_permission());
        let given = host.addresses("tun1").unwrap();
        assert_eq!(given, nets(&["10.1.0.2/32"]), "IPv4 is not held up");
        drop(host);
        before.assert_is(&world.snapshot(), "all is as it was");
    });
}

#[test]
fn an_instance_name_is_one_word() {
    let directory = tempfile::tempdir().unwrap();
    let long = "a".repeat(33);
    for name in ["", "1st", "a b", "../up", "a/b", "é", "a;drop", &long] {
        let error = HostNet::open(name, Some(directory.path())).unwrap_err();
        assert!(matches!(error, HostError::InstanceName { .. }), "{name}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
