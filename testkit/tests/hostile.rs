//! Bytes nobody should send: they never panic, what was up stays up, and every script of
//! `testdata/hostile` ends as it says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use masque_core::endpoint::{Ecn, PortId, Usage};
use masque_testkit::hostile::report::Verdict;
use masque_testkit::hostile::{catalogue, vectors, world};
use masque_testkit::scenario::{Options, Star, client_address, server_address, star};
use masque_testkit::world::{Input, NodeId, PingPlan};
use proptest::prelude::*;
use proptest::sample::Index;

fn running() -> Star {
    let plan = Some(PingPlan {
        rounds: 20,
        interval: Duration::from_millis(50),
        size: 100,
        then_shut_down: None,
    });
    star(&Options {
        client_plan: plan.clone(),
        server_plan: plan,
        ..Options::default()
    })
    .expect("valid")
}

fn stranger() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 66], 6666))
}

/// How to spoil a genuine datagram.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Grow(Vec<u8>),
    Repeat,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..=255u8).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        any::<Index>().prop_map(Damage::Cut),
        proptest::collection::vec(any::<u8>(), 1..100).prop_map(Damage::Grow),
        Just(Damage::Repeat),
    ]
}

/// Bytes that look like QUIC packets of some type.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let tail = proptest::collection::vec(any::<u8>(), 0..1400);
    (any::<u8>(), any::<bool>(), 0..24u8, tail).prop_map(|(first, known, cid, tail)| {
        let mut bytes = vec![first];
        if known {
            bytes.extend_from_slice(&[0, 0, 0, 1, cid]);
        }
        bytes.extend(tail);
        bytes
    })
}

fn arrives(from: SocketAddr, to: SocketAddr, data: Vec<u8>) -> Input {
    Input::Datagram {
        from,
        to,
        ecn: Some(Ecn::Ce),
        data,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_from_anywhere_neither_panics_nor_stops_a_tunnel(
        attacks in proptest::collection::vec((garbage(), 0..1500u64, any::<bool>(), any::<bool>()), 1..60)
    ) {
        let mut star = running();
        for (data, millis, to_server, spoofed) in attacks {
            let (victim, peer) = if to_server {
                (server_address(), client_address(0))
            } else {
                (client_address(0), server_address())
            };
            let from = if spoofed { peer } else { stranger() };
            star.world.schedule(Duration::from_millis(millis), arrives(from, victim, data));
        }
        star.world.run_until(Duration::from_secs(5));
        let (client, server) = (star.client(), star.server);
        prop_assert_eq!(star.inner(client).replies(), 40);
        prop_assert_eq!(star.inner(server).replies(), 40);
    }

    #[test]
    fn spoilt_datagrams_neither_panic_nor_stop_a_tunnel(
        spoilt in proptest::collection::vec((damage(), 0..400u32, 0..50u64), 1..40)
    ) {
        let mut star = running();
        for step in 0.. {
            if star.world.next_at().is_none_or(|at| at > Duration::from_secs(5)) {
                break;
            }
            // Copies of what is about to arrive, each spoilt in its way, come a little later.
            if let Some(Input::Datagram { from, to, data, .. }) = star.world.peek().cloned() {
                for (damage, _, after) in spoilt.iter().filter(|(_, when, _)| *when == step) {
                    let attack = arrives(from, to, apply(damage, &data));
                    star.world.schedule_in(Duration::from_millis(*after), attack);
                }
            }
            star.world.step();
        }
        prop_assert_eq!(star.inner(star.client()).replies(), 40);
        prop_assert!(star.inner(star.client()).others.is_empty());
    }

    #[test]
    fn garbage_from_a_tun_never_panics(
        packets in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..2000), prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()], any::<bool>()),
            1..60
        )
    ) {
        let mut star = running();
        star.world.run_until(Duration::from_millis(500));
        for (mut data, first, at_server) in packets {
            if let Some(byte) = data.first_mut() {
                *byte = first;
            }
            let node: NodeId = if at_server { star.server } else { star.client() };
            star.world.schedule_in(Duration::from_millis(1), Input::Packet { node, port: PortId(0), data });
        }
        star.world.run_until(Duration::from_secs(5));
        prop_assert_eq!(star.inner(star.client()).replies(), 40);
    }
}

fn apply(damage: &Damage, data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    match damage {
        // A copy of a copy may be empty already.
        Damage::Flip(..) | Damage::Cut(_) if data.is_empty() => {}
        Damage::Flip(at, mask) => {
            let at = at.index(data.len());
            data[at] ^= mask;
        }
        Damage::Cut(at) => data.truncate(at.index(data.len())),
        Damage::Grow(more) => data.extend_from_slice(more),
        Damage::Repeat => {}
    }
    data
}

/// Each script proves the requirements it cites.
#[test]
fn every_script_ends_as_it_says_and_leaves_nothing_behind() {
    let only = std::env::var("HOSTILE_SCRIPT").ok();
    let mut wrong = Vec::new();
    let files = files();
    let texts = files.iter().map(|(file, text)| (&file[..], &text[..]));
    for case in catalogue::of(texts).expect("scripts that can be read") {
        if only.as_ref().is_some_and(|only| *only != case.script.name) {
            continue;
        }
        let outcome = world::run(&case, 1, only.is_some());
        let report = &outcome.report;
        let left = outcome.left != Usage::default();
        if report.verdict != Verdict::Pass || left {
            wrong.push(format!(
                "{} against a {}: {}\n  expected {}\n  seen     {}{}\n{}",
                report.script,
                report.subject.name(),
                report.verdict.name(),
                report.expected,
                report.seen,
                if left {
                    format!("\n  left     {:?}", outcome.left)
                } else {
                    String::new()
                },
                outcome.trace
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} scripts:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// What stands in `testdata/hostile`, by name.
fn files() -> BTreeMap<String, String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/hostile");
    let entries = std::fs::read_dir(directory).expect("testdata is there");
    entries
        .map(|entry| {
            let path = entry.expect("readable").path();
            let name = path.file_name().expect("a file").to_string_lossy();
            let text = std::fs::read_to_string(&path).expect("text");
            (name.into_owned(), text)
        })
        .collect()
}

/// `MASQUE_BLESS=1` writes them.
#[test]
fn the_scripts_made_from_the_vectors_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata");
    let text = std::fs::read_to_string(root.join("vectors.json")).expect("testdata is there");
    for (file, text) in vectors::files(&text).expect("vectors") {
        let path = root.join("hostile").join(file);
        if std::env::var_os("MASQUE_BLESS").is_some() {
            std::fs::write(&path, &text).expect("testdata can be written");
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "{file} is stale: run with MASQUE_BLESS=1");
    }
}

#[test]
fn the_probe_has_every_script() {
    let there = files();
    let built_in: Vec<_> = catalogue::FILES.iter().map(|(file, _)| *file).collect();
    assert!(there.keys().eq(built_in), "{:?}", there.keys());
    let mut names = BTreeSet::new();
    for case in catalogue::all().expect("scripts that can be read") {
        let key = (case.script.name.clone(), case.subject);
        assert!(names.insert(key), "{} twice", case.script.name);
    }
}
