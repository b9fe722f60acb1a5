//! What an application puts on top of the pump.

use std::io;
use std::time::Instant;

use masque_core::endpoint::{Event, PortId, SocketId};
use masque_recording::Taped;

/// An application: reacts to events of the endpoint, to messages from other threads and to deadlines
/// of its own. All calls come from the pump's loop; none may block for long.
pub trait App {
    /// What other threads may send through a [`crate::Controller`].
    type Message: Send + 'static;

    /// Called once before the first turn.
    fn start(&mut self, cx: &mut Cx<'_>);

    /// An event of the endpoint.
    fn on_event(&mut self, cx: &mut Cx<'_>, event: Event);

    /// A message of another thread (a signal handler, a library user).
    fn on_message(&mut self, cx: &mut Cx<'_>, message: Self::Message);

    /// When [`App::on_deadline`] wants to be called.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has passed.
    fn on_deadline(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// A device can no longer be read: somebody deleted it, or the other end of a memory device is
    /// gone. It is not read again. By default the loop ends.
    fn on_port_lost(&mut self, cx: &mut Cx<'_>, port: PortId, error: &io::Error) {
        tracing::error!(port = port.0, %error, "TUN device lost");
        cx.stop();
    }
}

/// What an application may do in a callback.
pub struct Cx<'a> {
    /// The time of this turn.
    pub now: Instant,
    /// The endpoint.
    pub endpoint: &'a mut Taped,
    /// The sockets.
    pub sockets: &'a mut dyn Sockets,
    pub(crate) stop: &'a mut bool,
}

impl<'a> Cx<'a> {
    /// A context outside a pump, to test an application; [`Cx::stop`] sets `stop`.
    pub fn new(
        now: Instant,
        endpoint: &'a mut Taped,
        sockets: &'a mut dyn Sockets,
        stop: &'a mut bool,
    ) -> Self {
        Self {
            now,
            endpoint,
            sockets,
            stop,
        }
    }

    /// Ends the loop after this turn; what is queued is still sent.
    pub fn stop(&mut self) {
        *self.stop = true;
    }
}

/// UDP sockets an application may add and remove while the loop runs.
pub trait Sockets {
    /// Adds a bound, non-blocking socket.
    ///
    /// # Errors
    /// What the system says, or `Unsupported` where the I/O has no sockets.
    fn add(&mut self, socket: std::net::UdpSocket) -> std::io::Result<SocketId>;

    /// Removes one.
    fn remove(&mut self, socket: SocketId);
}
