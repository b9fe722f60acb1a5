//! `--record`: every input of the endpoint into a file, for `masque-lab replay`.

use clap::Args;
use masque_core::endpoint::TransportProfile;
use masque_recording::Tape;

use crate::exit::Failure;

/// What is recorded, and where.
#[derive(Debug, Default, Args)]
pub struct RecordArgs {
    /// Record every input of the session to this file, for `masque-lab replay`. The file holds the session's
    /// secrets and the server's reset secret: who has it can read what was sent. A server then runs on one
    /// core.
    #[cfg(feature = "record")]
    #[arg(long, value_name = "FILE")]
    pub record: Option<std::path::PathBuf>,

    /// The most that is recorded, 1GiB if nothing is said; the session goes on without when it is reached.
    #[cfg(feature = "record")]
    #[arg(long, value_name = "SIZE", requires = "record", value_parser = crate::config::ByteSize::parse)]
    pub record_limit: Option<crate::config::ByteSize>,
}

#[cfg(not(feature = "record"))]
impl RecordArgs {
    /// Nothing is recorded: this was built without the feature `record`.
    ///
    /// # Errors
    /// None.
    pub fn open(&self, _profile: &TransportProfile) -> Result<Option<Tape>, Failure> {
        Ok(None)
    }
}

#[cfg(feature = "record")]
mod file {
    use std::fs::{File, OpenOptions, Permissions};
    use std::io::{self, ErrorKind, Read};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;

    use masque_core::endpoint::CongestionControl;
    use masque_recording::MAGIC;

    use super::{Failure, RecordArgs, Tape, TransportProfile};

    /// The most that is recorded, if nothing is said.
    const LIMIT: u64 = 1 << 30;

    impl RecordArgs {
        /// The recording that is wanted, if one is.
        ///
        /// # Errors
        /// The file cannot be written, or is something else; the session could not be replayed.
        pub fn open(&self, profile: &TransportProfile) -> Result<Option<Tape>, Failure> {
            let Some(path) = &self.record else {
                return Ok(None);
            };
            if profile.congestion == CongestionControl::Bbr {
                let message = "congestion = \"bbr\" draws random numbers of its own: \
                               a recording of it could not be replayed";
                return Err(Failure::config(message));
            }
            let file = create(path).map_err(|error| {
                Failure::system(format!("cannot record to {}", path.display()), &error)
            })?;
            let limit = self.record_limit.map_or(LIMIT, |limit| limit.0);
            tracing::warn!(
                file = %path.display(),
                limit,
                "recording: the file holds the secrets of all sessions"
            );
            Ok(Some(Tape::new(file, limit)))
        }
    }

    /// Opens the file for us alone: a new one, or an old recording of ours, which is replaced.
    fn create(path: &Path) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Neither follows a link that somebody may have put there, nor waits for a pipe's other end.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        let refuse = |why| Err(io::Error::new(ErrorKind::AlreadyExists, why));
        let found = file.metadata()?;
        if !found.is_file() || found.uid() != nix::unistd::geteuid().as_raw() || found.nlink() != 1
        {
            return refuse("it is no regular file of ours");
        }
        if file.try_lock().is_err() {
            return refuse("another process records to it");
        }
        let mut beginning = Vec::new();
        file.by_ref()
            .take(MAGIC.len() as u64)
            .read_to_end(&mut beginning)?;
        if !beginning.is_empty() && beginning != MAGIC {
            return refuse("it is there already, and no recording");
        }
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.set_len(0)?;
        io::Seek::rewind(&mut file)?;
        Ok(file)
    }

    #[cfg(test)]
    mod tests {
        use std::fs;
        use std::io::Write;
        use std::os::unix::fs::symlink;

        use super::*;

        #[test]
        fn a_recording_is_for_its_owner_alone_and_replaces_nothing_but_a_recording() {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("a.rec");
            let mut file = create(&path).expect("a new one");
            file.write_all(MAGIC).expect("written");
            let busy = create(&path).expect_err("in use");
            assert!(busy.to_string().contains("another process"), "{busy}");
            drop(file);
            fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
            drop(create(&path).expect("an old one"));
            let found = fs::metadata(&path).expect("there");
            assert_eq!((found.len(), found.mode() & 0o777), (0, 0o600));

            let other = folder.path().join("other");
            fs::write(&other, "something else").expect("written");
            let link = folder.path().join("link");
            symlink(&path, &link).expect("a link");
            for refused in [&other, &link, &folder.path().to_owned()] {
                assert!(create(refused).is_err(), "{}", refused.display());
            }
            let text = fs::read_to_string(&other).expect("there");
            assert_eq!(text, "something else");
        }
    }
}
