//! `masque-lab step`: what it changes, and what comes of it.

use std::fs::{self, File};
use std::process::Command;

/// What the stepper says to a script.
fn stepped(script: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("script");
    fs::write(&path, script).expect("it can be written");
    let output = Command::new(env!("CARGO_BIN_EXE_masque-lab"))
        .args(["step", "--rounds", "2"])
        .stdin(File::open(&path).expect("it is there"))
        .output()
        .expect("cargo built it");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The trace lines among what it says, the input of each step before its own.
fn lines(said: &str) -> Vec<&str> {
    let trace = said
        .lines()
        .filter(|line| line.starts_with("  ") || line.starts_with('#'));
    trace.collect()
}

fn position(said: &str, words: &[&str]) -> usize {
    let has = |line: &&str| words.iter().all(|word| line.contains(word));
    let found = said.lines().position(|line| has(&line));
    found.unwrap_or_else(|| panic!("no line has {words:?} in\n{said}"))
}

// 9484-4.7.3-08
/// What no session of ours sends, and what becomes of the tunnel it comes by.
#[test]
fn an_injected_capsule_ends_the_tunnel_with_the_code_for_it() {
    let message = "H3_MESSAGE_ERROR";
    for (to, node, capsule, code, why) in [
        (
            "client-0",
            "server",
            "routes-order",
            message,
            "address ranges overlapping or out of order",
        ),
        (
            "client-0",
            "server",
            "routes-overlap",
            message,
            "address ranges overlapping or out of order",
        ),
        (
            "client-0",
            "server",
            "routes-reversed",
            message,
            "address range that starts after its end",
        ),
        (
            "client-0",
            "server",
            "host-bits",
            message,
            "bits set below the prefix",
        ),
        (
            "client-0",
            "server",
            "01070005c000020120",
            message,
            "IP version neither 4 nor 6",
        ),
        (
            "client-0",
            "server",
            "truncated",
            message,
            "stream ended inside a capsule",
        ),
        (
            "client-0",
            "server",
            "oversized",
            "H3_EXCESSIVE_LOAD",
            "capsule larger than the limit",
        ),
        (
            "server",
            "client-0",
            "request-zero",
            message,
            "Request ID 0 in ADDRESS_REQUEST",
        ),
    ] {
        let script = format!(
            "break {to} world event Addresses\nr\nclear\ninject {node} {capsule}\nc 30\np\n"
        );
        // A server says nothing of addresses that it gave; its tunnel is up when its client has them.
        let script = script.replace("break server world", "break client-0 world");
        let said = stepped(&script);
        position(&said, &[node, "<- raw", "bytes"]);
        let error = position(&said, &[to, " tunnel ", "error", code, why]);
        let down = position(&said, &[to, "event TunnelDown", "Violation"]);
        let reset = position(&said, &[to, "-> reset", code]);
        assert!(error < down && error < reset, "{capsule}\n{said}");
        // The other end hears of it.
        position(&said, &[node, "event TunnelDown"]);
        assert!(
            !said.contains("ConnectionClosed"),
            "{capsule}: the connection lives on\n{said}"
        );
    }
}

#[test]
fn an_unknown_capsule_is_passed_over() {
    let said = stepped("break client-0 world event Addresses\nr\ninject server unknown\nc 30\n");
    position(&said, &["client-0", "dropped", "unknown capsule"]);
    assert!(!said.contains("TunnelDown"), "{said}");
}

/// A frame that may not stand there is a connection error (RFC 9114 §7.2.4).
#[test]
fn raw_bytes_go_without_a_frame_around_them() {
    let said = stepped("break client-0 world event Addresses\nr\nraw server 0400\nc 30\n");
    position(&said, &["client-0", "error H3_FRAME_UNEXPECTED"]);
    position(&said, &["client-0", "event ConnectionClosed"]);
}

#[test]
fn a_capsule_is_dropped_before_it_is_sent() {
    let said = stepped("capsule server drop\np\nt 700\n");
    position(&said, &["its next capsule: dropped"]);
    position(&said, &["server world capsule of", "bytes: dropped"]);
    position(
        &said,
        &["client-0 tunnel", "<- capsule ROUTE_ADVERTISEMENT"],
    );
    assert!(!said.contains("<- capsule ADDRESS_ASSIGN"), "{said}");
}

#[test]
fn a_capsule_is_edited_or_replaced() {
    for (how, why) in [
        ("edit 8 18", "bits set below the prefix"),
        (
            "replace routes-overlap",
            "address ranges overlapping or out of order",
        ),
    ] {
        let said = stepped(&format!("capsule server {how}\nbreak TunnelDown\nr\n"));
        position(&said, &["client-0 tunnel", "error H3_MESSAGE_ERROR", why]);
    }
    let said = stepped("capsule server edit 999 18\nbreak client-0 world event Addresses\nr\n");
    position(&said, &["server world capsule of", "left as it is"]);
}

#[test]
fn a_delayed_capsule_comes_behind_those_sent_meanwhile() {
    let script = "capsule server delay 100\nbreak client-0 world event Addresses\nr\n";
    let said = stepped(script);
    position(&said, &["server world capsule of", "delayed by 100000 us"]);
    let routes = position(
        &said,
        &["client-0 tunnel", "<- capsule ROUTE_ADVERTISEMENT"],
    );
    let sent = position(&said, &["server world <- raw"]);
    let assigned = position(&said, &["client-0 tunnel", "<- capsule ADDRESS_ASSIGN"]);
    assert!(routes < sent && sent < assigned, "{said}");
}

#[test]
fn back_and_forward_again_shows_the_same() {
    let script = "capsule server delay 100\nbreak client-0 world event Addresses\nr\n\
                  inject server routes-order\nc 30\nb 25\nc 25\n";
    let said = stepped(script);
    let (before, after) = said.split_once(" back at ").expect("it went back");
    let (before, after) = (lines(before), lines(after));
    // Of the way back the headline is left.
    let before = &before[..before.len() - 1];
    let first = after.first().expect("steps");
    let from = before
        .iter()
        .position(|line| line == first)
        .expect("it was there before");
    assert_eq!(&before[from..], after, "{said}");
    assert!(after.len() > 50, "{said}");

    // And from the very beginning.
    let whole = stepped("capsule server delay 100\nc 60\nb 60\nc 60\n");
    let (before, after) = whole.split_once(" back at ").expect("it went back");
    let (before, after) = (lines(before), lines(after));
    assert_eq!(
        before[..before.len() - 1],
        after,
        "what was decided before step 1 stays"
    );
}

#[test]
fn what_makes_no_sense_is_said_and_changes_nothing() {
    let said = stepped(
        "inject nobody routes-order\ninject server\ninject server no-such-name\ninject server 0200\n\
         capsule server edit x 00\ncapsule server fly\nillegal\nc 1\n",
    );
    for words in [
        "no node is called nobody",
        "no hexadecimal digits",
        "the node has no tunnel",
        "not a number: x",
        "routes-overlap   routes that overlap",
    ] {
        position(&said, &[words]);
    }
    assert!(said.contains("\n#1 "), "{said}");
}
