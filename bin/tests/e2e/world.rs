//! Client — router — server — inet, and a second client: namespaces joined by veth pairs.
//!
//! ```text
//!  client 192.0.2.2 ──┐
//!                     ├─ router ── 198.51.100.2 server 203.0.113.1 ── 203.0.113.2 inet
//!  second 192.0.3.2 ──┘
//! ```

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use masque::pki::{Authority, Issued};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};

use crate::namespace::Namespace;
use crate::process::{Binary, PATIENCE, Process};
use crate::traffic;

/// The host behind the server.
pub(crate) const INET: [&str; 2] = ["203.0.113.2", "2001:db8:4::2"];
/// The server's addresses in its pools.
pub(crate) const GATEWAYS: [&str; 2] = ["10.89.0.1", "fd89::1"];

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// How the client reaches the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Underlay {
    V4,
    V6,
}

/// How packets leave the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Egress {
    /// The host behind it knows the way to the pools.
    Routed,
    /// It does not: they leave under the server's address.
    Nat,
}

/// The namespaces, and a folder with certificates and configurations.
pub(crate) struct World {
    pub(crate) client: Namespace,
    pub(crate) second: Namespace,
    pub(crate) router: Namespace,
    pub(crate) server: Namespace,
    pub(crate) inet: Namespace,
    pub(crate) authority: Authority,
    ca: Issued,
    egress: Egress,
    folder: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(egress: Egress) -> Self {
        let (authority, ca) = Authority::generate("e2e", 2).unwrap();
        let world = Self {
            client: Namespace::new("client"),
            second: Namespace::new("second"),
            router: Namespace::new("router"),
            server: Namespace::new("server"),
            inet: Namespace::new("inet"),
            authority,
            ca,
            egress,
            folder: tempfile::tempdir().unwrap(),
        };
        world.link_up();
        world.write("ca.pem", &world.authority.certificate);
        let names = ["198.51.100.2", "2001:db8:2::2", "vpn.test"].map(str::to_owned);
        let server = world.authority.issue_server(&names, 1).unwrap();
        world.identity("server", &server);
        for name in ["alice", "bob"] {
            let issued = world.authority.issue_client(name, 1).unwrap();
            world.identity(name, &issued);
        }
        world.inet.run(traffic::serve);
        world
    }

