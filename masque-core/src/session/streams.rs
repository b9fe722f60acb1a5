//! What every request stream has in common, in both roles: bytes in, capsules, its ends.

use alloc::format;

use bytes::Bytes;

use super::client::Slot;
use super::request::{Found, State};
use super::tunnel::Received;
use super::{Event, Phase, QuicOutput, Session, Timer, TunnelEnd, TunnelId};
use crate::error::{ErrorScope, H3Code, WireErrorKind};
use crate::wire::capsule::{Capsule, CapsuleEvent};
use crate::wire::stream::{Direction, Role, StreamId};

/// What a request costs that is taken back, in pieces that are passed over: fields are decoded, an owner
/// is asked, addresses are lent.
const REQUEST_BURDEN: u32 = 16;

impl Session {
    pub(super) fn data(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        if stream.is_request() {
            if self.role == Role::Server && !self.admit(stream) {
                return;
            }
            if let Some(request) = self.requests.get_mut(&stream) {
                request.receive(data, fin);
                self.read(stream);
                self.settle(stream);
            }
        } else if stream.initiator() == self.role {
            // Our own unidirectional stream carries nothing this way, and a server opens no
            // bidirectional one: nothing a peer could cause.
        } else if stream.direction() == Direction::Bidirectional {
            self.violation(Some(stream), WireErrorKind::StreamCreation);
        } else {
            self.peer_control(stream, data, fin);
        }
    }

    pub(super) fn reset(&mut self, stream: StreamId, code: u64) {
        if stream.direction() == Direction::Unidirectional {
            if stream.initiator() != self.role
                && let Err(kind) = self.control.ended(stream)
            {
                return self.violation(Some(stream), kind);
            }
            let ignored = self.control.take_ignored();
            return self.burden(ignored);
        }
        if !stream.is_request() {
            if stream.initiator() != self.role {
                self.violation(Some(stream), WireErrorKind::StreamCreation);
            }
            return;
        }
        if self.role == Role::Server && !self.admit(stream) {
            return;
        }
        let Some(request) = self.requests.get_mut(&stream) else {
            return;
        };
        request.receiving = false;
        if !matches!(request.state(), State::Draining) {
            self.ended_by_peer(stream, code);
        }
        self.settle(stream);
    }

    pub(super) fn stopped(&mut self, stream: StreamId, code: u64) {
        if self.control.own(stream).is_some() {
            // RFC 9114 §6.2.1, RFC 9204 §4.2: a receiver must not stop these.
            return self.violation(Some(stream), WireErrorKind::CriticalStreamClosed);
        }
        if !stream.is_request() || (self.role == Role::Server && !self.admit(stream)) {
            return;
        }
        let Some(request) = self.requests.get_mut(&stream) else {
            return;
        };
        match request.state() {
            State::Draining => {
                let cancelled = H3Code::REQUEST_CANCELLED;
                request.output.reset(cancelled, &mut self.out);
            }
            // RFC 9114 §4.1: a server may stop the rest of a request it has answered in full; the
            // response may still be on its way.
            State::Head if self.role == Role::Client && says_nothing(code) => {
                request.stopped = Some(code);
                let cancelled = H3Code::REQUEST_CANCELLED;
                request.output.reset(cancelled, &mut self.out);
            }
            _ => self.ended_by_peer(stream, code),
        }
        self.settle(stream);
    }

    /// The peer reset or stopped a request stream in use: the other part goes too
    /// (RFC 9114 §4.4, RFC 9484 §4.1).
    pub(super) fn ended_by_peer(&mut self, stream: StreamId, code: u64) {
        let unanswered = self
            .requests
            .get(&stream)
            .is_some_and(|request| matches!(request.state(), State::Head));
        let rejected =
            self.role == Role::Client && unanswered && code == H3Code::REQUEST_REJECTED.0;
        let end = if rejected {
            TunnelEnd::Rejected
        } else {
            TunnelEnd::ResetByPeer { code }
        };
        self.abort(stream, H3Code::REQUEST_CANCELLED, Some(end));
        self.burden(REQUEST_BURDEN);
    }

    /// Looks at the bytes of a request stream until there is nothing more to find.
    pub(super) fn read(&mut self, stream: StreamId) {
        while self.phase != Phase::Ended
            && let Some(request) = self.requests.get_mut(&stream)
        {
            let found = request.poll();
            let mut vain = core::mem::take(&mut request.ignored);
            if let Ok(Some(Found::Capsule(capsule))) = &found {
                vain = vain.saturating_add((!is_packet(capsule)).into());
            }
            self.burden(vain);
            let Some(request) = self.requests.get_mut(&stream) else {
                return;
            };
            let judged = match found {
                Ok(None) => return,
                Ok(Some(Found::Head(section))) => match self.role {
                    Role::Client => self.response(stream, &section),
                    Role::Server => self.request(stream, &section),
                },
                Ok(Some(Found::Capsule(capsule))) => match request.tunnel {
                    Some(tunnel) => {
                        self.out.capsule_received(stream, &capsule);
                        request
                            .capsules
                            .judge(tunnel, capsule)
                            .map(|received| self.received(stream, received))
                    }
                    None => Ok(()),
                },
                Ok(Some(Found::Fin)) => {
                    let end = TunnelEnd::Finished;
                    if matches!(request.state(), State::Open) {
                        self.finish(stream, end);
                    } else {
                        // Some servers answer an error with nothing but a FIN.
                        self.abort(stream, H3Code::REQUEST_CANCELLED, Some(end));
                    }
                    Ok(())
                }
                Err(kind) => Err(kind),
            };
            if let Err(kind) = judged {
                self.fail(stream, kind);
            }
        }
    }

