//! The client's part: asking for tunnels and judging the responses (RFC 9484 §4.5).

use alloc::string::String;

use super::owner;
use super::request::{Request, State};
use super::{
    AddressRequestPolicy, Event, QuicOutput, Session, Timer, TunnelEnd, TunnelId, TunnelRequest,
};
use crate::error::{H3Code, WireErrorKind};
use crate::wire::fields::{FieldList, RequestHead, RequestKind, ResponseHead};
use crate::wire::qpack;
use crate::wire::stream::{Direction, Role, StreamId};

/// How far a tunnel has come.
#[derive(Debug)]
pub(super) enum Slot {
    /// The peer's SETTINGS have not come.
    Waiting(TunnelRequest),
    /// A stream was asked for.
    Opening(TunnelRequest),
    /// It has a stream.
    Stream(StreamId),
}

impl Session {
    /// Goes on with a tunnel that waited for SETTINGS.
    pub(super) fn ask(&mut self, tunnel: TunnelId) {
        let Some(settings) = &self.peer_settings else {
            return;
        };
        let Some(Slot::Waiting(_)) = self.tunnels.get(&tunnel) else {
            return;
        };
        if !(settings.enable_connect_protocol && settings.h3_datagram) {
            return self.end_tunnel(tunnel, Some(TunnelEnd::Unsupported));
        }
        if let Some(Slot::Waiting(request)) = self.tunnels.remove(&tunnel) {
            self.tunnels.insert(tunnel, Slot::Opening(request));
            self.out.slot("Waiting", "Opening");
        }
        self.opening.push_back(Some(tunnel));
        self.out.quic(QuicOutput::Open {
            direction: Direction::Bidirectional,
        });
        let timeout = self.config.response_timeout;
        self.out.arm(Timer::Response(tunnel), timeout);
    }

    /// A bidirectional stream was granted.
    pub(super) fn request_opened(&mut self, stream: StreamId) {
        if self.role == Role::Server || self.requests.contains_key(&stream) {
            return;
        }
        let Some(asked) = self.opening.pop_front() else {
            return;
        };
        let Some(tunnel) = asked else {
            // The tunnel has ended while it waited; the stream must not stay half open.
            return self
                .out
                .abort(stream, H3Code::REQUEST_CANCELLED, true, true);
        };
        let Some(Slot::Opening(asked)) = self.tunnels.insert(tunnel, Slot::Stream(stream)) else {
            return;
        };
        let fields = head(asked).to_fields();
        let limit = self
            .peer_settings
            .as_ref()
            .and_then(|settings| settings.max_field_section_size);
        if owner::exceeds(&fields, limit) {
            self.out
                .abort(stream, H3Code::REQUEST_CANCELLED, true, true);
            return self.end_tunnel(tunnel, Some(TunnelEnd::Unsupported));
        }
        self.out.slot("Opening", "Stream");
        let mut request = Request::new(self.role, stream, &self.config);
        request.tunnel = Some(tunnel);
        request.send_head(&fields, &mut self.out);
        if self.config.address_request == AddressRequestPolicy::AtOnce
            && let Some(capsule) = request.capsules.request(&self.config.wanted_addresses)
        {
            request.send_capsule(&capsule, &mut self.out);
        }
        self.requests.insert(stream, request);
        self.settle(stream);
    }

    /// Judges a response.
    pub(super) fn response(
        &mut self,
        stream: StreamId,
        section: &[u8],
    ) -> Result<(), WireErrorKind> {
        let fields = qpack::decode(section, self.config.max_field_section).map_err(|e| e.kind)?;
        self.out.head(stream, false, section.len(), &fields);
        let head = ResponseHead::parse(fields)?;
        let Some(request) = self.requests.get_mut(&stream) else {
            return Ok(());
        };
        let Some(tunnel) = request.tunnel else {
            return Ok(());
        };
        let status = head.status;
        match status {
            // Interim: the real one follows (RFC 9484 §4.5).
            100..=199 => {}
            200..=299 => {
                self.out.disarm(Timer::Response(tunnel));
                if let Some(code) = request.stopped {
                    self.ended_by_peer(stream, code);
                    return Ok(());
                }
                request.enter(State::Open, &mut self.out);
                let mut fields = head.fields;
                fields.0.retain(|field| field.name != b"capsule-protocol");
                if !fields.0.is_empty() {
                    self.out.event(Event::ResponseFields { tunnel, fields });
                }
                self.out.event(Event::Established { tunnel, status });
                if let AddressRequestPolicy::After(time) = self.config.address_request
                    && !self.config.wanted_addresses.is_empty()
                {
                    self.out.arm(Timer::AddressRequest(tunnel), time);
                }
            }
            _ => {
                let proxy_status = proxy_status(&head.fields);
                self.abort(stream, H3Code::REQUEST_CANCELLED, None);
                self.out.event(Event::Refused {
                    tunnel,
                    status,
                    proxy_status,
                });
            }
        }
        Ok(())
    }

    /// No ADDRESS_ASSIGN has come in time: ask.
    pub(super) fn request_wanted(&mut self, tunnel: TunnelId) {
        let Some(stream) = self.stream_of(tunnel) else {
            return;
        };
        let Some(request) = self.requests.get_mut(&stream) else {
            return;
        };
        if let Some(capsule) = request.capsules.request(&self.config.wanted_addresses) {
            request.send_capsule(&capsule, &mut self.out);
            self.settle(stream);
        }
    }

    /// The server will not process requests from `id` on (RFC 9114 §5.2), nor any not yet sent.
    pub(super) fn drop_unprocessed(&mut self, id: u64) {
        let dropped: alloc::vec::Vec<_> = self
            .tunnels
            .iter()
            .filter_map(|(&tunnel, slot)| match slot {
                Slot::Stream(stream) if stream.into_inner() < id => None,
                Slot::Stream(stream) => Some((tunnel, Some(*stream))),
                Slot::Waiting(_) | Slot::Opening(_) => Some((tunnel, None)),
            })
            .collect();
        for (tunnel, stream) in dropped {
            let end = Some(TunnelEnd::Rejected);
            match stream {
                Some(stream) => self.abort(stream, H3Code::REQUEST_CANCELLED, end),
                None => self.end_tunnel(tunnel, end),
            }
        }
    }
}

fn head(request: TunnelRequest) -> RequestHead {
    RequestHead {
        kind: RequestKind::ExtendedConnect(request.protocol),
        scheme: String::from("https"),
        authority: request.authority,
        path: request.path,
        capsule_protocol: true,
        fields: request.fields,
    }
}

fn proxy_status(fields: &FieldList) -> Option<String> {
    let field = fields.0.iter().find(|f| f.name == b"proxy-status")?;
    let value = core::str::from_utf8(&field.value).ok()?;
    let printable = value.bytes().all(|b| matches!(b, 0x20..=0x7e));
    printable.then(|| String::from(value))
}
