//! A way out for the last word.
//!
//! quinn-proto asks the congestion controller before it sends CONNECTION_CLOSE, if there is anything else
//! it could have sent; and a connection that is closed looks at no ACK any more. With a full window the
//! word is never said, then: the peer of a client that stops in the middle of an upload, or one that
//! takes nothing and is closed for it, waits until its time is up. (RFC 9002 §7 lets packets without
//! frames that elicit ACKs pass, and this is one.) So every controller sits behind a sluice that
//! [`open`] opens, before the connection is closed and nothing but that word is left to send.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::{Connection, RttEstimator};

/// Makes controllers behind a sluice.
pub(super) struct Sluiced(pub(super) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for Sluiced {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Sluice {
            inner: self.0.clone().build(now, current_mtu),
            open: Arc::default(),
        })
    }
}

/// Nothing holds back what `conn` sends from now on. To be followed by its end.
pub(super) fn open(conn: &Connection) {
    // quinn-proto shows a controller, and gives away no more than a copy: the copy has the same sluice.
    let copy = conn.congestion_state().clone_box().into_any();
    if let Ok(sluice) = copy.downcast::<Sluice>() {
        sluice.open.store(true, Ordering::Relaxed);
    }
}

struct Sluice {
    inner: Box<dyn Controller>,
    /// The same in all copies: a connection has one for each path it is on.
    open: Arc<AtomicBool>,
}

impl Controller for Sluice {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.open.load(Ordering::Relaxed) {
            // Over 4 GiB, where there is no pacing either.
            u64::MAX
        } else {
            self.inner.window()
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            open: self.open.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
