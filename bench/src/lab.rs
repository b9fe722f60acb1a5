//! Three network namespaces in a row, and a second client's, on this machine only.
//!
//! ```text
//! client ──veth── router ──veth── server      (MTU 1500)
//! 10.201.1.2     .1.1/.2.1     10.201.2.2
//! second ──veth── .3.1
//! 10.201.3.2
//! ```
//!
//! The client has a second link to the router, without an address until it is moved there.
//!
//! They are named after this process and removed at the end, at a panic and at Ctrl-C; what a killed run
//! left behind, the next one removes.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::Error;

/// The client's address on the path.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 201, 1, 2);
/// The server's address on the path.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 201, 2, 2);
/// The port every tunnel's server listens on.
pub const PORT: u16 = 51820;

const PREFIX: &str = "mqb";

/// A link of the client.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Its device.
    pub device: &'static str,
    /// Its address, with the length of the prefix.
    pub address: &'static str,
    /// The device at the router and its address.
    pub router: (&'static str, &'static str),
    /// The router's address as a next hop.
    pub gateway: &'static str,
}

/// The link the client begins with.
pub const FIRST_LINK: Link = Link {
    device: "eth0",
    address: "10.201.1.2/24",
    router: ("rc", "10.201.1.1/24"),
    gateway: "10.201.1.1",
};
/// The one it can be moved to, after [`Lab::add_link`].
pub const SECOND_LINK: Link = Link {
    device: "eth1",
    address: "10.201.4.2/24",
    router: ("rc2", "10.201.4.1/24"),
    gateway: "10.201.4.1",
};
/// The router's device towards the server.
pub const SERVER_SIDE: &str = "rs";

/// How packets cross the veth pairs.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Super-packets whole: the best case.
    #[default]
    Gso,
    /// Packets of 1500 bytes, cut by the kernel as for a network card without offload.
    Segmented,
}

impl Wire {
    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Gso => "gso",
            Self::Segmented => "segmented",
        }
    }
}

/// Which namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// The client's.
    Client,
    /// Another client's, for tests with two.
    Second,
    /// Between them and the server.
    Router,
    /// The server's.
    Server,
}

impl Space {
    const ALL: [Self; 4] = [Self::Client, Self::Second, Self::Router, Self::Server];

    const fn letter(self) -> char {
        match self {
            Self::Client => 'c',
            Self::Second => 'd',
            Self::Router => 'r',
            Self::Server => 's',
        }
    }
}

/// What has to be taken back, wherever the program ends.
struct Leftovers {
    spaces: Vec<String>,
    processes: Vec<i32>,
}

static LEFTOVERS: Mutex<Leftovers> = Mutex::new(Leftovers {
    spaces: Vec::new(),
    processes: Vec::new(),
});

fn leftovers() -> MutexGuard<'static, Leftovers> {
    LEFTOVERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends every process started in a namespace and removes the namespaces.
pub fn clean_up() {
    let mut left = leftovers();
    for pid in left.processes.drain(..) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for space in left.spaces.drain(..) {
        delete(&space);
    }
}

fn delete(space: &str) {
    let _ = Command::new("ip")
        .args(["netns", "del", space])
        .stderr(Stdio::null())
        .status();
}

/// From now on Ctrl-C, a termination and a panic clean up first.
///
/// # Errors
/// The signals cannot be caught.
pub fn guard() -> Result<(), Error> {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        clean_up();
        before(panic);
    }));
    let signals = [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ];
    let mut signals =
        signal_hook::iterator::Signals::new(signals).map_err(Error::system("catching signals"))?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            clean_up();
            std::process::exit(128 + signal);
        }
    });
    remove_stale();
    Ok(())
}

/// Namespaces of runs that are no more.
fn remove_stale() {
    let Ok(list) = run("ip", &["netns", "list"]) else {
        return;
    };
    let names = list.lines().filter_map(|line| line.split(' ').next());
    for name in names {
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.strip_suffix(['c', 'd', 'r', 's']))
            .and_then(|tag| tag.split('n').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            delete(name);
        }
    }
}

/// Calls a program and gives what it printed.
///
/// # Errors
/// It cannot be started, or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    finish(program, Command::new(program).args(arguments))
}

