//! What must be reached, and whether it is.

use crate::lab::Wire;
use crate::samples::Results;

/// How one measured ratio stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// As good as aimed for.
    Aim,
    /// Good enough.
    Must,
    /// Not good enough.
    Short,
    /// Shown for comparison; nothing is demanded.
    Apart,
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Must => "must",
            Self::Short => "SHORT",
            Self::Apart => "apart",
        }
    }
}

/// One line of the account.
#[derive(Clone, PartialEq, Debug)]
pub struct Judged {
    /// Whose.
    pub subject: String,
    /// What of it, against what.
    pub what: String,
    /// The ratio, or the value where there is nothing to compare with.
    pub value: f64,
    /// What must be reached, in words.
    pub must: String,
    /// What is aimed for.
    pub aim: String,
    /// How it stands.
    pub verdict: Verdict,
}

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// Against whom.
#[derive(Clone, Copy)]
enum Against {
    One(&'static str),
    BestPeer,
    Nobody,
}

struct Goal {
    test: &'static str,
    value: &'static str,
    against: Against,
    better: Better,
    /// What must be reached and what is aimed for; `None`: shown apart.
    bounds: Option<(f64, f64)>,
}

const TCP: [&str; 4] = ["tcp_1_up", "tcp_1_down", "tcp_4_up", "tcp_4_down"];
/// Tunnels of others that encrypt.
const PEERS: [&str; 4] = ["wireguard-go", "boringtun", "quincy", "openvpn"];

fn goals(wire: Wire, chacha: bool) -> Vec<Goal> {
    use Against::{BestPeer, Nobody, One};
    use Better::{Less, More};
    let goal = |test, value, against, better, must, aim| Goal {
        test,
        value,
        against,
        better,
        bounds: Some((must, aim)),
    };
    let wireguard = match (wire, chacha) {
        (_, true) => (1.15, 1.3),
        (Wire::Gso, false) => (1.6, 2.0),
        (Wire::Segmented, false) => (1.4, 1.7),
    };
    let mut goals = Vec::new();
    for test in TCP {
        let speed = |peer, (must, aim)| goal(test, "gbit_per_s", One(peer), More, must, aim);
        goals.push(speed("wireguard-go", wireguard));
        if !chacha {
            goals.push(speed("quincy", (2.8, 3.5)));
            goals.push(speed("fwd-offload", (0.55, 0.7)));
            goals.push(speed("qfwd", (0.95, 1.1)));
        }
    }
    if !chacha {
        let cpu = "cpu_machine_s_per_gb";
        let p99 = "loaded_rtt_p99_ms";
        for test in TCP {
            goals.push(goal(test, cpu, One("wireguard-go"), Less, 0.6, 0.45));
        }
        for test in ["pps_64", "pps_1200"] {
            goals.push(goal(test, "lossless_pps", BestPeer, More, 1.15, 1.4));
            goals.push(Goal {
                test,
                value: "lossless_pps",
                against: One("qfwd"),
                better: More,
                bounds: None,
            });
        }
        goals.push(goal("ping", "rtt_p50_ms", One("fwd-naive"), Less, 1.8, 1.4));
        goals.push(goal("tcp_1_up", p99, One("wireguard-go"), Less, 0.6, 0.4));
        goals.push(goal("memory", "rss_client_mb", Nobody, Less, 12.0, 8.0));
    }
    goals
}

/// Holds everything of ours against its goals. What was not measured is left out.
#[must_use]
pub fn judge(results: &Results) -> Vec<Judged> {
    let mut judged = Vec::new();
    for subject in &results.ours {
        for goal in goals(results.wire, is_chacha(subject)) {
            judged.extend(one(results, subject, &goal));
        }
    }
    judged.extend(adapters(results));
    judged
}

/// Goals that nothing can be said about, because one side or both were not measured: each with those of
/// ours it would be about.
#[must_use]
pub fn unjudged(results: &Results) -> Vec<String> {
    let mut missing: Vec<(String, Vec<&str>)> = Vec::new();
    for subject in &results.ours {
        for goal in goals(results.wire, is_chacha(subject)) {
            if goal.bounds.is_none() || one(results, subject, &goal).is_some() {
                continue;
            }
            let against = match goal.against {
                Against::One(name) => format!(" / {name}"),
                Against::BestPeer => " / the best peer".to_owned(),
                Against::Nobody => String::new(),
            };
            let what = format!("{} {}{against}", goal.test, goal.value);
            match missing.iter_mut().find(|(other, _)| *other == what) {
                Some((_, subjects)) => subjects.push(subject),
                None => missing.push((what, vec![subject])),
            }
        }
    }
    missing
        .into_iter()
        .map(|(what, subjects)| format!("{what} ({})", subjects.join(", ")))
        .collect()
}

fn is_chacha(subject: &str) -> bool {
    subject.contains("chacha")
}

/// Whether it is one of our binaries as it comes, without other settings.
fn is_plain(subject: &str) -> bool {
    !subject.contains('+') && !is_chacha(subject)
}

fn one(results: &Results, subject: &str, goal: &Goal) -> Option<Judged> {
    let median = |subject: &str| Some(results.summary(subject, goal.test, goal.value)?.median);
    let own = median(subject)?;
    let (other, name) = match goal.against {
        Against::One(name) => (median(name)?, format!(" / {name}")),
        Against::BestPeer => {
            let peers = PEERS
                .into_iter()
                .filter_map(|peer| Some((median(peer)?, peer)));
            let (value, peer) = peers.max_by(|one, other| one.0.total_cmp(&other.0))?;
            (value, format!(" / {peer}, the best peer"))
        }
        Against::Nobody => (1.0, String::new()),
    };
    let what = format!("{} {}{name}", goal.test, goal.value);
    let value = own / other;
    let Some((must, aim)) = goal.bounds else {
        return Some(Judged {
            subject: subject.to_owned(),
            what: format!("{what}, a prototype without policy"),
            value,
            must: "–".to_owned(),
            aim: "–".to_owned(),
            verdict: Verdict::Apart,
        });
    };
    Some(verdict(subject, what, value, goal.better, must, aim))
}

/// The slowest of our three against the fastest.
fn adapters(results: &Results) -> Vec<Judged> {
    let mut judged = Vec::new();
    for test in TCP {
        let speeds: Vec<(f64, &String)> = results
            .ours
            .iter()
            .filter(|name| is_plain(name))
            .filter_map(|name| Some((results.summary(name, test, "gbit_per_s")?.median, name)))
            .collect();
        let by_speed = |one: &&(f64, &String), other: &&(f64, &String)| one.0.total_cmp(&other.0);
        let slowest = speeds.iter().min_by(by_speed);
        let fastest = speeds.iter().max_by(by_speed);
        if let (Some(slowest), Some(fastest), true) = (slowest, fastest, speeds.len() > 1) {
            let what = format!("{test} gbit_per_s / {}, the fastest of ours", fastest.1);
            let ratio = slowest.0 / fastest.0;
            judged.push(verdict(slowest.1, what, ratio, Better::More, 0.95, 0.97));
        }
    }
    judged
}

fn verdict(subject: &str, what: String, value: f64, better: Better, must: f64, aim: f64) -> Judged {
    let reaches = |bound: f64| match better {
        Better::More => value >= bound,
        Better::Less => value <= bound,
    };
    let sign = if better == Better::More { "≥" } else { "≤" };
    Judged {
        subject: subject.to_owned(),
        what,
        value,
        must: format!("{sign} {must}"),
        aim: format!("{sign} {aim}"),
        verdict: match (reaches(must), reaches(aim)) {
            (_, true) => Verdict::Aim,
            (true, false) => Verdict::Must,
            (false, false) => Verdict::Short,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::samples::{Machine, Sample};

    #[test]
    fn a_goal_is_missed_met_or_surpassed_whichever_way_is_better() {
        let more = |value| verdict("s", String::new(), value, Better::More, 1.6, 2.0).verdict;
        assert_eq!(
            [more(1.5), more(1.6), more(2.0)],
            [Verdict::Short, Verdict::Must, Verdict::Aim]
        );
        let less = |value| verdict("s", String::new(), value, Better::Less, 0.6, 0.4).verdict;
        assert_eq!(
            [less(0.7), less(0.6), less(0.4)],
            [Verdict::Short, Verdict::Must, Verdict::Aim]
        );
    }

    #[test]
    fn another_wire_or_cipher_has_other_goals() {
        let first = |wire, chacha| goals(wire, chacha)[0].bounds;
        assert_eq!(first(Wire::Gso, false), Some((1.6, 2.0)));
        assert_eq!(first(Wire::Segmented, false), Some((1.4, 1.7)));
        for wire in [Wire::Gso, Wire::Segmented] {
            assert_eq!(first(wire, true), Some((1.15, 1.3)));
        }
    }

    /// Results in which every test of every subject gave `value`.
    fn measured(subjects: &[&str], value: impl Fn(&str) -> f64) -> Results {
        let sample = |subject: &&str, goal: &Goal| Sample {
            subject: (*subject).to_owned(),
            test: goal.test.to_owned(),
            quiet: true,
            values: BTreeMap::from([(goal.value.to_owned(), value(subject))]),
            ..Sample::default()
        };
        let goals = goals(Wire::Gso, false);
        let samples = subjects
            .iter()
            .flat_map(|subject| goals.iter().map(move |goal| sample(subject, goal)));
        Results {
            machine: Machine::default(),
            wire: Wire::Gso,
            secs: 4.0,
            repetitions: 1,
            subjects: Vec::new(),
            ciphers: BTreeMap::new(),
            ours: subjects
                .iter()
                .filter(|name| name.starts_with("masque"))
                .map(|name| (*name).to_owned())
                .collect(),
            skipped: Vec::new(),
            samples: samples.collect(),
        }
    }

    #[test]
    fn what_has_not_been_measured_is_named_and_what_has_been_is_judged() {
        let ours = ["masque-mio", "masque-mio-chacha", "masque-tokio"];
        let alone = measured(&ours, |_| 1.0);
        let missing = unjudged(&alone).join("\n");
        let all_three = ours.join(", ");
        for expected in [
            format!("tcp_1_up gbit_per_s / wireguard-go ({all_three})"),
            "pps_64 lossless_pps / the best peer (masque-mio, masque-tokio)".to_owned(),
        ] {
            assert!(missing.contains(&expected), "{missing}");
        }
        let yardsticks = ["wireguard-go", "quincy", "qfwd", "fwd-offload", "fwd-naive"];
        let all = measured(&[&ours[..], &yardsticks[..]].concat(), |_| 1.0);
        assert_eq!(unjudged(&all), Vec::<String>::new());
        let per_plain = goals(Wire::Gso, false).len();
        let per_chacha = goals(Wire::Gso, true).len();
        assert_eq!(judge(&all).len(), 2 * per_plain + per_chacha + TCP.len());
    }

    #[test]
    fn packet_rates_are_held_against_the_best_peer_and_the_prototype_is_shown_apart() {
        let rate = |name: &str| match name {
            "boringtun" => 3.0,
            "qfwd" => 8.0,
            name if name.starts_with("masque") => 4.0,
            _ => 2.0,
        };
        let names = ["masque-smol", "wireguard-go", "boringtun", "qfwd"];
        let judged = judge(&measured(&names, rate));
        let of = |what: &str| {
            let mut lines = judged.iter().filter(|line| line.what.contains(what));
            let line = lines.next().expect("judged");
            (line.value, line.verdict)
        };
        assert_eq!(
            of("pps_64 lossless_pps / boringtun, the best peer"),
            (4.0 / 3.0, Verdict::Must)
        );
        assert_eq!(of("pps_1200 lossless_pps / qfwd"), (0.5, Verdict::Apart));
    }

    #[test]
    fn the_slowest_runtime_is_held_against_the_fastest_as_they_come() {
        let rate = |name: &str| match name {
            "masque-mio" => 10.0,
            "masque-smol" => 9.6,
            "masque-tokio" => 9.0,
            _ => 1.0,
        };
        let names = [
            "masque-mio",
            "masque-smol",
            "masque-tokio",
            "masque-mio-chacha",
        ];
        let judged = judge(&measured(&names, rate));
        let lines: Vec<_> = judged
            .iter()
            .filter(|line| line.what.contains("the fastest of ours"))
            .collect();
        assert_eq!(lines.len(), TCP.len());
        for line in lines {
            assert_eq!((line.subject.as_str(), line.value), ("masque-tokio", 0.9));
            assert_eq!(line.verdict, Verdict::Short);
        }
    }
}
