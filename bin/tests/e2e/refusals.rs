//! What cannot work says why, with its documented exit code, and leaves nothing behind.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use masque::exit::Exit;
use masque::pki::Authority;

use crate::namespace::{Namespace, inside};
use crate::process::{Binary, Process};
use crate::traffic;
use crate::world::{Egress, INET, Underlay, World, ip};

/// Runs a command that must end by itself with this code, say these words, and leave the host as it was.
fn fails(
    namespace: &Namespace,
    binary: Binary,
    command: &str,
    config: &Path,
    code: Exit,
    words: &[&str],
) {
    let before = namespace.snapshot();
    let process = Process::start(namespace, binary, command, config);
    let (found, message) = process.fails();
    assert_eq!(found, code as i32, "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message}");
    }
    similar(&before, &namespace.snapshot());
}

fn similar(before: &str, after: &str) {
    assert!(before == after, "before:\n{before}\nafter:\n{after}");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "");
        let config = world.client_config("nobody", Underlay::V4, "");
        let words = [
            "no secure connection to 198.51.100.2:4433",
            "no certificate",
        ];
        fails(
            &world.client,
            Binary::Tokio,
            "client",
            &config,
            Exit::Refused,
            &words,
        );
        assert!(!server.has_said("tunnel up"));
        server.stop();
    });
}

#[test]
fn a_client_of_another_ca_is_refused() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Mio, "");
        let (other, _) = Authority::generate("other", 1).unwrap();
        world.identity("mallory", &other.issue_client("mallory", 1).unwrap());
        let config = world.client_config("mallory", Underlay::V4, "");
        let words = [
            "no secure connection to 198.51.100.2:4433",
            "the CA the server trusts",
        ];
        fails(
            &world.client,
            Binary::Smol,
            "client",
            &config,
            Exit::Refused,
            &words,
        );
        assert!(!server.has_said("tunnel up"));
        server.stop();
    });
}

#[test]
fn a_client_whose_certificate_expired_is_refused() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Smol, "");
        world.identity("late", &world.expired_client("late"));
        let config = world.client_config("late", Underlay::V4, "");
        let words = ["our own certificate expired on"];
        fails(
            &world.client,
            Binary::Mio,
            "client",
            &config,
            Exit::Refused,
            &words,
        );
        assert!(!server.has_said("tunnel up"));
        server.stop();
    });
}

#[test]
fn a_server_of_another_ca_is_not_believed() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let (other, _) = Authority::generate("other", 1).unwrap();
        let names = ["198.51.100.2".to_owned()];
        world.identity("server", &other.issue_server(&names, 1).unwrap());
        let server = world.start_server(Binary::Tokio, "");
        let config = world.client_config("alice", Underlay::V4, "");
        let words = ["no secure connection to 198.51.100.2:4433", "UnknownIssuer"];
        fails(
            &world.client,
            Binary::Mio,
            "client",
            &config,
            Exit::Refused,
            &words,
        );
        server.stop();
    });
}

#[test]
fn a_silent_server_is_unreachable() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let silent = world.server.run(|| UdpSocket::bind("[::]:4433").unwrap());
        let more = "connect_timeout = \"1s\"\nreconnect = false";
        let config = world.client_config("alice", Underlay::V4, more);
        let words = ["no answer from 198.51.100.2:4433"];
        for binary in [Binary::Tokio, Binary::Smol, Binary::Mio] {
            fails(
                &world.client,
                binary,
                "client",
                &config,
                Exit::Unreachable,
                &words,
            );
        }
        drop(silent);
    });
}

#[test]
fn a_host_that_is_not_there_is_unreachable() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let more = "connect_timeout = \"1s\"\nreconnect = false\nconnect = \"198.51.100.99\"";
        let config = world.client_config("alice", Underlay::V4, more);
        let words = ["198.51.100.99:4433"];
        fails(
            &world.client,
            Binary::Tokio,
            "client",
            &config,
            Exit::Unreachable,
            &words,
        );
        // No route at all.
        world.client.ip("route del default\n");
        let words = ["198.51.100.99:4433"];
        fails(
            &world.client,
            Binary::Tokio,
            "client",
            &config,
            Exit::Unreachable,
            &words,
        );
    });
}

