//! What `masque-lab` does, as functions over readers and writers.

mod chart;
mod diff;
mod draw;
mod explain;
mod outputs;
mod pcap;
mod profiles;
mod qlog;
mod quic;
mod replay;
mod report;
mod sample;
mod seeds;
mod stepper;
mod sweep;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use masque_recording::ReplayError;

pub use diff::{Comparing, diff};
pub use draw::{Drawing, draw, ladder};
pub use explain::{Kind, Question, explain, in_words};
pub use outputs::Outputs;
pub use pcap::pcapng;
pub use profiles::{Comparison, ControlArg, DirectionArg, profiles};
pub use qlog::qlog;
pub use replay::{Replaying, replay, step_recording};
pub use report::{run, summary};
pub use sample::{Sample, Samples, Series, sample};
pub use seeds::{SeedsArgs, seeds};
pub use stepper::{step, terminal};
pub use sweep::{Sweeping, sweep};

use crate::crypto::TlsError;
use crate::scenario::file::{FileError, ScenarioFile};
use crate::scenario::play::{Run, RunOptions};
use crate::scenario::{self, Crypto, Options, Star};
use crate::traffic::profile;
use crate::world::World;

/// A run ends here at the latest: a world whose nodes keep each other alive would go on for ever.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The scenario and its parameters: a file, or clients around a server that echo both ways.
#[derive(Args, Clone, Debug)]
pub struct Scenario {
    /// A scenario file. It says itself what crosses and what happens; seed, profile and crypto can be
    /// given besides.
    pub file: Option<PathBuf>,
    /// Decides every random choice; that of the file, or 0.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The path between the nodes, by name.
    #[arg(long)]
    pub profile: Option<String>,
    /// Packets lost on the way, in per cent.
    #[arg(long)]
    pub loss: Option<f64>,
    /// The delay of the path one way, in milliseconds; 10 without a profile.
    #[arg(long)]
    pub delay: Option<u64>,
    /// Up to so much more delay, in milliseconds.
    #[arg(long)]
    pub jitter: Option<u64>,
    /// Let jitter change the order.
    #[arg(long)]
    pub reorder: bool,
    /// The rate of the path in kilobits per second.
    #[arg(long)]
    pub rate: Option<u64>,
    /// The largest IP packet on the path in bytes.
    #[arg(long)]
    pub mtu: Option<usize>,
    /// How many clients.
    #[arg(long, default_value_t = 1)]
    pub clients: usize,
    /// Rounds of echoes each way.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// How packets are protected.
    #[arg(long, value_enum)]
    pub crypto: Option<CryptoArg>,
}

/// How packets are protected.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum CryptoArg {
    /// Readable, with a checksum.
    Null,
    /// TLS 1.3, every random number from the seed.
    Seeded,
    /// TLS 1.3 with randomness of the system: no two runs are alike.
    Real,
}

impl Scenario {
    /// The options of the world.
    ///
    /// # Errors
    /// [`LabError::Name`] for a profile there is not.
    pub fn options(&self, trace: bool) -> Result<Options, LabError> {
        let mut options = Options {
            seed: self.seed.unwrap_or_default(),
            clients: self.clients,
            crypto: self.crypto.map_or(Crypto::Null, Crypto::from),
            trace,
            ..Options::default()
        };
        let link = &mut options.link;
        if let Some(name) = &self.profile {
            let found = profile::path(name).ok_or_else(|| LabError::Name(name.clone()))?;
            *link = found.up;
        }
        if let Some(delay) = self.delay {
            link.delay = Duration::from_millis(delay);
        }
        if let Some(jitter) = self.jitter {
            link.jitter = Duration::from_millis(jitter);
        }
        link.reorder |= self.reorder;
        if let Some(loss) = self.loss {
            // Saturates: a negative loss is none, one above 100 % is all.
            link.loss = (loss * 10_000.0).round() as u32;
        }
        if let Some(kilobits) = self.rate {
            link.rate = Some(kilobits.saturating_mul(1000));
        }
        link.mtu = self.mtu.unwrap_or(link.mtu);
        let plans = [&mut options.client_plan, &mut options.server_plan];
        for plan in plans.into_iter().flatten() {
            plan.rounds = self.rounds;
        }
        Ok(options)
    }

