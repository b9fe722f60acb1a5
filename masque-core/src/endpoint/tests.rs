//! What tests of several modules need.

use std::time::Instant;

/// A moment to count from: only differences to it matter.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant cannot be made otherwise"
)]
pub(super) fn moment() -> Instant {
    Instant::now()
}
