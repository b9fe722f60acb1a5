//! What the tests of the binaries share.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use masque::pki::{Authority, Issued};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One binary stands for all: the command line is the same code.
#[cfg(feature = "tokio")]
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_masque-tokio");
#[cfg(all(feature = "smol", not(feature = "tokio")))]
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_masque-smol");
#[cfg(all(feature = "mio", not(any(feature = "tokio", feature = "smol"))))]
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_masque-mio");

/// How long a command may take that is expected to fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a CA, a server's and a client's certificate.
pub(crate) struct Fixture {
    folder: tempfile::TempDir,
    pub(crate) authority: Authority,
    pub(crate) port: u16,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (authority, ca) = Authority::generate("test CA", 1).unwrap();
        // Free a moment ago, and above the range that other processes are given.
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let fixture = Self {
            folder,
            authority,
            port,
        };
        fs::write(fixture.path("ca.pem"), &ca.certificate).unwrap();
        let server = fixture
            .authority
            .issue_server(&["127.0.0.1".to_owned()], 1)
            .unwrap();
        let client = fixture.authority.issue_client("alice", 1).unwrap();
        fixture.credentials("server", &server);
        fixture.credentials("client", &client);
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn credentials(&self, name: &str, issued: &Issued) {
        fs::write(self.path(&format!("{name}.pem")), &issued.certificate).unwrap();
        fs::write(self.path(&format!("{name}.key")), &issued.key).unwrap();
    }

    /// Writes a good server configuration in which `edit` may replace text.
    pub(crate) fn server(&self, edit: &[(&str, &str)]) -> PathBuf {
        let text = format!(
            "listen = [\"127.0.0.1:{}\"]\n\
             certificate = \"server.pem\"\n\
             key = \"server.key\"\n\
             ca = \"ca.pem\"\n\
             pools = [\"10.8.0.0/24\", \"fd08::/64\"]\n\
             state_dir = \"state\"\n\
             [tun]\n\
             name = \"mqserver\"\n\
             run_dir = \"run\"\n",
            self.port
        );
        self.write("server.toml", text, edit)
    }

    /// Writes a good client configuration in which `edit` may replace text.
    pub(crate) fn client(&self, edit: &[(&str, &str)]) -> PathBuf {
        let text = format!(
            "url = \"https://127.0.0.1:{}/.well-known/masque/ip/{{target}}/{{ipproto}}/\"\n\
             ca = \"ca.pem\"\n\
             certificate = \"client.pem\"\n\
             key = \"client.key\"\n\
             connect_timeout = \"1s\"\n\
             [tun]\n\
             name = \"mqclient\"\n\
             run_dir = \"run\"\n",
            self.port
        );
        self.write("client.toml", text, edit)
    }

    fn write(&self, name: &str, mut text: String, edit: &[(&str, &str)]) -> PathBuf {
        for (from, to) in edit {
            assert!(text.contains(from), "{from:?} is not in {text}");
            text = text.replacen(from, to, 1);
        }
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// What a command line gave.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// Asserts the exit code, and that stderr says all of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for word in words {
            assert!(
                self.stderr.contains(word),
                "{word:?} is not in: {}",
                self.stderr
            );
        }
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
    }
}

/// Runs the binary with `MASQUE_LOG` quiet, so that stderr is what it fails with.
pub(crate) fn masque(args: &[&str]) -> Outcome {
    finish(command(args))
}

/// Runs a command to its end; one that does not end is killed, and fails the test.
pub(crate) fn finish(mut command: Command) -> Outcome {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (sender, receiver) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let output = child.wait_with_output().unwrap();
        // The test has given up waiting.
        let _ = sender.send(());
        output
    });
    if receiver.recv_timeout(PATIENCE).is_err() {
        // Not yet waited for, so the number cannot be another process's.
        let _ = kill(pid, Signal::SIGTERM);
    }
    waiter.join().unwrap().into()
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).env("MASQUE_LOG", "error");
    command
}

pub(crate) fn with_config(subcommand: &str, config: &Path) -> Outcome {
    masque(&[subcommand, "-c", config.to_str().unwrap()])
}
