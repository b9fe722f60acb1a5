//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[cfg(feature = "demo")]
use crate::demo;
use crate::exit::{Exit, Failure};
use crate::logging::{self, LogFormat};
#[cfg(feature = "pki")]
use crate::pki;
use crate::recording::RecordArgs;
use crate::runtime::Runtime;
#[cfg(feature = "server")]
use crate::server;
use crate::{check, client};

/// A VPN over CONNECT-IP (RFC 9484): IP packets in HTTP/3 over QUIC.
#[derive(Debug, Parser)]
#[command(name = "masque", version, after_help = Exit::table())]
pub struct Cli {
    /// How logs look.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole thing at work: a server and a client on this machine, real traffic between them.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Run a VPN server.
    #[cfg(feature = "server")]
    Server(ServerArgs),
    /// Run a VPN client.
    Client(ClientArgs),
    /// Make and show certificates.
    #[cfg(feature = "pki")]
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Say whether a configuration and this host are fit, and what is wrong if not.
    Check(FileArgs),
}

/// A configuration file.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: PathBuf,
}

/// What a server needs.
#[cfg(feature = "server")]
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: PathBuf,

    /// What is recorded.
    #[command(flatten)]
    pub record: RecordArgs,
}

/// What a client needs.
#[derive(Debug, Args)]
pub struct ClientArgs {
    /// The configuration file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: PathBuf,

    /// Give up when the first connection fails or ends, as `reconnect = false` does.
    #[arg(long)]
    pub once: bool,

    /// What is recorded.
    #[command(flatten)]
    pub record: RecordArgs,
}

/// The whole program on runtime `R`.
#[must_use]
pub fn main<R: Runtime>() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, too; there is nowhere to report a closed stdout.
            let _ = error.print();
            let code = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Ok
            };
            return ExitCode::from(code as u8);
        }
    };
    logging::init(cli.log_format, cli.verbose);
    match run::<R>(cli.command) {
        Ok(()) => ExitCode::from(Exit::Ok as u8),
        Err(failure) => {
            match cli.log_format {
                LogFormat::Human => eprintln!("{failure}"),
                #[cfg(feature = "logs")]
                LogFormat::Json => eprintln!("{}", failure.json()),
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

fn run<R: Runtime>(command: Command) -> Result<(), Failure> {
    match command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run::<R>(&args),
        #[cfg(feature = "server")]
        Command::Server(args) => server::run::<R>(&args.config, &args.record),
        Command::Client(args) => client::run::<R>(&args.config, args.once, &args.record),
        #[cfg(feature = "pki")]
        Command::Pki(command) => pki::run(&command),
        Command::Check(args) => check::run(&args.config),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for code in Exit::ALL {
            assert!(help.contains(&format!("  {}  {}", code as u8, code.meaning())));
        }
    }
}
