//! What a server keeps across restarts: its secret, and which identity had which addresses.
//!
//! Both are files in the state folder, readable by their owner only. `leases.json` is replaced as a
//! whole, so that a crash leaves the old one or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use masque_core::endpoint::{Identity, Lease};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::files;

const VERSION: u32 = 1;

/// The state folder of one server.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
    secret: [u8; 32],
    leases: BTreeMap<Identity, Lease>,
    dirty: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseFile {
    version: u32,
    leases: Vec<LeaseEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseEntry {
    identity: String,
    addresses: Vec<IpAddr>,
    /// Seconds since 1970.
    last_used: u64,
}

impl State {
    /// Opens the folder, making it and a fresh secret where there is none. A lease file that cannot
    /// be understood is put aside under another name, and the second value says so.
    ///
    /// # Errors
    /// The folder cannot be used, or holds the state of a newer version.
    pub fn open(folder: &Path) -> Result<(Self, Option<String>), Failure> {
        files::private_folder(folder).map_err(|error| refused(folder, "cannot make", &error))?;
        files::remove_unfinished(folder)
            .map_err(|error| refused(folder, "cannot clean up", &error))?;
        let secret = secret(&folder.join("secret"))?;
        let (leases, warning) = read_leases(&folder.join("leases.json"))?;
        let state = Self {
            folder: folder.to_owned(),
            secret,
            leases,
            dirty: false,
        };
        Ok((state, warning))
    }

    /// The secret behind stateless resets and Retry tokens.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// All leases, by identity.
    #[must_use]
    pub fn leases(&self) -> Vec<Lease> {
        self.leases.values().cloned().collect()
    }

    /// Takes a change; [`Self::save`] writes it.
    pub fn set(&mut self, lease: Lease) {
        self.dirty = true;
        self.leases.insert(lease.identity.clone(), lease);
    }

    /// Forgets a lease.
    pub fn remove(&mut self, identity: &Identity) {
        self.dirty |= self.leases.remove(identity).is_some();
    }

    /// Whether there is something to write, as after a write that failed.
    pub fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Writes the leases, if they changed.
    ///
    /// # Errors
    /// What the system says; the changes then wait for the next call.
    pub fn save(&mut self) -> io::Result<()> {
        match self.changed() {
            Some(text) => files::replace(&self.leases_path(), &text).inspect_err(|_| {
                self.dirty = true;
            }),
            None => Ok(()),
        }
    }

    /// Where the leases are written.
    #[must_use]
    pub fn leases_path(&self) -> PathBuf {
        self.folder.join("leases.json")
    }

    /// The new content of the lease file, if it changed; the caller writes it.
    pub fn changed(&mut self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let file = LeaseFile {
            version: VERSION,
            leases: self.leases.values().map(LeaseEntry::of).collect(),
        };
        // Strings, numbers and addresses: nothing that JSON could refuse.
        let mut text = serde_json::to_vec_pretty(&file).unwrap_or_default();
        text.push(b'\n');
        Some(text)
    }
}

impl LeaseEntry {
    fn of(lease: &Lease) -> Self {
        Self {
            identity: lease.identity.0.clone(),
            addresses: lease.addresses.clone(),
            last_used: lease
                .last_used
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        }
    }

    fn lease(self) -> Lease {
        Lease {
            identity: Identity(self.identity),
            addresses: self.addresses,
            last_used: SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(self.last_used))
                .unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }
}

fn secret(path: &Path) -> Result<[u8; 32], Failure> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            Failure::config(format!("{} does not hold 32 bytes", path.display())).help(
                "delete it: a fresh one is made, and clients of the last run need a moment longer to notice",
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = crate::tls::random_seed()?;
            files::create(path, &secret, 0o600, false)
                .map_err(|error| refused(path, "cannot write", &error))?;
            Ok(secret)
        }
        Err(error) => Err(refused(path, "cannot read", &error)),
    }
}

type Leases = BTreeMap<Identity, Lease>;

fn read_leases(path: &Path) -> Result<(Leases, Option<String>), Failure> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(refused(path, "cannot read", &error)),
    };
    if let Some(version) = newer_version(&bytes) {
        return Err(Failure::config(format!(
            "{} is of version {version}; this program knows up to {VERSION}",
            path.display()
        ))
        .help("run the newer program, or move the file away to start without leases"));
    }
    match serde_json::from_slice::<LeaseFile>(&bytes) {
        Ok(file) => Ok((
            file.leases
                .into_iter()
                .map(LeaseEntry::lease)
                .map(|lease| (lease.identity.clone(), lease))
                .collect(),
            None,
        )),
        Err(error) => {
            let aside = put_aside(path).map_err(|cause| refused(path, "cannot rename", &cause))?;
            Ok((
                Leases::new(),
                Some(format!(
                    "{} cannot be understood ({error}); it was put aside as {} and leases start afresh",
                    path.display(),
                    aside.display()
                )),
            ))
        }
    }
}

fn newer_version(bytes: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(bytes)
        .ok()?
        .get("version")?
        .as_u64()
        .filter(|version| *version > u64::from(VERSION))
}

/// Renames to the first free `.corrupt-N`, so that nothing put aside earlier is lost.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let aside = path.with_extension(format!("json.corrupt-{number}"));
        if !aside.exists() {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
        number += 1;
    }
}

fn refused(path: &Path, doing: &str, error: &io::Error) -> Failure {
    let failure = Failure::system(format!("{doing} {}", path.display()), error);
    match failure.code {
        Exit::Permission => failure.help("set state_dir to a folder this user may write"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests;
