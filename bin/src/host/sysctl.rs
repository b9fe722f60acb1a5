//! Kernel settings under `/proc/sys`. Several instances may need the same one: the old value is handed on, and
//! the last to stop restores it.

use std::fs;
use std::path::{Path, PathBuf};

use super::journal::Change;
use super::{HostError, HostNet};

const ROOT: &str = "/proc/sys";

/// Settings that the kernel changes by itself when another is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dependents {
    None,
    /// Those of `net/ipv4/ip_forward`.
    Forward4,
    /// Those of `net/ipv6/conf/all/forwarding`.
    Forward6,
}

impl HostNet {
    /// Sets `key` (a path under `/proc/sys`) to `value` until this instance stops.
    pub(super) fn set_sysctl(
        &mut self,
        key: &str,
        value: &str,
        dependents: Dependents,
    ) -> Result<(), HostError> {
        let ours = |change: &&Change| matches!(change, Change::Sysctl { key: k, .. } if k == key);
        let _guard = self.journal.lock_shared()?;
        if self.journal.changes().iter().any(|one| ours(&one)) {
            return write(key, value);
        }
        let current = read(key)?;
        let inherited = self.journal.siblings()?.into_iter().find(|one| ours(&one));
        let change = match inherited {
            Some(Change::Sysctl { old, also, .. }) => Change::Sysctl {
                key: key.to_owned(),
                old,
                new: value.to_owned(),
                also,
            },
            _ if current == value => return Ok(()),
            _ => Change::Sysctl {
                key: key.to_owned(),
                old: current.clone(),
                new: value.to_owned(),
                also: dependents.snapshot(),
            },
        };
        self.journal.record(change.clone())?;
        if current == value {
            return Ok(());
        }
        write(key, value).or_else(|error| {
            self.journal.strike(&change)?;
            Err(error)
        })
    }

    /// Puts a setting back, unless another instance needs it or somebody has changed it since.
    pub(super) fn restore_sysctl(
        &mut self,
        key: &str,
        old: &str,
        new: &str,
        also: &[(String, String)],
    ) -> Result<Option<String>, HostError> {
        let _guard = self.journal.lock_shared()?;
        let needed = self
            .journal
            .siblings()?
            .iter()
            .any(|one| matches!(one, Change::Sysctl { key: k, .. } if k == key));
        if needed || !exists(key) || read(key)? != new {
            return Ok(None);
        }
        write(key, old)?;
        for (key, old) in also {
            if exists(key) && read(key)? != *old {
                write(key, old)?;
            }
        }
        Ok(Some(format!("set {} back to {old}", key.replace('/', "."))))
    }
}

impl Dependents {
    fn snapshot(self) -> Vec<(String, String)> {
        let (directory, extra) = match self {
            Self::None => return Vec::new(),
            Self::Forward4 => ("net/ipv4/conf", Some("net/ipv4/conf/all/accept_redirects")),
            Self::Forward6 => ("net/ipv6/conf", None),
        };
        let links = interfaces(directory)
            .into_iter()
            .filter(|name| name != "all")
            .map(|name| format!("{directory}/{name}/forwarding"));
        links
            .chain(extra.map(str::to_owned))
            .filter_map(|key| Some((key.clone(), read(&key).ok()?)))
            .collect()
    }
}

/// Whether reverse path filtering is strict on any interface.
pub(super) fn strict_reverse_path() -> bool {
    let directory = "net/ipv4/conf";
    interfaces(directory)
        .iter()
        .any(|name| read(&format!("{directory}/{name}/rp_filter")).is_ok_and(|value| value == "1"))
}

/// The value of a setting, without the newline.
pub(super) fn read(key: &str) -> Result<String, HostError> {
    let path = path(key);
    fs::read_to_string(&path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| HostError::Sysctl {
            doing: "reading a kernel setting".into(),
            path,
            source,
        })
}

/// Whether this kernel has the setting.
pub(super) fn exists(key: &str) -> bool {
    path(key).exists()
}

fn write(key: &str, value: &str) -> Result<(), HostError> {
    let path = path(key);
    // Opened without O_TRUNC and O_CREAT: /proc has no use for them.
    let write = || {
        let mut file = fs::File::options().write(true).open(&path)?;
        std::io::Write::write_all(&mut file, value.as_bytes())
    };
    write().map_err(|source| HostError::Sysctl {
        doing: format!("setting {} to {value}", key.replace('/', ".")),
        path: path.clone(),
        source,
    })
}

fn path(key: &str) -> PathBuf {
    Path::new(ROOT).join(key)
}

fn interfaces(directory: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path(directory)) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
