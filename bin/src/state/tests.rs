use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn lease(identity: &str, address: &str, used: u64) -> Lease {
    Lease {
        identity: Identity(identity.to_owned()),
        addresses: vec![address.parse().unwrap()],
        last_used: SystemTime::UNIX_EPOCH + Duration::from_secs(used),
    }
}

proptest! {
    #[test]
    fn what_was_saved_is_read_back(
        entries in prop::collection::btree_map("[ -~]{1,20}", (any::<u32>(), any::<u128>(), 0..1u64 << 40), 0..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (mut state, _) = State::open(folder.path()).unwrap();
        for (identity, (v4, v6, used)) in &entries {
            state.set(Lease {
                addresses: vec![IpAddr::V4((*v4).into()), IpAddr::V6((*v6).into())],
                ..lease(identity, "10.0.0.2", *used)
            });
        }
        state.save().unwrap();
        let (again, warning) = State::open(folder.path()).unwrap();
        prop_assert_eq!(warning, None);
        prop_assert_eq!(again.leases(), state.leases());
        prop_assert_eq!(again.secret(), state.secret());
    }

    #[test]
    fn a_broken_lease_file_is_put_aside_and_never_lost(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.json");
        fs::write(&path, &bytes).unwrap();
        let (state, warning) = State::open(folder.path()).unwrap();
        prop_assert_eq!(state.leases(), []);
        prop_assert!(warning.unwrap().contains("corrupt-0"));
        prop_assert_eq!(fs::read(folder.path().join("leases.json.corrupt-0")).unwrap(), bytes);
    }
}

#[test]
fn the_files_are_for_their_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("state");
    let (mut state, _) = State::open(&inner).unwrap();
    state.set(lease("a", "10.0.0.2", 1));
    state.save().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join("secret")), 0o600);
    assert_eq!(mode(&inner.join("leases.json")), 0o600);
}

#[test]
fn a_newer_lease_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.json");
    fs::write(&path, r#"{"version":2,"leases":[],"more":1}"#).unwrap();
    let failure = State::open(folder.path()).unwrap_err();
    assert_eq!(failure.code, Exit::Config);
    assert!(path.exists());
}

#[test]
fn two_broken_files_are_both_kept() {
    let folder = tempfile::tempdir().unwrap();
    for bytes in ["one", "two"] {
        fs::write(folder.path().join("leases.json"), bytes).unwrap();
        State::open(folder.path()).unwrap();
    }
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("leases.json.corrupt-0"), "one");
    assert_eq!(read("leases.json.corrupt-1"), "two");
}

#[test]
fn a_removed_lease_is_gone_after_saving() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, _) = State::open(folder.path()).unwrap();
    state.set(lease("a", "10.0.0.2", 1));
    state.set(lease("b", "10.0.0.3", 2));
    state.remove(&Identity("a".to_owned()));
    state.save().unwrap();
    assert!(!state.is_dirty());
    let (again, _) = State::open(folder.path()).unwrap();
    assert_eq!(again.leases(), [lease("b", "10.0.0.3", 2)]);
}

#[test]
fn what_a_crash_left_half_written_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    State::open(folder.path()).unwrap();
    fs::write(folder.path().join(".masque-x7Yz2"), "half").unwrap();
    State::open(folder.path()).unwrap();
    let left = fs::read_dir(folder.path()).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
}
