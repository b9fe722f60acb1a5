//! Host names that clients ask for as targets (RFC 9484 §4.1), resolved beside the loop.

use std::collections::VecDeque;
use std::net::{IpAddr, ToSocketAddrs};
use std::thread;

use masque_adapter_kit::{Controller, Cx};
use masque_core::endpoint::{Command, TunnelHandle};

use super::Message;

/// So many are resolved at once: each blocks a thread, for as long as the system's resolver likes.
const AT_ONCE: usize = 8;
/// So many more may wait; who asks then is refused.
const WAITING: usize = 64;

/// The names that are being resolved.
#[derive(Default)]
pub(super) struct Names {
    /// The way back into the loop; without one no name has an address.
    controller: Option<Controller<Message>>,
    queue: Queue,
}

impl Names {
    /// Answers come by this controller.
    pub(super) fn answer_by(&mut self, controller: Controller<Message>) {
        self.controller = Some(controller);
    }

    /// A client asks for a tunnel to `name`.
    pub(super) fn wanted(&mut self, cx: &mut Cx<'_>, tunnel: TunnelHandle, name: String) {
        if let Err(name) = self.queue.push(tunnel, name) {
            tracing::warn!(%tunnel, name, "too many host names wait to be resolved");
            return tell(cx, tunnel, Vec::new());
        }
        self.go_on(cx);
    }

    /// [`Message::Resolved`] has come.
    pub(super) fn resolved(
        &mut self,
        cx: &mut Cx<'_>,
        tunnel: TunnelHandle,
        addresses: Vec<IpAddr>,
    ) {
        self.queue.done();
        tell(cx, tunnel, addresses);
        self.go_on(cx);
    }

    fn go_on(&mut self, cx: &mut Cx<'_>) {
        while let Some((tunnel, name)) = self.queue.pop() {
            let begun = self
                .controller
                .clone()
                .is_some_and(|controller| resolve(controller, tunnel, name));
            if !begun {
                self.queue.done();
                tell(cx, tunnel, Vec::new());
            }
        }
    }
}

/// What is being resolved and what waits for it.
#[derive(Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<(TunnelHandle, String)>,
}

impl Queue {
    /// Takes a name in, or gives it back if too many wait.
    fn push(&mut self, tunnel: TunnelHandle, name: String) -> Result<(), String> {
        if self.waiting.len() >= WAITING {
            return Err(name);
        }
        self.waiting.push_back((tunnel, name));
        Ok(())
    }

    /// The next one to be resolved, if not too many are: until [`Self::done`].
    fn pop(&mut self) -> Option<(TunnelHandle, String)> {
        if self.running >= AT_ONCE {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.running += 1;
        Some(next)
    }

    fn done(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

/// Begins to resolve; `false` if the system has no thread for it.
fn resolve(controller: Controller<Message>, tunnel: TunnelHandle, name: String) -> bool {
    let look_up = move || {
        let result = (name.as_str(), 0).to_socket_addrs();
        let addresses = result
            .inspect_err(|error| tracing::info!(%tunnel, name, %error, "host name not resolved"))
            .map(|found| found.map(|address| address.ip()).collect())
            .unwrap_or_default();
        // The loop may have ended meanwhile.
        let _ = controller.send(Message::Resolved { tunnel, addresses });
    };
    let begun = thread::Builder::new().spawn(look_up);
    begun
        .inspect_err(|error| tracing::warn!(%tunnel, %error, "no thread to resolve a host name"))
        .is_ok()
}

fn tell(cx: &mut Cx<'_>, tunnel: TunnelHandle, addresses: Vec<IpAddr>) {
    let answer = Command::Resolved { tunnel, addresses };
    if let Err(error) = cx.endpoint.handle_command(cx.now, answer) {
        // The client did not wait.
        tracing::debug!(%tunnel, %error, "nobody waits for the addresses");
    }
}

#[cfg(test)]
mod tests {
    use masque_core::endpoint::ConnId;
    use masque_core::session::TunnelId;

    use super::*;

    fn tunnel(number: u64) -> TunnelHandle {
        TunnelHandle {
            conn: ConnId(number),
            tunnel: TunnelId(0),
        }
    }

    /// As many as there may be of either kind; each name is begun as soon as it may be.
    fn full() -> (Queue, Vec<u64>) {
        let mut queue = Queue::default();
        let mut begun = Vec::new();
        for number in 0..(AT_ONCE + WAITING) as u64 {
            assert_eq!(queue.push(tunnel(number), number.to_string()), Ok(()));
            begun.extend(queue.pop().map(|(tunnel, _)| tunnel.conn.0));
        }
        (queue, begun)
    }

    #[test]
    fn so_many_are_resolved_so_many_wait_and_no_more_are_taken() {
        let (mut queue, begun) = full();
        assert_eq!(begun, (0..AT_ONCE as u64).collect::<Vec<_>>());
        assert_eq!(queue.waiting.len(), WAITING);
        let late = "late".to_owned();
        assert_eq!(queue.push(tunnel(1000), late.clone()), Err(late));
    }

    #[test]
    fn each_that_is_done_lets_one_more_begin_in_the_order_they_came() {
        let (mut queue, _) = full();
        for number in AT_ONCE as u64..(AT_ONCE + WAITING) as u64 {
            assert!(queue.pop().is_none());
            queue.done();
            let next = (tunnel(number), number.to_string());
            assert_eq!(queue.pop(), Some(next));
        }
        for _ in 0..AT_ONCE {
            queue.done();
            assert_eq!(queue.pop(), None);
        }
        assert_eq!(queue.running, 0);
    }
}
