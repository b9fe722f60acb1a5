//! One timer with nanosecond deadlines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// A timerfd on the monotonic clock: its descriptor is readable once the deadline has passed, until
/// it is set again.
#[derive(Debug)]
pub struct Timer {
    descriptor: OwnedFd,
    // The same moment twice: an `Instant` does not tell what the clock says.
    instant: Instant,
    clock: Duration,
}

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        let descriptor = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        // In this order the timer is some nanoseconds late, and never early.
        let instant = Instant::now();
        let clock = clock_gettime(ClockId::Monotonic);
        Ok(Self {
            descriptor,
            instant,
            clock: Duration::new(
                u64::try_from(clock.tv_sec).unwrap_or_default(),
                u32::try_from(clock.tv_nsec).unwrap_or_default(),
            ),
        })
    }

    /// Arms it, or disarms it; a deadline in the past fires at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let value = deadline.map_or(Duration::ZERO, |deadline| self.on_clock(deadline));
        timerfd_settime(
            &self.descriptor,
            TimerfdTimerFlags::ABSTIME,
            &Itimerspec {
                it_interval: Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                },
                it_value: Timespec {
                    tv_sec: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
                    tv_nsec: value.subsec_nanos().into(),
                },
            },
        )?;
        Ok(())
    }

    fn on_clock(&self, deadline: Instant) -> Duration {
        let after = deadline.saturating_duration_since(self.instant);
        let before = self.instant.saturating_duration_since(deadline);
        // Zero would disarm it.
        self.clock
            .saturating_add(after)
            .saturating_sub(before)
            .max(Duration::from_nanos(1))
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A [`Timer`] that is set as rarely as possible, and made when it is armed first.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    timer: Option<Timer>,
    armed: Option<Instant>,
}

impl Alarm {
    /// As [`crate::Io::arm`].
    pub(crate) fn arm(
        &mut self,
        now: Instant,
        deadline: Option<Instant>,
        fired: bool,
    ) -> io::Result<bool> {
        let timer = match &mut self.timer {
            Some(timer) => timer,
            none => none.insert(Timer::new()?),
        };
        // Readiness may be told of late, of what the timer was set for before.
        let passed = fired || self.armed.is_some_and(|armed| armed <= now);
        let sooner = match (self.armed, deadline) {
            (Some(armed), Some(deadline)) => deadline < armed,
            (None, deadline) => deadline.is_some(),
            (Some(_), None) => false,
        };
        if !passed && !sooner {
            return Ok(false);
        }
        timer.set(deadline)?;
        self.armed = deadline;
        Ok(true)
    }

    /// The descriptor, once it was armed.
    pub(crate) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.timer.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn wait(timer: &Timer, at_most: Duration) -> bool {
        let timeout = Timespec::try_from(at_most).expect("short");
        let mut fds = [PollFd::new(timer, PollFlags::IN)];
        poll(&mut fds, Some(&timeout)).expect("poll") == 1
    }

    #[test]
    fn fires_after_its_deadline_and_never_before() {
        let mut timer = Timer::new().expect("timer");
        for micros in [1, 50, 300, 2_000] {
            let deadline = Instant::now() + Duration::from_micros(micros);
            timer.set(Some(deadline)).expect("set");
            assert!(wait(&timer, Duration::from_secs(10)));
            assert!(Instant::now() >= deadline);
        }
    }

    #[test]
    fn setting_it_again_clears_readiness() {
        let mut timer = Timer::new().expect("timer");
        timer.set(Some(Instant::now())).expect("set");
        assert!(wait(&timer, Duration::from_secs(10)));
        timer.set(None).expect("set");
        assert!(!wait(&timer, Duration::ZERO));
        timer
            .set(Some(Instant::now() + Duration::from_secs(3600)))
            .expect("set");
        assert!(!wait(&timer, Duration::ZERO));
    }

    #[test]
    fn an_alarm_seen_ready_is_set_again_whatever_it_was_set_for() {
        let mut alarm = Alarm::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(3600);
        assert!(alarm.arm(now, Some(later), false).expect("arm"));
        assert!(!alarm.arm(now, Some(later), false).expect("arm"));
        assert!(!alarm.arm(now, None, false).expect("arm"));
        assert!(alarm.arm(now, Some(later), true).expect("arm"));
        assert!(alarm.arm(later, Some(later), false).expect("arm"));
    }
}
