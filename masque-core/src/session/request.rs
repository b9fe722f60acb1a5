//! One request stream: its frames, and what may come next on it (RFC 9114 §4, RFC 9297 §3.1).
//!
//! | state | role | meaning | leaves on |
//! |---|---|---|---|
//! | `Head` | server | the request is not whole | HEADERS → `Parked`, `Pending` or `Draining` (answered by ourselves) |
//! | `Head` | client | no final response yet | 2xx → `Open`; 3xx to 5xx, FIN → aborted |
//! | `Parked` | server | a good request, but the client's SETTINGS have not come | SETTINGS → `Pending` |
//! | `Pending` | server | the owner decides | `Accept` → `Open`; `Refuse` or timeout → `Draining` |
//! | `Open` | both | capsules both ways | FIN of either side → `Draining`; an error or reset → aborted |
//! | `Draining` | both | the tunnel is over; queued bytes and a FIN go out, what comes in is thrown away | both parts ended → forgotten |
//!
//! In `Parked` and `Pending` nothing is read: the bytes stay in QUIC, but for those of one input.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bytes::Bytes;

use super::effects::Effects;
use super::output::Output;
use super::tunnel::Capsules;
use super::{SessionConfig, TunnelId, TunnelRequest};
use crate::error::WireErrorKind;
use crate::wire::capsule::{Capsule, CapsuleEvent};
use crate::wire::fields::FieldList;
use crate::wire::frame::{self, FrameDecoder, FrameEvent, FrameType};
use crate::wire::qpack;
use crate::wire::stream::{Role, StreamId};

/// Where a request stream stands.
#[derive(Debug)]
pub(super) enum State {
    Head,
    Parked(Box<TunnelRequest>),
    Pending,
    Open,
    Draining,
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            Self::Head => "Head",
            Self::Parked(_) => "Parked",
            Self::Pending => "Pending",
            Self::Open => "Open",
            Self::Draining => "Draining",
        }
    }
}

/// What was found in the bytes received.
#[derive(Debug)]
pub(super) enum Found {
    /// A whole encoded field section.
    Head(Bytes),
    /// A capsule.
    Capsule(CapsuleEvent),
    /// The end of the stream, in order.
    Fin,
}

/// One request stream.
#[derive(Debug)]
pub(super) struct Request {
    role: Role,
    stream: StreamId,
    /// The tunnel its owner knows of and that has not ended.
    pub(super) tunnel: Option<TunnelId>,
    state: State,
    pub(super) output: Output,
    pub(super) capsules: Capsules,
    /// Whether the peer's part has neither ended nor been stopped by us.
    pub(super) receiving: bool,
    /// Whether HTTP Datagrams have no meaning for it: neither extended CONNECT nor any other method that
    /// gives them one (RFC 9297 §2).
    pub(super) plain: bool,
    /// The peer asked us to stop before its response came (client).
    pub(super) stopped: Option<u64>,
    frames: FrameDecoder,
    /// Received and not yet looked at.
    held: VecDeque<Bytes>,
    fin: bool,
    /// The rest of a piece of DATA payload.
    piece: Bytes,
    /// Frames passed over since they were last counted.
    pub(super) ignored: u32,
    max_output: usize,
    /// What the owner last could see of [`Request::wants_data`].
    wanted: bool,
}

impl Request {
    pub(super) fn new(role: Role, stream: StreamId, config: &SessionConfig) -> Self {
        Self {
            role,
            stream,
            tunnel: None,
            state: State::Head,
            output: Output::new(Some(stream)),
            capsules: Capsules::new(config.capsules, config.max_address_requests),
            receiving: true,
            plain: false,
            stopped: None,
            frames: FrameDecoder::new(config.max_field_section),
            held: VecDeque::new(),
            fin: false,
            piece: Bytes::new(),
            ignored: 0,
            max_output: config.max_stream_output,
            wanted: true,
        }
    }

