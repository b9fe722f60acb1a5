//! The network namespaces the tests run in.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use masque::host::HostNet;
use serde_json::Value;

/// Set, to the test's name, in the child that runs its body in its own namespace.
const INSIDE: &str = "MASQUE_HOST_TEST_INSIDE";
/// Set, to its state directory, in the grandchild that is killed or has no privileges.
const VICTIM: &str = "MASQUE_HOST_TEST_VICTIM";

/// Runs `body` in a network namespace of its own, in a process of its own; where that is not
/// allowed, says so.
pub(crate) fn inside<F: Fn()>(body: F) {
    static FLAGS: OnceLock<Result<&'static [&'static str], String>> = OnceLock::new();
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    // The closure's type is named after the function it stands in.
    let path: Vec<&str> = std::any::type_name::<F>().split("::").collect();
    let test = &path[1..path.len() - 1].join("::");
    match FLAGS.get_or_init(unshare_flags) {
        Ok(flags) => {
            let mut command = Command::new("unshare");
            command.args(*flags).arg(env::current_exe().unwrap());
            only(&mut command, test).env(INSIDE, test);
            succeed(&mut command);
        }
        Err(why) => {
            // Past the harness, which would swallow it: a skipped test is not a passed one.
            let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
        }
    }
}

fn only<'a>(command: &'a mut Command, test: &str) -> &'a mut Command {
    command.args([test, "--exact", "--nocapture", "--test-threads=1"])
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A name that is not found would run nothing, successfully.
    let ran = text.contains("1 passed");
    assert!(output.status.success() && ran, "{text}\n{errors}");
}

fn unshare_flags() -> Result<&'static [&'static str], String> {
    let mut why = String::new();
    for program in ["ip", "nft", "ping", "nsenter"] {
        let found = Command::new(program).arg("-V").output();
        found.map_err(|error| format!("the program {program} is needed: {error}"))?;
    }
    for flags in [&["--net"][..], &["--user", "--map-root-user", "--net"][..]] {
        let output = Command::new("unshare").args(flags).arg("true").output();
        match output {
            Ok(output) if output.status.success() => return Ok(flags),
            Ok(output) => why = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => why = format!("the program unshare is needed: {error}"),
        }
    }
    Err(format!("no network namespace can be made here: {why}"))
}

/// In the grandchild: the state directory.
pub(crate) fn victim() -> Option<PathBuf> {
    env::var_os(VICTIM).map(PathBuf::from)
}

/// In the grandchild: says that it is ready, and lives until it is killed (or its parent is gone).
pub(crate) fn wait_to_be_killed() -> ! {
    println!("\nready");
    let _ = io::stdin().read(&mut [0]);
    std::process::abort();
}

/// Runs a program that must succeed; gives what it printed.
pub(crate) fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The value of a kernel setting.
pub(crate) fn sysctl(key: &str) -> String {
    let text = fs::read_to_string(Path::new("/proc/sys").join(key)).unwrap();
    text.trim_end().to_owned()
}

/// The objects of `nft -j list ruleset`.
pub(crate) fn nft_ruleset() -> Vec<Value> {
    let listing: Value = serde_json::from_str(&run(&["nft", "-j", "list", "ruleset"])).unwrap();
    listing["nftables"].as_array().unwrap().clone()
}

