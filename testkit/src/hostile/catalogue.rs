//! The scripts of `testdata/hostile`.

use std::sync::Arc;

use super::script::{Need, Script, Scripts, Subject};

macro_rules! file {
    ($name:literal) => {
        (
            concat!($name, ".toml"),
            include_str!(concat!("../../../testdata/hostile/", $name, ".toml")),
        )
    };
}

/// Every file: its name and its text.
pub const FILES: &[(&str, &str)] = &[
    file!("attacks"),
    file!("capsules"),
    file!("control"),
    file!("limits"),
    file!("requests"),
    file!("vectors-capsules"),
    file!("vectors-datagrams"),
    file!("vectors-fields"),
    file!("vectors-paths"),
    file!("vectors-qpack"),
    file!("vectors-streams"),
];

/// A script against one subject.
#[derive(Clone, Debug)]
pub struct Case {
    /// The script.
    pub script: Arc<Script>,
    /// The subject.
    pub subject: Subject,
}

/// Every script against every subject it can be run against.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn all() -> Result<Vec<Case>, String> {
    of(FILES.iter().copied())
}

/// The same for other files: their names and their texts.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (file, text) in files {
        let scripts = Scripts::parse(text).map_err(|error| format!("{file}: {error}"))?;
        for script in scripts.script {
            let script = Arc::new(script);
            cases.extend(script.against.iter().map(|subject| Case {
                script: script.clone(),
                subject: *subject,
            }));
        }
    }
    Ok(cases)
}

impl Case {
    /// Whether it needs that.
    #[must_use]
    pub fn needs(&self, need: Need) -> bool {
        self.script.needs.contains(&need)
    }
}
