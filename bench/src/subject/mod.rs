//! What is measured: our binaries, other tunnels, yardsticks, and no tunnel at all.

mod bounds;
mod masque;
mod openvpn;
mod quincy;
mod raw;
mod tunnel;
mod wireguard;

use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use masque::Variant;
pub use tunnel::{Role, Tunnel, probe};

use crate::error::Error;

/// One program, or one way of running it.
pub trait Subject {
    /// Its name in tables.
    fn name(&self) -> &str;

    /// Whether it can be run: version, cipher and what else shapes its numbers; or why it cannot.
    ///
    /// # Errors
    /// Why not, in words.
    fn available(&self) -> Result<String, String>;

    /// Where traffic goes: the server's address inside the tunnel.
    fn server(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 1)
    }

    /// Starts both ends; the tunnel need not carry packets yet.
    ///
    /// # Errors
    /// What went wrong.
    fn start(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error>;

    /// Starts a second client and waits until it reaches the server. On a server with several shards it is
    /// on another than the first.
    ///
    /// # Errors
    /// What went wrong, or that this subject has one only.
    fn start_second(&self, tunnel: &mut Tunnel<'_>) -> Result<(), Error> {
        let _ = tunnel;
        Err(Error::Usage("measured with one client only".to_owned()))
    }

    /// Ends both ends.
    fn stop(&self, tunnel: &mut Tunnel<'_>) {
        tunnel.stop();
    }

    /// What protects the packets of a running tunnel, where that is known.
    fn cipher(&self, tunnel: &Tunnel<'_>) -> Option<String> {
        let _ = tunnel;
        None
    }

    /// Whether it is one of ours.
    fn is_ours(&self) -> bool {
        false
    }
}

/// Where programs are looked for beside `PATH`.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Our binaries.
    pub bin_dir: Option<PathBuf>,
    /// The yardsticks.
    pub bounds: Option<PathBuf>,
    /// Variants of ours.
    pub variants: Vec<Variant>,
}

/// Everything there is, whether installed or not, in the order of the tables.
#[must_use]
pub fn all(places: &Places) -> Vec<Box<dyn Subject>> {
    let mut subjects: Vec<Box<dyn Subject>> = vec![Box::new(raw::Raw)];
    for runtime in ["tokio", "smol", "mio"] {
        subjects.push(Box::new(masque::Masque::new(runtime, places, None)));
        let chacha20 = Variant::chacha20();
        for variant in [&chacha20].into_iter().chain(&places.variants) {
            subjects.push(Box::new(masque::Masque::new(
                runtime,
                places,
                Some(variant.clone()),
            )));
        }
    }
    for runtime in ["tokio", "smol"] {
        subjects.push(Box::new(masque::Masque::idiomatic(runtime, places)));
    }
    subjects.push(Box::new(wireguard::WireGuard::go()));
    subjects.push(Box::new(wireguard::WireGuard::boringtun()));
    subjects.push(Box::new(quincy::Quincy));
    subjects.push(Box::new(openvpn::OpenVpn));
    for kind in bounds::Kind::ALL {
        subjects.push(Box::new(bounds::Bound::new(kind, places.bounds.clone())));
    }
    subjects
}

/// Finds a program in `PATH`.
fn find(program: &str) -> Result<PathBuf, String> {
    if program.contains('/') {
        let path = PathBuf::from(program);
        return if path.exists() {
            Ok(path)
        } else {
            Err(format!("{program} does not exist"))
        };
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&paths)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{program} is not installed"))
}

/// The version that `cargo install` has noted for a program it installed, for those that do not tell.
fn installed(program: &Path, package: &str) -> Option<String> {
    let notes = program.parent()?.parent()?.join(".crates.toml");
    let notes = std::fs::read_to_string(notes).ok()?;
    let rest = notes.split_once(&format!("\"{package} "))?.1;
    let version = rest.split_once(' ')?.0;
    Some(format!("{package} {version}"))
}

/// The first line a program says of its version.
fn version(program: &Path, argument: &str) -> String {
    // Some leave with an error although they answer.
    let said = Command::new(program).arg(argument).output();
    let said = said.map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    said.lines().next().unwrap_or("version unknown").to_owned()
}
