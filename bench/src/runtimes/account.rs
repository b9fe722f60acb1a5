//! What the threads under measurement use: from `/proc`, and system calls from `perf stat`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long `perf` gets to attach; what is measured meanwhile is idle.
const ATTACH: Duration = Duration::from_millis(400);

/// The threads of this process, but those that measure.
#[derive(Clone, Debug, Default)]
pub(super) struct Threads(BTreeSet<u32>);

/// CPU time and sleeps of some threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// On a processor.
    pub(super) cpu: Duration,
    /// Times they went to sleep.
    pub(super) sleeps: u64,
}

impl Threads {
    /// All there are now, but not `ours`.
    pub(super) fn without(ours: &[u32]) -> Self {
        let all = fs::read_dir("/proc/self/task").into_iter().flatten();
        let all = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Self(all.filter(|thread| !ours.contains(thread)).collect())
    }

    /// Up to now.
    pub(super) fn used(&self) -> Used {
        let mut used = Used::default();
        for thread in &self.0 {
            let read = |name: &str| {
                fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).unwrap_or_default()
            };
            let nanos = read("schedstat");
            let nanos = nanos.split_whitespace().next().map(str::parse);
            used.cpu += Duration::from_nanos(nanos.and_then(Result::ok).unwrap_or(0));
            let status = read("status");
            let sleeps = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            used.sleeps += sleeps
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0);
        }
        used
    }

    /// Counts their system calls until [`Calls::end`]; nothing where `perf` may not.
    pub(super) fn calls(&self) -> Option<Calls> {
        let threads: Vec<String> = self.0.iter().map(u32::to_string).collect();
        let file = tempfile::NamedTempFile::new().ok()?;
        let path = file.path().to_owned();
        let perf = Command::new("perf")
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-t"])
            .arg(threads.join(","))
            .arg("-o")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        std::thread::sleep(ATTACH);
        Some(Calls {
            perf,
            path,
            _file: file,
        })
    }
}

impl Used {
    /// Since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            sleeps: self.sleeps.saturating_sub(before.sleeps),
        }
    }
}

/// A count of system calls under way.
pub(super) struct Calls {
    perf: Child,
    path: PathBuf,
    _file: tempfile::NamedTempFile,
}

impl Calls {
    /// How many there were; nothing if `perf` could not count.
    pub(super) fn end(mut self) -> Option<f64> {
        let pid = Pid::from_raw(i32::try_from(self.perf.id()).ok()?);
        kill(pid, Signal::SIGINT).ok()?;
        self.perf.wait().ok()?;
        let said = fs::read_to_string(&self.path).ok()?;
        let line = said.lines().find(|line| line.contains("sys_enter"))?;
        line.split(',').next()?.parse().ok()
    }
}

/// The calling thread.
pub(super) fn this_thread() -> u32 {
    let link = fs::read_link("/proc/thread-self").unwrap_or_default();
    let name = link.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// Resident bytes of this process.
pub(super) fn resident() -> f64 {
    crate::meter::resident(&[std::process::id()])
}