    /// The world at time 0.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn build(&self, trace: bool) -> Result<Stage, LabError> {
        let Some(path) = &self.file else {
            let star = scenario::star(&self.options(trace)?)?;
            return Ok(Stage::Star(Box::new(star)));
        };
        let run = ScenarioFile::read(path)?.build(&RunOptions {
            seed: self.seed,
            profile: self.profile.clone(),
            crypto: self.crypto.map(Crypto::from),
            length: None,
            trace,
        })?;
        Ok(Stage::File(Box::new(run)))
    }

    /// The arguments that make this scenario again.
    #[must_use]
    pub fn arguments(&self) -> String {
        let mut out = String::new();
        if let Some(file) = &self.file {
            out.push_str(&format!("{} ", file.display()));
        }
        out.push_str(&format!("--seed {}", self.seed.unwrap_or_default()));
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                out.push_str(&format!(" --{name} {value}"));
            }
        };
        add("profile", self.profile.clone());
        let crypto = self.crypto.and_then(|crypto| crypto.to_possible_value());
        add("crypto", crypto.map(|crypto| crypto.get_name().to_owned()));
        if self.file.is_some() {
            return out;
        }
        add("loss", self.loss.map(|loss| loss.to_string()));
        add("delay", self.delay.map(|delay| delay.to_string()));
        add("jitter", self.jitter.map(|jitter| jitter.to_string()));
        add("reorder", self.reorder.then(String::new));
        add("rate", self.rate.map(|rate| rate.to_string()));
        add("mtu", self.mtu.map(|mtu| mtu.to_string()));
        add("clients", Some(self.clients.to_string()));
        add("rounds", Some(self.rounds.to_string()));
        out
    }
}

impl From<CryptoArg> for Crypto {
    fn from(arg: CryptoArg) -> Self {
        match arg {
            CryptoArg::Null => Self::Null,
            CryptoArg::Seeded => Self::Seeded,
            CryptoArg::Real => Self::Real,
        }
    }
}

/// A scenario made into a world, at time 0.
pub enum Stage {
    /// Clients around a server that echo both ways.
    Star(Box<Star>),
    /// From a file.
    File(Box<Run>),
}

impl Stage {
    /// The world.
    #[must_use]
    pub fn world(&self) -> &World {
        match self {
            Self::Star(star) => &star.world,
            Self::File(run) => &run.star.world,
        }
    }

    /// The world, to be stepped.
    pub fn world_mut(&mut self) -> &mut World {
        match self {
            Self::Star(star) => &mut star.world,
            Self::File(run) => &mut run.star.world,
        }
    }

    /// The world alone.
    #[must_use]
    pub fn into_world(self) -> World {
        match self {
            Self::Star(star) => star.world,
            Self::File(run) => run.star.world,
        }
    }

    /// When it ends at the latest.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::Star(_) => LIMIT,
            Self::File(run) => run.length,
        }
    }

    /// What can be said of it in numbers, one line each.
    #[must_use]
    pub fn metrics(&self) -> String {
        let Self::File(run) = self else {
            return String::new();
        };
        let metrics = run.metrics().into_iter();
        metrics
            .map(|one| format!("# {} {}: {:.3}\n", one.client, one.name, one.value))
            .collect()
    }

    /// What the file expected and did not come.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        match self {
            Self::Star(_) => Vec::new(),
            Self::File(run) => run.failures(),
        }
    }
}

/// Why the lab stops.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The scenario cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Two traces differ.
    #[error("the traces differ from line {0} on")]
    Differ(usize),
    /// The scenario file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// What a scenario expects did not come.
    #[error("expected, and did not come: {0}")]
    Expected(String),
    /// What is to be explained cannot be read.
    #[error("{0}: neither a file nor hexadecimal digits")]
    Bytes(PathBuf),
    /// The bytes are wrong.
    #[error("the bytes are wrong: {0}")]
    Wrong(String),
    /// A path or subject that there is not.
    #[error("nothing is called {0:?}")]
    Name(String),
    /// So many worlds in which something did not hold.
    #[error("{0} worlds failed")]
    Failed(usize),
    /// A recording cannot be played.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A recording is played to something else.
    #[error("the replay differs from input {0} on")]
    Diverged(u64),
    /// Reading commands or writing answers failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Bytes as hexadecimal digits.
fn hex_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
