//! What must be reached on bad networks, and whether it is.

use std::fmt::Write as _;

use masque_testkit::traffic::profile;

use super::record::{Cell, Results};
use super::report::{PEER, RAW, is_bulk, is_down};
use crate::report::goals::Verdict;

/// One goal over all profiles and tests it is about.
#[derive(Clone, PartialEq, Debug)]
pub struct Judged {
    /// Whose.
    pub subject: String,
    /// What of it, against what.
    pub what: &'static str,
    /// Cells measured, and how many of them are good enough and as good as aimed for.
    pub cells: [usize; 3],
    /// The worst of them, and where it is.
    pub worst: (f64, String),
    /// What must be reached, and what is aimed for.
    pub bounds: (f64, f64),
    /// Whether more is better.
    pub more: bool,
}

impl Judged {
    /// How the worst cell stands.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.cells {
            [all, _, aim] if aim == all => Verdict::Aim,
            [all, must, _] if must == all => Verdict::Must,
            _ => Verdict::Short,
        }
    }
}

struct Goal {
    what: &'static str,
    bounds: (f64, f64),
    more: bool,
    /// The ratio of a subject in a test on a profile, if the goal is about it and it was measured.
    ratio: fn(&Results, &str, &str, &str) -> Option<f64>,
}

const GOALS: [Goal; 8] = [
    Goal {
        what: "goodput / wireguard-go",
        bounds: (0.95, 0.99),
        more: true,
        ratio: |results, profile, test, subject| {
            let cell = bulk(profile, test, "mbit")?;
            Some(results.share(cell, subject, PEER)?.median)
        },
    },
    Goal {
        what: "goodput of 16 flows / raw",
        bounds: (0.88, 0.94),
        more: true,
        ratio: |results, profile, test, subject| {
            let cell = bulk(profile, test, "mbit").filter(|_| test.starts_with("16_"))?;
            Some(results.share(cell, subject, RAW)?.median)
        },
    },
    Goal {
        what: "p99 of a call beside bulk flows at a bottleneck / wireguard-go",
        bounds: (0.5, 0.3),
        more: false,
        ratio: |results, profile, test, subject| call(results, profile, test, subject, PEER),
    },
    Goal {
        what: "the same / raw",
        bounds: (0.5, 0.3),
        more: false,
        ratio: |results, profile, test, subject| call(results, profile, test, subject, RAW),
    },
    Goal {
        what: "loss of a call on mobile-bad / raw",
        bounds: (1.1, 1.0),
        more: false,
        ratio: |results, profile, test, subject| {
            if profile != "mobile-bad" || test != "voice" {
                return None;
            }
            let lost = |subject: &str| {
                let records = results.of(profile, test, subject);
                let both = ["voice_up_lost", "voice_down_lost"];
                let lost: Vec<f64> = records
                    .flat_map(|record| both.map(|name| record.values.get(name).copied()))
                    .flatten()
                    .collect();
                (!lost.is_empty()).then(|| lost.iter().sum::<f64>() / lost.len() as f64)
            };
            let raw = lost(RAW).filter(|raw| *raw > 0.0)?;
            Some(lost(subject)? / raw)
        },
    },
    Goal {
        what: "first packet after a handover / (5 round trips + 200 ms)",
        bounds: (1.0, 0.6),
        more: false,
        ratio: |results, profile, test, subject| {
            if test.strip_prefix("handover_")? == "0" {
                return None;
            }
            let link = profile::named(profile)?.link;
            let trip = 2e3 * (link.delay + link.jitter / 2).as_secs_f64();
            let cell = |value| Cell {
                profile,
                test,
                value,
            };
            let up = results.summary(cell("first_up_ms"), subject)?.median;
            let down = results.summary(cell("first_down_ms"), subject)?.median;
            Some(up.max(down) / (5.0 * trip + 200.0))
        },
    },
    Goal {
        what: "packets lost in a handover between two networks, at a bottleneck",
        bounds: (5.0, 0.0),
        more: false,
        ratio: |results, profile, test, subject| {
            if test != "handover_0" || !profile.starts_with("bottleneck") {
                return None;
            }
            let cell = |value| Cell {
                profile,
                test,
                value,
            };
            let up = results.summary(cell("lost_up"), subject)?.median;
            let down = results.summary(cell("lost_down"), subject)?.median;
            Some(up + down)
        },
    },
    Goal {
        what: "what a flow outside keeps of its half",
        bounds: (0.8, 0.9),
        more: true,
        ratio: |results, profile, test, subject| {
            test.strip_prefix("rival_")?;
            let cell = Cell {
                profile,
                test,
                value: "rival_keeps",
            };
            Some(results.summary(cell, subject)?.median)
        },
    },
];

