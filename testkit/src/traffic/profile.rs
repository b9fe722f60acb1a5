//! Named paths.

use std::time::Duration;

use crate::world::{Bursts, CoDel, LinkConfig};

/// A path, the same both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Each direction.
    pub link: LinkConfig,
}

/// A profile in the units people think in: one-way delay, jitter either side of it, and its rhythm in
/// milliseconds; loss per million; megabits per second; the queue in milliseconds.
const fn profile(
    name: &'static str,
    [delay, jitter]: [f64; 2],
    every: u64,
    reorder: bool,
    loss: u32,
    rate: u64,
    queue: u64,
) -> Profile {
    const fn millis(value: f64) -> Duration {
        Duration::from_micros((value * 1000.0) as u64)
    }
    Profile {
        name,
        link: LinkConfig {
            delay: millis(delay - jitter),
            jitter: millis(2.0 * jitter),
            jitter_every: Duration::from_millis(every),
            reorder,
            loss,
            bursts: None,
            duplicate: 0,
            corrupt: 0,
            rate: Some(rate * 1_000_000),
            queue: (rate * 1_000_000 / 8 * queue / 1000) as usize,
            codel: None,
            mark: None,
            bleach: false,
            mtu: 1500,
            icmp: true,
            up: true,
        },
    }
}

/// The profiles of `masque-bench --profiles` and of the network-namespace rig, number for number.
pub const PROFILES: [Profile; 8] = [
    profile("wifi", [2.5, 1.0], 5, false, 1_000, 50, 100),
    profile("lte", [25.0, 5.0], 20, false, 2_000, 20, 100),
    profile("mobile-bad", [50.0, 25.0], 0, true, 20_000, 20, 200),
    profile(
        "mobile-bad-inorder",
        [50.0, 25.0],
        40,
        false,
        20_000,
        20,
        200,
    ),
    profile("satellite", [300.0, 0.0], 0, false, 5_000, 50, 200),
    profile("bottleneck-5", [10.0, 0.0], 0, false, 0, 5, 200),
    profile("bottleneck-20", [10.0, 0.0], 0, false, 0, 20, 200),
    profile("bottleneck-100", [10.0, 0.0], 0, false, 0, 100, 200),
];

/// The profile of that name.
#[must_use]
pub fn named(name: &str) -> Option<Profile> {
    PROFILES.into_iter().find(|profile| profile.name == name)
}

/// A path with a life of its own: links up and down, and perhaps a move to another network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// Its name.
    pub name: &'static str,
    /// From the client.
    pub up: LinkConfig,
    /// To the client.
    pub down: LinkConfig,
    /// The client moves to another network.
    pub handover: Option<Handover>,
    /// Nothing passes now and then.
    pub outages: Option<Outages>,
}

/// Times when nothing passes: the last `length` of every `every`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outages {
    /// From one end of an outage to the next.
    pub every: Duration,
    /// How long each lasts.
    pub length: Duration,
}

/// A move to another network, with another address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handover {
    /// When.
    pub at: Duration,
    /// How long neither network carries anything.
    pub gap: Duration,
    /// The link there, both ways.
    pub link: LinkConfig,
}

const LAN: Profile = profile("lan", [0.1, 0.0], 0, false, 0, 1000, 20);

/// The names of every [`path`].
pub const PATHS: [&str; 13] = [
    "lan",
    "metro",
    "wifi",
    "lte",
    "mobile-bad",
    "mobile-bad-inorder",
    "satellite",
    "bottleneck-5",
    "bottleneck-20",
    "bottleneck-100",
    "wifi-bursts",
    "adsl",
    "handover-wifi-lte",
];

/// The path of that name: a profile, or one of those that only simulated worlds have.
#[must_use]
pub fn path(name: &str) -> Option<Path> {
    let plain = |profile: Profile| Path {
        name: profile.name,
        up: profile.link,
        down: profile.link,
        handover: None,
        outages: None,
    };
    let all = PROFILES.into_iter().chain([LAN]);
    if let Some(profile) = all.into_iter().find(|profile| profile.name == name) {
        return Some(plain(profile));
    }
    let wifi = named("wifi")?.link;
    Some(match name {
        // A microwave oven beside it: nothing, then many at once.
        "wifi-bursts" => {
            let link = LinkConfig {
                bursts: Some(Bursts {
                    begin: 2_000,
                    end: 100_000,
                    loss: 600_000,
                }),
                ..wifi
            };
            Path {
                name: "wifi-bursts",
                up: link,
                down: link,
                handover: None,
                outages: None,
            }
        }
        // PPPoE: 1,492 bytes and a black hole beyond, slow upwards, with a queue that is managed.
        "adsl" => {
            let down = LinkConfig {
                mtu: 1492,
                icmp: false,
                ..profile("adsl", [12.0, 1.0], 10, false, 100, 16, 100).link
            };
            let up = LinkConfig {
                rate: Some(1_000_000),
                queue: 32 << 10,
                codel: Some(CoDel::default()),
                mark: Some(Duration::from_millis(20)),
                ..down
            };
            Path {
                name: "adsl",
                up,
                down,
                handover: None,
                outages: None,
            }
        }
        // The underground: LTE, and nothing between two stations.
        "metro" => Path {
            name: "metro",
            outages: Some(Outages {
                every: Duration::from_secs(12),
                length: Duration::from_secs(3),
            }),
            ..path("lte")?
        },
        "handover-wifi-lte" => Path {
            name: "handover-wifi-lte",
            up: wifi,
            down: wifi,
            handover: Some(Handover {
                at: Duration::from_secs(8),
                gap: Duration::from_millis(200),
                link: named("lte")?.link,
            }),
            outages: None,
        },
        _ => return None,
    })
}
