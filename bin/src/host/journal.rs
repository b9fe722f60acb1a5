//! What was changed, on disk before it is changed: enough to take it back after a crash.
//!
//! One file per instance and network namespace, replaced whole (written aside, then renamed), and a lock file that
//! its process holds. A journal from before a reboot is void: nothing recorded in it outlives the kernel.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::HostError;

const DEFAULT_DIRECTORY: &str = "/run/masque";

/// A link as it was when the change was made: an index is never used twice, a name may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkRef {
    pub(super) index: u32,
    pub(super) name: String,
}

/// One change, as what it takes to undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Change {
    /// A link was made; its index is missing if the crash came before it was known.
    Created { name: String, index: Option<u32> },
    /// A link's state, as it was before.
    Link { link: LinkRef, up: bool, mtu: u32 },
    /// An address was added.
    Address { link: LinkRef, address: IpNet },
    /// Routes with our protocol number may be in this table, through this link.
    Routes { link: LinkRef, table: u32 },
    /// A rule was added.
    Rule(Rule),
    /// The nftables table was made.
    Filter,
    /// A kernel setting was changed, and with it the kernel changed those in `also` (with their old values).
    Sysctl {
        key: String,
        old: String,
        new: String,
        also: Vec<(String, String)>,
    },
}

/// A routing rule of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) v6: bool,
    pub(super) priority: u32,
    pub(super) table: u32,
    /// Everything but this mark; without one, all but default routes.
    pub(super) not_mark: Option<u32>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    boot: String,
    changes: Vec<Change>,
}

/// The journal of one instance, held by this process.
#[derive(Debug)]
pub(super) struct Journal {
    directory: PathBuf,
    path: PathBuf,
    lock_path: PathBuf,
    /// The part of the file names that says which network namespace.
    namespace: String,
    boot: String,
    changes: Vec<Change>,
    _lock: File,
}

