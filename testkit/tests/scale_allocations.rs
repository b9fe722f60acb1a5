//! Where the server's memory comes from while packets pass. One test, because dhat is told of every
//! allocation of the process.

use masque_testkit::scale::sites::{self, Owner, Site};
use masque_testkit::scale::steady::{Warm, Way};
use masque_testkit::scale::{Gauges, Plan};
use masque_testkit::scenario::Crypto;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

fn sites_of(crypto: Crypto, way: Way, packets: u64) -> Vec<Site> {
    let file = tempfile::NamedTempFile::new().expect("a temporary directory");
    let plan = Plan {
        crypto,
        ..Plan::default()
    };
    let mut warm = Warm::new(plan, Gauges::default()).expect("it comes up");
    warm.run(way, 1, packets).expect("nothing is lost");
    let builder = dhat::Profiler::builder().file_name(file.path());
    let profiler = builder.trim_backtraces(None).build();
    warm.run(way, 1, packets).expect("nothing is lost");
    drop(profiler);
    sites::read(file.path()).expect("dhat's own format")
}

/// Packets from the device are cut out of arenas of 256 KiB, one allocation and one reference count
/// for about 200 of these packets; that is all there is.
#[test]
fn in_the_steady_state_a_packet_allocates_nothing_in_our_code() {
    let packets = 2_000;
    for way in [Way::Up, Way::Down] {
        let sites = sites_of(Crypto::Real, way, packets);
        let is_ours = |site: &&Site| matches!(site.owner, Owner::Core | Owner::Other);
        let ours: Vec<_> = sites.iter().filter(is_ours).collect();
        let blocks: u64 = ours.iter().map(|site| site.blocks).sum();
        let bound = match way {
            Way::Up => packets / 1_000,
            Way::Down => packets / 50,
        };
        assert!(
            blocks <= bound,
            "{way:?}: {blocks} for {packets} packets: {ours:#?}"
        );
        if way == Way::Down {
            let quic = sites.iter().any(|site| site.owner == Owner::Quic);
            assert!(quic, "what quinn-proto allocates is seen, so ours would be");
        }
    }
}
