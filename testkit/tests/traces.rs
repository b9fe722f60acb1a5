//! Golden traces: what a run says, line by line.
//!
//! A change of behaviour shows here as a difference. Where it is meant, `BLESS=1 cargo test -p
//! masque-testkit --test traces` writes the files anew; the difference then belongs into the commit,
//! for whoever reviews it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use masque_testkit::lab::LIMIT;
use masque_testkit::scenario::{Crypto, Options, star};
use masque_testkit::world::{Input, PingPlan, World};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/traces")
}

fn options(seed: u64, rounds: u32) -> Options {
    let mut options = Options {
        seed,
        trace: true,
        ..Options::default()
    };
    let plans = [&mut options.client_plan, &mut options.server_plan];
    for plan in plans.into_iter().flatten() {
        *plan = PingPlan {
            rounds,
            ..plan.clone()
        };
    }
    options
}

fn compare(name: &str, world: &mut World) {
    world.run_until(LIMIT);
    let found = world.trace().text();
    let path = directory().join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(directory()).expect("the directory can be made");
        fs::write(&path, &found).expect("the file can be written");
        return;
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = golden.lines().zip(found.lines()).enumerate();
    if let Some((at, (old, new))) = lines.find(|(_, (old, new))| old != new) {
        panic!(
            "{name}, line {}:\n- {old}\n+ {new}\nBLESS=1 writes it anew; masque-lab diff shows more",
            at + 1
        );
    }
    assert_eq!(golden.lines().count(), found.lines().count(), "{name}");
}

#[test]
fn a_tunnel_from_connect_to_shutdown() {
    let mut star = star(&options(1, 1)).expect("valid");
    compare("tunnel.trace", &mut star.world);
}

#[test]
fn a_tunnel_over_tls() {
    let options = Options {
        crypto: Crypto::Seeded,
        ..options(1, 1)
    };
    let mut star = star(&options).expect("valid");
    compare("tunnel-tls.trace", &mut star.world);
}

#[test]
fn a_tunnel_on_a_bad_path() {
    let mut options = options(2, 3);
    options.link.loss = 50_000;
    options.link.jitter = Duration::from_millis(20);
    options.link.reorder = true;
    let mut star = star(&options).expect("valid");
    compare("bad-path.trace", &mut star.world);
}

#[test]
fn a_client_moves_to_another_address() {
    let mut star = star(&options(3, 5)).expect("valid");
    star.world.schedule(
        Duration::from_millis(90),
        Input::Readdress {
            node: star.client(),
            socket: masque_core::endpoint::SocketId(0),
            to: "198.51.100.200:50001".parse().expect("an address"),
            tell: true,
        },
    );
    compare("handover.trace", &mut star.world);
}

/// The line and the object of one event say the same.
#[test]
fn json_has_the_fields_of_the_line() {
    let mut star = star(&options(1, 1)).expect("valid");
    star.world.run_until(LIMIT);
    let trace = star.world.trace();
    let json = trace.json();
    assert_eq!(json.lines().count(), trace.lines().len());
    for (line, object) in trace.lines().iter().zip(json.lines()) {
        let object: serde_json::Value = serde_json::from_str(object).expect("JSON");
        let word = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
        let begin = format!("{} {} {}", object["time_us"], word("node"), word("layer"));
        assert!(line.starts_with(&begin), "{line} and {object}");
        for field in ["from", "to", "reason", "name", "text"] {
            assert!(
                line.contains(&word(field)),
                "{line} lacks {field} of {object}"
            );
        }
        for field in ["after_us", "bytes", "connection", "stream"] {
            let value = &object[field];
            assert!(
                value.is_null() || line.contains(&value.to_string()),
                "{line}"
            );
        }
    }
    for kind in ["state", "armed", "capsule_sent", "frame_received", "fired"] {
        let wanted = format!("\"kind\":\"{kind}\"");
        assert!(json.contains(&wanted), "no event is of kind {kind}");
    }
}