    fn link_up(&self) {
        for namespace in [
            &self.client,
            &self.second,
            &self.router,
            &self.server,
            &self.inet,
        ] {
            for scope in ["all", "default"] {
                // Addresses are there at once, and none comes unasked while a test compares.
                namespace.set(&format!("ipv6/conf/{scope}/accept_dad"), "0");
                namespace.set(&format!("ipv6/conf/{scope}/addr_gen_mode"), "1");
                namespace.set(&format!("ipv4/conf/{scope}/rp_filter"), "0");
            }
            namespace.ip("link set lo up\n");
        }
        // Clients are where strict filters are common.
        for namespace in [&self.client, &self.second] {
            namespace.set("ipv4/conf/all/rp_filter", "1");
        }
        self.router.set("ipv4/ip_forward", "1");
        self.router.set("ipv6/conf/all/forwarding", "1");
        let router = self.router.path();
        for (namespace, peer) in [
            (&self.client, "c0"),
            (&self.second, "d0"),
            (&self.server, "s0"),
        ] {
            let pair = format!("link add eth0 type veth peer name {peer} netns {router}\n");
            namespace.ip(&pair);
        }
        let inet = self.inet.path();
        self.server.ip(&format!(
            "link add eth1 type veth peer name eth0 netns {inet}\n"
        ));
        self.router.ip(&[
            joined("c0", "192.0.2.1", "2001:db8:1::1"),
            joined("d0", "192.0.3.1", "2001:db8:3::1"),
            joined("s0", "198.51.100.1", "2001:db8:2::1"),
        ]
        .concat());
        for (namespace, v4, v6) in [
            (&self.client, "192.0.2", "2001:db8:1::"),
            (&self.second, "192.0.3", "2001:db8:3::"),
            (&self.server, "198.51.100", "2001:db8:2::"),
        ] {
            let own = joined("eth0", &format!("{v4}.2"), &format!("{v6}2"));
            let default = format!("route add default via {v4}.1\nroute add default via {v6}1\n");
            namespace.ip(&(own + &default));
        }
        self.server
            .ip(&joined("eth1", "203.0.113.1", "2001:db8:4::1"));
        self.inet
            .ip(&joined("eth0", "203.0.113.2", "2001:db8:4::2"));
        if self.egress == Egress::Routed {
            self.inet
                .ip("route add default via 203.0.113.1\nroute add default via 2001:db8:4::1\n");
        }
        // Links settle in their own time, which would show in snapshots.
        for namespace in [&self.client, &self.second, &self.server] {
            for server in ["198.51.100.2", "2001:db8:2::2"] {
                namespace.run(|| traffic::ping(ip(server)));
            }
            let until = Instant::now() + PATIENCE;
            while namespace
                .command("ip", &["-o", "link"])
                .contains("state DOWN")
            {
                assert!(Instant::now() < until, "a link stays down");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a certificate and its key.
    pub(crate) fn identity(&self, name: &str, issued: &Issued) {
        self.write(&format!("{name}.pem"), &issued.certificate);
        self.write(&format!("{name}.key"), &issued.key);
    }

    /// A client's certificate from the right CA that expired yesterday.
    pub(crate) fn expired_client(&self, name: &str) -> Issued {
        let key = KeyPair::from_pem(&self.ca.key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.ca.certificate, key).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - 2 * day).into();
        params.not_after = (SystemTime::now() - day).into();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Issued {
            certificate: params.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// The server's configuration; `more` may end in tables.
    pub(crate) fn server_config(&self, more: &str) -> PathBuf {
        let nat = self.egress == Egress::Nat;
        let text = format!(
            "listen = [\"[::]:4433\"]\n\
             certificate = \"server.pem\"\n\
             key = \"server.key\"\n\
             ca = \"ca.pem\"\n\
             pools = [\"10.89.0.0/24\", \"fd89::/64\"]\n\
             state_dir = \"state\"\n\
             nat = {nat}\n\
             tun.name = \"vpn0\"\n\
             tun.run_dir = \"run-server\"\n\
             {more}\n"
        );
        self.write("server.toml", &text)
    }

    /// A client's configuration; `more` may end in tables.
    pub(crate) fn client_config(&self, name: &str, underlay: Underlay, more: &str) -> PathBuf {
        let server = match underlay {
            Underlay::V4 => "198.51.100.2",
            Underlay::V6 => "[2001:db8:2::2]",
        };
        // Without a certificate of that name, a client without a certificate.
        let own = match self.path(&format!("{name}.pem")).exists() {
            true => format!("certificate = \"{name}.pem\"\nkey = \"{name}.key\"\n"),
            false => String::new(),
        };
        let text = format!(
            "url = \"https://{server}:4433/.well-known/masque/ip/{{target}}/{{ipproto}}/\"\n\
             ca = \"ca.pem\"\n\
             {own}\
             tun.name = \"vpn0\"\n\
             tun.run_dir = \"run-{name}\"\n\
             {more}\n"
        );
        self.write(&format!("{name}.toml"), &text)
    }

    /// Starts a server and waits until it is ready.
    pub(crate) fn start_server(&self, binary: Binary, more: &str) -> Process {
        let config = self.server_config(more);
        self.restart_server(binary, &config)
    }

    pub(crate) fn restart_server(&self, binary: Binary, config: &Path) -> Process {
        let server = Process::start(&self.server, binary, "server", config);
        server.wait_for("server ready");
        server
    }

    /// Starts the client of `alice` in the first namespace.
    pub(crate) fn start_client(&self, binary: Binary, underlay: Underlay, more: &str) -> Process {
        let config = self.client_config("alice", underlay, more);
        Process::start(&self.client, binary, "client", &config)
    }

    /// Starts the client of `bob` in the second namespace.
    pub(crate) fn start_second(&self, binary: Binary, more: &str) -> Process {
        let config = self.client_config("bob", Underlay::V4, more);
        Process::start(&self.second, binary, "client", &config)
    }
}

/// Addresses for an interface, the link-local one for neighbour discovery included, and up.
fn joined(link: &str, v4: &str, v6: &str) -> String {
    format!(
        "address add {v4}/24 dev {link}\n\
         address add {v6}/64 dev {link} nodad\n\
         address add fe80::{}/64 dev {link} nodad\n\
         link set {link} up\n",
        v6.rsplit(':').next().unwrap_or("1")
    )
}
