//! A pump on each runtime: alone, and beside a task that never rests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use masque_adapter_kit::{App, Error, Pump};

use crate::idiomatic;

/// What drives a pump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Runtime {
    /// `masque-adapter-tokio`.
    Tokio,
    /// `masque-adapter-smol`.
    Smol,
    /// `masque-adapter-mio`.
    Mio,
    /// Tasks and channels on tokio, see [`crate::idiomatic`].
    TokioTasks,
    /// Tasks and channels on smol.
    SmolTasks,
}

impl Runtime {
    /// In the order of the tables.
    pub const ALL: [Self; 5] = [
        Self::Tokio,
        Self::Smol,
        Self::Mio,
        Self::TokioTasks,
        Self::SmolTasks,
    ];

    /// As it is called in tables and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokio => "tokio",
            Self::Smol => "smol",
            Self::Mio => "mio",
            Self::TokioTasks => "tokio-tasks",
            Self::SmolTasks => "smol-tasks",
        }
    }

    /// Whether it has the pump, and with it a controller and room for a task of ours.
    #[must_use]
    pub const fn has_pump(self) -> bool {
        matches!(self, Self::Tokio | Self::Smol | Self::Mio)
    }

    /// Runs `pump` on this thread until its application stops, and gives it back where there still
    /// is one.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn run<A: App>(self, pump: Pump<A>) -> Result<Option<Pump<A>>, Error> {
        match self {
            Self::Tokio => masque_adapter_tokio::run(pump).map(Some),
            Self::Smol => masque_adapter_smol::run(pump).map(Some),
            Self::Mio => masque_adapter_mio::run(pump).map(Some),
            Self::TokioTasks => idiomatic::tokio::run(pump).map(|_| None),
            Self::SmolTasks => idiomatic::smol::run(pump).map(|_| None),
        }
    }

    /// The same beside `busy`, as an application embeds it: with the runtime's own defaults.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn run_beside<A: App + 'static>(
        self,
        pump: Pump<A>,
        busy: &Busy,
    ) -> Result<(), Error> {
        let busy = busy.clone();
        match self {
            Self::Tokio | Self::TokioTasks => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build()
                    .map_err(Error::Readiness)?;
                let tasks = tokio::task::LocalSet::new();
                tasks.block_on(&runtime, async {
                    let task = tokio::task::spawn_local(async move {
                        loop {
                            busy.work();
                            tokio::task::yield_now().await;
                        }
                    });
                    let driver = masque_adapter_tokio::Driver::new(pump)?;
                    let done = tokio::task::spawn_local(driver).await;
                    task.abort();
                    // Nobody aborts it, and release builds have no panic to tell of.
                    done.map_or(Ok(()), |outcome| outcome.map(drop))
                })
            }
            Self::Smol | Self::SmolTasks => {
                let tasks = smol::LocalExecutor::new();
                let _task = tasks.spawn(async move {
                    loop {
                        busy.work();
                        smol::future::yield_now().await;
                    }
                });
                let driver = tasks.spawn(masque_adapter_smol::Driver::new(pump)?);
                smol::block_on(tasks.run(driver)).map(drop)
            }
            Self::Mio => {
                let mut driver = masque_adapter_mio::Driver::new(pump)?;
                while driver.step(Some(Duration::ZERO))? {
                    busy.work();
                }
                Ok(())
            }
        }
    }
}

/// Work that wants the processor whenever it can have it, in slices.
#[derive(Clone, Debug)]
pub(super) struct Busy {
    slice: Duration,
    slices: Arc<AtomicU64>,
}

impl Busy {
    pub(super) fn new(slice: Duration) -> Self {
        Self {
            slice,
            slices: Arc::default(),
        }
    }

    /// How many slices there were.
    pub(super) fn slices(&self) -> u64 {
        self.slices.load(Ordering::Relaxed)
    }

    fn work(&self) {
        let end = Instant::now() + self.slice;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        self.slices.fetch_add(1, Ordering::Relaxed);
    }
}