    pub(super) fn stream(&self) -> StreamId {
        self.stream
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Moves to `state`; gives back the state before.
    pub(super) fn enter(&mut self, state: State, out: &mut Effects) -> State {
        out.state(Some(self.stream), self.state.name(), state.name());
        core::mem::replace(&mut self.state, state)
    }

    /// Whether a server's owner knows of it or will, once SETTINGS have come.
    pub(super) fn counts_as_tunnel(&self) -> bool {
        self.tunnel.is_some() || matches!(self.state, State::Parked(_))
    }

    /// Queues a HEADERS frame.
    pub(super) fn send_head(&mut self, fields: &FieldList, out: &mut Effects) {
        let mut section = Vec::new();
        qpack::encode(fields, &mut section);
        out.head(self.stream, true, section.len(), fields);
        self.output.push(out, |buf| {
            frame::encode_header(FrameType::Headers, section.len(), buf);
            buf.extend_from_slice(&section);
        });
    }

    /// Queues a capsule in a DATA frame of its own.
    pub(super) fn send_capsule(&mut self, capsule: &Capsule, out: &mut Effects) {
        out.capsule_sent(self.stream, capsule);
        let mut value = Vec::new();
        capsule.encode(&mut value);
        #[cfg(feature = "lab")]
        if let (Some(tap), Some(tunnel)) = (&out.tap, self.tunnel) {
            tap.change(tunnel, &mut value);
            if value.is_empty() {
                return;
            }
        }
        self.output.push(out, |buf| {
            frame::encode_header(FrameType::Data, value.len(), buf);
            buf.extend_from_slice(&value);
        });
    }

    /// Takes bytes to be looked at by [`Request::poll`].
    pub(super) fn receive(&mut self, data: Bytes, fin: bool) {
        if self.fin || !self.receiving {
            return;
        }
        if !data.is_empty() {
            self.held.push_back(data);
        }
        if fin {
            self.fin = true;
            self.receiving = false;
        }
    }

    /// What comes next in the bytes received; `None` when there is nothing, or it is not the time.
    pub(super) fn poll(&mut self) -> Result<Option<Found>, WireErrorKind> {
        loop {
            match self.state {
                State::Parked(_) | State::Pending => return Ok(None),
                State::Draining => {
                    self.held.clear();
                    self.piece = Bytes::new();
                    return Ok(None);
                }
                State::Head | State::Open => {}
            }
            if !self.piece.is_empty() {
                if let Some(capsule) = self.capsules.decode(&mut self.piece)? {
                    return Ok(Some(Found::Capsule(capsule)));
                }
                self.piece = Bytes::new();
            }
            let Some(chunk) = self.held.front_mut() else {
                return self.poll_fin();
            };
            match self.frames.decode(chunk).map_err(|e| e.kind)? {
                None => {
                    self.held.pop_front();
                }
                Some(FrameEvent::Header { ty, length }) => {
                    self.judge(ty)?;
                    let ignored = match ty {
                        FrameType::Unknown(_) => true,
                        FrameType::Data => length == 0,
                        _ => false,
                    };
                    self.ignored = self.ignored.saturating_add(ignored.into());
                }
                Some(FrameEvent::Data(piece)) => self.piece = piece,
                Some(FrameEvent::Headers(section)) => return Ok(Some(Found::Head(section))),
                Some(_) => return Err(WireErrorKind::FrameUnexpected),
            }
        }
    }

    fn poll_fin(&mut self) -> Result<Option<Found>, WireErrorKind> {
        if !core::mem::take(&mut self.fin) {
            return Ok(None);
        }
        self.frames.finish().map_err(|e| e.kind)?;
        match (&self.state, self.role) {
            (State::Open, _) => self.capsules.finish()?,
            (_, Role::Client) => {}
            (_, Role::Server) => return Err(WireErrorKind::RequestIncomplete),
        }
        Ok(Some(Found::Fin))
    }

    fn judge(&self, ty: FrameType) -> Result<(), WireErrorKind> {
        match (ty, &self.state) {
            (FrameType::Unknown(_), _)
            | (FrameType::Headers, State::Head)
            | (FrameType::Data, State::Open) => Ok(()),
            // No push ID was ever allowed.
            (FrameType::PushPromise, _) if self.role == Role::Client => Err(WireErrorKind::PushId),
            _ => Err(WireErrorKind::FrameUnexpected),
        }
    }

    /// Whether more bytes may be handed over now.
    pub(super) fn wants_data(&self) -> bool {
        match self.state {
            State::Parked(_) | State::Pending => false,
            State::Draining => true,
            State::Head | State::Open => self.output.buffered() <= self.max_output / 2,
        }
    }

    /// Whether bytes are wanted that were not wanted at the last call.
    pub(super) fn resumes(&mut self) -> bool {
        let wants = self.wants_data();
        let before = core::mem::replace(&mut self.wanted, wants);
        wants && !before && self.receiving
    }

    /// Whether nothing is left to do on the stream.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Draining) && self.output.is_done() && !self.receiving
    }
}
