//! For laboratories (feature `lab`): an endpoint whose peers are told something else than it means to.

use std::time::Instant;

use super::{CommandError, ConnId, Endpoint, TunnelHandle};
use crate::session::{self, Session};

/// Changes a capsule of a tunnel before it is sent: see [`session::CapsuleTap`].
pub type CapsuleTap = std::sync::Arc<dyn Fn(TunnelHandle, &mut Vec<u8>) + Send + Sync>;

impl Endpoint {
    /// Has every capsule pass through a tap, those of connections made from now on too.
    pub fn set_capsule_tap(&mut self, tap: CapsuleTap) {
        for conn in self.conns.iter_mut().flatten() {
            attach(&tap, conn.id, conn.bridge.session());
        }
        self.tap = Some(tap);
    }

    /// Queues bytes on the stream of an established tunnel as they are: see [`Session::send_raw`].
    ///
    /// # Errors
    /// [`CommandError`] where the tunnel does not exist or is not established.
    pub fn send_raw(
        &mut self,
        now: Instant,
        tunnel: TunnelHandle,
        bytes: &[u8],
    ) -> Result<(), CommandError> {
        self.advance(now);
        let (at, conn) = self.conn_of(tunnel)?;
        conn.bridge.session().send_raw(tunnel.tunnel, bytes)?;
        self.drive(now, at);
        Ok(())
    }

    /// Gives a new session the tap there is.
    pub(super) fn tapped(&self, id: ConnId, session: &mut Session) {
        if let Some(tap) = &self.tap {
            attach(tap, id, session);
        }
    }
}

fn attach(tap: &CapsuleTap, conn: ConnId, session: &mut Session) {
    let tap = tap.clone();
    let tap = session::CapsuleTap::new(move |tunnel, capsule| {
        tap(TunnelHandle { conn, tunnel }, capsule);
    });
    session.set_capsule_tap(Some(tap));
}
