//! What `masque-lab` leaves behind, and the exercises of `docs/lab`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn lab(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_masque-lab"))
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .expect("cargo built it")
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(text).expect("text")
}

/// Runs it in a directory of its own; it must succeed.
fn done(directory: &Path, arguments: &[&str]) -> String {
    let output = lab(directory, arguments);
    let said = said(&output);
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

#[test]
fn every_exercise_has_the_answer_it_gives() {
    let guide = fs::read_to_string(root().join("docs/lab/README.md")).expect("the guide");
    let exercises: Vec<_> = guide.split("\n## ").skip(1).collect();
    assert_eq!(exercises.len(), 7);
    for exercise in exercises {
        let title = exercise.lines().next().unwrap_or_default();
        let commands = exercise
            .lines()
            .filter_map(|line| line.strip_prefix("$ masque-lab "));
        let mut answered = String::new();
        for command in commands {
            let arguments: Vec<_> = command.split_whitespace().collect();
            answered.push_str(&said(&lab(&root(), &arguments)));
        }
        let checks: Vec<_> = exercise
            .lines()
            .filter_map(|line| line.strip_prefix("<!-- check: ")?.strip_suffix(" -->"))
            .collect();
        assert!(!checks.is_empty(), "{title}");
        for check in checks {
            assert!(
                answered.contains(check),
                "{title}: {check:?} is not in\n{answered}"
            );
        }
    }
}

#[test]
fn two_seeds_part_and_one_does_not() {
    let directory = tempfile::tempdir().expect("a directory");
    for (file, seed) in [("a", "1"), ("b", "1"), ("c", "2")] {
        done(
            directory.path(),
            &["run", "--loss", "5", "--seed", seed, "--trace", file],
        );
    }
    assert!(done(directory.path(), &["diff", "a", "b"]).starts_with("the same"));
    let output = lab(directory.path(), &["diff", "a", "c", "--context", "2"]);
    assert!(!output.status.success());
    let said = said(&output);
    assert!(said.contains("\n- ") && said.contains("\n+ "), "{said}");
}

#[test]
fn a_run_draws_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    done(
        directory.path(),
        &["draw", "--loss", "3", "--seed", "4", "--out", "drawn"],
    );
    let read = |name: &str| fs::read_to_string(directory.path().join("drawn").join(name));
    let ladder = read("ladder.svg").expect("a ladder");
    assert!(ladder.contains("capsule ADDRESS_ASSIGN") && ladder.ends_with("</svg>\n"));
    assert!(ladder.contains("\u{2715}"), "a lost datagram");
    let plots = read("plots.svg").expect("plots");
    for title in ["latency", "loss", "throughput", "queue"] {
        assert!(plots.contains(title));
    }
    assert!(plots.contains("<polyline"));
}

#[test]
fn a_qlog_is_a_text_sequence_with_packets_frames_and_capsules() {
    let directory = tempfile::tempdir().expect("a directory");
    done(
        directory.path(),
        &["run", "--qlog", "q.sqlog", "--of", "client-0"],
    );
    let text = fs::read_to_string(directory.path().join("q.sqlog")).expect("a log");
    let records: Vec<serde_json::Value> = text
        .split('\u{1e}')
        .skip(1)
        .map(|record| {
            assert!(record.ends_with('\n'));
            serde_json::from_str(record).expect("JSON")
        })
        .collect();
    assert_eq!(
        records[0]["file_schema"],
        "urn:ietf:params:qlog:file:sequential"
    );
    assert_eq!(records[0]["trace"]["vantage_point"]["type"], "client");
    let times: Vec<_> = records[1..]
        .iter()
        .map(|one| one["time"].as_f64().expect("a time"))
        .collect();
    assert!(times.is_sorted());
    for name in [
        "quic:packet_sent",
        "quic:packet_received",
        "quic:connection_state_updated",
        "http3:frame_created",
        "http3:parameters_set",
        "connect-ip:capsule_parsed",
        "connect-ip:timer_updated",
    ] {
        assert!(
            records.iter().any(|record| record["name"] == name),
            "no {name}"
        );
    }
    let sent: Vec<_> = records
        .iter()
        .filter(|record| record["name"] == "quic:packet_sent")
        .filter(|record| record["data"]["header"]["packet_type"] == "1RTT")
        .map(|record| {
            record["data"]["header"]["packet_number"]
                .as_u64()
                .expect("a number")
        })
        .collect();
    assert!(sent.windows(2).all(|pair| pair[0] < pair[1]), "{sent:?}");
}

#[test]
fn a_sweep_writes_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = [
        "sweep",
        "--seeds",
        "2",
        "--profiles",
        "wifi,lte",
        "--rounds",
        "3",
    ];
    let said = done(directory.path(), &arguments);
    assert!(
        said.contains("4 runs") && said.contains("0 failed"),
        "{said}"
    );
    let page = fs::read_to_string(directory.path().join("sweep.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("mobile") | page.contains("wifi"));
}

/// Wireshark's own decoder opens the capture with the secrets in it, and finds HTTP/3 and DATAGRAMs.
#[test]
fn tshark_decrypts_a_capture() {
    if Command::new("tshark")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("skipped: tshark is not installed");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    done(
        directory.path(),
        &["run", "--crypto", "seeded", "--pcap", "c.pcapng"],
    );
    let tshark = |arguments: &[&str]| {
        let mut command = Command::new("tshark");
        command
            .current_dir(directory.path())
            .args(["-r", "c.pcapng"]);
        let output = command.args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).expect("text")
    };
    let frames = [
        "-d",
        "udp.port==443,quic",
        "-T",
        "fields",
        "-e",
        "quic.frame_type",
    ];
    let frames = tshark(&frames);
    // HANDSHAKE_DONE and DATAGRAM stand in 1-RTT packets: nobody reads them without the secrets.
    let all: Vec<_> = frames.split([',', '\n', '\t']).collect();
    assert!(all.contains(&"30"), "HANDSHAKE_DONE\n{frames}");
    assert!(
        all.contains(&"48") || all.contains(&"49"),
        "DATAGRAM\n{frames}"
    );
    let inner = tshark(&["-Y", "icmp", "-T", "fields", "-e", "ip.src"]);
    assert!(inner.contains("10.7.0.2"), "{inner}");
}

#[test]
fn the_stepper_changes_what_comes_next_and_goes_back_over_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = "break capsule_sent\nr\nw\ndrop\nc 3\nb 2\np\nassign server 10.7.0.77/32\nr\nedit 99999 00\nq\n";
    let path = directory.path().join("script");
    fs::write(&path, script).expect("it can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_masque-lab"))
        .arg("step")
        .stdin(fs::File::open(&path).expect("it is there"))
        .output()
        .expect("cargo built it");
    let said = said(&output);
    for words in [
        "stopped at: capsule_sent",
        "dropped, ",
        " back at ",
        "tunnel: tunnel",
        "http3 c0",
    ] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
}
