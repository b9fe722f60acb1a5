//! Network namespaces without a name: each lives as long as its handle and the processes in it.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Set, to the test's name, in a child process that has its own user namespace.
const INSIDE: &str = "MASQUE_E2E_INSIDE";

/// One network namespace.
pub(crate) struct Namespace {
    name: &'static str,
    handle: File,
}

impl Namespace {
    pub(crate) fn new(name: &'static str) -> Self {
        let handle = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .unwrap()
        .unwrap();
        Self { name, handle }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// A path that names it, for `ip`.
    pub(crate) fn path(&self) -> String {
        let process = std::process::id();
        format!("/proc/{process}/fd/{}", self.handle.as_raw_fd())
    }

    /// Runs `work` inside. What it starts (threads, processes) is inside, too.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.handle, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs a program that must succeed; gives what it printed.
    pub(crate) fn command(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(|| {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            command.output().unwrap()
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {program} {arguments:?}: {errors}",
            self.name
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs commands of `ip`, one a line.
    pub(crate) fn ip(&self, commands: &str) {
        self.run(|| {
            let mut child = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = child.stdin.take().unwrap();
            input.write_all(commands.as_bytes()).unwrap();
            drop(input);
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: {commands}\n{errors}",
                self.name
            );
        });
    }

    /// Sets a kernel setting of this namespace.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.run(|| fs::write(Path::new("/proc/sys/net").join(key), value).unwrap());
    }

    fn setting(&self, key: &str) -> String {
        self.run(|| fs::read_to_string(Path::new("/proc/sys/net").join(key)).unwrap())
    }

    /// Everything a VPN may change here, as text.
    pub(crate) fn snapshot(&self) -> String {
        let mut text = String::new();
        let listings: [&[&str]; 7] = [
            &["ip", "-o", "link"],
            &["ip", "-o", "address"],
            &["ip", "-4", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "-4", "rule"],
            &["ip", "-6", "rule"],
            &["nft", "list", "ruleset"],
        ];
        for listing in listings {
            let shown = self.command(listing[0], &listing[1..]);
            let mut lines: Vec<&str> = shown.lines().map(str::trim_end).collect();
            if listing[0] == "ip" {
                lines.sort_unstable();
            }
            writeln!(text, "# {}\n{}", listing.join(" "), lines.join("\n")).unwrap();
        }
        for key in [
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "ipv4/conf/all/src_valid_mark",
            "ipv4/conf/all/rp_filter",
        ] {
            write!(text, "{key} = {}", self.setting(key)).unwrap();
        }
        text
    }
}

/// Past libtest, which would swallow it.
pub(crate) fn say(text: &str) {
    // Nobody to tell where standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Runs `body` where it may make network namespaces and TUN devices: here, or in a child process with a
/// user namespace of its own. Where neither is allowed it says so; a skipped test is not a passed one.
pub(crate) fn inside<F: Fn()>(body: F) {
    static WAY: OnceLock<Result<bool, String>> = OnceLock::new();
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    // The closure's type is named after the function it stands in.
    let path: Vec<&str> = std::any::type_name::<F>().split("::").collect();
    let test = &path[1..path.len() - 1].join("::");
    match WAY.get_or_init(way) {
        Ok(true) => body(),
        Ok(false) => {
            let output = Command::new("unshare")
                .args(["--user", "--map-root-user", "--net"])
                .arg(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture", "--test-threads=1"])
                .env(INSIDE, test)
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            // A name that is not found would run nothing, successfully.
            let ran = text.contains("1 passed");
            assert!(output.status.success() && ran, "{text}\n{errors}");
        }
        Err(why) => say(&format!("SKIPPED: {test}: {why}")),
    }
}

/// Whether this process itself may; `Ok(false)` is "in a user namespace", an error is the reason.
fn way() -> Result<bool, String> {
    for program in ["ip", "nft"] {
        let found = Command::new(program).arg("-V").output();
        found.map_err(|error| format!("the program {program} is needed: {error}"))?;
    }
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    tun.map_err(|error| format!("cannot open /dev/net/tun: {error}"))?;
    let alone = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET));
    if alone.join().unwrap().is_ok() {
        return Ok(true);
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "true"])
        .output()
        .map_err(|error| format!("the program unshare is needed: {error}"))?;
    match output.status.success() {
        true => Ok(false),
        false => Err(format!(
            "no network namespace can be made here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}
