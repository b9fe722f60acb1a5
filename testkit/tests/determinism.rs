//! The same seed gives the same bytes: twice in one process, in another process, with and without TLS.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use masque_testkit::scenario::{Crypto, Options, star};

const LIMIT: Duration = Duration::from_secs(60);

fn difficult(seed: u64, crypto: Crypto) -> Options {
    let mut options = Options {
        seed,
        crypto,
        clients: 2,
        trace: true,
        ..Options::default()
    };
    options.link.loss = 30_000;
    options.link.jitter = Duration::from_millis(8);
    options.link.reorder = true;
    options
}

fn run(options: &Options) -> (String, u64) {
    let mut star = star(options).expect("valid");
    star.world.run_until(LIMIT);
    let trace = star.world.trace();
    (trace.text(), trace.fingerprint())
}

/// The first line in which two traces differ: whole traces would fill the screen.
fn difference<'a>(one: &'a str, other: &'a str) -> Option<(Option<&'a str>, Option<&'a str>)> {
    let (mut one, mut other) = (one.lines(), other.lines());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            differing => return Some(differing),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_bytes() {
    for crypto in [Crypto::Null, Crypto::Seeded] {
        let (one, other) = (run(&difficult(7, crypto)), run(&difficult(7, crypto)));
        assert_eq!(difference(&one.0, &other.0), None, "{crypto:?}");
        assert_eq!(one.1, other.1, "{crypto:?}");
    }
}

#[test]
fn another_seed_gives_other_bytes() {
    for crypto in [Crypto::Null, Crypto::Seeded] {
        let (one, other) = (run(&difficult(7, crypto)), run(&difficult(8, crypto)));
        assert!(difference(&one.0, &other.0).is_some(), "{crypto:?}");
        assert_ne!(one.1, other.1, "{crypto:?}");
    }
}

#[test]
fn tracing_changes_nothing() {
    let traced = run(&difficult(7, Crypto::Null));
    let silent = run(&Options {
        trace: false,
        ..difficult(7, Crypto::Null)
    });
    assert_eq!(traced.1, silent.1);
}

fn lab(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_masque-lab"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo built it");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("it reads all");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{:?}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn another_process_gives_the_same_trace_and_bytes() {
    for crypto in ["null", "seeded"] {
        let arguments = [
            "run", "--trace", "--seed", "3", "--loss", "2", "--crypto", crypto,
        ];
        let (one, other) = (lab(&arguments, ""), lab(&arguments, ""));
        assert_eq!(difference(&one, &other), None, "{crypto}");
        assert!(one.contains("# fingerprint "));
    }
    let mut options = Options {
        seed: 3,
        trace: true,
        ..Options::default()
    };
    options.link.loss = 20_000;
    let (trace, fingerprint) = run(&options);
    let theirs = lab(&["run", "--trace", "--seed", "3", "--loss", "2"], "");
    assert!(theirs.starts_with(&trace));
    assert!(theirs.contains(&format!("# fingerprint {fingerprint:016x}")));
}

#[test]
fn the_stepper_shows_the_same_step_again_after_going_back() {
    let shown = lab(&["step", "--seed", "5"], "c 40\nn\nb\nn\np\nq\n");
    let begins: Vec<_> = shown.match_indices("\n#41 ").map(|(at, _)| at).collect();
    let [first, again, printed] = begins[..] else {
        panic!("step 41 appears {} times", begins.len());
    };
    let until = |begin: usize| {
        let rest = &shown[begin + 1..];
        rest.find("\n#").map_or(rest, |end| &rest[..end])
    };
    assert_eq!(until(first), until(again));
    assert!(until(first).contains("before:") && until(first).contains("after:"));
    assert!(until(printed).contains("connection c0"));
}

#[test]
fn the_stepper_survives_nonsense_and_the_end() {
    let shown = lab(&["step"], "n x\nfoo\nb 99999\nc 100000\nn\n");
    assert!(shown.contains("not a number: n x"));
    assert!(shown.contains("nothing is left to happen"));
}
