//! Configuration files: TOML, unknown keys refused, every error with its line and column.
//!
//! Two schemas, one file each: [`server`] and [`client`]. Types refuse what is wrong in itself (a
//! prefix with host bits, a malformed template); `validate` then refuses what is wrong together
//! (overlapping pools, a key that does not match its certificate).

pub mod client;
pub mod server;
pub mod shared;
mod value;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;

pub use client::ClientFile;
pub use server::ServerFile;
pub use value::{BitRate, ByteSize, Pem, Prefix, Shards, Span, Template};

use crate::exit::{Exit, Failure};

/// The text of a configuration file, to point into.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    text: String,
}

/// Which schema a file follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schema {
    /// `server -c`.
    Server,
    /// `client -c`.
    Client,
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// A [`Failure`] that names the file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            let code = match error.kind() {
                std::io::ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::Config,
            };
            Failure::new(
                code,
                format!(
                    "cannot read the configuration file {}: {error}",
                    path.display()
                ),
            )
        })?;
        Ok(Self::from_text(path, text))
    }

    /// A text that is (or is to become) the file at `path`.
    #[must_use]
    pub fn from_text(path: &Path, text: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            text: text.into(),
        }
    }

    /// The schema the file seems to follow: a client's file has a `url`.
    ///
    /// # Errors
    /// Not TOML at all.
    pub fn schema(&self) -> Result<Schema, Failure> {
        let table: toml::Table = self.parse()?;
        Ok(if table.contains_key("url") {
            Schema::Client
        } else {
            Schema::Server
        })
    }

    /// Reads the text as `T`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        toml::from_str(&self.text).map_err(|error| self.at(error.span(), error.message()))
    }

    /// A configuration failure at `span`.
    #[must_use]
    pub fn at(&self, span: Option<Range<usize>>, message: &str) -> Failure {
        let name = self.path.display();
        let Some(span) = span.filter(|span| span.start <= self.text.len()) else {
            return Failure::config(format!("{name}: {message}"));
        };
        let start = floor_boundary(&self.text, span.start);
        let before = &self.text[..start];
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_text = self.text[line_start..].lines().next().unwrap_or("");
        let column = self.text[line_start..start].chars().count() + 1;
        let width = self.text[start..floor_boundary(&self.text, span.end.max(start))]
            .lines()
            .next()
            .map_or(1, |text| text.chars().count().max(1));
        let gutter = line.to_string();
        let pad = " ".repeat(gutter.len());
        let indent: String = line_text
            .chars()
            .take(column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        Failure::config(format!(
            "{name}:{line}:{column}: {}\n  {gutter} | {line_text}\n  {pad} | {indent}{}",
            message.trim_end(),
            "^".repeat(width),
        ))
    }

    /// A configuration failure at a value.
    #[must_use]
    pub fn fault<T>(&self, value: &Spanned<T>, message: impl AsRef<str>) -> Failure {
        self.at(Some(value.span()), message.as_ref())
    }

    /// A configuration failure of the file as a whole.
    #[must_use]
    pub fn whole(&self, message: impl AsRef<str>) -> Failure {
        self.at(None, message.as_ref())
    }

    /// The folder relative paths start from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// The PEM text that `pem` gives or names.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn pem(&self, pem: &Spanned<Pem>) -> Result<String, Failure> {
        match pem.get_ref() {
            Pem::Inline(text) => Ok(text.clone()),
            Pem::File(path) => {
                let path = self.folder().join(path);
                fs::read_to_string(&path).map_err(|error| {
                    let mut failure =
                        self.fault(pem, format!("cannot read {}: {error}", path.display()));
                    if error.kind() == std::io::ErrorKind::PermissionDenied {
                        failure.code = Exit::Permission;
                    }
                    failure.help(
                        "give a path (relative to this file) or the PEM text itself; \
                         `masque pki init` and `masque pki issue` make certificates",
                    )
                })
            }
        }
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests;
