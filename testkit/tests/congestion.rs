//! What a tunnel leaves of a path, and what it leaves to others on it. Each number stands in
//! docs/congestion.md, measured over longer runs and more seeds; these are the floors.

use std::time::Duration;

use masque_core::endpoint::CongestionControl;
use masque_testkit::traffic::control::ControlKind;
use masque_testkit::traffic::host::End;
use masque_testkit::traffic::profile::{self, Profile};
use masque_testkit::traffic::trial::{self, Change, DEVICE_MTU, Outcome, Subject, Trial};
use masque_testkit::world::LinkConfig;

const TUNNEL: Subject = Subject::Tunnel(CongestionControl::Tunnel);

fn path(name: &str) -> Profile {
    profile::named(name).expect("a profile there is")
}

fn go(trial: &Trial) -> Outcome {
    trial::run(trial).expect("null crypto cannot fail")
}

/// The goodput of a tunnel as a share of the bare path's, over a few seeds.
fn share(name: &str, flows: usize, from: End) -> f64 {
    let total = |subject| -> f64 {
        let runs = (1..=3).map(|seed| {
            go(&Trial {
                profile: path(name),
                subject,
                flows,
                from,
                length: Duration::from_secs(10),
                seed,
                ..Trial::default()
            })
        });
        runs.map(|outcome| outcome.mbit).sum()
    };
    total(TUNNEL) / total(Subject::Raw)
}

#[test]
fn many_flows_keep_what_the_path_gives_them_on_bad_paths() {
    for (name, least) in [
        ("wifi", 0.92),
        ("lte", 0.90),
        ("mobile-bad", 0.86),
        ("mobile-bad-inorder", 0.82),
        ("satellite", 0.85),
    ] {
        let share = share(name, 16, End::Client);
        assert!(share > least, "{name}: {share:.2}");
    }
}

#[test]
fn a_path_that_reorders_loses_no_more_voice_than_it_does_by_itself() {
    let lost = |subject| -> f64 {
        let runs = (1..=6).map(|seed| {
            go(&Trial {
                profile: path("mobile-bad"),
                subject,
                flows: 16,
                from: End::Server,
                voice: true,
                length: Duration::from_secs(6),
                seed,
                ..Trial::default()
            })
        });
        runs.map(|outcome| outcome.voice_lost).sum()
    };
    let (raw, tunnel) = (lost(Subject::Raw), lost(TUNNEL));
    // What is more than 129 packets late is dropped by quinn-proto: a third more, and worse in bursts.
    assert!(tunnel <= raw * 1.1, "{tunnel} of {raw}");
}

#[test]
fn bottlenecks_are_filled_both_ways() {
    for name in ["bottleneck-5", "bottleneck-20"] {
        for from in [End::Client, End::Server] {
            for flows in [1, 16] {
                let share = share(name, flows, from);
                assert!(share > 0.92, "{name} {flows} {from:?}: {share:.2}");
            }
        }
    }
}

#[test]
fn voice_beside_a_bulk_flow_waits_less_than_half_as_long_as_without_a_tunnel() {
    for name in ["bottleneck-5", "bottleneck-20", "bottleneck-100"] {
        for from in [End::Client, End::Server] {
            let run = |subject| {
                go(&Trial {
                    profile: path(name),
                    subject,
                    from,
                    voice: true,
                    length: Duration::from_secs(12),
                    seed: 1,
                    ..Trial::default()
                })
            };
            let (raw, tunnel) = (run(Subject::Raw), run(TUNNEL));
            assert!(
                tunnel.voice_p99 < raw.voice_p99 * 0.5,
                "{name} {from:?}: {} of {}",
                tunnel.voice_p99,
                raw.voice_p99
            );
            assert!(tunnel.voice_lost < 0.005, "{name}: {}", tunnel.voice_lost);
        }
    }
}

