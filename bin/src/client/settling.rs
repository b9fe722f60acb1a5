//! A verdict on the MTU that has to stand before the host follows it.
//!
//! A path can look narrower than it is for some round trips: many losses at once, or a processor that was late,
//! look like a black hole, which is put to the test and found to be none a moment later. Flows inside the tunnel
//! are told at once by the endpoint, with ICMP. The device is another matter: below 1,280 bytes the kernel takes IPv6
//! off it, which stops the thread that carries packets, and all of it has to be installed anew soon after.

use std::time::{Duration, Instant};

/// How long a smaller MTU must stand.
const STAND: Duration = Duration::from_secs(1);

/// The MTU of a device, and what it may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Settling {
    current: Option<u32>,
    smaller: Option<(u32, Instant)>,
}

impl Settling {
    /// The tunnel carries packets of this size from now on. Gives what the device takes at once: the first,
    /// and what is larger.
    pub(super) fn tell(&mut self, now: Instant, mtu: u32) -> Option<u32> {
        match self.current {
            Some(current) if mtu < current => {
                let stands = self.smaller.map_or(now + STAND, |(_, stands)| stands);
                self.smaller = Some((mtu, stands));
                None
            }
            Some(current) if mtu == current => {
                self.smaller = None;
                None
            }
            _ => self.take(mtu),
        }
    }

    /// Another tunnel is up, and with it its MTU: nothing was seen of it that could be a mistake.
    pub(super) fn begin(&mut self, mtu: u32) -> Option<u32> {
        self.smaller = None;
        if self.current == Some(mtu) {
            return None;
        }
        self.take(mtu)
    }

    /// When [`Self::settled`] has something to give.
    pub(super) fn due(&self) -> Option<Instant> {
        self.smaller.map(|(_, stands)| stands)
    }

    /// What the device is to take now: the last that was told, if it has been less for long enough.
    pub(super) fn settled(&mut self, now: Instant) -> Option<u32> {
        let (mtu, _) = self.smaller.filter(|(_, stands)| *stands <= now)?;
        self.take(mtu)
    }

    fn take(&mut self, mtu: u32) -> Option<u32> {
        self.smaller = None;
        self.current = Some(mtu);
        Some(mtu)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_device_follows_up_at_once_and_down_only_what_was_less_for_a_second(
            told in proptest::collection::vec((0..700u64, 1200..1500u32), 1..60),
        ) {
            let mut now = Instant::now();
            let mut settling = Settling::default();
            let mut device = settling.begin(1432).expect("the first");
            prop_assert_eq!(device, 1432);
            // Since when what was told is less than the device has.
            let mut less = None;
            let mut last = 1432;
            for (after, mtu) in told {
                let then = now + Duration::from_millis(after);
                if let Some(due) = settling.due().filter(|due| *due <= then) {
                    prop_assert_eq!(Some(due), less.map(|since: Instant| since + STAND));
                    device = settling.settled(due).expect("due");
                    prop_assert_eq!(device, last);
                    less = None;
                }
                now = then;
                prop_assert_eq!(settling.settled(now), None);
                last = mtu;
                match settling.tell(now, mtu) {
                    Some(taken) => {
                        prop_assert!(taken == mtu && mtu > device);
                        device = taken;
                        less = None;
                    }
                    None if mtu == device => less = None,
                    None => {
                        prop_assert!(mtu < device);
                        less.get_or_insert(now);
                    }
                }
                prop_assert_eq!(settling.due().is_some(), mtu < device);
            }
        }
    }

    #[test]
    fn a_black_hole_that_is_none_reaches_nobody() {
        let start = Instant::now();
        let mut settling = Settling::default();
        settling.begin(1432);
        assert_eq!(settling.tell(start, 1156), None);
        let found = start + Duration::from_millis(900);
        assert_eq!(settling.tell(found, 1432), None);
        assert_eq!(settling.due(), None);
    }
}
