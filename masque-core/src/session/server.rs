//! The server's part: taking requests and answering those that are no tunnels (RFC 9484 §4.4).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::client::Slot;
use super::request::{Request, State};
use super::{Event, QuicOutput, SPARE_STREAMS, Session, Timer, TunnelEnd, TunnelId, TunnelRequest};
use crate::error::{H3Code, WireErrorKind};
use crate::wire::fields::{FieldList, RequestHead, RequestKind, ResponseHead};
use crate::wire::qpack;
use crate::wire::scope::{Scope, Target};
use crate::wire::stream::{Role, StreamId};

/// What a good request asks for.
enum Asked {
    Tunnel(Box<TunnelRequest>),
    /// Something we answer ourselves: status and `proxy-status`.
    Other(u16, Option<&'static str>),
}

impl Session {
    /// Whether a request stream is, or now becomes, one of ours.
    pub(super) fn admit(&mut self, stream: StreamId) -> bool {
        if self.requests.contains_key(&stream) {
            return true;
        }
        if self.ended_requests.contains(stream) {
            return false;
        }
        let id = stream.into_inner();
        self.next_request = self.next_request.max(id.saturating_add(4));
        let after_goaway = self.goaway_sent.is_some_and(|first| id >= first);
        let limit = self.config.max_tunnels.saturating_add(SPARE_STREAMS);
        if after_goaway || self.requests.len() >= limit {
            self.ended_requests.insert(stream);
            self.out.abort(stream, H3Code::REQUEST_REJECTED, true, true);
            return false;
        }
        let request = Request::new(self.role, stream, &self.config);
        self.requests.insert(stream, request);
        true
    }

    /// Judges a request.
    pub(super) fn request(
        &mut self,
        stream: StreamId,
        section: &[u8],
    ) -> Result<(), WireErrorKind> {
        let fields = qpack::decode(section, self.config.max_field_section).map_err(|e| e.kind)?;
        self.out.head(stream, false, section.len(), &fields);
        let head = RequestHead::parse(fields)?;
        let plain = !matches!(head.kind, RequestKind::ExtendedConnect(_));
        if let Some(request) = self.requests.get_mut(&stream) {
            request.plain = plain;
        }
        match self.asked(head)? {
            Asked::Other(status, proxy_status) => {
                let mut fields = FieldList::default();
                if let Some(value) = proxy_status {
                    fields.push("proxy-status", value);
                }
                self.respond(stream, status, fields);
            }
            Asked::Tunnel(request) => {
                let taken = self
                    .requests
                    .values()
                    .filter(|request| request.counts_as_tunnel())
                    .count();
                if taken >= self.config.max_tunnels {
                    self.abort(stream, H3Code::REQUEST_REJECTED, None);
                } else if let Some(waiting) = self.requests.get_mut(&stream) {
                    waiting.enter(State::Parked(request), &mut self.out);
                    if self.peer_settings.is_some() {
                        self.announce(stream);
                    }
                }
            }
        }
        Ok(())
    }

    fn asked(&self, head: RequestHead) -> Result<Asked, WireErrorKind> {
        let protocol = match head.kind {
            RequestKind::ExtendedConnect(protocol) => protocol,
            RequestKind::Connect => return Ok(Asked::Other(501, None)),
            RequestKind::Ordinary(_) => return Ok(Asked::Other(404, None)),
        };
        let known = protocol == "connect-ip" || self.config.extra_protocols.contains(&protocol);
        if !known {
            return Ok(Asked::Other(501, None));
        }
        let Some(scope) = self.scope(&head.path)? else {
            return Ok(Asked::Other(404, None));
        };
        if matches!(scope.target, Target::Name(_)) && !self.config.resolve_names {
            // Said as RFC 9484 §4.1 asks for a resolution that failed.
            return Ok(Asked::Other(502, Some("masque; error=dns_error")));
        }
        Ok(Asked::Tunnel(Box::new(TunnelRequest {
            authority: head.authority,
            path: head.path,
            protocol,
            scope,
            fields: head.fields,
        })))
    }

    /// The scope a path stands for under the first template it matches.
    fn scope(&self, path: &str) -> Result<Option<Scope>, WireErrorKind> {
        for template in &self.config.templates {
            if let Some((target, ipproto)) = template.match_path(path)? {
                return Scope::parse(target.as_deref(), ipproto.as_deref()).map(Some);
            }
        }
        Ok(None)
    }

    /// Tells the owner of a parked request.
    fn announce(&mut self, stream: StreamId) {
        let Some(tunnel) = self.new_tunnel() else {
            return self.abort(stream, H3Code::REQUEST_REJECTED, None);
        };
        let Some(waiting) = self.requests.get_mut(&stream) else {
            return;
        };
        if let State::Parked(request) = waiting.enter(State::Pending, &mut self.out) {
            waiting.tunnel = Some(tunnel);
            self.tunnels.insert(tunnel, Slot::Stream(stream));
            self.out.event(Event::Requested {
                tunnel,
                request: *request,
            });
            let timeout = self.config.response_timeout;
            self.out.arm(Timer::Response(tunnel), timeout);
        }
    }

    /// The client's SETTINGS have come: parked requests go on, oldest stream first.
    pub(super) fn unpark(&mut self) {
        let parked: Vec<_> = self
            .requests
            .values()
            .filter(|request| matches!(request.state(), State::Parked(_)))
            .map(Request::stream)
            .collect();
        for stream in parked {
            self.announce(stream);
        }
    }

    /// Answers with a final status that opens no tunnel, and is done with the stream.
    pub(super) fn respond(&mut self, stream: StreamId, status: u16, fields: FieldList) {
        let Some(request) = self.requests.get_mut(&stream) else {
            return;
        };
        let fields = ResponseHead {
            status,
            capsule_protocol: false,
            fields,
        }
        .to_fields();
        request.enter(State::Draining, &mut self.out);
        request.send_head(&fields, &mut self.out);
        request.output.finish(&mut self.out);
        if core::mem::take(&mut request.receiving) {
            let code = H3Code::NO_ERROR;
            self.out.quic(QuicOutput::Stop { stream, code });
        }
        self.settle(stream);
    }

    /// The response did not come in time (client), or the decision did not (server).
    pub(super) fn response_timeout(&mut self, tunnel: TunnelId) {
        let stream = self.stream_of(tunnel);
        match (self.role, stream) {
            (Role::Client, Some(stream)) => {
                let end = Some(TunnelEnd::TimedOut);
                self.abort(stream, H3Code::REQUEST_CANCELLED, end);
            }
            (Role::Server, Some(stream)) => {
                if let Some(request) = self.requests.get_mut(&stream) {
                    request.tunnel = None;
                }
                self.respond(stream, 503, FieldList::default());
                self.end_tunnel(tunnel, Some(TunnelEnd::TimedOut));
            }
            (_, None) => self.end_tunnel(tunnel, Some(TunnelEnd::TimedOut)),
        }
    }
}
