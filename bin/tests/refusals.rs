//! What is wrong only at run time: permissions, ports, servers that do not answer or refuse. Each is one
//! clear message and a documented exit code, and nothing is left behind.

#[expect(dead_code, reason = "shared with tests that use more of it")]
mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use common::{BINARY, Fixture, Outcome, command, finish, with_config};
use masque::host::HostNet;
use masque::pki::Authority;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

/// Runs `test` in a network namespace of its own, or says why not.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !getuid().is_root() || !Path::new("/dev/net/tun").exists() {
        println!("skipped: needs root and /dev/net/tun");
        return;
    }
    // A thread that has changed its namespace must not be used for anything else.
    let outcome = thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: no network namespace: {error}");
            return;
        }
        let run = tempfile::tempdir().unwrap();
        let mut host = HostNet::open("refusals", Some(run.path())).unwrap();
        host.set_up("lo", None).unwrap();
        test();
        let links = host.links().unwrap();
        assert_eq!(links.len(), 1, "a link was left behind: {links:?}");
        let ours: Vec<_> = host.routes().unwrap();
        assert!(ours.iter().all(|route| !route.ours), "{ours:?}");
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn client(fixture: &Fixture, edit: &[(&str, &str)]) -> Outcome {
    let config = fixture.client(edit);
    let config = config.to_str().unwrap();
    finish(command(&["client", "--once", "-c", config]))
}

/// A server that is ready, and stopped at the end.
struct Server(Child);

impl Server {
    fn start(fixture: &Fixture) -> Self {
        let config = fixture.server(&[]);
        let mut child = Command::new(BINARY)
            .args(["server", "-c", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.any(|line| line.is_ok_and(|line| line.contains("server ready")));
        assert!(ready, "the server did not start");
        // A full pipe would stop it.
        thread::spawn(move || lines.for_each(drop));
        Self(child)
    }

    /// SIGTERM, and its exit code.
    fn stop(mut self) -> Option<i32> {
        kill(
            Pid::from_raw(i32::try_from(self.0.id()).unwrap()),
            Signal::SIGTERM,
        )
        .unwrap();
        self.0.wait().unwrap().code()
    }
}

#[test]
fn a_port_in_use_is_named() {
    let fixture = Fixture::new();
    let _other = UdpSocket::bind(("127.0.0.1", fixture.port)).unwrap();
    let address = format!("127.0.0.1:{}", fixture.port);
    let config = fixture.server(&[]);
    with_config("server", &config).fails(5, &[&address, "in use", "help:"]);
    assert!(!fixture.path("run").exists(), "a journal was left behind");
    let check = with_config("check", &config);
    assert!(
        check.stdout.contains("problem  cannot bind UDP"),
        "{}",
        check.stdout
    );
}

#[test]
fn an_address_of_another_host_is_named() {
    let fixture = Fixture::new();
    let config = fixture.server(&[("127.0.0.1:", "192.0.2.99:")]);
    with_config("server", &config).fails(5, &["192.0.2.99", "this host has no such address"]);
}

#[test]
fn without_permission_for_the_tun_the_user_is_told_what_is_needed() {
    if !getuid().is_root() {
        println!("skipped: needs root to become somebody without permissions");
        return;
    }
    let fixture = Fixture::new();
    // Somebody else must be able to run the binary and read the configuration.
    let binary = fixture.path("masque");
    fs::copy(BINARY, &binary).unwrap();
    fs::create_dir(fixture.path("run")).unwrap();
    fs::create_dir(fixture.path("state")).unwrap();
    let server = fixture.server(&[]);
    let client = fixture.client(&[]);
    let folder = server.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["run", "state"] {
        fs::set_permissions(fixture.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    for (subcommand, config) in [("server", &server), ("client", &client)] {
        let mut command = Command::new(&binary);
        command
            .args([subcommand, "-c", config.to_str().unwrap()])
            .uid(65534)
            .gid(65534);
        finish(command).fails(4, &["cannot make the TUN device", "CAP_NET_ADMIN"]);
    }
}

#[test]
fn a_server_that_is_silent_or_absent_is_unreachable() {
    in_namespace(|| {
        let fixture = Fixture::new();
        let address = format!("no answer from 127.0.0.1:{}", fixture.port);
        client(&fixture, &[]).fails(6, &[&address, "firewall"]);
        let _silent = UdpSocket::bind(("127.0.0.1", fixture.port)).unwrap();
        client(&fixture, &[]).fails(6, &[&address]);
        client(
            &fixture,
            &[("https://127.0.0.1", "https://nowhere.invalid")],
        )
        .fails(6, &["cannot resolve nowhere.invalid"]);
    });
}

#[test]
fn a_server_that_refuses_is_named_with_the_reason() {
    in_namespace(|| {
        let fixture = Fixture::new();
        let server = Server::start(&fixture);
        client(
            &fixture,
            &[("certificate = \"client.pem\"\nkey = \"client.key\"\n", "")],
        )
        .fails(7, &["this client has no certificate"]);

        let (other, _) = Authority::generate("another CA", 1).unwrap();
        fs::write(fixture.path("other.pem"), &other.certificate).unwrap();
        client(&fixture, &[("ca.pem", "other.pem")]).fails(7, &["127.0.0.1", "help:"]);
        fixture.credentials("stranger", &other.issue_client("mallory", 1).unwrap());
        client(
            &fixture,
            &[
                ("client.pem", "stranger.pem"),
                ("client.key", "stranger.key"),
            ],
        )
        .fails(7, &["127.0.0.1", "the CA the server trusts"]);

        client(&fixture, &[("/masque/ip/", "/elsewhere/ip/")])
            .fails(7, &["status 404", "compare url with its templates"]);
        let connect = format!("connect = \"127.0.0.1:{}\"\n[tun]", fixture.port);
        client(
            &fixture,
            &[
                ("https://127.0.0.1", "https://localhost"),
                ("[tun]", &connect),
            ],
        )
        .fails(7, &["help:"]);
        assert_eq!(server.stop(), Some(0));
        let leases = fs::read_to_string(fixture.path("state/leases.json")).unwrap_or_default();
        assert!(!leases.contains("mallory"), "{leases}");
    });
}
