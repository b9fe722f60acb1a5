//! What came of a script.

use serde::Serialize;

use super::script::Subject;

/// What a subject's conduct amounts to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As expected.
    Pass,
    /// Not as expected, where the standards leave a choice.
    Differs,
    /// A requirement is broken.
    Violation,
    /// Not run.
    Skipped,
}

impl Verdict {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Differs => "differs",
            Self::Violation => "VIOLATION",
            Self::Skipped => "skipped",
        }
    }
}

/// What came of a script.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The script's name.
    pub script: String,
    /// Whom it was run against.
    pub subject: Subject,
    /// The ids of the requirements it is about.
    pub requirements: Vec<String>,
    /// What was expected, in words.
    pub expected: String,
    /// What was seen, in words.
    pub seen: String,
    /// What it amounts to.
    pub verdict: Verdict,
}
