//! Recordings of endpoints with real TLS, replayed to the same bytes.

mod pair;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use masque_recording::{Difference, Ending, Input, MAGIC, ReadError, Record, Replay, ReplayError};
use masque_testkit::lab::{self, LabError, Replaying};

use pair::{Plan, Recordings};

/// What a replay came to.
struct Outcome {
    inputs: u64,
    sent: usize,
    written: usize,
    events: usize,
    difference: Option<(u64, Difference)>,
    ending: Option<Ending>,
}

fn replayed(recording: &[u8]) -> Result<Outcome, ReplayError> {
    let mut replay = Replay::new(recording)?;
    let mut outcome = Outcome {
        inputs: 0,
        sent: 0,
        written: 0,
        events: 0,
        difference: None,
        ending: None,
    };
    while let Some(step) = replay.step()? {
        outcome.inputs = step.number;
        match step.played {
            masque_recording::Played::Transmit(transmit, _) => outcome.sent += transmit.size,
            masque_recording::Played::Frames(batch) => outcome.written += batch.frames.len(),
            masque_recording::Played::Event(_) => outcome.events += 1,
            masque_recording::Played::Nothing => {}
        }
        if let Some(difference) = step.difference {
            outcome.difference = Some((step.number, difference));
            break;
        }
    }
    outcome.ending = replay.ending();
    Ok(outcome)
}

/// Where each record begins, and the end.
fn boundaries(recording: &[u8]) -> Vec<usize> {
    let mut at = MAGIC.len();
    let mut all = vec![at];
    while let Some(length) = recording.get(at..at + 4) {
        at += 4 + u32::from_le_bytes(length.try_into().expect("four")) as usize;
        all.push(at);
    }
    assert_eq!(at, recording.len());
    all
}

/// The records with where they begin.
fn records(recording: &[u8]) -> impl Iterator<Item = (usize, Record<'_>)> {
    let all = boundaries(recording);
    let each = all.windows(2).map(|pair| (pair[0], pair[1]));
    let each: Vec<_> = each.collect();
    each.into_iter().map(|(from, to)| {
        let record = Record::parse(&recording[from + 4..to]).expect("whole");
        (from, record)
    })
}

