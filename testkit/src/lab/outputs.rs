//! What a run leaves behind.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{LabError, pcapng, qlog};
use crate::world::World;

/// What a run leaves behind.
#[derive(Args, Clone, Debug, Default)]
pub struct Outputs {
    /// Write one line per event, to a file or before the summary.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub trace: Option<Option<PathBuf>>,
    /// Write the same events as JSON, one object per line.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a qlog of one node as a JSON text sequence.
    #[arg(long, value_name = "FILE")]
    pub qlog: Option<PathBuf>,
    /// Write a pcapng of one node's packets, outside and inside the tunnels, with the TLS secrets.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// The node whose qlog and pcapng are written.
    #[arg(long, value_name = "NODE", default_value = "server")]
    pub of: String,
}

impl Outputs {
    /// Whether the world has to keep events.
    #[must_use]
    pub fn tracing(&self) -> bool {
        self.trace.is_some() || self.json.is_some() || self.qlog.is_some()
    }

    /// Whether the world has to keep packets.
    #[must_use]
    pub fn capturing(&self) -> bool {
        self.qlog.is_some() || self.pcap.is_some()
    }

    /// Writes what is wanted of a world.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn write(&self, world: &World, out: &mut impl Write) -> Result<(), LabError> {
        match &self.trace {
            Some(Some(path)) => save(path, world.trace().text())?,
            Some(None) => out.write_all(world.trace().text().as_bytes())?,
            None => {}
        }
        if let Some(path) = &self.json {
            save(path, world.trace().json())?;
        }
        let named = world.nodes().any(|id| world.node(id).name() == self.of);
        if self.capturing() && !named {
            return Err(LabError::Name(self.of.clone()));
        }
        if let Some(path) = &self.qlog {
            save(path, qlog(world, &self.of))?;
        }
        if let Some(path) = &self.pcap {
            save(path, pcapng(world, &self.of))?;
        }
        Ok(())
    }
}

/// Writes a file, with the directories it stands in.
pub(super) fn save(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), LabError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    Ok(fs::write(path, contents)?)
}
