//! The program as anyone starts it: its log read as it comes, killed and reaped when it goes out of scope.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::namespace::Namespace;

/// How long anything may take that is not itself measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The binaries under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binary {
    Tokio,
    Smol,
    Mio,
}

impl Binary {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Tokio => env!("CARGO_BIN_EXE_masque-tokio"),
            Self::Smol => env!("CARGO_BIN_EXE_masque-smol"),
            Self::Mio => env!("CARGO_BIN_EXE_masque-mio"),
        }
    }
}

#[derive(Default)]
struct Log {
    lines: Vec<Value>,
    ended: bool,
}

/// A server or a client.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: Arc<(Mutex<Log>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` ("server", "client") inside a namespace.
    pub(crate) fn start(
        namespace: &Namespace,
        binary: Binary,
        command: &str,
        config: &Path,
    ) -> Self {
        Self::start_with(namespace, binary, command, config, &[])
    }

    /// The same with more environment variables.
    pub(crate) fn start_with(
        namespace: &Namespace,
        binary: Binary,
        command: &str,
        config: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        Self::start_by(&[], namespace, binary, command, config, environment)
    }

    /// The same with more arguments.
    pub(crate) fn start_as(
        namespace: &Namespace,
        binary: Binary,
        command: &str,
        config: &Path,
        arguments: &[&OsStr],
    ) -> Self {
        Self::start_all(&[], namespace, binary, (command, config, arguments), &[])
    }

    /// The same by a program that becomes it, such as `setpriv` with its options.
    pub(crate) fn start_by(
        launcher: &[&str],
        namespace: &Namespace,
        binary: Binary,
        command: &str,
        config: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let what = (command, config, &[][..]);
        Self::start_all(launcher, namespace, binary, what, environment)
    }

    fn start_all(
        launcher: &[&str],
        namespace: &Namespace,
        binary: Binary,
        (command, config, arguments): (&str, &Path, &[&OsStr]),
        environment: &[(&str, &str)],
    ) -> Self {
        let mut child = namespace.run(|| {
            let mut words = launcher.iter().copied().chain([binary.path()]);
            Command::new(words.next().unwrap())
                .args(words)
                .args(["--log-format", "json", command, "-c"])
                .arg(config)
                .args(arguments)
                .env("MASQUE_LOG", "debug")
                .envs(environment.iter().copied())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new((Mutex::new(Log::default()), Condvar::new()));
        let shared = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                shared.0.lock().unwrap().lines.push(value);
                shared.1.notify_all();
            }
            shared.0.lock().unwrap().ended = true;
            shared.1.notify_all();
        });
        Self {
            name: format!("{command} in {}", namespace.name()),
            child,
            log,
            reader: Some(reader),
        }
    }

    /// The fields of the first log line, from line `from` on, that `wanted` takes; and the number of the line
    /// after it. Panics when it does not come.
    pub(crate) fn wait_from(
        &self,
        from: usize,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> (Value, usize) {
        let until = Instant::now() + PATIENCE;
        let (lock, changed) = &*self.log;
        let mut log = lock.lock().unwrap();
        let mut next = from;
        loop {
            while let Some(line) = log.lines.get(next) {
                next += 1;
                let fields = line.get("fields").unwrap_or(line);
                if wanted(fields) {
                    return (fields.clone(), next);
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if log.ended || left.is_zero() {
                drop(log);
                panic!(
                    "the {} never said {what}:\n{}",
                    self.name,
                    self.last_words()
                );
            }
            log = changed.wait_timeout(log, left).unwrap().0;
        }
    }

    /// The fields of the first log line with this message.
    pub(crate) fn wait_for(&self, message: &str) -> Value {
        self.wait_from(0, message, |fields| fields["message"] == message)
            .0
    }

    /// How many log lines there are.
    pub(crate) fn lines(&self) -> usize {
        self.log.0.lock().unwrap().lines.len()
    }

    /// Whether a log line has this text in it so far.
    pub(crate) fn has_said(&self, text: &str) -> bool {
        let log = self.log.0.lock().unwrap();
        log.lines.iter().any(|line| line.to_string().contains(text))
    }

    /// How many messages so far are as `wanted` says.
    pub(crate) fn count(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let log = self.log.0.lock().unwrap();
        let messages = log
            .lines
            .iter()
            .filter_map(|line| line["fields"]["message"].as_str());
        messages.filter(|message| wanted(message)).count()
    }

    /// Waits until a client has addresses and routes; gives the addresses, IPv4 first.
    pub(crate) fn wait_up(&self) -> Vec<IpAddr> {
        self.wait_up_from(0)
    }

    /// As [`Self::wait_up`], for what is said from line `from` on.
    pub(crate) fn wait_up_from(&self, from: usize) -> Vec<IpAddr> {
        let wait = |message: &str| {
            let (fields, _) = self.wait_from(from, message, |fields| fields["message"] == message);
            fields
        };
        wait("tunnel up");
        wait("routes");
        let addresses = wait("addresses");
        let mut addresses: Vec<IpAddr> = addresses["addresses"]
            .as_str()
            .unwrap()
            .split(", ")
            .filter_map(|prefix| prefix.split('/').next()?.parse().ok())
            .collect();
        addresses.sort_unstable();
        addresses
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Not yet waited for, so the number is not another process's.
        let number = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(number), signal).unwrap();
    }

    /// Waits for the end; panics when it does not come.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            if Instant::now() > until {
                panic!("the {} does not end:\n{}", self.name, self.last_words());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM; the exit code must be 0.
    pub(crate) fn stop(mut self) -> Ended {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert!(
            status.success(),
            "{}: {status}\n{}",
            self.name,
            self.last_words()
        );
        self.ended()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// Waits for an end of its own accord; the exit code and the last error.
    pub(crate) fn fails(mut self) -> (i32, String) {
        let status = self.wait();
        let log = self.log.0.lock().unwrap();
        let last = log.lines.last().map(Value::to_string).unwrap_or_default();
        (status.code().unwrap_or(-1), last)
    }

    fn ended(&self) -> Ended {
        let (totals, _) = self.wait_from(0, "packets carried", |fields| {
            fields["message"] == "packets carried"
        });
        Ended { totals }
    }

    pub(crate) fn last_words(&self) -> String {
        let log = self.log.0.lock().unwrap();
        let lines: Vec<String> = log.lines.iter().map(Value::to_string).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the {}:\n{}", self.name, self.last_words());
        }
        // Already gone is fine, and in any case it is reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process counted.
pub(crate) struct Ended {
    pub(crate) totals: Value,
}

impl Ended {
    /// How many packets it dropped for this reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.counted("drops", reason)
    }

    /// How many of its sockets or devices went without an offload.
    pub(crate) fn without(&self, offload: &str) -> u64 {
        self.counted("without", offload)
    }

    fn counted(&self, field: &str, name: &str) -> u64 {
        let all = self.totals[field].as_str().unwrap_or_default();
        all.split(", ")
            .filter_map(|one| one.split_once(' '))
            .find(|(other, _)| *other == name)
            .map_or(0, |(_, count)| count.parse().unwrap())
    }
}
