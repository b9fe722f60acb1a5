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
    let (_, records) = qlog("client-0", 1);
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

/// The records of a qlog: the first, and the events.
fn qlog(of: &str, clients: usize) -> (String, Vec<serde_json::Value>) {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = format!("run --qlog q.sqlog --of {of} --clients {clients} --loss 3");
    let arguments: Vec<_> = arguments.split(' ').collect();
    done(directory.path(), &arguments);
    let text = fs::read_to_string(directory.path().join("q.sqlog")).expect("a log");
    let records = text.split('\u{1e}').skip(1);
    let records = records.map(|record| {
        assert!(record.ends_with('\n'));
        serde_json::from_str(record).expect("JSON")
    });
    let records = records.collect();
    (text, records)
}

/// What its loader and its sequence, congestion and multiplexing diagrams read, some of it without
/// looking first: docs/lab/qlog.md.
#[test]
fn a_qlog_has_what_qvis_reads() {
    for (node, clients) in [("client-0", 1), ("server", 3)] {
        let (text, records) = qlog(node, clients);
        let head = &text[..1024];
        assert!(head.contains("qlog_version") && head.contains("JSON-SEQ"));
        let (first, events) = records.split_first().expect("records");
        assert_eq!(first["qlog_version"], "0.3");
        assert_eq!(first["qlog_format"], "JSON-SEQ");
        let format = &first["trace"]["common_fields"]["time_format"];
        assert!(format != "relative" && format != "delta");

        let mut groups = std::collections::BTreeMap::<&str, Vec<&serde_json::Value>>::new();
        let mut seen = std::collections::BTreeSet::new();
        for event in events {
            let group = event["group_id"].as_str().expect("a group");
            groups.entry(group).or_default().push(event);
            let name = event["name"].as_str().expect("a name");
            let (_, name) = name.split_once(':').expect("a category in front");
            let category = event["category"].as_str().expect("a category");
            let known = [
                "transport",
                "recovery",
                "connectivity",
                "http",
                "info",
                "warning",
                "error",
            ];
            assert!(known.contains(&category), "{event}");
            assert!(event["data"].is_object(), "{event}");
            seen.insert((category, name));
            match (category, name) {
                ("transport", "packet_sent" | "packet_received") => packet_can_be_drawn(event),
                ("recovery", "metrics_updated") => {
                    for of in ["congestion_window", "smoothed_rtt"] {
                        assert!(
                            event["data"][of].as_f64().is_some_and(|it| it > 0.0),
                            "{event}"
                        );
                    }
                }
                ("http", "frame_created" | "frame_parsed") => {
                    assert!(event["data"]["frame"]["frame_type"].is_string(), "{event}");
                    assert!(event["data"]["stream_id"].is_number(), "{event}");
                }
                _ => {}
            }
        }
        // A client has nothing to say in capsules.
        let capsule = match node {
            "server" => "capsule_created",
            _ => "capsule_parsed",
        };
        for needed in [
            ("transport", "packet_sent"),
            ("transport", "packet_received"),
            ("recovery", "metrics_updated"),
            ("connectivity", "connection_state_updated"),
            ("http", "frame_created"),
            ("http", "frame_parsed"),
            ("http", capsule),
        ] {
            assert!(seen.contains(&needed), "{node}: no {needed:?}");
        }

        // Each connection is a trace of its own, with packets both ways.
        assert_eq!(groups.len(), clients, "{:?}", groups.keys());
        for events in groups.values() {
            for name in [
                "quic:packet_sent",
                "quic:packet_received",
                "http3:frame_parsed",
            ] {
                assert!(events.iter().any(|event| event["name"] == name), "{name}");
            }
        }
    }
}

fn packet_can_be_drawn(event: &serde_json::Value) {
    let data = &event["data"];
    assert!(
        data["raw"]["length"].as_u64().is_some_and(|it| it > 0),
        "{event}"
    );
    let kind = data["header"]["packet_type"].as_str().expect("a type");
    let numbered = !matches!(kind, "retry" | "version_negotiation");
    assert_eq!(
        data["header"]["packet_number"].is_u64(),
        numbered,
        "{event}"
    );
    for frame in data["frames"].as_array().expect("frames") {
        match frame["frame_type"].as_str().expect("a type") {
            "stream" => {
                for field in ["stream_id", "offset", "length"] {
                    assert!(frame[field].is_u64(), "{event}");
                }
            }
            "ack" => {
                let ranges = frame["acked_ranges"].as_array().expect("ranges");
                let pair = |range: &serde_json::Value| {
                    let ends = range.as_array().expect("a range");
                    ends.len() == 2 && ends[0].as_u64() <= ends[1].as_u64()
                };
                assert!(!ranges.is_empty() && ranges.iter().all(pair), "{event}");
            }
            "max_data" | "max_stream_data" => assert!(frame["maximum"].is_u64(), "{event}"),
            _ => {}
        }
    }
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