/// A namespace with two interfaces for tunnels, and a directory for journals.
pub(crate) struct World {
    state: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            state: tempfile::tempdir().unwrap(),
        };
        // Link-local addresses come and settle in their own time, which would blur the snapshots.
        for scope in ["default", "all"] {
            world.set(&format!("net/ipv6/conf/{scope}/addr_gen_mode"), "1");
        }
        world.set("net/ipv6/conf/default/accept_dad", "0");
        world.set("net/ipv4/conf/all/rp_filter", "0");
        // Its addresses come when it is first up, and stay.
        run(&["ip", "link", "set", "lo", "up"]);
        for tun in ["tun0", "tun1"] {
            add_link(tun);
        }
        world
    }

    /// Adds eth0 with addresses and default routes.
    pub(crate) fn uplink(&self) {
        add_link("eth0");
        run(&["ip", "address", "add", "192.0.2.2/24", "dev", "eth0"]);
        run(&["ip", "route", "add", "default", "via", "192.0.2.1"]);
        let own = ["ip", "address", "add", "2001:db8:2::2/64", "dev", "eth0"];
        run(&[&own[..], &["nodad"]].concat());
        // The kernel makes the route to it a little later than the address.
        let local = ["ip", "-6", "route", "show", "table", "local"];
        until("the address settles", || {
            run(&local).contains("2001:db8:2::2")
        });
        run(&[
            "ip",
            "-6",
            "route",
            "add",
            "default",
            "via",
            "2001:db8:2::1",
        ]);
    }

    pub(crate) fn open(&self, instance: &str) -> HostNet {
        HostNet::open(instance, Some(self.state.path())).unwrap()
    }

    pub(crate) fn set(&self, key: &str, value: &str) {
        fs::write(Path::new("/proc/sys").join(key), value).unwrap();
    }

    /// Everything that could have been changed, as text.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut text = String::new();
        for command in [
            &["ip", "-d", "address"][..],
            &["ip", "-4", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "-4", "rule"],
            &["ip", "-6", "rule"],
            &["nft", "list", "ruleset"],
        ] {
            text += &run(command);
        }
        text += &settings(Path::new("/proc/sys/net/ipv4/conf"));
        text += &settings(Path::new("/proc/sys/net/ipv6/conf"));
        let _ = writeln!(text, "ip_forward {}", sysctl("net/ipv4/ip_forward"));
        // The carrier follows in its own time, and is nothing that anybody set.
        for carrier in ["NO-CARRIER,", ",LOWER_UP", ",M-DOWN", " linkdown"] {
            text = text.replace(carrier, "");
        }
        let state = |line: &str| match line.split_once(" state ") {
            Some((front, back)) => front.to_owned() + back.trim_start_matches(char::is_uppercase),
            None => line.to_owned(),
        };
        let mut lines: Vec<String> = text.lines().map(state).collect();
        lines.sort();
        Snapshot { lines }
    }

    /// The names of the files in the state directory.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }

    /// Runs the test's other half in this namespace, and kills it once it is ready.
    pub(crate) fn kill_a_victim(&self) {
        let mut command = Command::new(env::current_exe().unwrap());
        only(&mut command, &env::var(INSIDE).unwrap()).env(VICTIM, self.state.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line == "ready");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ready, "the victim failed before it was killed");
    }

    /// Runs the test's other half in this namespace, without privileges over it.
    pub(crate) fn without_privileges(&self) {
        self.other_half(&["unshare", "--user"]);
    }

    /// Runs the test's other half in this namespace, where the program nft is hidden.
    pub(crate) fn without_nft(&self) {
        let script = r#"mount -t tmpfs none "$(dirname "$(command -v nft)")" && exec "$0" "$@""#;
        self.other_half(&["unshare", "--mount", "sh", "-c", script]);
    }

    fn other_half(&self, wrapper: &[&str]) {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(env::current_exe().unwrap());
        only(&mut command, &env::var(INSIDE).unwrap()).env(VICTIM, self.state.path());
        succeed(&mut command);
    }
}

/// Adds an interface with a carrier. (Not every kernel has the kind "dummy".)
fn add_link(name: &str) {
    let far = format!("{name}-far");
    run(&[
        "ip", "link", "add", name, "type", "veth", "peer", "name", &far,
    ]);
    run(&["ip", "link", "set", name, "up"]);
    run(&["ip", "link", "set", &far, "up"]);
    settle(&[name, &far], run);
}

/// Asks until these interfaces are up: the kernel notices a carrier a little later than it is there.
pub(crate) fn settle(links: &[&str], run: impl Fn(&[&str]) -> String) {
    for link in links {
        let show = ["ip", "link", "show", link];
        until("the link comes up", || run(&show).contains("state UP"));
    }
}

/// Asks again and again, but not for ever.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    assert!((0..10_000).any(|_| holds()), "never: {what}");
}

fn settings(directory: &Path) -> String {
    let mut lines: Vec<String> = Vec::new();
    for link in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        for file in fs::read_dir(link.path()).unwrap().map(Result::unwrap) {
            // Some are for writing only, or secret.
            if let Ok(value) = fs::read_to_string(file.path()) {
                lines.push(format!("{} {value}", file.path().display()));
            }
        }
    }
    lines.sort();
    lines.concat()
}

/// The state of a namespace.
#[derive(PartialEq)]
pub(crate) struct Snapshot {
    lines: Vec<String>,
}

impl Snapshot {
    /// Fails, with the lines that differ, unless the namespace is in this state now.
    #[track_caller]
    pub(crate) fn assert_is(&self, now: &Self, what: &str) {
        let missing = |here: &Self, there: &Self, sign| {
            let lines = here.lines.iter();
            let alone = lines.filter(|line| !there.lines.contains(line));
            alone.fold(String::new(), |text, line| format!("{text}{sign} {line}\n"))
        };
        let lost = missing(self, now, '-');
        let found = missing(now, self, '+');
        assert!(self == now, "{what}:\n{lost}{found}");
    }
}

/// A second network namespace, held by a process that does nothing.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        // It makes addresses usable at once, says when it is in there, and ends with its standard input.
        let script = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad && echo in; cat";
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(holder.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "in\n");
        Self { holder }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Runs a program in there.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let pid = self.pid().to_string();
        run(&[&["nsenter", "-t", &pid, "-n"], command].concat())
    }

    /// Whether a ping from there is answered.
    pub(crate) fn reaches(&self, address: &str) -> bool {
        let pid = self.pid().to_string();
        let ping = ["-t", &pid, "-n", "ping", "-c", "1", "-W", "1", address];
        let output = Command::new("nsenter").args(ping).output().unwrap();
        output.status.success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