    fn received(&mut self, stream: StreamId, received: Received) {
        match received {
            Received::Event(event) => {
                if let Event::AddressesAssigned { tunnel, .. } = event {
                    self.out.disarm(Timer::AddressRequest(tunnel));
                }
                self.out.event(event);
            }
            Received::Dropped(reason, bytes) => self.out.dropped(Some(stream), reason, bytes),
        }
    }

    /// The peer broke a rule on a request stream.
    pub(super) fn fail(&mut self, stream: StreamId, kind: WireErrorKind) {
        match kind.scope() {
            ErrorScope::Connection => self.violation(Some(stream), kind),
            ErrorScope::Stream => {
                self.out
                    .error(Some(stream), || format!("{}: {kind}", kind.code()));
                self.abort(stream, kind.code(), Some(TunnelEnd::Violation(kind)));
            }
        }
    }

    /// Ends both parts of a request stream now, and its tunnel.
    pub(super) fn abort(&mut self, stream: StreamId, code: H3Code, end: Option<TunnelEnd>) {
        let Some(mut request) = self.requests.remove(&stream) else {
            return;
        };
        request.enter(State::Draining, &mut self.out);
        request.output.reset(code, &mut self.out);
        self.out.abort(stream, code, false, request.receiving);
        self.forget(stream);
        if let Some(tunnel) = request.tunnel {
            self.end_tunnel(tunnel, end);
        }
    }

    /// Ends a tunnel in good order: a FIN after what is queued, and what still comes is thrown away
    /// until the peer ends its part too.
    pub(super) fn finish(&mut self, stream: StreamId, end: TunnelEnd) {
        let draining = self
            .requests
            .values()
            .filter(|request| matches!(request.state(), State::Draining))
            .count();
        let Some(request) = self.requests.get_mut(&stream) else {
            return;
        };
        request.enter(State::Draining, &mut self.out);
        request.output.finish(&mut self.out);
        if draining >= self.config.max_tunnels && request.receiving {
            request.receiving = false;
            let code = H3Code::NO_ERROR;
            self.out.quic(QuicOutput::Stop { stream, code });
        }
        if let Some(tunnel) = request.tunnel.take() {
            self.end_tunnel(tunnel, Some(end));
        }
    }

    /// Forgets a tunnel, and tells of its end if there is one to tell.
    pub(super) fn end_tunnel(&mut self, tunnel: TunnelId, end: Option<TunnelEnd>) {
        if self.tunnels.remove(&tunnel).is_none() {
            return;
        }
        for asked in &mut self.opening {
            if *asked == Some(tunnel) {
                *asked = None;
            }
        }
        self.out.disarm(Timer::Response(tunnel));
        self.out.disarm(Timer::AddressRequest(tunnel));
        if let Some(end) = end {
            self.out.event(Event::TunnelEnded { tunnel, end });
        }
    }

    /// Draws the conclusions for a stream that something happened to: it may be over, or want data
    /// again.
    pub(super) fn settle(&mut self, stream: StreamId) {
        let Some(request) = self.requests.get_mut(&stream) else {
            return;
        };
        if request.is_over() {
            self.requests.remove(&stream);
            self.forget(stream);
        } else if request.resumes() {
            self.out.quic(QuicOutput::Resume { stream });
        }
    }

    pub(super) fn stream_of(&self, tunnel: TunnelId) -> Option<StreamId> {
        match self.tunnels.get(&tunnel) {
            Some(Slot::Stream(stream)) => Some(*stream),
            _ => None,
        }
    }

    pub(super) fn forget(&mut self, stream: StreamId) {
        if self.role == Role::Server {
            self.ended_requests.insert(stream);
        }
    }
}

/// Whether a capsule is there to carry a packet.
fn is_packet(capsule: &CapsuleEvent) -> bool {
    matches!(capsule, CapsuleEvent::Capsule(Capsule::Datagram(_)))
}

/// Codes without a meaning of their own count as H3_NO_ERROR (RFC 9114 §8).
fn says_nothing(code: u64) -> bool {
    let code = H3Code(code);
    code == H3Code::NO_ERROR || code.name().is_none()
}
