//! The programs themselves, each with a TUN device in a network namespace of the test's own, and the
//! independent peer beside them.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use masque::host::HostNet;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use crate::log::Log;
use crate::peer::{Peer, peer, skipped, unused_address};
use crate::pki::{CLIENT_NAME, Pki};

/// The programs of this build.
const BINARIES: &[&str] = &[
    #[cfg(feature = "tokio")]
    env!("CARGO_BIN_EXE_masque-tokio"),
    #[cfg(feature = "smol")]
    env!("CARGO_BIN_EXE_masque-smol"),
    #[cfg(feature = "mio")]
    env!("CARGO_BIN_EXE_masque-mio"),
];

/// Runs `test` with the independent peer in a network namespace of its own for every program, or says
/// why not.
fn for_every_binary(test: impl Fn(&Peer, &'static str) + Send + Sync + Copy + 'static) {
    let Some(peer) = peer() else { return };
    alone_with_every_binary(move |binary| test(&peer, binary));
}

/// The same without the independent peer.
pub(crate) fn alone_with_every_binary(test: impl Fn(&'static str) + Send + Clone + 'static) {
    if !getuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return skipped("needs root and /dev/net/tun");
    }
    for &binary in BINARIES {
        let test = test.clone();
        // A thread that has changed its namespace must not be used for anything else.
        let done = thread::spawn(move || {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                return false;
            }
            let run = tempfile::tempdir().expect("a place for files");
            let mut host = HostNet::open("interop", Some(run.path())).expect("netlink");
            host.set_up("lo", None).expect("a loopback interface");
            test(binary);
            let links = host.links().expect("netlink");
            assert_eq!(links.len(), 1, "a link was left behind: {links:?}");
            true
        });
        match done.join() {
            Ok(true) => {}
            Ok(false) => return skipped("no network namespaces here"),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// A program at work.
pub(crate) struct Program {
    child: Child,
    lines: Arc<Log<String>>,
}

impl Program {
    /// Starts `binary` in that role with a configuration beside the certificates.
    fn start(binary: &str, pki: &Pki, role: &str, config: &str) -> Self {
        let file = pki.directory().join(format!("{role}.toml"));
        let config = format!(
            "ca = \"ca.pem\"\ncertificate = \"{role}.pem\"\nkey = \"{role}.key\"\n{config}\n\
             [tun]\nrun_dir = \"run-{role}\"\n"
        );
        std::fs::write(&file, config).expect("a place for files");
        let mut child = Command::new(binary)
            .arg(role)
            .arg("-c")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cargo has built it");
        let lines = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("piped");
        let log = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.push(line);
            }
            log.end();
        });
        let program = Self { child, lines };
        program.says(&["ready"]);
        program
    }

    /// A server at `address` with the usual pools, which need not find out first whether the path takes
    /// 1280 bytes.
    pub(crate) fn server(binary: &str, pki: &Pki, address: SocketAddr) -> Self {
        let nft = Command::new("nft").arg("--version").output().is_ok();
        let config = format!(
            "listen = [\"{address}\"]\npools = [\"10.99.0.0/24\", \"fd00:99::/64\"]\n\
             allow_gateway = true\nfirewall = {nft}\nstate_dir = \"state\"\n\
             [transport]\ninitial_mtu = 1350\n"
        );
        Self::start(binary, pki, "server", &config)
    }

    /// A client of the server at `address`.
    fn client(binary: &str, pki: &Pki, address: SocketAddr) -> Self {
        let config = format!(
            "url = \"https://localhost:{}/.well-known/masque/ip/{{target}}/{{ipproto}}/\"\n\
             connect = \"{address}\"\n",
            address.port()
        );
        Self::start(binary, pki, "client", &config)
    }

    /// Waits for a log line with all these words.
    #[track_caller]
    fn says(&self, words: &[&str]) {
        self.lines.wait(&words.join(" … "), |line| {
            words.iter().all(|word| line.contains(word)).then_some(())
        });
    }

    /// SIGTERM, and a clean end.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).expect("a process number");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("our child");
        let status = self.child.wait().expect("our child");
        assert!(status.success(), "{status}:\n{}", self.lines.text());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends UDP from this namespace to `target` and waits for the same bytes, as often as it takes: the
/// routes may still be on their way into the kernel.
#[track_caller]
fn echoed(target: &str) {
    let target: SocketAddr = target.parse().expect("an address");
    let any: IpAddr = match target {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    for attempt in 0..60_u32 {
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        let patience = Duration::from_millis(500);
        socket.set_read_timeout(Some(patience)).expect("a socket");
        let data = attempt.to_be_bytes().repeat(50);
        let mut answer = [0; 1500];
        if socket.connect(target).is_ok() && socket.send(&data).is_ok() {
            if let Ok(length) = socket.recv(&mut answer) {
                assert_eq!(&answer[..length], data);
                return;
            }
        } else {
            thread::park_timeout(patience);
        }
    }
    panic!("{target} does not answer");
}

#[test]
fn the_independent_client_gets_a_tunnel_of_our_server() {
    for_every_binary(|peer, binary| {
        let pki = Pki::new();
        let address = unused_address();
        let server = Program::server(binary, &pki, address);
        let pings = "--ping 10.99.0.1 --ping fd00:99::1";
        for variant in [
            "",
            "--size 1232",
            "--chunk 1 --request 0.0.0.0/32,::/128",
            "--datagram-capsules",
            "--no-h3-datagram --datagram-capsules",
            "--grease --close reset",
            "--close none",
        ] {
            let arguments = format!("{pings} {variant} {}", pki.client_arguments());
            peer.client(address, &pki, &arguments)
                .finish()
                .succeeded()
                // A lease keeps its address.
                .saw("address_assign", |e| {
                    e["addresses"][0]["prefix"] == "10.99.0.2/32"
                });
        }
        server.says(&["tunnel up", CLIENT_NAME]);
        server.stop();
    });
}

#[test]
fn our_server_refuses_the_independent_client_what_it_must() {
    for_every_binary(|peer, binary| {
        let pki = Pki::new();
        let address = unused_address();
        let server = Program::server(binary, &pki, address);
        let certificate = pki.client_arguments();
        for request in [
            "--header :protocol=connect-udp --expect-status 501",
            "--header :path=/nowhere --expect-status 404",
            "--raw-capsule 2: --expect-abort",
        ] {
            peer.client(address, &pki, &format!("{request} {certificate}"))
                .finish()
                .succeeded();
        }
        let spoofed = "--ping 10.99.0.1 --source4 10.98.0.1 --count 1 --timeout 2";
        peer.client(address, &pki, &format!("{spoofed} {certificate}"))
            .finish()
            .exited(1)
            .saw_no("pong", |_| true);
        // Without a certificate.
        peer.client(address, &pki, "--ping 10.99.0.1")
            .finish()
            .exited(1)
            .saw_no("response", |_| true);
        server.stop();
    });
}

#[test]
fn our_client_gets_a_tunnel_of_the_independent_server() {
    for_every_binary(|peer, binary| {
        for variant in ["", "--retry --grease", "--chunk 1 --datagram-capsules"] {
            let pki = Pki::new();
            let server = peer.server(&pki, variant);
            let client = Program::client(binary, &pki, server.address);
            client.says(&["tunnel up"]);
            echoed("192.0.2.1:7");
            echoed("[2001:db8::1]:7");
            client.stop();
            server
                .process
                .wait_where("session_over", |e| e["how"] == "fin");
            server.process.stop().saw_no("dropped", |e| {
                // Neighbours of the TUN may say something with an address of their own.
                e["src"] == "10.99.0.2" || e["src"] == "fd00:99::2"
            });
        }
    });
}

#[test]
fn our_client_comes_back_to_the_independent_server() {
    for_every_binary(|peer, binary| {
        let pki = Pki::new();
        let server = peer.server(&pki, "--close-after 3 --close-how reset");
        let client = Program::client(binary, &pki, server.address);
        client.says(&["tunnel up"]);
        echoed("192.0.2.1:7");
        let over = server.process.wait("session_over")["t"].as_f64();
        server
            .process
            .wait_where("request", |e| e["t"].as_f64() > over);
        echoed("192.0.2.1:7");
        client.stop();
        server.process.stop();
    });
}
