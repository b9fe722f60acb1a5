use super::*;
use crate::seed::Seed;
use proptest::prelude::*;

fn link(config: LinkConfig) -> Link {
    Link::new(config, Seed::new(1).rng("link"))
}

#[test]
fn a_rate_spreads_packets_and_a_full_queue_drops_the_last() {
    let mut link = link(LinkConfig {
        delay: Duration::ZERO,
        rate: Some(8_000_000),
        queue: 2500,
        ..LinkConfig::default()
    });
    let mut send = || {
        link.send(Duration::ZERO, 1000, None)
            .map(|passage| passage.at)
    };
    assert_eq!(send(), Ok(Duration::from_millis(1)));
    assert_eq!(send(), Ok(Duration::from_millis(2)));
    assert_eq!(send(), Err(Loss::QueueFull));
    assert_eq!(link.stats.queue_full, 1);
}

#[test]
fn loss_takes_its_share() {
    let mut link = link(LinkConfig {
        loss: 100_000,
        ..LinkConfig::default()
    });
    for _ in 0..10_000 {
        let _ = link.send(Duration::ZERO, 100, None);
    }
    assert!((800..1200).contains(&link.stats.lost), "{:?}", link.stats);
}

#[test]
fn larger_than_the_mtu_never_passes() {
    let mut link = link(LinkConfig {
        mtu: 1280,
        ..LinkConfig::default()
    });
    assert!(link.send(Duration::ZERO, 1280, None).is_ok());
    assert_eq!(link.send(Duration::ZERO, 1281, None), Err(Loss::TooBig));
}

proptest! {
    #[test]
    fn jitter_keeps_the_order_unless_it_may_not(gaps in proptest::collection::vec(0..5000u64, 2..200)) {
        let config = LinkConfig { jitter: Duration::from_millis(30), ..LinkConfig::default() };
        let mut ordered = link(config);
        let mut loose = link(LinkConfig { reorder: true, ..config });
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        for gap in gaps {
            now += Duration::from_micros(gap);
            let at = ordered.send(now, 100, None).map_or(last, |passage| passage.at);
            prop_assert!(at >= last);
            last = at;
            if let Ok(passage) = loose.send(now, 100, None) {
                prop_assert!(passage.at >= now + config.delay);
                prop_assert!(passage.at <= now + config.delay + config.jitter);
            }
        }
    }
}

#[test]
fn codel_drops_from_a_standing_queue_and_leaves_a_burst_alone() {
    let config = LinkConfig {
        delay: Duration::ZERO,
        rate: Some(8_000_000),
        queue: 1 << 20,
        codel: Some(CoDel::default()),
        ..LinkConfig::default()
    };
    // One millisecond each: forty at once are gone before the interval is over.
    let mut burst = link(config);
    for _ in 0..40 {
        assert!(burst.send(Duration::ZERO, 1000, None).is_ok());
    }
    // A tenth more than leaves, for two seconds.
    let mut standing = link(config);
    for nth in 0..2200 {
        let _ = standing.send(Duration::from_micros(909) * nth, 1000, None);
    }
    assert!(standing.stats.codel > 10, "{:?}", standing.stats);
    let waits = standing.backlog(Duration::from_secs(2));
    assert!(waits < Duration::from_millis(150), "{waits:?}");
}

#[test]
fn marks_take_the_place_of_drops_where_a_packet_can_be_marked_and_bleaching_erases_them() {
    let config = LinkConfig {
        delay: Duration::ZERO,
        rate: Some(8_000_000),
        mark: Some(Duration::from_millis(2)),
        ..LinkConfig::default()
    };
    let mut marking = link(config);
    let mut send = |ecn| marking.send(Duration::ZERO, 1000, ecn).map(|it| it.ecn);
    for expected in [Ecn::Ect0, Ecn::Ect0, Ecn::Ect0, Ecn::Ce] {
        assert_eq!(send(Some(Ecn::Ect0)), Ok(Some(expected)));
    }
    assert_eq!(send(None), Ok(None));
    assert_eq!(marking.stats.marked, 1);
    let mut bleaching = link(LinkConfig {
        bleach: true,
        ..config
    });
    for _ in 0..5 {
        let passage = bleaching.send(Duration::ZERO, 1000, Some(Ecn::Ect1));
        assert_eq!(passage.map(|it| it.ecn), Ok(None));
    }
}

#[test]
fn listed_packets_are_lost_and_no_others() {
    let mut link = link(LinkConfig::default());
    link.listed = [2, 4].into();
    let passed: Vec<_> = (1..=5)
        .filter(|_| link.send(Duration::ZERO, 100, None).is_ok())
        .collect();
    assert_eq!(passed.len(), 3);
    assert_eq!(link.stats.listed, 2);
}
