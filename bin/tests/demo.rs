//! The demo, both ways.

use std::process::Command;

fn demo(binary: &str, args: &[&str]) {
    let output = Command::new(binary)
        .args(["demo", "--mib", "2", "--pings", "5"])
        .args(args)
        .env("MASQUE_LOG", "warn")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(text.matches("5 of 5 answered").count(), 2, "{text}");
    assert_eq!(text.matches("checksum right").count(), 4, "{text}");
    for line in ["addresses    10.89.0.2/32, fd89::2/128", "routes ", "MTU "] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn the_demo_moves_real_traffic_or_says_why_not() {
    #[cfg(feature = "tokio")]
    demo(env!("CARGO_BIN_EXE_masque-tokio"), &[]);
    #[cfg(feature = "smol")]
    demo(env!("CARGO_BIN_EXE_masque-smol"), &[]);
    #[cfg(feature = "mio")]
    demo(env!("CARGO_BIN_EXE_masque-mio"), &[]);
}

#[test]
fn the_demo_in_memory_needs_nothing() {
    #[cfg(feature = "tokio")]
    demo(env!("CARGO_BIN_EXE_masque-tokio"), &["--in-memory"]);
    #[cfg(feature = "smol")]
    demo(env!("CARGO_BIN_EXE_masque-smol"), &["--in-memory"]);
    #[cfg(feature = "mio")]
    demo(env!("CARGO_BIN_EXE_masque-mio"), &["--in-memory"]);
}
