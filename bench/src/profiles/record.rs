//! Raw numbers of bad networks, as they go into the JSON file.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::scenario::Series;
use crate::error::Error;
use crate::probe::ElementReport;
use crate::samples::{Machine, Summary, write_whole};

/// One test of one subject on one profile in one repetition.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Where.
    pub profile: String,
    /// Whose.
    pub subject: String,
    /// Which test.
    pub test: String,
    /// Which repetition, from 1.
    pub repetition: u32,
    /// What decided luck: the same for all subjects of a repetition.
    pub seed: u64,
    /// Seconds since 1970.
    pub at: u64,
    /// What was measured, by name; the unit is part of the name.
    pub values: BTreeMap<String, f64>,
    /// The same over time, ten times a second.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub series: BTreeMap<String, Series>,
    /// What the bad network did.
    pub element: ElementReport,
    /// Why there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A whole run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// In order; what tells this file from one of other tests.
    pub profiles: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// Seconds of each test with flows.
    pub secs: f64,
    /// Repetitions asked for.
    pub repetitions: u32,
    /// Labs at a time, at most.
    pub jobs: u32,
    /// In order.
    pub tests: Vec<String>,
    /// In order, with what they are.
    pub subjects: Vec<(String, String)>,
    /// Which of them are ours.
    pub ours: Vec<String>,
    /// What was not measured, and why.
    pub skipped: Vec<(String, String)>,
    /// Everything measured.
    pub records: Vec<Record>,
}

/// One cell of a table.
#[derive(Clone, Copy, Debug)]
pub struct Cell<'a> {
    /// Where.
    pub profile: &'a str,
    /// Which test.
    pub test: &'a str,
    /// Which value of it.
    pub value: &'a str,
}

impl Results {
    /// The records of a test of a subject on a profile that count: no failures, and none in which the
    /// element itself was late.
    pub fn of<'a>(
        &'a self,
        profile: &'a str,
        test: &'a str,
        subject: &'a str,
    ) -> impl Iterator<Item = &'a Record> {
        self.records.iter().filter(move |record| {
            record.profile == profile
                && record.test == test
                && record.subject == subject
                && record.error.is_none()
                && !record.element.is_disturbed()
        })
    }

    /// One value over all repetitions.
    #[must_use]
    pub fn summary(&self, cell: Cell<'_>, subject: &str) -> Option<Summary> {
        let records = self.of(cell.profile, cell.test, subject);
        Summary::of(
            records
                .filter_map(|record| record.values.get(cell.value).copied())
                .collect(),
        )
    }

    /// The same as a share of another subject's in the same repetition, which met the same luck.
    #[must_use]
    pub fn share(&self, cell: Cell<'_>, subject: &str, reference: &str) -> Option<Summary> {
        let value = |record: &Record| record.values.get(cell.value).copied();
        let of = |subject| self.of(cell.profile, cell.test, subject);
        let shares = of(subject).filter_map(|record| {
            let same = |other: &&Record| {
                (other.repetition, other.seed) == (record.repetition, record.seed)
            };
            let reference = value(of(reference).find(same)?)?;
            (reference > 0.0).then_some(value(record)? / reference)
        });
        Summary::of(shares.collect())
    }

    /// Records that do not count because the element was late.
    pub fn disturbed(&self) -> impl Iterator<Item = &Record> {
        let records = self.records.iter();
        records.filter(|record| record.error.is_none() && record.element.is_disturbed())
    }

    /// Adds another run of the same settings. Its repetitions are its own: they never meet those that
    /// are there.
    pub fn add(&mut self, other: Self) {
        let before = self.records.iter().map(|record| record.repetition).max();
        let before = before.unwrap_or(0);
        let mut known: Vec<_> = self.subjects.iter().map(|(name, _)| name.clone()).collect();
        for (name, note) in other.subjects {
            if !known.contains(&name) {
                known.push(name.clone());
                self.subjects.push((name, note));
            }
        }
        for (mine, theirs) in [
            (&mut self.profiles, other.profiles),
            (&mut self.tests, other.tests),
            (&mut self.ours, other.ours),
        ] {
            for name in theirs {
                if !mine.contains(&name) {
                    mine.push(name);
                }
            }
        }
        for skipped in other.skipped {
            if !self.skipped.contains(&skipped) {
                self.skipped.push(skipped);
            }
        }
        if self.records.is_empty() {
            (self.machine, self.secs) = (other.machine, other.secs);
        }
        self.repetitions += other.repetitions;
        self.jobs = self.jobs.max(other.jobs);
        self.records
            .extend(other.records.into_iter().map(|mut record| {
                record.repetition += before;
                record
            }));
    }

    /// What [`Results::write`] has written; `None` if it is a run of other tests.
    ///
    /// # Errors
    /// What the system says.
    pub fn read(path: &Path) -> Result<Option<Self>, Error> {
        let text =
            std::fs::read_to_string(path).map_err(Error::system(path.display().to_string()))?;
        Ok(serde_json::from_str(&text).ok())
    }

    /// Writes everything as JSON, in one step: a reader never sees half a file.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string(self).map_err(|error| Error::Probe(error.to_string()))?;
        // A line for each record: versions of the file can be compared.
        let text = text.replace("{\"profile\":", "\n{\"profile\":");
        write_whole(path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(subject: &str, repetition: u32, value: f64) -> Record {
        Record {
            profile: "p".to_owned(),
            subject: subject.to_owned(),
            test: "t".to_owned(),
            repetition,
            values: BTreeMap::from([("v".to_owned(), value)]),
            ..Record::default()
        }
    }

    const CELL: Cell<'_> = Cell {
        profile: "p",
        test: "t",
        value: "v",
    };

    #[test]
    fn a_share_is_taken_within_a_repetition_and_late_ones_do_not_count() {
        let mut late = record("a", 3, 100.0);
        late.element.late_p99_us = 1e4;
        let results = Results {
            records: vec![
                record("raw", 1, 10.0),
                record("raw", 2, 20.0),
                record("raw", 3, 20.0),
                record("a", 1, 9.0),
                record("a", 2, 10.0),
                late,
            ],
            ..Results::default()
        };
        let share = results.share(CELL, "a", "raw").expect("two");
        assert_eq!((share.least, share.most, share.count), (0.5, 0.9, 2));
        assert_eq!(results.disturbed().count(), 1);
        assert_eq!(results.share(CELL, "a", "b"), None);
    }

    #[test]
    fn runs_put_together_keep_their_repetitions_apart() {
        let run = |value| Results {
            repetitions: 1,
            subjects: vec![("a".to_owned(), String::new())],
            records: vec![record("a", 1, value)],
            ..Results::default()
        };
        let mut all = run(1.0);
        all.add(run(3.0));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.json");
        all.write(&path).expect("written");
        let read = Results::read(&path).expect("there").expect("of profiles");
        assert_eq!(read.records, all.records);
        let summary = read.summary(CELL, "a").expect("two");
        assert_eq!((summary.count, summary.median), (2, 2.0));
        assert_eq!(read.records[1].repetition, 2);
    }
}
