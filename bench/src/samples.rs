//! Raw numbers, as they go into the JSON file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::lab::Wire;

/// The name of what is no test: what a tunnel was like.
pub const TUNNEL: &str = "tunnel";
/// The value of [`TUNNEL`] that is its inner MTU.
pub const INNER_MTU: &str = "inner_mtu_bytes";

/// One test of one subject in one repetition.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Whose.
    pub subject: String,
    /// Which test.
    pub test: String,
    /// Which repetition, from 1.
    pub repetition: u32,
    /// Seconds since 1970.
    pub at: u64,
    /// Whether nothing else used the CPUs just before.
    pub quiet: bool,
    /// What was measured, by name; the unit is part of the name.
    pub values: BTreeMap<String, f64>,
    /// Single round trips in milliseconds, where there are some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub round_trips: Vec<f64>,
    /// Why there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// The machine.
    pub machine: Machine,
    /// How packets crossed the path.
    pub wire: Wire,
    /// Seconds of each TCP test.
    pub secs: f64,
    /// Repetitions asked for.
    pub repetitions: u32,
    /// Subjects in the order of the tables, with what they are.
    pub subjects: Vec<(String, String)>,
    /// What protected their packets, by name, where that is known.
    #[serde(default)]
    pub ciphers: BTreeMap<String, String>,
    /// Which of them are ours.
    pub ours: Vec<String>,
    /// What was not measured, and why.
    pub skipped: Vec<(String, String)>,
    /// Everything measured.
    pub samples: Vec<Sample>,
}

/// Where it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many.
    pub processors: usize,
    /// The kernel.
    pub kernel: String,
    /// This program's version.
    pub version: String,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let name = model.and_then(|line| line.split_once(':'));
        Self {
            processor: name.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Median, smallest and largest of what was measured, and how often.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
    /// How many values.
    pub count: usize,
    /// All of them were taken on a machine that was not quiet.
    pub noisy: bool,
}

impl Summary {
    /// Of values that count; `None` if there are none.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Self {
            median,
            least,
            most,
            count: values.len(),
            noisy: false,
        })
    }
}

impl Results {
    /// What was measured of one value. Values of a busy machine count only where there are no others.
    #[must_use]
    pub fn summary(&self, subject: &str, test: &str, value: &str) -> Option<Summary> {
        let all = || {
            self.samples
                .iter()
                .filter(|sample| sample.subject == subject && sample.test == test)
                .filter_map(|sample| Some((sample.quiet, *sample.values.get(value)?)))
        };
        let mut values: Vec<f64> = all()
            .filter_map(|(quiet, value)| quiet.then_some(value))
            .collect();
        let noisy = values.is_empty();
        if noisy {
            values = all().map(|(_, value)| value).collect();
        }
        let summary = Summary::of(values)?;
        Some(Summary { noisy, ..summary })
    }

    /// Every single round trip of a test, sorted.
    #[must_use]
    pub fn round_trips(&self, subject: &str, test: &str) -> Vec<f64> {
        let mut all: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| sample.subject == subject && sample.test == test)
            .flat_map(|sample| sample.round_trips.iter().copied())
            .collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// The MTU inside a subject's tunnel, in bytes, as it was after all tests.
    #[must_use]
    pub fn inner_mtu(&self, subject: &str) -> Option<Summary> {
        self.summary(subject, TUNNEL, INNER_MTU)
    }

    /// What [`Results::write`] has written, by this version or an earlier one.
    ///
    /// # Errors
    /// What the system says, or that it is something else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(Error::system(path.display().to_string()))?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
    }

    /// Writes everything as JSON, in one step: a reader never sees half a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Error::Probe(error.to_string()))?;
        write_whole(path, &text)
    }
}

/// Writes a file in one step.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), Error> {
    let failed = || Error::system(path.display().to_string());
    let half = path.with_extension("part");
    std::fs::write(&half, text).map_err(failed())?;
    std::fs::rename(&half, path).map_err(failed())
}

/// The value below which `share` of sorted `values` lie.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(last)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(values: &[(bool, f64)]) -> Results {
        let sample = |&(quiet, value): &(bool, f64)| Sample {
            subject: "s".to_owned(),
            test: "t".to_owned(),
            quiet,
            values: BTreeMap::from([("v".to_owned(), value)]),
            ..Sample::default()
        };
        Results {
            machine: Machine::default(),
            wire: Wire::Gso,
            secs: 1.0,
            repetitions: 1,
            subjects: Vec::new(),
            ciphers: BTreeMap::new(),
            ours: Vec::new(),
            skipped: Vec::new(),
            samples: values.iter().map(sample).collect(),
        }
    }

    #[test]
    fn values_of_a_busy_machine_count_only_where_there_are_no_others() {
        let mixed = results(&[(true, 1.0), (false, 9.0), (true, 3.0)]);
        let summary = mixed.summary("s", "t", "v").expect("two quiet values");
        assert_eq!(
            (summary.median, summary.count, summary.noisy),
            (2.0, 2, false)
        );
        let busy = results(&[(false, 9.0), (false, 4.0), (false, 5.0)]);
        let summary = busy.summary("s", "t", "v").expect("three values");
        assert_eq!(
            (summary.median, summary.least, summary.most),
            (5.0, 4.0, 9.0)
        );
        assert!(summary.noisy);
        assert_eq!(busy.summary("s", "t", "other"), None);
    }

    #[test]
    fn the_last_quantile_is_the_largest_value() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn what_is_written_is_read_again_and_so_is_what_knew_no_ciphers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        let mut before = results(&[(true, 1.0), (false, 9.0)]);
        before.ciphers.insert("s".to_owned(), "rot13".to_owned());
        before.write(&path).expect("written");
        let after = Results::read(&path).expect("read");
        assert_eq!(after.samples, before.samples);
        assert_eq!((after.wire, after.ciphers), (before.wire, before.ciphers));
        let text = std::fs::read_to_string(&path).expect("read");
        let mut old: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        old.as_object_mut().expect("an object").remove("ciphers");
        std::fs::write(&path, old.to_string()).expect("written");
        assert!(Results::read(&path).expect("read").ciphers.is_empty());
    }
}
