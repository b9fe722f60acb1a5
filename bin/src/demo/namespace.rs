//! Network namespaces without a name, held by threads of this process.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use masque_adapter_kit::{TunConfig, TunDevice};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use crate::exit::Failure;

/// Moves this process, which must still have one thread only, to a network namespace of its own; as an
/// ordinary user within a user namespace, as whose root.
pub(super) fn enter() -> Result<(), Failure> {
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|error| {
        Failure::system(
            "user and network namespaces are not allowed here",
            &io::Error::from(error),
        )
    })?;
    let write = |name: &str, text: String| {
        fs::write(Path::new("/proc/self").join(name), text)
            .map_err(|error| Failure::system(format!("cannot write /proc/self/{name}"), &error))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {uid} 1"))?;
    write("gid_map", format!("0 {gid} 1"))
}

/// Moves this thread alone to a second network namespace, and gives a handle to it.
pub(super) fn split() -> Result<File, Failure> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
        Failure::system(
            "cannot make a second network namespace",
            &io::Error::from(error),
        )
    })?;
    File::open("/proc/thread-self/ns/net")
        .map_err(|error| Failure::system("cannot open the network namespace", &error))
}

/// Tries in this process what the demo needs; fails with the reason.
pub(super) fn probe() -> Result<(), Failure> {
    enter()?;
    let config = TunConfig {
        name: Some("masqprobe".to_owned()),
        up: false,
        ..TunConfig::default()
    };
    TunDevice::create(&config)
        .map(drop)
        .map_err(|error| Failure::system("a TUN device cannot be made (/dev/net/tun)", &error))
}

/// Finds out in another process why the demo cannot have namespaces and devices; `None` if it can.
pub(super) fn obstacle() -> Result<Option<String>, Failure> {
    let output = Command::new("/proc/self/exe")
        .args(["--log-format", "json", "demo", "--probe"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| Failure::system("cannot start /proc/self/exe", &error))?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text
        .lines()
        .rev()
        .find_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).ok()?;
            Some(value.get("message")?.as_str()?.to_owned())
        })
        .unwrap_or_else(|| format!("the attempt ended with {}", output.status));
    Ok(Some(reason))
}

/// Whether packet filters can be used in this namespace. A server refuses to run without, unless told.
pub(super) fn has_nftables() -> bool {
    Command::new("nft")
        .args(["--json", "list", "tables"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
