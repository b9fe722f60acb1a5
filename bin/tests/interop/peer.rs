//! The independent peer: processes, and what they tell.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::log::Log;
use crate::pki::Pki;

/// What the peer's server trips over when our STOP_SENDING comes in one packet with our RESET_STREAM.
const HALF_RESET: &str = "RuntimeError: Cannot send data after the stream was reset";

/// A Python that has what the peer needs.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    python: PathBuf,
}

/// The peer; `None`, said aloud, where it cannot be run.
pub(crate) fn peer() -> Option<Peer> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(find_python) {
        Ok(python) => Some(Peer {
            python: python.clone(),
        }),
        Err(why) => {
            skipped(why);
            None
        }
    }
}

/// Says aloud that the test of this thread is skipped, and why.
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("interop");
    // Not eprintln!, which the test runner would swallow: nobody is to take it for a pass.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

fn find_python() -> Result<PathBuf, String> {
    let venv = workspace().join("target/interop-venv/bin/python");
    let python = match std::env::var_os("MASQUE_INTEROP_PYTHON") {
        Some(named) => PathBuf::from(named),
        None if venv.exists() => venv,
        None => PathBuf::from("python3"),
    };
    let outcome = Command::new(&python)
        .args(["-c", "import aioquic, cryptography"])
        .output()
        .map_err(|error| format!("{} does not run: {error}", python.display()))?;
    if outcome.status.success() {
        Ok(python)
    } else {
        Err(format!(
            "{} has no aioquic; see testdata/interop/aioquic/README.md",
            python.display()
        ))
    }
}

fn workspace() -> &'static Path {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR"));
    bin.parent().unwrap_or(bin)
}

impl Peer {
    /// Starts the client for the server at `address`, whose name is `localhost`. In `arguments` words
    /// are parted by spaces.
    pub(crate) fn client(&self, address: SocketAddr, pki: &Pki, arguments: &str) -> Process {
        let url = default_url(address.port());
        self.client_for(&url, address, pki, arguments)
    }

    /// The same for another URI template.
    pub(crate) fn client_for(
        &self,
        url: &str,
        address: SocketAddr,
        pki: &Pki,
        arguments: &str,
    ) -> Process {
        let connect = address.to_string();
        let mut all = words("--json");
        all.extend(["--url", url, "--connect", &connect, "--ca"].map(OsString::from));
        all.push(pki.ca_file().into());
        if !arguments.contains("--timeout") {
            all.extend(words("--timeout 10"));
        }
        all.extend(words(arguments));
        self.start("client.py", &all)
    }

    /// Starts the server and waits until it can be used.
    pub(crate) fn server(&self, pki: &Pki, arguments: &str) -> Server {
        let address = unused_address();
        let mut all = words(&format!("--json --listen {address} --cert"));
        all.push(pki.server_cert_file().into());
        all.push("--key".into());
        all.push(pki.server_key_file().into());
        all.extend(words(arguments));
        let process = self.start("server.py", &all);
        process.wait("listening");
        Server { process, address }
    }

    fn start(&self, script: &str, arguments: &[OsString]) -> Process {
        let script = workspace().join("testdata/interop/aioquic").join(script);
        let mut child = Command::new(&self.python)
            .arg(script)
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python has run before");
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().expect("piped");
        let events = log.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    events.push(event);
                }
            }
            events.end();
        });
        let mut stderr = child.stderr.take().expect("piped");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            // What is no text is no traceback either.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        Process {
            child,
            log,
            readers: Some((reader, errors)),
        }
    }
}

/// A process of the peer.
pub(crate) struct Process {
    child: Child,
    log: Arc<Log<Value>>,
    readers: Option<(JoinHandle<()>, JoinHandle<String>)>,
}

/// A process that has ended.
pub(crate) struct Outcome {
    code: Option<i32>,
    log: Arc<Log<Value>>,
    errors: String,
}

/// A server of the peer.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Waits for the first event of that name.
    #[track_caller]
    pub(crate) fn wait(&self, name: &str) -> Value {
        self.wait_where(name, |_| true)
    }

    /// Waits for the first event of that name that `wanted` takes.
    #[track_caller]
    pub(crate) fn wait_where(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log
            .wait(name, |event| matching(event, name, &wanted).cloned())
    }

    /// What it said up to now.
    pub(crate) fn text(&self) -> String {
        self.log.text()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        // The end of its output comes with its own end.
        assert!(self.log.wait_end(), "it does not end:\n{}", self.text());
        let (reader, errors) = self.readers.take().expect("taken only here");
        let code = self.child.wait().expect("our child").code();
        reader.join().expect("reads lines");
        Outcome {
            code,
            log: self.log.clone(),
            errors: errors.join().expect("reads text"),
        }
    }

    /// Ends it and has it that nothing it received was wrong.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Outcome {
        self.child.kill().expect("our child");
        let outcome = self.finish();
        outcome.is_content();
        outcome
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// Has it that the process got what it was to get, from a peer that broke no rule.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        self.exited(0)
    }

    /// Has it that the process ended with `code`, and that we broke no rule.
    #[track_caller]
    pub(crate) fn exited(self, code: i32) -> Self {
        self.is_content();
        assert_eq!(self.code, Some(code), "{}", self.text());
        self
    }

    /// Has it that there is such an event.
    #[track_caller]
    pub(crate) fn saw(self, name: &str, wanted: impl Fn(&Value) -> bool) -> Self {
        self.get(name, wanted);
        self
    }

    /// Has it that there is no such event.
    #[track_caller]
    pub(crate) fn saw_no(self, name: &str, wanted: impl Fn(&Value) -> bool) -> Self {
        let found = self
            .log
            .has(|event| matching(event, name, &wanted).is_some());
        assert!(!found, "{name} in {}", self.text());
        self
    }

    /// The first such event.
    #[track_caller]
    pub(crate) fn get(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log
            .wait(name, |event| matching(event, name, &wanted).cloned())
    }

    fn is_content(&self) {
        let tracebacks = self.errors.matches("Traceback").count();
        let known = self.errors.matches(HALF_RESET).count();
        assert_eq!(tracebacks, known, "{}", self.text());
        let wrong = self.log.has(|event| event["event"] == "violation");
        assert!(!wrong, "a violation of ours in {}", self.text());
    }

    fn text(&self) -> String {
        format!(
            "exit {:?}:\n{}\n{}",
            self.code,
            self.log.text(),
            self.errors
        )
    }
}

fn words(text: &str) -> Vec<OsString> {
    text.split_whitespace().map(OsString::from).collect()
}

fn matching<'a>(
    event: &'a Value,
    name: &str,
    wanted: &impl Fn(&Value) -> bool,
) -> Option<&'a Value> {
    (event["event"] == name && wanted(event)).then_some(event)
}

/// The default template, of a server on that port of `localhost`.
pub(crate) fn default_url(port: u16) -> String {
    format!("https://localhost:{port}/.well-known/masque/ip/{{target}}/{{ipproto}}/")
}

/// A loopback address of this test's own, so that tests side by side never share a port, and a port
/// that is free on it.
pub(crate) fn unused_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let host = 0x7f00_0000 | (process & 0xfff) << 11 | number & 0x7ff;
    let socket = UdpSocket::bind((Ipv4Addr::from(host), 0)).expect("a loopback interface");
    socket.local_addr().expect("bound")
}
