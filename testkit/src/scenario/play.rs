//! A scenario from a file, made into a world, run, measured and judged.

mod build;
mod measure;

use std::time::Duration;

pub use measure::{Metric, NAMES};

use super::Star;
use super::file::{FileError, ScenarioFile};
use crate::traffic::tcp::Transfer;
use crate::world::{LinkConfig, NodeId};

/// How a scenario is run, where that is not as its file says.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Another seed.
    pub seed: Option<u64>,
    /// Another path for every client.
    pub profile: Option<String>,
    /// Another cryptography.
    pub crypto: Option<super::Crypto>,
    /// Another length.
    pub length: Option<Duration>,
    /// Whether trace lines are kept.
    pub trace: bool,
}

/// A client of a run.
#[derive(Clone, Debug)]
pub struct RunClient {
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: NodeId,
    /// Its paths to the server and back, as they are at first.
    pub links: [LinkConfig; 2],
}

enum App {
    Voice,
    Tcp(Transfer),
}

struct Placed {
    client: usize,
    at_client: usize,
    at_server: usize,
    app: App,
}

/// A scenario made into a world: at time 0, with everything that happens waiting in its queue.
pub struct Run {
    /// The world with its server and clients.
    pub star: Star,
    /// The clients, in the order of the file.
    pub clients: Vec<RunClient>,
    /// When it ends.
    pub length: Duration,
    file: ScenarioFile,
    placed: Vec<Placed>,
}

impl Run {
    /// Runs to the end.
    pub fn play(&mut self) {
        self.star.world.run_until(self.length);
    }

    /// The file it is from.
    #[must_use]
    pub fn file(&self) -> &ScenarioFile {
        &self.file
    }

    fn chosen(&self, name: Option<&str>) -> Result<Vec<usize>, FileError> {
        let all = 0..self.clients.len();
        let Some(name) = name else {
            return Ok(all.collect());
        };
        let is_it = |index: &usize| {
            let own = &self.clients[*index].name;
            let numbered = own
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('-'));
            own == name || numbered.is_some_and(|rest| rest.parse::<usize>().is_ok())
        };
        let chosen: Vec<_> = all.filter(is_it).collect();
        match chosen.is_empty() {
            true => Err(FileError::Wrong(format!("no client is called {name:?}"))),
            false => Ok(chosen),
        }
    }
}
