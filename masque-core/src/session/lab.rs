//! For laboratories (feature `lab`): a session that tells its peer something else than it means to.
//!
//! An honest session cannot send what the standards forbid. Here a [`CapsuleTap`] changes its capsules on
//! their way out, and [`Session::send_raw`] puts any bytes behind them. Both go the way of everything
//! else: the queue of the stream, QUIC's flow control, and retransmission.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use super::{CommandError, Session, TunnelId};

type Change = dyn Fn(TunnelId, &mut Vec<u8>) + Send + Sync;

/// Changes a capsule before it is put into its DATA frame: type, length and value in one piece. What it
/// leaves empty is not sent.
///
/// Called for every capsule but DATAGRAM, after the session has noted it as sent.
#[derive(Clone)]
pub struct CapsuleTap(Arc<Change>);

impl CapsuleTap {
    /// A tap that does this with each.
    pub fn new(tap: impl Fn(TunnelId, &mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tap))
    }

    pub(super) fn change(&self, tunnel: TunnelId, capsule: &mut Vec<u8>) {
        (self.0)(tunnel, capsule);
    }
}

impl fmt::Debug for CapsuleTap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapsuleTap")
    }
}

impl Session {
    /// Has every capsule from now on pass through a tap; `None` takes it away.
    pub fn set_capsule_tap(&mut self, tap: Option<CapsuleTap>) {
        self.out.tap = tap;
    }

    /// Queues bytes on the stream of an established tunnel as they are, behind what is queued there:
    /// no frame is put around them, no rule is minded, and nothing but memory bounds them.
    ///
    /// # Errors
    /// [`CommandError`] where the tunnel does not exist or is not established.
    pub fn send_raw(&mut self, tunnel: TunnelId, bytes: &[u8]) -> Result<(), CommandError> {
        let stream = self.open(tunnel)?.stream();
        self.out.command(Some(stream), "send raw bytes");
        let output = |output: &mut super::output::Output, out: &mut super::Effects| {
            output.push(out, |buf| buf.extend_from_slice(bytes));
        };
        self.on_output(stream, output);
        Ok(())
    }
}
