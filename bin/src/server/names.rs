//! Host names that clients ask for as targets (RFC 9484 §4.1), resolved beside the loop.

use std::collections::VecDeque;
use std::net::{IpAddr, ToSocketAddrs};

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
    running: usize,
    waiting: VecDeque<(TunnelHandle, String)>,
}

impl Names {
    /// Answers come by this controller.
    pub(super) fn answer_by(&mut self, controller: Controller<Message>) {
        self.controller = Some(controller);
    }

    /// A client asks for a tunnel to `name`.
    pub(super) fn wanted(&mut self, cx: &mut Cx<'_>, tunnel: TunnelHandle, name: String) {
        if self.waiting.len() >= WAITING {
            tracing::warn!(%tunnel, name, "too many host names wait to be resolved");
            return tell(cx, tunnel, Vec::new());
        }
        self.waiting.push_back((tunnel, name));
        self.go_on(cx);
    }

    /// [`Message::Resolved`] has come.
    pub(super) fn resolved(
        &mut self,
        cx: &mut Cx<'_>,
        tunnel: TunnelHandle,
        addresses: Vec<IpAddr>,
    ) {
        self.running = self.running.saturating_sub(1);
        tell(cx, tunnel, addresses);
        self.go_on(cx);
    }

    fn go_on(&mut self, cx: &mut Cx<'_>) {
        while self.running < AT_ONCE
            && let Some((tunnel, name)) = self.waiting.pop_front()
        {
            match &self.controller {
                Some(controller) => {
                    self.running += 1;
                    resolve(controller.clone(), tunnel, name);
                }
                None => tell(cx, tunnel, Vec::new()),
            }
        }
    }
}

fn resolve(controller: Controller<Message>, tunnel: TunnelHandle, name: String) {
    std::thread::spawn(move || {
        let result = (name.as_str(), 0).to_socket_addrs();
        let addresses = result
            .inspect_err(|error| tracing::info!(%tunnel, name, %error, "host name not resolved"))
            .map(|found| found.map(|address| address.ip()).collect())
            .unwrap_or_default();
        // The loop may have ended meanwhile.
        let _ = controller.send(Message::Resolved { tunnel, addresses });
    });
}

fn tell(cx: &mut Cx<'_>, tunnel: TunnelHandle, addresses: Vec<IpAddr>) {
    let answer = Command::Resolved { tunnel, addresses };
    if let Err(error) = cx.endpoint.handle_command(cx.now, answer) {
        // The client did not wait.
        tracing::debug!(%tunnel, %error, "nobody waits for the addresses");
    }
}
