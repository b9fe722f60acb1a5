//! nftables through its JSON interface (libnftables-json(5)), by way of the program `nft`.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::HostError;

/// The directories of system programs are not in everybody's search path.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// Of the family `inet`: IPv4 and IPv6 in one.
#[derive(Debug, Clone)]
pub(super) struct Table {
    name: String,
}

impl Table {
    pub(super) fn new(instance: &str) -> Self {
        Self {
            name: format!("masque-{instance}"),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The commands that make it empty, whether or not it exists.
    pub(super) fn replacement(&self) -> Vec<Value> {
        let mut commands = self.removal();
        commands.push(json!({ "add": self.object() }));
        commands
    }

    /// The commands that remove it, whether or not it exists: adding it first makes the removal succeed.
    pub(super) fn removal(&self) -> Vec<Value> {
        vec![
            json!({ "add": self.object() }),
            json!({ "delete": self.object() }),
        ]
    }

    /// A chain that lets through what its rules do not decide.
    pub(super) fn chain(&self, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
        json!({ "add": { "chain": {
            "family": "inet", "table": self.name, "name": name,
            "type": kind, "hook": hook, "prio": priority, "policy": "accept",
        } } })
    }

    /// A rule at the end of a chain.
    pub(super) fn rule(&self, chain: &str, comment: &str, expressions: Vec<Value>) -> Value {
        json!({ "add": { "rule": {
            "family": "inet", "table": self.name, "chain": chain,
            "comment": comment, "expr": expressions,
        } } })
    }

    /// Whether it exists now; an error if that cannot be found out.
    pub(super) fn exists(&self) -> Result<bool, HostError> {
        let doing = "looking for packet filters left behind";
        let output = run(doing, &["-j", "list", "tables"], &[])?;
        let listing: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| refused(doing, &error.to_string()))?;
        let objects = listing["nftables"].as_array();
        Ok(objects.is_some_and(|objects| {
            objects.iter().any(|object| {
                object["table"]["family"] == "inet" && object["table"]["name"] == self.name
            })
        }))
    }

    fn object(&self) -> Value {
        json!({ "table": { "family": "inet", "name": self.name } })
    }
}

/// Fails if the program is not installed.
pub(super) fn require(doing: &str) -> Result<(), HostError> {
    run(doing, &["--version"], &[]).map(drop)
}

/// Carries the commands out, all or none.
pub(super) fn load(doing: &str, commands: &[Value]) -> Result<(), HostError> {
    let text = json!({ "nftables": commands }).to_string();
    run(doing, &["-j", "-f", "-"], text.as_bytes()).map(drop)
}

fn run(doing: &str, arguments: &[&str], input: &[u8]) -> Result<Output, HostError> {
    let output = start(arguments, input).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => HostError::NftMissing {
            doing: doing.to_owned(),
        },
        _ => refused(doing, &error.to_string()),
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    if words.contains("Operation not permitted") {
        return Err(HostError::Permission {
            doing: doing.to_owned(),
        });
    }
    let reason = if words.trim().is_empty() {
        output.status.to_string()
    } else {
        // With -j it repeats the whole input after its complaint.
        words.lines().next().unwrap_or_default().to_owned()
    };
    Err(refused(doing, &reason))
}

fn start(arguments: &[&str], input: &[u8]) -> io::Result<Output> {
    let mut missing = io::Error::from(io::ErrorKind::NotFound);
    for program in PROGRAMS {
        let child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            // A directory of the search path that may not be read counts as a refusal, too.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                ) =>
            {
                missing = error;
                continue;
            }
            other => other?,
        };
        if let Some(mut stdin) = child.stdin.take() {
            // If it stops reading, its own words say more than the broken pipe.
            match stdin.write_all(input) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        return child.wait_with_output();
    }
    Err(missing)
}

fn refused(doing: &str, reason: &str) -> HostError {
    HostError::Nft {
        doing: doing.to_owned(),
        reason: reason.to_owned(),
    }
}
