//! Exit codes, and the one message a failing command ends with.

use std::fmt;
use std::io;

/// Why the program ends. The numbers are documented in `--help` and never change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Exit {
    /// All went well; also a stop by SIGINT or SIGTERM.
    Ok = 0,
    /// A fault of this program.
    Internal = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration, a certificate, a key or a state file is wrong.
    Config = 3,
    /// The system does not permit it.
    Permission = 4,
    /// The host lacks something: a port is in use, there is no TUN device, no nftables.
    Host = 5,
    /// The server cannot be reached, or does not answer.
    Unreachable = 6,
    /// The server refuses us, or is not who it should be.
    Refused = 7,
}

impl Exit {
    /// Every code.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Internal,
        Self::Usage,
        Self::Config,
        Self::Permission,
        Self::Host,
        Self::Unreachable,
        Self::Refused,
    ];

    /// What it means, for the table in `--help`.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success; also a stop by SIGINT or SIGTERM",
            Self::Internal => "internal error",
            Self::Usage => "wrong command line",
            Self::Config => "wrong configuration, certificate, key or state file",
            Self::Permission => "not permitted (TUN, network administration, a privileged port)",
            Self::Host => "the host lacks something (port in use, no TUN, no nftables)",
            Self::Unreachable => "the server cannot be reached or does not answer",
            Self::Refused => "refused by the server, or not the server it should be",
        }
    }

    /// The table of all codes.
    #[must_use]
    pub fn table() -> String {
        let mut table = String::from("Exit codes:\n");
        for code in Self::ALL {
            table.push_str(&format!("  {}  {}\n", code as u8, code.meaning()));
        }
        table
    }
}

/// Why a command failed: what, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Exit,
    /// What went wrong, with its cause.
    pub message: String,
    /// What the user can do.
    pub help: Option<String>,
}

impl Failure {
    /// A failure without advice.
    #[must_use]
    pub fn new(code: Exit, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: None,
        }
    }

    /// A wrong configuration.
    #[must_use]
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Exit::Config, message)
    }

    /// A fault of our own.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Exit::Internal, message)
    }

    /// What the system refused while `doing`: permission, or a resource of the host.
    #[must_use]
    pub fn system(doing: impl fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Host,
        };
        Self::new(code, format!("{doing}: {error}"))
    }

    /// With advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// As one line of JSON, for `--log-format json`.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::json!({
            "level": "ERROR",
            "exit_code": self.code as u8,
            "message": self.message,
            "help": self.help,
        })
        .to_string()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "masque: error: {}", self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
