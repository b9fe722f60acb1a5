//! Some worlds in which anything happens. `masque-lab seeds` runs as many as are wanted.

use masque_testkit::seeds::{self, Seeds};

#[test]
fn whatever_happens_every_invariant_holds() {
    let report = seeds::run(&Seeds {
        first: 0,
        count: 200,
        path: None,
        jobs: 2,
    });
    assert_eq!(report.failures, []);
    println!("{} worlds in {:?}", report.runs, report.took);
}

/// quinn-proto counts what is in flight anew on a new path, so that a probe timeout may find nothing; in
/// debug builds it asserted that this cannot be.
#[test]
fn a_probe_timeout_after_a_migration_finds_nothing_in_flight_and_does_no_harm() {
    seeds::run_one(2043, "wifi");
}
