//! `masque demo`: the main job in one command, without root and without configuration.
//!
//! The real way: this process takes a network namespace of its own (within a user namespace where it is
//! not root) for the server and a second one for the client, joins them by a veth pair, starts the
//! server and the client as the processes anyone would start, and sends real traffic through the
//! kernel's stacks and the two TUN devices. Where namespaces or TUN devices are not allowed, the same
//! server and client run in this process with devices in memory and a TCP/IP stack behind each.

mod interrupt;
mod kernel;
mod memory;
mod namespace;
mod stack;
mod transfer;
mod world;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::exit::{Exit, Failure};
use crate::files;
use crate::pki::Authority;
use crate::runtime::Runtime;

/// `masque demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How much to send in each TCP transfer, in MiB.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub mib: u64,

    /// How many echo requests to send to each address.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub pings: u16,

    /// Use devices in memory even where real ones are allowed.
    #[arg(long)]
    pub in_memory: bool,

    /// Only find out whether the real way is allowed.
    #[arg(long, hide = true)]
    pub probe: bool,
}

/// The client's identity.
const CLIENT: &str = "demo-client";

/// How long each step may take at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demo.
///
/// # Errors
/// The first thing that did not work.
pub fn run<R: Runtime>(args: &DemoArgs) -> Result<(), Failure> {
    if args.probe {
        return namespace::probe();
    }
    println!("masque demo on {}", R::NAME);
    let obstacle = match args.in_memory {
        true => Some("--in-memory was asked for".to_owned()),
        false => namespace::obstacle()?,
    };
    let folder = tempfile::Builder::new()
        .prefix("masque-demo-")
        .tempdir()
        .map_err(|error| Failure::system("cannot make a temporary folder", &error))?;
    match obstacle {
        None => world::run(args, folder.path())?,
        Some(reason) => {
            println!("  devices      in memory, with a TCP/IP stack behind each, because {reason}");
            memory::run::<R>(args, folder.path())?;
        }
    }
    println!("all went well");
    Ok(())
}

/// The files of one server and one client.
struct Files {
    folder: PathBuf,
}

impl Files {
    /// Makes certificates for a server at `address` into `folder`.
    fn make(folder: &Path, address: &str) -> Result<Self, Failure> {
        let (authority, ca) = Authority::generate("masque demo CA", 1)?;
        let server = authority.issue_server(&[address.to_owned()], 1)?;
        let client = authority.issue_client(CLIENT, 1)?;
        let files = Self {
            folder: folder.to_owned(),
        };
        files.write("ca.pem", &ca.certificate)?;
        for (name, issued) in [("server", server), ("client", client)] {
            files.write(&format!("{name}.pem"), &issued.certificate)?;
            files.write(&format!("{name}.key"), &issued.key)?;
        }
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.path(name);
        files::create(&path, text.as_bytes(), 0o600, false)
            .map_err(|error| Failure::system(format!("cannot write {}", path.display()), &error))
    }

    /// The server's configuration, listening at `listen`. A demo without access to the gateway would
    /// have nothing to talk to.
    fn server(&self, listen: &str, more: &str) -> Result<PathBuf, Failure> {
        let text = format!(
            "listen = [{listen:?}]\n\
             certificate = \"server.pem\"\n\
             key = \"server.key\"\n\
             ca = \"ca.pem\"\n\
             pools = [\"10.89.0.0/24\", \"fd89::/64\"]\n\
             routes = [\"10.89.0.0/24\", \"fd89::/64\"]\n\
             allow_gateway = true\n\
             state_dir = \"state\"\n\
             {more}"
        );
        self.write("server.toml", &text)?;
        Ok(self.path("server.toml"))
    }

    /// The client's configuration.
    fn client(&self, server: &str, more: &str) -> Result<PathBuf, Failure> {
        let url = format!("https://{server}{}", crate::config::server::DEFAULT_PATH);
        let text = format!(
            "url = {url:?}\n\
             ca = \"ca.pem\"\n\
             certificate = \"client.pem\"\n\
             key = \"client.key\"\n\
             {more}"
        );
        self.write("client.toml", &text)?;
        Ok(self.path("client.toml"))
    }
}

/// Where the traffic goes: the server's own addresses in its pools.
const GATEWAYS: [&str; 2] = ["10.89.0.1", "fd89::1"];

/// The TCP port of the transfers.
const PORT: u16 = 7878;

/// What became of the echo requests to one address.
#[derive(Clone, PartialEq, Debug, Default)]
struct Pings {
    sent: u32,
    times: Vec<Duration>,
}

impl fmt::Display for Pings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "{} of {} answered", self.times.len(), self.sent)?;
        let (Some(min), Some(max)) = (self.times.iter().min(), self.times.iter().max()) else {
            return Ok(());
        };
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        let avg = self.times.iter().sum::<Duration>() / count;
        write!(
            f,
            ", round trip min/avg/max {:.3}/{:.3}/{:.3} ms",
            millis(*min),
            millis(avg),
            millis(*max)
        )
    }
}

/// Prints what became of pings, and judges it.
fn judge_pings(address: &str, pings: &Pings) -> Result<(), Failure> {
    println!("  ping         {address}: {pings}");
    match pings.times.is_empty() {
        true => Err(Failure::internal(format!("no echo reply from {address}"))),
        false => Ok(()),
    }
}

/// Prints what became of a transfer whose checksum was right.
fn print_transfer(direction: transfer::Direction, address: &str, bytes: u64, time: Duration) {
    let seconds = time.as_secs_f64().max(1e-6);
    // Exact enough for a rate.
    let bits = bytes as f64 * 8.0;
    println!(
        "  TCP {direction}   {address}: {} MiB in {seconds:.2} s, {:.0} Mbit/s, checksum right",
        bytes >> 20,
        bits / seconds / 1e6,
    );
}

fn broken(what: impl fmt::Display) -> Failure {
    Failure::new(Exit::Internal, format!("demo: {what}"))
}

/// The text of a file that a helper left, for an error message.
fn last_lines(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