#[test]
fn somebody_else_on_the_path_keeps_a_fair_share_and_leaves_us_one() {
    for rival in [ControlKind::Cubic, ControlKind::Bbr] {
        for (rival_after, least) in [(3.0, 0.2), (-3.0, 0.05)] {
            let outcome = go(&Trial {
                profile: path("bottleneck-20"),
                subject: TUNNEL,
                flows: 4,
                rival: Some(rival),
                rival_after,
                length: Duration::from_secs(30),
                seed: 1,
                ..Trial::default()
            });
            // Both together: the last 20 s.
            let late = &outcome.points[100..];
            let mean = |value: fn(&trial::Point) -> f64| {
                late.iter().map(value).sum::<f64>() / late.len() as f64
            };
            let (ours, theirs) = (mean(|point| point.mbit), mean(|point| point.rival_mbit));
            let fair = (ours + theirs) / 2.0;
            assert!(
                theirs > 0.8 * fair,
                "{rival:?}: {theirs:.1} against {ours:.1}"
            );
            assert!(
                ours > least * (ours + theirs),
                "{rival:?}: {ours:.1} of {theirs:.1}"
            );
        }
    }
}

#[test]
fn ordinary_loss_does_not_shrink_the_path_mtu() {
    for name in ["lte", "mobile-bad", "mobile-bad-inorder", "bottleneck-5"] {
        // All the path takes, and what the programs' devices have by themselves.
        for (seed, mtu, least) in [
            (1, 1500, 1472),
            (2, 1500, 1472),
            (1, DEVICE_MTU, 1460),
            (2, DEVICE_MTU, 1460),
        ] {
            let outcome = go(&Trial {
                profile: path(name),
                subject: TUNNEL,
                flows: 16,
                length: Duration::from_secs(8),
                mtu,
                seed,
                ..Trial::default()
            });
            assert_eq!(outcome.least_mtu, least, "{name}, seed {seed}, MTU {mtu}");
        }
    }
}

#[test]
fn a_tunnel_stays_up_and_carries_on_under_a_fifth_of_loss_and_reordering() {
    let link = LinkConfig {
        loss: 200_000,
        jitter: Duration::from_millis(30),
        reorder: true,
        rate: Some(20_000_000),
        queue: 500_000,
        ..LinkConfig::default()
    };
    for seed in 1..=3 {
        let outcome = go(&Trial {
            profile: Profile {
                name: "a fifth",
                link,
            },
            subject: TUNNEL,
            voice: true,
            length: Duration::from_secs(10),
            seed,
            ..Trial::default()
        });
        assert!(outcome.voice_lost < 0.26, "{}", outcome.voice_lost);
        assert!(outcome.voice_p99 < 80.0, "{}", outcome.voice_p99);
    }
}

#[test]
fn a_path_that_halves_and_doubles_is_followed() {
    let after = Duration::from_secs;
    let outcome = go(&Trial {
        profile: path("bottleneck-20"),
        subject: TUNNEL,
        flows: 4,
        length: after(18),
        seed: 1,
        changes: vec![
            Change {
                after: after(6),
                rate: 10_000_000,
            },
            Change {
                after: after(12),
                rate: 20_000_000,
            },
        ],
        ..Trial::default()
    });
    let mean = |from: usize, to: usize| {
        let points = &outcome.points[from..to];
        points.iter().map(|point| point.mbit).sum::<f64>() / points.len() as f64
    };
    assert!(mean(30, 60) > 17.0, "{}", mean(30, 60));
    assert!(mean(80, 120) > 8.5, "{}", mean(80, 120));
    assert!(mean(140, 180) > 17.0, "{}", mean(140, 180));
    let waits = outcome.points[80..120].iter().map(|point| point.queue_ms);
    assert!(waits.fold(0.0, f64::max) < 60.0);
}

#[test]
fn the_same_seed_gives_the_same_course() {
    let trial = Trial {
        profile: path("mobile-bad"),
        subject: TUNNEL,
        flows: 4,
        voice: true,
        length: Duration::from_secs(3),
        seed: 7,
        ..Trial::default()
    };
    let [one, two] = [go(&trial), go(&trial)].map(|outcome| format!("{outcome:?}"));
    assert_eq!(one, two);
}
