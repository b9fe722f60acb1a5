use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::endpoint::types::ConnId;
use crate::session::TunnelId;

fn tunnel(number: u64) -> TunnelHandle {
    TunnelHandle {
        conn: ConnId(number / 2),
        tunnel: TunnelId(u32::try_from(number % 2).expect("0 or 1")),
    }
}

fn prefixes() -> Vec<IpPrefix> {
    let texts = ["10.0.0.0/8", "10.7.0.5/32", "fd00::/16", "fd00::5/128"];
    let parsed = texts.iter().map(|text| text.parse());
    parsed.collect::<Result<_, _>>().expect("constants")
}

proptest! {
    /// Whoever comes and goes in whatever order: an address is the newest tunnel's of those that have
    /// its longest prefix.
    #[test]
    fn the_newest_tunnel_has_an_address(
        changes in prop::collection::vec((any::<bool>(), 0..4_usize, 0..6_u64), 0..60),
    ) {
        let prefixes = prefixes();
        let mut owners = Owners::default();
        let mut model = vec![BTreeSet::new(); prefixes.len()];
        for (claim, prefix, number) in changes {
            let tunnel = tunnel(number);
            if claim {
                owners.apply(Change::Claim(prefixes[prefix], tunnel));
                model[prefix].insert(tunnel);
            } else {
                owners.apply(Change::Release(prefixes[prefix], tunnel));
                model[prefix].remove(&tunnel);
            }
            for [wide, narrow] in [[0, 1], [2, 3]] {
                let expected = model[narrow].last().or(model[wide].last());
                let found = owners.of(prefixes[narrow].address());
                prop_assert_eq!(found, expected.copied());
            }
            let held = model.iter().filter(|all| !all.is_empty()).count();
            prop_assert_eq!(owners.len(), held);
        }
        for (prefix, all) in prefixes.iter().zip(&model) {
            for tunnel in all {
                owners.apply(Change::Release(*prefix, *tunnel));
            }
        }
        prop_assert_eq!(owners.len(), 0);
        prop_assert!(owners.older.is_empty());
    }
}
