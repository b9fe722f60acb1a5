//! What `masque-lab` does, as functions over readers and writers.

mod profiles;
mod report;
mod seeds;
mod stepper;

use std::time::Duration;

use clap::{Args, ValueEnum};

pub use profiles::{Comparison, ControlArg, DirectionArg, profiles};
pub use report::{run, summary};
pub use seeds::{SeedsArgs, seeds};
pub use stepper::step;

use crate::crypto::TlsError;
use crate::scenario::{self, Crypto, Options, Star};

/// A run ends here at the latest: a world whose nodes keep each other alive would go on for ever.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The scenario and its parameters.
#[derive(Args, Clone, Debug)]
pub struct Scenario {
    /// Decides every random choice.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Packets lost on the way, in per cent.
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// The delay of the path one way, in milliseconds.
    #[arg(long, default_value_t = 10)]
    pub delay: u64,
    /// Up to so much more delay, in milliseconds.
    #[arg(long, default_value_t = 0)]
    pub jitter: u64,
    /// Let jitter change the order.
    #[arg(long)]
    pub reorder: bool,
    /// The rate of the path in kilobits per second.
    #[arg(long)]
    pub rate: Option<u64>,
    /// The largest IP packet on the path in bytes.
    #[arg(long, default_value_t = 1500)]
    pub mtu: usize,
    /// How many clients.
    #[arg(long, default_value_t = 1)]
    pub clients: usize,
    /// Rounds of echoes each way.
    #[arg(long, default_value_t = 10)]
    pub rounds: u32,
    /// How packets are protected.
    #[arg(long, value_enum, default_value_t = CryptoArg::Null)]
    pub crypto: CryptoArg,
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
    #[must_use]
    pub fn options(&self, trace: bool) -> Options {
        let mut options = Options {
            seed: self.seed,
            clients: self.clients,
            crypto: match self.crypto {
                CryptoArg::Null => Crypto::Null,
                CryptoArg::Seeded => Crypto::Seeded,
                CryptoArg::Real => Crypto::Real,
            },
            trace,
            ..Options::default()
        };
        options.link.delay = Duration::from_millis(self.delay);
        options.link.jitter = Duration::from_millis(self.jitter);
        options.link.reorder = self.reorder;
        // Saturates: a negative loss is none, one above 100 % is all.
        options.link.loss = (self.loss * 10_000.0).round() as u32;
        options.link.rate = self.rate.map(|kilobits| kilobits.saturating_mul(1000));
        options.link.mtu = self.mtu;
        let plans = [&mut options.client_plan, &mut options.server_plan];
        for plan in plans.into_iter().flatten() {
            plan.rounds = self.rounds;
        }
        options
    }

    /// The world at time 0.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn build(&self, trace: bool) -> Result<Star, TlsError> {
        scenario::star(&self.options(trace))
    }
}

/// Why the lab stops.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The scenario cannot be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A path or subject that there is not.
    #[error("nothing is called {0:?}")]
    Name(String),
    /// So many worlds in which something did not hold.
    #[error("{0} worlds failed")]
    Failed(usize),
    /// Reading commands or writing answers failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
