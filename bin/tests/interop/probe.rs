//! What `masque-lab probe` finds with our own servers and clients: nothing.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;

use masque_core::session::SessionConfig;
use masque_testkit::hostile::probe::{Probe, Tally, probe};
use serde_json::Value;

use crate::binaries::{Program, alone_with_every_binary};
use crate::ours::{ANY_RUNTIME, Ours, RUNTIMES, Setup};
use crate::peer::{default_url, unused_address};
use crate::pki::Pki;

/// A busy machine is slow.
const PATIENCE: u64 = 20_000;

fn against(address: SocketAddr, pki: &Pki) -> Probe {
    Probe {
        url: Some(default_url(address.port())),
        connect: Some(address),
        ca: Some(pki.ca_file()),
        ours: true,
        patience: PATIENCE,
        ..Probe::default()
    }
}

/// Every script passes; those that take minutes are skipped, and nothing else.
#[track_caller]
fn is_flawless(tally: Tally, out: &[u8]) {
    let text = String::from_utf8_lossy(out);
    let wrong: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with("pass"))
        .collect();
    let wrong = wrong.join("\n");
    assert_eq!((tally.differs, tally.violations), (0, 0), "{wrong}");
    assert!(tally.pass > 100 && tally.skipped <= 6, "{wrong}");
}

#[test]
fn our_server_passes_every_script_on_every_runtime() {
    let probes: Vec<_> = RUNTIMES
        .iter()
        .map(|runtime| {
            let runtime = *runtime;
            thread::spawn(move || {
                let pki = Pki::new();
                let server = Ours::server(
                    &pki,
                    Setup {
                        runtime,
                        ..Setup::default()
                    },
                );
                let mut out = Vec::new();
                let tally = probe(&against(server.address, &pki), &mut out).expect("loopback");
                is_flawless(tally, &out);
                server.stop();
            })
        })
        .collect();
    for probe in probes {
        probe.join().expect("a flawless server");
    }
}

#[test]
fn our_programs_pass_every_script_as_servers() {
    alone_with_every_binary(|binary| {
        let pki = Pki::new();
        let address = unused_address();
        let server = Program::server(binary, &pki, address);
        let options = Probe {
            cert: Some(pki.client_cert_file()),
            key: Some(pki.client_key_file()),
            ..against(address, &pki)
        };
        let mut out = Vec::new();
        let tally = probe(&options, &mut out).expect("loopback");
        is_flawless(tally, &out);
        server.stop();
    });
}

/// Tells of each line as it is written.
struct Lines(mpsc::Sender<String>, Vec<u8>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend_from_slice(bytes);
        while let Some(end) = self.1.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.1.drain(..=end).collect();
            // Whoever listened has seen enough.
            let _ = self.0.send(String::from_utf8_lossy(&line).into_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn our_client_passes_every_script() {
    let pki = Pki::new();
    let address = unused_address();
    let options = Probe {
        listen: Some(address),
        cert: Some(pki.server_cert_file()),
        key: Some(pki.server_key_file()),
        ours: true,
        patience: PATIENCE,
        wait: 60,
        json: true,
        ..Probe::default()
    };
    let (sender, lines) = mpsc::channel();
    let judge = thread::spawn(move || probe(&options, &mut Lines(sender, Vec::new())));
    let client = || {
        let setup = Setup {
            runtime: ANY_RUNTIME,
            session: SessionConfig::default(),
            ..Setup::default()
        };
        Ours::client(&pki, setup, address)
    };
    let mut wrong = Vec::new();
    let mut now = client();
    while let Ok(line) = lines.recv() {
        let report: Value = serde_json::from_str(&line).expect("JSON");
        if report["verdict"] == "skipped" || !report["verdict"].is_string() {
            continue;
        }
        if report["verdict"] != "pass" {
            wrong.push(line);
        }
        // A fresh client for the next script.
        now.stop();
        now = client();
    }
    let tally = judge.join().expect("no panic").expect("loopback");
    assert!(wrong.is_empty(), "{}", wrong.join(""));
    assert!(tally.pass > 100 && tally.skipped <= 6, "{tally:?}");
    now.stop();
}
