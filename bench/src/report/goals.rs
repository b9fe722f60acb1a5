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
}

impl Verdict {
    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Must => "must",
            Self::Short => "SHORT",
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
    must: f64,
    aim: f64,
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
        must,
        aim,
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
        goals.push(goal("tcp_1_up", cpu, One("wireguard-go"), Less, 0.6, 0.45));
        for test in ["pps_64", "pps_1200"] {
            goals.push(goal(test, "lossless_pps", BestPeer, More, 1.15, 1.4));
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
        let chacha = subject.contains("chacha");
        for goal in goals(results.wire, chacha) {
            judged.extend(one(results, subject, &goal));
        }
    }
    judged.extend(adapters(results));
    judged
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
    Some(verdict(
        subject,
        what,
        own / other,
        goal.better,
        goal.must,
        goal.aim,
    ))
}

/// The slowest of our three against the fastest.
fn adapters(results: &Results) -> Vec<Judged> {
    let mut judged = Vec::new();
    for test in TCP {
        let speeds: Vec<(f64, &String)> = results
            .ours
            .iter()
            .filter(|name| !name.contains('+'))
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
    use super::*;

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
        let first = |wire, chacha| goals(wire, chacha)[0].must;
        assert_eq!(first(Wire::Gso, false), 1.6);
        assert_eq!(first(Wire::Segmented, false), 1.4);
        assert_eq!(first(Wire::Segmented, true), 1.15);
    }
}