impl Journal {
    /// Takes the lock, and reads what a crashed process left.
    pub(super) fn open(instance: &str, directory: Option<&Path>) -> Result<Self, HostError> {
        let directory = directory.unwrap_or(Path::new(DEFAULT_DIRECTORY));
        let namespace = current_namespace()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("creating the state directory", directory))?;
        let file = |suffix: &str| directory.join(format!("{instance}@{namespace}.{suffix}"));
        let (path, lock_path) = (file("json"), file("lock"));
        let lock = lock(instance, &lock_path)?;
        let contents = read(&path)?.unwrap_or_default();
        let changes = if contents.boot == boot {
            contents.changes
        } else {
            Vec::new()
        };
        Ok(Self {
            directory: directory.to_owned(),
            path,
            lock_path,
            namespace,
            boot,
            changes,
            _lock: lock,
        })
    }

    /// The changes not taken back, the oldest first.
    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Writes down a change that is about to be made. Doing it twice is doing it once.
    pub(super) fn record(&mut self, change: Change) -> Result<(), HostError> {
        if self.changes.contains(&change) {
            return Ok(());
        }
        self.changes.push(change);
        self.write().inspect_err(|_| {
            self.changes.pop();
        })
    }

    /// Strikes out a change that was taken back, or never happened.
    pub(super) fn strike(&mut self, change: &Change) -> Result<(), HostError> {
        let before = self.changes.len();
        self.changes.retain(|one| one != change);
        if self.changes.len() == before {
            return Ok(());
        }
        self.write()
    }

    /// Keeps only these; an empty journal is no file.
    pub(super) fn replace(&mut self, changes: Vec<Change>) -> Result<(), HostError> {
        self.changes = changes;
        self.write()
    }

    /// What the other instances in this network namespace have changed and not taken back.
    pub(super) fn siblings(&self) -> Result<Vec<Change>, HostError> {
        let list = || fs::read_dir(&self.directory)?.collect::<io::Result<Vec<_>>>();
        let entries = list().map_err(failed("listing the journals", &self.directory))?;
        let suffix = format!("@{}.json", self.namespace);
        let mut changes = Vec::new();
        for path in entries.iter().map(fs::DirEntry::path) {
            let name = path.file_name().map(|name| name.to_string_lossy());
            if path == self.path || !name.is_some_and(|name| name.ends_with(&suffix)) {
                continue;
            }
            match read(&path) {
                Ok(Some(contents)) if contents.boot == self.boot => {
                    changes.extend(contents.changes);
                }
                Ok(_) => {}
                // Theirs to repair; it must not stop us.
                Err(error) => tracing::warn!(%error, "another instance's journal is left aside"),
            }
        }
        Ok(changes)
    }

    /// Keeps other instances from changing shared settings while the returned file is open.
    pub(super) fn lock_shared(&self) -> Result<File, HostError> {
        let path = self.directory.join("settings.lock");
        let take = || {
            let file = File::create(&path)?;
            file.lock()?;
            Ok(file)
        };
        take().map_err(failed("locking the host's settings", &path))
    }

    fn write(&self) -> Result<(), HostError> {
        let doing = "writing down changes to this host";
        if self.changes.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed(doing, &self.path)(error))
                }
                _ => Ok(()),
            };
        }
        let write = || {
            let contents = Contents {
                boot: self.boot.clone(),
                changes: self.changes.clone(),
            };
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(&serde_json::to_vec_pretty(&contents)?)?;
            // No fsync: only a crash of this process matters, a reboot voids it.
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(failed(doing, &self.path))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Still locked here: whoever opened the file meanwhile sees that it is no longer the one at this path.
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn lock(instance: &str, path: &Path) -> Result<File, HostError> {
    let doing = "locking this instance";
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed(doing, path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(HostError::InstanceInUse {
                    instance: instance.to_owned(),
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(doing, path)(error)),
        }
        let ours = file.metadata().map_err(failed(doing, path))?.ino();
        // A process that stopped in between has removed the file: then this lock guards nothing.
        if fs::metadata(path).is_ok_and(|there| there.ino() == ours) {
            return Ok(file);
        }
    }
}

fn read(path: &Path) -> Result<Option<Contents>, HostError> {
    let failed = failed("reading the journal of changes to this host", path);
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| failed(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// The inode of this thread's network namespace.
fn current_namespace() -> Result<String, HostError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let metadata =
        fs::metadata(path).map_err(failed("identifying this network namespace", path))?;
    Ok(metadata.ino().to_string())
}

fn failed(doing: &str, path: &Path) -> impl Fn(io::Error) -> HostError {
    let (doing, path) = (doing.to_owned(), path.to_owned());
    move |source| HostError::Journal {
        doing: doing.clone(),
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32) -> Change {
        Change::Rule(Rule {
            v6: false,
            priority,
            table: 51,
            not_mark: Some(7),
        })
    }

    #[test]
    fn what_was_recorded_is_there_after_the_process_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open("one", Some(directory.path())).unwrap();
        journal.record(rule(1)).unwrap();
        journal.record(Change::Filter).unwrap();
        journal.record(rule(1)).unwrap();
        drop(journal);
        let mut journal = Journal::open("one", Some(directory.path())).unwrap();
        assert_eq!(journal.changes(), [rule(1), Change::Filter]);
        journal.strike(&rule(1)).unwrap();
        journal.replace(Vec::new()).unwrap();
        drop(journal);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_instance_is_one_process_and_another_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let first = Journal::open("one", Some(directory.path())).unwrap();
        let second = Journal::open("one", Some(directory.path())).unwrap_err();
        assert!(
            matches!(second, HostError::InstanceInUse { .. }),
            "{second}"
        );
        let mut other = Journal::open("two", Some(directory.path())).unwrap();
        other.record(rule(5)).unwrap();
        assert_eq!(first.siblings().unwrap(), [rule(5)]);
        assert_eq!(other.siblings().unwrap(), []);
        drop(first);
        Journal::open("one", Some(directory.path())).unwrap();
    }

    #[test]
    fn a_journal_from_before_a_reboot_is_void() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open("one", Some(directory.path())).unwrap();
        journal.boot = "another".into();
        journal.record(rule(1)).unwrap();
        drop(journal);
        let journal = Journal::open("one", Some(directory.path())).unwrap();
        assert_eq!(journal.changes(), []);
    }

    #[test]
    fn a_damaged_journal_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::open("one", Some(directory.path())).unwrap();
        journal.record(rule(1)).unwrap();
        let path = journal.path.clone();
        drop(journal);
        fs::write(&path, "{").unwrap();
        let error = Journal::open("one", Some(directory.path())).unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}
