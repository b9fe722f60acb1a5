//! How what came of many seeds is spread.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::sweep::Record;

/// A quantity over all seeds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Spread {
    /// The least.
    pub least: f64,
    /// One in twenty is less.
    pub p5: f64,
    /// The middle.
    pub median: f64,
    /// One in twenty is more.
    pub p95: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these values; all zeros of none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (share * values.len().saturating_sub(1) as f64).round() as usize;
            rounded(values.get(index).copied().unwrap_or_default())
        };
        Self {
            least: at(0.0),
            p5: at(0.05),
            median: at(0.5),
            p95: at(0.95),
            most: at(1.0),
        }
    }
}

/// What carried the same flows over the same path, with every seed.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// The path.
    pub profile: &'static str,
    /// What carried the flows.
    pub subject: &'static str,
    /// How many bulk flows.
    pub flows: usize,
    /// Their control.
    pub control: &'static str,
    /// `up` or `down`.
    pub direction: &'static str,
    /// How many seeds.
    pub seeds: usize,
    /// Goodput in megabits per second.
    pub mbit: Spread,
    /// As a share of the bare path's with the same seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<Spread>,
    /// The mean goodput over all seeds as a share of the bare path's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_share: Option<f64>,
    /// The 99th percentile of the one-way delay of voice beside them, in milliseconds.
    pub voice_p99: Spread,
    /// The share of voice lost.
    pub voice_lost: Spread,
    /// The same over all seeds.
    pub voice_lost_mean: f64,
    /// The smallest path MTU there was in any run.
    pub least_mtu: u16,
}

/// One for each subject on each path, in the order of the records.
#[must_use]
pub fn distributions(records: &[Record]) -> Vec<Distribution> {
    type Key = (&'static str, usize, &'static str, &'static str);
    let key = |record: &Record| -> Key {
        (
            record.profile,
            record.flows,
            record.control,
            record.direction,
        )
    };
    let raw: BTreeMap<(Key, u64), f64> = records
        .iter()
        .filter(|record| record.subject == "raw")
        .map(|record| ((key(record), record.seed), record.outcome.mbit))
        .collect();
    let mut groups: Vec<Vec<&Record>> = Vec::new();
    for record in records {
        let same = |group: &&mut Vec<&Record>| {
            key(group[0]) == key(record) && group[0].subject == record.subject
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(record),
            None => groups.push(vec![record]),
        }
    }
    groups
        .into_iter()
        .map(|group| {
            distribution(&group, |record| {
                raw.get(&(key(record), record.seed)).copied()
            })
        })
        .collect()
}

fn distribution(group: &[&Record], raw: impl Fn(&Record) -> Option<f64>) -> Distribution {
    let first = group[0];
    let all = |value: fn(&Record) -> f64| group.iter().map(move |record| value(record));
    let shares = group.iter().filter(|record| record.subject != "raw");
    let shares: Vec<(f64, f64)> = shares
        .filter_map(|record| Some((record.outcome.mbit, raw(record)?)))
        .collect();
    let lost = |record: &Record| record.outcome.voice_lost;
    Distribution {
        profile: first.profile,
        subject: first.subject,
        flows: first.flows,
        control: first.control,
        direction: first.direction,
        seeds: group.len(),
        mbit: Spread::of(all(|record| record.outcome.mbit)),
        share: (!shares.is_empty())
            .then(|| Spread::of(shares.iter().map(|(mbit, raw)| mbit / raw))),
        mean_share: (!shares.is_empty()).then(|| {
            let sum = |of: fn(&(f64, f64)) -> f64| shares.iter().map(of).sum::<f64>();
            rounded(sum(|pair| pair.0) / sum(|pair| pair.1))
        }),
        voice_p99: Spread::of(all(|record| record.outcome.voice_p99)),
        voice_lost: Spread::of(all(lost)),
        voice_lost_mean: rounded(all(lost).sum::<f64>() / group.len() as f64),
        least_mtu: group
            .iter()
            .map(|record| record.outcome.least_mtu)
            .min()
            .unwrap_or_default(),
    }
}

/// As a table: a row for each subject on each path.
#[must_use]
pub fn table(distributions: &[Distribution]) -> String {
    let mut out = String::from(
        "| path | flows | subject | seeds | Mbit/s | share of raw: median (p5–p95; worst) | of the means | voice p99 in ms: median (p95; worst) | voice lost: mean (p95) |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for one in distributions {
        let (p99, lost) = (one.voice_p99, one.voice_lost);
        let _ = write!(
            out,
            "| {} | {} {} {} | {} | {} | {:.2} |",
            one.profile,
            one.flows,
            one.control,
            one.direction,
            one.subject,
            one.seeds,
            one.mbit.median
        );
        let _ = match (one.share, one.mean_share) {
            (Some(share), Some(mean)) => write!(
                out,
                " {:.2} ({:.2}–{:.2}; {:.2}) | {mean:.2} |",
                share.median, share.p5, share.p95, share.least
            ),
            _ => write!(out, " | |"),
        };
        let _ = writeln!(
            out,
            " {:.0} ({:.0}; {:.0}) | {:.2} % ({:.2} %) |",
            p99.median,
            p99.p95,
            p99.most,
            one.voice_lost_mean * 100.0,
            lost.p95 * 100.0
        );
    }
    out
}

/// To what a reader can use: records stay small.
fn rounded(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::traffic::trial::Outcome;

    proptest! {
        #[test]
        fn a_spread_is_in_order_and_within_its_values(
            values in proptest::collection::vec(0.0..1e4f64, 1..300),
        ) {
            let spread = Spread::of(values.clone());
            let all = [spread.least, spread.p5, spread.median, spread.p95, spread.most];
            prop_assert!(all.is_sorted());
            let (least, most) = values.iter().fold((f64::MAX, 0.0f64), |(least, most), value| {
                (least.min(*value), most.max(*value))
            });
            prop_assert_eq!((spread.least, spread.most), (rounded(least), rounded(most)));
        }
    }

    #[test]
    fn shares_are_of_the_bare_path_with_the_same_seed() {
        let record = |subject, seed, mbit| Record {
            profile: "wifi",
            subject,
            flows: 1,
            control: "cubic",
            direction: "up",
            rival: None,
            seed,
            outcome: Outcome {
                mbit,
                ..Outcome::default()
            },
        };
        let records = [
            record("raw", 1, 10.0),
            record("raw", 2, 20.0),
            record("tunnel", 1, 5.0),
            record("tunnel", 2, 20.0),
        ];
        let [bare, tunnel] = &distributions(&records)[..] else {
            panic!("two groups");
        };
        assert_eq!((bare.share, bare.seeds), (None, 2));
        let share = tunnel.share.expect("there is a bare path");
        assert_eq!((share.least, share.most), (0.5, 1.0));
        assert_eq!(tunnel.mean_share, Some(0.83333));
    }
}
