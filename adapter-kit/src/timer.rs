//! One timer with nanosecond deadlines.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// A timerfd on the monotonic clock: its descriptor is readable once the deadline has passed.
#[derive(Debug)]
pub struct Timer {
    _todo: (),
}

impl Timer {
    /// A timer that is not armed.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        unimplemented!()
    }

    /// Arms it, or disarms it; a deadline in the past fires at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let _ = deadline;
        unimplemented!()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
}
