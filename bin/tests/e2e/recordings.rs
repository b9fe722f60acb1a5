//! Recordings of the real binaries, replayed to the same bytes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use masque_testkit::lab::{self, Replaying};

use crate::namespace::{inside, say};
use crate::process::Binary::{self, Mio, Smol, Tokio};
use crate::process::Process;
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

/// Enough for the windows to open.
const SOME: u64 = 256 << 10;

/// Pings and TCP both ways, over both versions, recorded at both ends.
fn is_replayed(client: Binary, server: Binary, underlay: Underlay) {
    let world = World::new(Egress::Routed);
    let recordings = ["client.rec", "server.rec"].map(|name| world.path(name));
    let record = OsStr::new("--record");
    let config = world.server_config("shards = 2");
    let arguments = [record, recordings[1].as_os_str()];
    let server = Process::start_as(&world.server, server, "server", &config, &arguments);
    server.wait_for("server ready");
    let config = world.client_config("alice", underlay, "");
    let arguments = [record, recordings[0].as_os_str()];
    let client = Process::start_as(&world.client, client, "client", &config, &arguments);
    client.wait_up();
    for to in INET.map(ip) {
        world.client.run(|| {
            traffic::ping(to);
            for direction in [Direction::Up, Direction::Down] {
                traffic::transfer(direction, to, SOME);
            }
        });
    }
    client.stop();
    server.stop();
    for recording in &recordings {
        let said = identical(recording);
        assert!(said.contains("the endpoint was given up"), "{said}");
        let mode = fs::metadata(recording).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// Replays it; what the laboratory says.
fn identical(recording: &Path) -> String {
    let what = Replaying {
        file: recording.to_owned(),
        trace: None,
        qlog: None,
        pcap: None,
        until: None,
    };
    let mut said = Vec::new();
    let result = lab::replay(&what, &mut said);
    let said = String::from_utf8(said).unwrap();
    assert!(
        result.is_ok(),
        "{}: {result:?}\n{said}",
        recording.display()
    );
    assert!(said.ends_with("# identical\n"), "{said}");
    say(&format!("{}:\n{said}", recording.display()));
    said
}

#[test]
fn a_tokio_client_and_a_smol_server_are_replayed_to_the_same_bytes() {
    inside(|| is_replayed(Tokio, Smol, Underlay::V4));
}

#[test]
fn a_smol_client_and_a_mio_server_are_replayed_to_the_same_bytes() {
    inside(|| is_replayed(Smol, Mio, Underlay::V6));
}

#[test]
fn a_mio_client_and_a_tokio_server_are_replayed_to_the_same_bytes() {
    inside(|| is_replayed(Mio, Tokio, Underlay::V4));
}

#[test]
fn a_killed_server_leaves_a_recording_up_to_its_end() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let recording = world.path("server.rec");
        let arguments = [OsStr::new("--record"), recording.as_os_str()];
        let config = world.server_config("");
        let server = Process::start_as(&world.server, Tokio, "server", &config, &arguments);
        server.wait_for("server ready");
        let client = world.start_client(Mio, Underlay::V4, "");
        client.wait_up();
        world
            .client
            .run(|| traffic::transfer(Direction::Up, ip(INET[0]), SOME));
        server.kill();
        let said = identical(&recording);
        assert!(said.contains("cut off"), "{said}");
        client.stop();
    });
}