fn both(recordings: &Recordings) -> [(&'static str, &[u8]); 2] {
    [
        ("client", &recordings.client),
        ("server", &recordings.server),
    ]
}

#[test]
fn sessions_with_real_tls_are_replayed_to_the_same_bytes() {
    // The second connection resumes the session of the first.
    let recordings = pair::record(&Plan {
        connections: 2,
        packets: 40,
        ..Plan::default()
    });
    assert_eq!(recordings.written, [80, 80], "of each end's device");
    for (name, recording) in both(&recordings) {
        let outcome = replayed(recording).expect(name);
        assert_eq!(outcome.difference, None, "{name}");
        assert_eq!(outcome.ending, Some(Ending::Over), "{name}");
        assert!(outcome.inputs > 300, "{name}: {}", outcome.inputs);
        assert!(outcome.sent > 40 * 1000, "{name}: {}", outcome.sent);
        assert!(outcome.written >= 1, "{name}");
        assert!(outcome.events >= 8, "{name}: {}", outcome.events);
    }
}

#[test]
fn no_private_key_is_in_a_recording() {
    let recordings = pair::record(&Plan::default());
    for (name, recording) in both(&recordings) {
        for key in &recordings.keys {
            // An octet string of 32 bytes in PKCS #8 (RFC 5915 §3); what follows is the public half.
            assert_eq!(key[34..36], [0x04, 0x20], "a key of P-256");
            for part in key[36..68].windows(16) {
                let found = recording.windows(16).any(|window| window == part);
                assert!(!found, "{name}");
            }
        }
    }
}

#[test]
fn a_changed_datagram_is_named() {
    let recordings = pair::record(&Plan::default());
    let folder = tempfile::tempdir().expect("a folder");
    for (name, recording) in both(&recordings) {
        // The last large one: a packet of the tunnel.
        let mut number = 0;
        let mut found = None;
        for (at, record) in records(recording) {
            if let Record::Input(_, input) = &record {
                number += 1;
                if matches!(input, Input::Udp { data, .. } if data.len() > 1000) {
                    found = Some((at, number));
                }
            }
        }
        let (at, number) = found.expect("there are large ones");
        let end = boundaries(recording)
            .into_iter()
            .find(|end| *end > at)
            .expect("an end");
        let mut edited = recording.to_vec();
        edited[end - 20] ^= 1;
        let outcome = replayed(&edited).expect(name);
        let (differs, difference) = outcome.difference.expect("it is not the same");
        assert!(
            differs > number && differs < number + 20,
            "{name}: {number} and {differs}"
        );
        assert!(
            matches!(difference, Difference::Output { .. }),
            "{name}: {difference}"
        );

        let path = folder.path().join(name);
        fs::write(&path, &edited).expect("written");
        let mut said = Vec::new();
        let result = lab::replay(&playing(&path), &mut said);
        assert!(matches!(result, Err(LabError::Diverged(at)) if at == differs));
        let said = String::from_utf8(said).expect("text");
        assert!(said.contains(&format!("#{differs} ")), "{said}");
        assert!(said.contains("! recorded "), "{said}");
    }
}

#[test]
fn a_changed_handshake_is_named_by_what_tls_draws_or_gives() {
    let recordings = pair::record(&Plan::default());
    for (name, recording) in both(&recordings) {
        let first = records(recording).find_map(|(at, record)| match record {
            Record::Input(_, Input::Udp { data, .. }) => Some((at, data.len())),
            _ => None,
        });
        let (at, length) = first.expect("there is one");
        let end = boundaries(recording).into_iter().find(|end| *end > at);
        let mut edited = recording.to_vec();
        edited[end.expect("an end") - length / 2] ^= 1;
        let outcome = replayed(&edited).expect(name);
        assert!(outcome.difference.is_some(), "{name}");
    }
}

#[test]
fn a_recording_cut_off_anywhere_is_replayed_up_to_there() {
    let recordings = pair::record(&Plan {
        packets: 2,
        ..Plan::default()
    });
    for (name, recording) in both(&recordings) {
        let inputs: Vec<usize> = records(recording)
            .filter(|(_, record)| matches!(record, Record::Input(..)))
            .map(|(at, _)| at)
            .collect();
        let ends = boundaries(recording);
        let (begin, end) = (ends[1], recording.len());
        // A few inside of each record, and each boundary; sparsely, where nothing is drawn any more.
        for (index, pair) in ends.windows(2).enumerate() {
            let sparse = index > 60 && index % 16 != 0;
            for cut in [pair[0], pair[0] + 2, (pair[0] + pair[1]) / 2, pair[1] - 1] {
                if sparse && (cut != pair[0] || index % 4 != 0) {
                    continue;
                }
                let result = replayed(&recording[..cut]);
                if cut < begin {
                    assert!(
                        matches!(result, Err(ReplayError::Read(ReadError::Empty))),
                        "{cut}"
                    );
                    continue;
                }
                let outcome = result.expect(name);
                assert_eq!(outcome.difference, None, "{name} cut at {cut}");
                assert_eq!(outcome.ending, Some(Ending::Cut), "{name} cut at {cut}");
                let whole = ends.iter().rposition(|end| *end <= cut);
                let whole = ends[whole.expect("the first is")];
                let expected = inputs.iter().filter(|at| **at < whole).count();
                assert_eq!(
                    outcome.inputs, expected as u64,
                    "{name} cut at {cut} of {end}"
                );
            }
        }
        for cut in [0, 1, MAGIC.len() - 1] {
            let result = replayed(&recording[..cut]);
            assert!(matches!(result, Err(ReplayError::Read(ReadError::Magic))));
        }
    }
}

#[test]
fn a_recording_stops_at_its_limit_and_the_session_goes_on() {
    const LIMIT: u64 = 60_000;
    let recordings = pair::record(&Plan {
        packets: 200,
        limit: LIMIT,
        ..Plan::default()
    });
    assert_eq!(recordings.written, [200, 200], "of each end's device");
    for (name, recording) in both(&recordings) {
        let size = recording.len() as u64;
        assert!(size > LIMIT / 3 && size < LIMIT + 100, "{name}: {size}");
        let outcome = replayed(recording).expect(name);
        assert_eq!(outcome.difference, None, "{name}");
        assert_eq!(outcome.ending, Some(Ending::Limit), "{name}");
    }
}

#[test]
fn the_lab_replays_twice_to_one_trace_with_qlog_and_pcap() {
    let recordings = pair::record(&Plan::default());
    let folder = tempfile::tempdir().expect("a folder");
    for (name, recording) in both(&recordings) {
        let file = folder.path().join(name);
        fs::write(&file, recording).expect("written");
        let at = |what: &str| folder.path().join(format!("{name}.{what}"));
        let mut traces = Vec::new();
        let mut summaries = Vec::new();
        for _ in 0..2 {
            let what = Replaying {
                trace: Some(Some(at("trace"))),
                qlog: Some(at("qlog")),
                pcap: Some(at("pcap")),
                ..playing(&file)
            };
            let mut said = Vec::new();
            lab::replay(&what, &mut said).expect(name);
            traces.push(fs::read_to_string(at("trace")).expect("a trace"));
            summaries.push(String::from_utf8(said).expect("text"));
        }
        assert_eq!(traces[0], traces[1], "{name}");
        assert_eq!(summaries[0], summaries[1], "{name}");
        assert!(summaries[0].ends_with("# identical\n"), "{}", summaries[0]);
        for words in [
            " tunnel ",
            " http3 ",
            "-> udp",
            "<- udp",
            "capsule ADDRESS_ASSIGN",
        ] {
            assert!(traces[0].contains(words), "{name}: {words}");
        }
        let qlog = fs::read_to_string(at("qlog")).expect("a qlog");
        assert!(qlog.contains("http3:frame_parsed"), "{name}");
        let pcap = fs::read(at("pcap")).expect("a pcapng");
        let secret = b"CLIENT_TRAFFIC_SECRET_0";
        assert!(
            pcap.windows(secret.len()).any(|part| part == secret),
            "{name}"
        );

        let what = Replaying {
            until: Some(1),
            ..playing(&file)
        };
        let mut said = Vec::new();
        lab::replay(&what, &mut said).expect(name);
        let said = String::from_utf8(said).expect("text");
        assert!(said.contains("more follows"), "{said}");
    }
}

#[test]
fn a_recording_is_stepped_through_forward_and_back() {
    let recordings = pair::record(&Plan::default());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("client.rec");
    fs::write(&file, &recordings.client).expect("written");
    let said = |script: &str| {
        let mut out = Vec::new();
        lab::step_recording(&file, script.as_bytes(), &mut out).expect("it can be stepped");
        String::from_utf8(out).expect("text")
    };
    let forward = said("n 12\np\n");
    let back = said("n 20\nb 8\np\n");
    let state = |text: &str| text[text.rfind("#12 ").expect("it is there")..].to_owned();
    assert!(
        forward.contains("#1\n") && forward.contains("<- connect"),
        "{forward}"
    );
    assert!(state(&forward).contains("connection c"), "{forward}");
    let shown = back.rfind("#12 back").expect("it went back");
    assert_eq!(state(&back[shown + 4..]), state(&forward), "{back}");
    let run = said("break capsule ADDRESS_ASSIGN\nr\nclear\nr\n");
    assert!(run.contains("stopped at: capsule ADDRESS_ASSIGN"), "{run}");
    assert!(run.ends_with("the recording ends\n"), "{run}");
    assert!(!run.contains("\n! "), "{run}");
}

#[test]
fn times_in_a_recording_do_not_go_back() {
    let recordings = pair::record(&Plan::default());
    let mut last = Duration::ZERO;
    for (_, record) in records(&recordings.client) {
        if let Record::Input(at, _) = record {
            assert!(at >= last);
            last = at;
        }
    }
    assert!(last > Duration::ZERO);
}

fn playing(file: &Path) -> Replaying {
    Replaying {
        file: PathBuf::from(file),
        trace: None,
        qlog: None,
        pcap: None,
        until: None,
    }
}
