//! Logs: to stderr, for people or as JSON.

use clap::ValueEnum;

/// How logs look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON object a line.
    #[cfg(feature = "logs")]
    Json,
}

/// Starts logging. `MASQUE_LOG` (a `tracing` filter; without the feature `logs` a level) wins over
/// `verbosity`.
pub fn init(format: LogFormat, verbosity: u8) {
    let level = match verbosity {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
    #[cfg(feature = "logs")]
    let builder = builder.with_env_filter(
        tracing_subscriber::EnvFilter::try_from_env("MASQUE_LOG")
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level)),
    );
    #[cfg(not(feature = "logs"))]
    let builder = builder.with_max_level(
        std::env::var("MASQUE_LOG")
            .ok()
            .as_deref()
            .unwrap_or(level)
            .parse()
            .unwrap_or(tracing_subscriber::filter::LevelFilter::INFO),
    );
    // A second call (tests in one process) keeps the first subscriber.
    let _ = match format {
        LogFormat::Human => builder
            .with_target(false)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
        #[cfg(feature = "logs")]
        LogFormat::Json => builder.json().try_init(),
    };
}
