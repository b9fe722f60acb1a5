//! Named paths.

use std::time::Duration;

use crate::world::LinkConfig;

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
            mtu: 1500,
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