fn bulk<'a>(profile: &'a str, test: &'a str, value: &'a str) -> Option<Cell<'a>> {
    is_bulk(test).then_some(Cell {
        profile,
        test,
        value,
    })
}

fn call(
    results: &Results,
    profile: &str,
    test: &str,
    subject: &str,
    reference: &str,
) -> Option<f64> {
    let value = match is_down(test) {
        true => "voice_down_p99_ms",
        false => "voice_up_p99_ms",
    };
    let cell = bulk(profile, test, value).filter(|_| profile.starts_with("bottleneck"))?;
    Some(results.share(cell, subject, reference)?.median)
}

/// Holds everything of ours against the goals. What was not measured is left out.
#[must_use]
pub fn judge(results: &Results) -> Vec<Judged> {
    let one = |subject: &String, goal: &Goal| {
        let mut cells = Vec::new();
        for profile in &results.profiles {
            for test in &results.tests {
                let ratio = (goal.ratio)(results, profile, test, subject);
                cells.extend(ratio.map(|ratio| (ratio, format!("{profile} {test}"))));
            }
        }
        let reach = |bound: f64| {
            let reaches = |ratio: f64| match goal.more {
                true => ratio >= bound,
                false => ratio <= bound,
            };
            cells.iter().filter(|(ratio, _)| reaches(*ratio)).count()
        };
        let counts = [cells.len(), reach(goal.bounds.0), reach(goal.bounds.1)];
        let sign = if goal.more { 1.0 } else { -1.0 };
        let worst = cells
            .into_iter()
            .min_by(|one, other| (one.0 * sign).total_cmp(&(other.0 * sign)))?;
        Some(Judged {
            subject: subject.clone(),
            what: goal.what,
            cells: counts,
            worst,
            bounds: goal.bounds,
            more: goal.more,
        })
    };
    let ours = results.ours.iter();
    ours.flat_map(|subject| GOALS.iter().filter_map(move |goal| one(subject, goal)))
        .collect()
}

pub(super) fn table(results: &Results, text: &mut String) {
    let judged = judge(results);
    if judged.is_empty() {
        return;
    }
    text.push_str("### Against the goals\n\n");
    text.push_str("| | what | must | reached in | aim | reached in | worst | |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for line in judged {
        let sign = if line.more { "≥" } else { "≤" };
        let [all, must, aim] = line.cells;
        let _ = writeln!(
            text,
            "| {} | {} | {sign} {} | {must} of {all} | {sign} {} | {aim} of {all} | {:.2} ({}) | {} |",
            line.subject,
            line.what,
            line.bounds.0,
            line.bounds.1,
            line.worst.0,
            line.worst.1,
            line.verdict().word(),
        );
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::record::Record;
    use super::*;

    #[test]
    fn a_goal_is_met_where_its_worst_cell_meets_it() {
        let record = |subject: &str, test: &str, mbit: f64, p99: f64| Record {
            profile: "bottleneck-5".to_owned(),
            subject: subject.to_owned(),
            test: test.to_owned(),
            values: BTreeMap::from([
                ("mbit".to_owned(), mbit),
                ("voice_up_p99_ms".to_owned(), p99),
            ]),
            ..Record::default()
        };
        let results = Results {
            profiles: vec!["bottleneck-5".to_owned()],
            tests: vec!["4_up".to_owned(), "16_up".to_owned()],
            ours: vec!["ours".to_owned()],
            records: vec![
                record(RAW, "4_up", 5.0, 200.0),
                record(RAW, "16_up", 5.0, 200.0),
                record(PEER, "4_up", 4.8, 200.0),
                record(PEER, "16_up", 4.8, 200.0),
                record("ours", "4_up", 4.8, 50.0),
                record("ours", "16_up", 4.5, 90.0),
            ],
            ..Results::default()
        };
        let judged = judge(&results);
        let verdict = |what: &str| {
            let line = judged.iter().find(|line| line.what == what);
            line.map(|line| (line.cells, line.verdict(), line.worst.1.as_str()))
        };
        assert_eq!(
            verdict("goodput / wireguard-go"),
            Some(([2, 1, 1], Verdict::Short, "bottleneck-5 16_up"))
        );
        assert_eq!(
            verdict("goodput of 16 flows / raw"),
            Some(([1, 1, 0], Verdict::Must, "bottleneck-5 16_up"))
        );
        assert_eq!(
            verdict("the same / raw"),
            Some(([2, 2, 1], Verdict::Must, "bottleneck-5 16_up"))
        );
        assert_eq!(verdict("loss of a call on mobile-bad / raw"), None);
    }
}