fn finish(program: &str, command: &mut Command) -> Result<String, Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(Error::system(program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    Err(Error::Command {
        command: format!("{program} {}", arguments.join(" ")),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// The namespaces of one tunnel. Dropping it removes them.
#[derive(Debug)]
pub struct Lab {
    wire: Wire,
    number: u32,
}

impl Lab {
    /// Builds them.
    ///
    /// # Errors
    /// No root, or no `ip`.
    pub fn new(wire: Wire) -> Result<Self, Error> {
        Self::numbered(wire, 0)
    }

    /// Builds one of several that exist at the same time.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn numbered(wire: Wire, number: u32) -> Result<Self, Error> {
        let lab = Self { wire, number };
        for space in Space::ALL {
            let name = lab.name(space);
            leftovers().spaces.push(name.clone());
            run("ip", &["netns", "add", &name])?;
            lab.ip(space, &["link", "set", "lo", "up"])?;
            for setting in [
                "net.ipv4.ip_forward=1",
                "net.ipv4.conf.all.rp_filter=0",
                "net.ipv4.conf.default.rp_filter=0",
                // IPv6 works at once and stays silent: tunnels may assign it.
                "net.ipv6.conf.all.forwarding=1",
                "net.ipv6.conf.all.accept_dad=0",
                "net.ipv6.conf.default.accept_dad=0",
                "net.ipv6.conf.default.router_solicitations=0",
            ] {
                let _ = lab.run(space, "sysctl", &["-qw", setting]);
            }
        }
        lab.veth(
            (Space::Client, "eth0", "10.201.1.2/24"),
            ("rc", "10.201.1.1/24"),
        )?;
        lab.veth(
            (Space::Second, "eth0", "10.201.3.2/24"),
            ("rd", "10.201.3.1/24"),
        )?;
        lab.veth(
            (Space::Server, "eth0", "10.201.2.2/24"),
            ("rs", "10.201.2.1/24"),
        )?;
        lab.ip(
            Space::Client,
            &["route", "add", "default", "via", "10.201.1.1"],
        )?;
        lab.ip(
            Space::Second,
            &["route", "add", "default", "via", "10.201.3.1"],
        )?;
        lab.ip(
            Space::Server,
            &["route", "add", "default", "via", "10.201.2.1"],
        )?;
        Ok(lab)
    }

    /// The name of a namespace.
    #[must_use]
    pub fn name(&self, space: Space) -> String {
        format!("{PREFIX}{}{}", self.tag(), space.letter())
    }

    /// What tells this lab from all others on the machine, at most ten characters.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("{}n{}", std::process::id(), self.number)
    }

    /// Gives the client a second link to the router, without addresses at the client. It is up: a link that
    /// comes up loses the first questions for its neighbour, and those are asked once a second.
    ///
    /// # Errors
    /// As [`run`].
    pub fn add_link(&self) -> Result<(), Error> {
        let (router_device, router_address) = SECOND_LINK.router;
        self.veth(
            (Space::Client, SECOND_LINK.device, SECOND_LINK.address),
            (router_device, router_address),
        )?;
        let device = SECOND_LINK.device;
        self.ip(Space::Client, &["addr", "flush", "dev", device])?;
        Ok(())
    }

    /// Calls `ip` for a namespace with several lines at once.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip_batch(&self, space: Space, lines: &[String]) -> Result<(), Error> {
        let mut file = tempfile::NamedTempFile::new().map_err(Error::system("temporary file"))?;
        let text = lines.join("\n") + "\n";
        io::Write::write_all(&mut file, text.as_bytes())
            .map_err(Error::system("temporary file"))?;
        self.ip(space, &["-batch", &file.path().to_string_lossy()])
            .map(drop)
    }

    /// Calls `ip` for a namespace.
    ///
    /// # Errors
    /// As [`run`].
    pub fn ip(&self, space: Space, arguments: &[&str]) -> Result<String, Error> {
        finish(
            "ip",
            Command::new("ip")
                .args(["-n", &self.name(space)])
                .args(arguments),
        )
    }

    /// Calls a program in a namespace and gives what it printed.
    ///
    /// # Errors
    /// As [`run`].
    pub fn run(&self, space: Space, program: &str, arguments: &[&str]) -> Result<String, Error> {
        finish(program, self.command(space, program).args(arguments))
    }

    /// A program in a namespace, to be started. `ip netns exec` becomes the program: its process is the
    /// program's.
    #[must_use]
    pub fn command(&self, space: Space, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(space)])
            .arg(program.as_ref())
            .stdin(Stdio::null());
        command
    }

    fn veth(
        &self,
        (space, device, address): (Space, &str, &str),
        (router_device, router_address): (&str, &str),
    ) -> Result<(), Error> {
        let (here, router) = (self.name(space), self.name(Space::Router));
        run(
            "ip",
            &[
                "link",
                "add",
                device,
                "netns",
                &here,
                "mtu",
                "1500",
                "type",
                "veth",
                "peer",
                "name",
                router_device,
                "netns",
                &router,
                "mtu",
                "1500",
            ],
        )?;
        let ends = [
            (space, device, address),
            (Space::Router, router_device, router_address),
        ];
        for (space, device, address) in ends {
            self.ip(space, &["addr", "add", address, "dev", device])?;
            self.ip(space, &["link", "set", device, "up"])?;
            if self.wire == Wire::Segmented {
                self.run(
                    space,
                    "ethtool",
                    &[
                        "-K",
                        device,
                        "tso",
                        "off",
                        "gso",
                        "off",
                        "tx-udp-segmentation",
                        "off",
                        "gro",
                        "on",
                    ],
                )?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in Space::ALL {
            let name = self.name(space);
            leftovers().spaces.retain(|other| *other != name);
            delete(&name);
        }
    }
}

/// A process that does not outlive its handle.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(command: &mut Command) -> Result<Self, Error> {
        let child = command
            .spawn()
            .map_err(Error::system(format!("{command:?}")))?;
        leftovers().processes.push(child.id() as i32);
        Ok(Self(child))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The process itself.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Waits for its end; `None` after `limit`.
    ///
    /// # Errors
    /// What the system says.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<std::process::ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to end, and makes it after two seconds.
    pub fn stop(&mut self) {
        let pid = Pid::from_raw(self.id() as i32);
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill(pid, Signal::SIGTERM);
            if !matches!(self.wait(Duration::from_secs(2)), Ok(Some(_))) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }
        leftovers().processes.retain(|other| *other != pid.as_raw());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
