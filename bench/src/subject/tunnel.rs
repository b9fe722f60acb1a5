//! A running subject.

use std::fs::{self, File};
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::Error;
use crate::lab::{Lab, Process, Space};
use crate::probe::{FirstResult, monotonic};

/// How long a tunnel may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much of a log is shown when it does not.
const TAIL: usize = 1500;

/// Which end a process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The client's.
    Client,
    /// The server's.
    Server,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The namespace it runs in.
    #[must_use]
    pub const fn space(self) -> Space {
        match self {
            Self::Client => Space::Client,
            Self::Server => Space::Server,
        }
    }
}

/// The processes of a subject in a lab, and a folder for their files.
pub struct Tunnel<'a> {
    /// Where they run.
    pub lab: &'a Lab,
    folder: TempDir,
    processes: Vec<(Role, Process)>,
    /// The number of the second client's process in them.
    second: Option<usize>,
    /// Waits for the first answer through the tunnel since the client was started.
    first: Option<Process>,
    client_started: u64,
    server: Ipv4Addr,
    /// From the client's start to the first answer.
    pub start_up: Option<Duration>,
}

impl<'a> Tunnel<'a> {
    /// Nothing runs yet. `server` is the address that answers once it is up.
    ///
    /// # Errors
    /// No temporary folder.
    pub fn new(lab: &'a Lab, server: Ipv4Addr) -> Result<Self, Error> {
        Ok(Self {
            lab,
            folder: folder()?,
            processes: Vec::new(),
            second: None,
            first: None,
            client_started: 0,
            server,
            start_up: None,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into the folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.folder().join(name);
        fs::write(&path, text).map_err(Error::system(path.display().to_string()))?;
        Ok(path)
    }

    /// Starts one end's program; its output goes into a log.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(&mut self, role: Role, program: &Path, arguments: &[&str]) -> Result<(), Error> {
        self.spawn_in(role.space(), role, program, arguments)
    }

    fn spawn_in(
        &mut self,
        space: Space,
        role: Role,
        program: &Path,
        arguments: &[&str],
    ) -> Result<(), Error> {
        if role == Role::Client && self.first.is_none() {
            self.await_first()?;
            self.client_started = monotonic();
        }
        let log = self.folder().join(format!("{}.log", role.name()));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(Error::system(log.display().to_string()))?;
        let again = log.try_clone().map_err(Error::system("log"))?;
        let process = Process::start(
            self.lab
                .command(space, program)
                .args(arguments)
                .stdout(log)
                .stderr(again),
        )?;
        self.processes.push((role, process));
        Ok(())
    }

    /// Starts the second client's program, instead of one that runs, and waits until it reaches the server.
    ///
    /// # Errors
    /// What the system says, or [`Error::Timeout`].
    pub fn spawn_second(&mut self, program: &Path, arguments: &[&str]) -> Result<(), Error> {
        if let Some(index) = self.second.take() {
            let (_, mut process) = self.processes.remove(index);
            process.stop();
        }
        let index = self.processes.len();
        self.spawn_in(Space::Second, Role::Client, program, arguments)?;
        self.second = Some(index);
        let mut command = probe(self.lab, Space::Second)?;
        let limit = PATIENCE.as_secs().to_string();
        command.args(["first", &self.server.to_string(), "--limit", &limit]);
        let mut first = Process::start(&mut command)?;
        let _ = first
            .wait(PATIENCE + Duration::from_secs(2))
            .map_err(Error::system("waiting"))?;
        match said(&mut first).at {
            Some(_) => Ok(()),
            None => Err(Error::Timeout(format!(
                "no ping of the second client comes through{}",
                self.logs()
            ))),
        }
    }

    /// Whether the second client runs.
    #[must_use]
    pub fn has_second(&self) -> bool {
        self.second.is_some()
    }

    /// What the server has said of itself under `key`, as `key=value`, in order.
    #[must_use]
    pub fn server_said(&self, key: &str) -> Vec<String> {
        let log = self.log(Role::Server);
        let words = log.split_whitespace();
        words
            .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
            .collect()
    }

    /// Processes of one end.
    #[must_use]
    pub fn processes(&self, role: Role) -> Vec<u32> {
        self.processes
            .iter()
            .filter(|(other, _)| *other == role)
            .map(|(_, process)| process.id())
            .collect()
    }

    /// Waits until `what` is so.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn wait_for(&self, what: &str, mut so: impl FnMut() -> bool) -> Result<(), Error> {
        let end = Instant::now() + PATIENCE;
        while !so() {
            if Instant::now() > end {
                return Err(Error::Timeout(format!("{what}{}", self.logs())));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until one end has a device.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn wait_link(&self, role: Role, device: &str) -> Result<(), Error> {
        self.wait_for(&format!("{device} of the {}", role.name()), || {
            let show = ["link", "show", device];
            self.lab.ip(role.space(), &show).is_ok()
        })
    }

    /// Waits for the first answer.
    ///
    /// # Errors
    /// [`Error::Timeout`], with the ends of the logs.
    pub fn wait_up(&mut self) -> Result<(), Error> {
        if self.first.is_none() {
            self.await_first()?;
        }
        let Some(mut first) = self.first.take() else {
            return Ok(());
        };
        let limit = PATIENCE + Duration::from_secs(2);
        let _ = first.wait(limit).map_err(Error::system("waiting"))?;
        match said(&mut first).at {
            Some(at) => {
                self.start_up = (self.client_started > 0)
                    .then(|| Duration::from_nanos(at.saturating_sub(self.client_started)));
                Ok(())
            }
            None => Err(Error::Timeout(format!(
                "no ping comes through{}",
                self.logs()
            ))),
        }
    }

    fn await_first(&mut self) -> Result<(), Error> {
        let limit = PATIENCE.as_secs().to_string();
        let server = self.server.to_string();
        let mut command = probe(self.lab, Space::Client)?;
        command.args(["first", &server, "--limit", &limit]);
        self.first = Some(Process::start(&mut command)?);
        Ok(())
    }

    /// What one end has said so far.
    #[must_use]
    pub fn log(&self, role: Role) -> String {
        let log = self.folder().join(format!("{}.log", role.name()));
        // What is not there was not said.
        let log = fs::read(log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The MTU of the client's device on the way to the server, in bytes.
    #[must_use]
    pub fn inner_mtu(&self) -> Option<f64> {
        let ip = |arguments: &[&str]| self.lab.ip(Space::Client, arguments).ok();
        let route = ip(&["-o", "route", "get", &self.server.to_string()])?;
        let link = ip(&["-o", "link", "show", "dev", word_after(&route, "dev")?])?;
        word_after(&link, "mtu")?.parse().ok()
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for role in [Role::Server, Role::Client] {
            let log = self.log(role);
            let tail = &log[log.floor_char_boundary(log.len().saturating_sub(TAIL))..];
            if !tail.is_empty() {
                text += &format!("\n--- {}\n{tail}", role.name());
            }
        }
        text
    }

    /// Ends all processes, the client's first.
    pub fn stop(&mut self) {
        self.first = None;
        self.second = None;
        while let Some((_, mut process)) = self.processes.pop() {
            process.stop();
        }
    }
}

/// In memory where there is a file system for that: a log on a busy disk holds its writer up, which would
/// be taken for the tunnel's doing.
fn folder() -> Result<TempDir, Error> {
    const PREFIX: &str = "masque-bench-";
    TempDir::with_prefix_in(PREFIX, "/dev/shm")
        .or_else(|_| TempDir::with_prefix(PREFIX))
        .map_err(Error::system("temporary folder"))
}

/// What a probe for the first answer has found; nothing, if it cannot tell.
fn said(first: &mut Process) -> FirstResult {
    let mut said = String::new();
    if let Some(out) = &mut first.child().stdout {
        let _ = out.read_to_string(&mut said);
    }
    serde_json::from_str(&said).unwrap_or_default()
}

/// What follows `key` in the words of `text`.
fn word_after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut words = text.split_whitespace();
    words.find(|word| *word == key)?;
    words.next()
}

impl Drop for Tunnel<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// This program as a probe in a namespace, its output to be read.
///
/// # Errors
/// The program does not know where it is.
pub fn probe(lab: &Lab, space: Space) -> Result<Command, Error> {
    let program = std::env::current_exe().map_err(Error::system("the path of this program"))?;
    let mut command = lab.command(space, program);
    command
        .arg("probe")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    Ok(command)
}