#[test]
fn a_template_the_server_does_not_know_is_refused() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Binary::Tokio, "");
        let config = world.client_config("alice", Underlay::V4, "");
        let text = std::fs::read_to_string(&config).unwrap();
        let config = world.write("lost.toml", &text.replace("/masque/ip/", "/elsewhere/ip/"));
        let words = ["refuses", "status 404", "compare url with its templates"];
        fails(
            &world.client,
            Binary::Tokio,
            "client",
            &config,
            Exit::Refused,
            &words,
        );
        server.stop();
    });
}

#[test]
fn a_port_in_use_is_named() {
    inside(|| {
        let world = World::new(Egress::Nat);
        let taken = world.server.run(|| UdpSocket::bind("[::]:4433").unwrap());
        let config = world.server_config("");
        let words = ["cannot bind UDP [::]:4433", "another program listens there"];
        for binary in [Binary::Tokio, Binary::Smol, Binary::Mio] {
            fails(&world.server, binary, "server", &config, Exit::Host, &words);
        }
        drop(taken);
    });
}

#[test]
fn a_server_that_wants_too_much_gets_nowhere() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let routes = [
            "127.0.0.0/8",
            "192.0.2.0/24",
            "198.51.100.2/32",
            "203.0.113.0/24",
        ];
        let more = format!("routes = {routes:?}");
        let server = world.start_server(Binary::Tokio, &more);
        let client = world.start_client(Binary::Tokio, Underlay::V4, "");
        client.wait_up();
        world.client.run(|| traffic::ping(ip(INET[0])));
        for (refused, why) in [
            ("127.0.0.0/8", "loopback"),
            ("192.0.2.0/24", "local network"),
            ("198.51.100.2/32", "server"),
        ] {
            let wanted = format!("route not taken: {refused}");
            client.wait_from(0, &wanted, |fields| {
                let message = fields["message"].as_str().unwrap_or_default();
                message.starts_with(&wanted) && message.contains(why)
            });
        }
        let into_tunnel = world
            .client
            .command("ip", &["-4", "route", "show", "table", "all"]);
        let into_tunnel: Vec<&str> = into_tunnel
            .lines()
            .filter(|line| line.contains("dev vpn0") && !line.starts_with("local"))
            .collect();
        assert_eq!(into_tunnel.len(), 1, "{into_tunnel:?}");
        assert!(
            into_tunnel[0].starts_with("203.0.113.0/24"),
            "{into_tunnel:?}"
        );
        for (to, link) in [
            ("192.0.2.1", "eth0"),
            ("127.0.0.1", "lo"),
            ("198.51.100.2", "eth0"),
        ] {
            let way = world.client.command("ip", &["route", "get", to]);
            assert!(way.contains(&format!("dev {link}")), "{way}");
        }
        client.stop();
        server.stop();
    });
}

#[test]
fn a_wrong_configuration_names_its_line() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let words = ["server.toml:", "unknown field `colour`"];
        let config = world.server_config("colour = \"green\"");
        fails(
            &world.server,
            Binary::Tokio,
            "server",
            &config,
            Exit::Config,
            &words,
        );
    });
}

#[test]
fn without_privileges_the_tun_cannot_be_made() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let config = world.client_config("alice", Underlay::V4, "");
        let before = world.client.snapshot();
        // As root, but with no capability left.
        let output = world.client.run(|| {
            Command::new("setpriv")
                .args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"])
                .args([Binary::Tokio.path(), "client", "-c"])
                .arg(&config)
                .output()
        });
        let output = match output {
            Ok(output) => output,
            Err(error) => return crate::namespace::say(&format!("SKIPPED: setpriv: {error}")),
        };
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(Exit::Permission as i32),
            "{text}"
        );
        assert!(
            text.contains("run as root, or with CAP_NET_ADMIN"),
            "{text}"
        );
        similar(&before, &world.client.snapshot());
    });
}

#[test]
fn a_host_name_is_resolved_by_the_server_and_leads_to_no_place_that_is_forbidden() {
    inside(|| {
        let world = World::new(Egress::Routed);
        for (server, words) in [
            // It has addresses, and nobody is brought there.
            ("", ["refuses", "status 403"]),
            ("resolve_names = false", ["refuses", "status 502"]),
        ] {
            let server = world.start_server(Binary::Tokio, server);
            let more = "target = \"localhost\"\nreconnect = false";
            let config = world.client_config("alice", Underlay::V4, more);
            fails(
                &world.client,
                Binary::Mio,
                "client",
                &config,
                Exit::Refused,
                &words,
            );
            server.stop();
        }
    });
}
