//! The certificate authority on the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[expect(dead_code, reason = "shared with tests that use more of it")]
mod common;

use common::masque;

fn init(folder: &Path) -> String {
    let dir = folder.join("pki").to_str().unwrap().to_owned();
    masque(&["pki", "init", "--dir", &dir]).succeeds();
    dir
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_for_their_owner_only_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let dir = init(folder.path());
    masque(&["pki", "issue", "--dir", &dir, "--client", "alice"]).succeeds();
    let pki = Path::new(&dir);
    assert_eq!(mode(pki), 0o700);
    assert_eq!(mode(&pki.join("ca.key")), 0o600);
    assert_eq!(mode(&pki.join("alice.key")), 0o600);

    let before = fs::read(pki.join("ca.key")).unwrap();
    masque(&["pki", "init", "--dir", &dir]).fails(3, &["ca.pem exists", "--force"]);
    masque(&["pki", "issue", "--dir", &dir, "--client", "alice"]).fails(3, &["alice.pem exists"]);
    assert_eq!(fs::read(pki.join("ca.key")).unwrap(), before);

    masque(&["pki", "init", "--dir", &dir, "--force"]).succeeds();
    assert_ne!(fs::read(pki.join("ca.key")).unwrap(), before);
    assert_eq!(mode(&pki.join("ca.key")), 0o600);
}

#[test]
fn show_prints_names_identity_and_validity() {
    let folder = tempfile::tempdir().unwrap();
    let dir = init(folder.path());
    let issue = |args: &[&str]| {
        let mut all = vec!["pki", "issue", "--dir", &dir];
        all.extend(args);
        masque(&all)
    };
    issue(&["--server", "vpn.example.org", "2001:db8::1"]).succeeds();
    let issued = issue(&["--client", "alice smith@example", "--out", "alice"]);
    issued.succeeds();
    assert!(
        issued
            .stdout
            .contains("identity: masque:alice%20smith@example")
    );

    let show = |name: &str| {
        let outcome = masque(&["pki", "show", &format!("{dir}/{name}")]);
        outcome.succeeds();
        outcome.stdout
    };
    let server = show("vpn.example.org.pem");
    assert!(
        server.contains("DNS:vpn.example.org, IP:2001:db8::1"),
        "{server}"
    );
    assert!(server.contains("sha256"));
    let client = show("alice.pem");
    assert!(
        client.contains("identity     masque:alice%20smith@example"),
        "{client}"
    );
    assert!(show("ca.pem").contains("kind         CA"));
    masque(&["pki", "show", &format!("{dir}/ca.key")]).fails(3, &["no PEM certificate"]);
    masque(&["pki", "show", &format!("{dir}/none.pem")]).fails(3, &["No such file"]);
}

#[test]
fn a_bundle_is_a_whole_client_configuration_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let dir = init(folder.path());
    let bundle = folder.path().join("alice.toml");
    let bundle = bundle.to_str().unwrap();
    masque(&[
        "pki",
        "issue",
        "--dir",
        &dir,
        "--client",
        "alice",
        "--bundle",
        bundle,
        "--url",
        "https://127.0.0.1:4433",
    ])
    .succeeds();
    assert_eq!(mode(Path::new(bundle)), 0o600);
    let outcome = masque(&["check", "-c", bundle]);
    assert!(
        outcome.stdout.contains("a client of 127.0.0.1, port 4433"),
        "{}",
        outcome.stderr
    );
    assert!(
        outcome
            .stdout
            .contains("the certificate of alice is valid until")
    );
}

#[test]
fn what_cannot_be_issued_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("none");
    masque(&[
        "pki",
        "issue",
        "--dir",
        nowhere.to_str().unwrap(),
        "--client",
        "a",
    ])
    .fails(3, &["there is no CA", "pki init"]);
    let dir = init(folder.path());
    masque(&["pki", "issue", "--dir", &dir]).fails(2, &["--server", "--client"]);
    masque(&["pki", "issue", "--dir", &dir, "--server", "not a name"])
        .fails(2, &["neither a DNS name nor an IP address"]);
    masque(&[
        "pki", "issue", "--dir", &dir, "--client", "a", "--bundle", "x",
    ])
    .fails(2, &["--url"]);
    masque(&[
        "pki", "issue", "--dir", &dir, "--client", "a", "--days", "0",
    ])
    .fails(2, &["--days"]);
}
