//! The unidirectional streams: ours and the peer's control and QPACK streams, and unknown ones
//! (RFC 9114 §6.2, RFC 9204 §4.2).
//!
//! A stream of the peer:
//!
//! | state | meaning | leaves on |
//! |---|---|---|
//! | `Type` | its type has not all arrived | the type → one of the others, or stopped and forgotten |
//! | `Control` | frames, SETTINGS first | – (its end is a connection error) |
//! | `Encoder`, `Decoder` | QPACK instructions | – (its end is a connection error) |

use bytes::{Buf, Bytes};

use super::effects::Effects;
use super::output::Output;
use super::seen::Ended;
use super::{QuicOutput, SessionConfig};
use crate::error::{H3Code, WireErrorKind};
use crate::few::FewMap;
use crate::wire::frame::{self, FrameDecoder, FrameEvent, FrameType};
use crate::wire::qpack::{DecoderStream, EncoderStream};
use crate::wire::settings::Settings;
use crate::wire::stream::{Direction, Role, StreamId, UniStreamType};
use crate::wire::varint::VarInt;

/// What the peer's control stream says to the session.
#[derive(Debug)]
pub(super) enum Notice {
    Settings(Settings),
    GoAway(VarInt),
}

#[derive(Debug)]
enum PeerStream {
    Type {
        bytes: [u8; VarInt::MAX_LEN],
        len: usize,
    },
    Control,
    Encoder(EncoderStream),
    Decoder(DecoderStream),
}

impl PeerStream {
    fn name(&self) -> &'static str {
        match self {
            Self::Type { .. } => "Type",
            Self::Control => "Control",
            Self::Encoder(_) => "Encoder",
            Self::Decoder(_) => "Decoder",
        }
    }
}

/// All unidirectional streams of a session.
#[derive(Debug)]
pub(super) struct Control {
    role: Role,
    max_unknown: usize,
    /// Control, QPACK encoder, QPACK decoder: opened in this order.
    own: [Output; 3],
    peers: FewMap<StreamId, PeerStream>,
    ended: Ended,
    frames: FrameDecoder,
    has_control: bool,
    has_encoder: bool,
    has_decoder: bool,
    has_settings: bool,
    goaway: Option<VarInt>,
    max_push_id: Option<VarInt>,
    /// Streams and frames passed over since they were last asked for.
    ignored: u32,
}

impl Control {
    pub(super) fn new(role: Role, config: &SessionConfig) -> Self {
        Self {
            role,
            max_unknown: config.max_unknown_streams,
            own: [Output::new(None), Output::new(None), Output::new(None)],
            peers: FewMap::default(),
            ended: Ended::default(),
            frames: FrameDecoder::new(config.max_field_section),
            has_control: false,
            has_encoder: false,
            has_decoder: false,
            has_settings: false,
            goaway: None,
            max_push_id: None,
            ignored: 0,
        }
    }

    /// Asks for our three streams and queues what they begin with.
    pub(super) fn start(&mut self, settings: &Settings, out: &mut Effects) {
        let types = [
            UniStreamType::Control,
            UniStreamType::QpackEncoder,
            UniStreamType::QpackDecoder,
        ];
        for (output, ty) in self.own.iter_mut().zip(types) {
            out.quic(QuicOutput::Open {
                direction: Direction::Unidirectional,
            });
            output.push(out, |buf| {
                ty.into_varint().encode(buf);
                if ty == UniStreamType::Control {
                    settings.encode_frame(buf);
                }
            });
        }
    }

    /// Takes the next stream that was opened for us; more than were asked for are left alone.
    pub(super) fn opened(&mut self, stream: StreamId, out: &mut Effects) {
        if self.own(stream).is_some() {
            return;
        }
        if let Some(output) = self.own.iter_mut().find(|o| o.stream().is_none()) {
            output.opened(stream, out);
        }
    }

    /// Our stream with this ID.
    pub(super) fn own(&mut self, stream: StreamId) -> Option<&mut Output> {
        self.own.iter_mut().find(|o| o.stream() == Some(stream))
    }

    /// Whether our SETTINGS are on their way.
    pub(super) fn settings_sent(&self) -> bool {
        self.own[0].stream().is_some()
    }

    /// Whether QUIC has taken all that was said on our control stream.
    pub(super) fn is_flushed(&self) -> bool {
        self.own[0].buffered() == 0
    }

    pub(super) fn send_goaway(&mut self, id: VarInt, out: &mut Effects) {
        self.own[0].push(out, |buf| frame::encode_goaway(id, buf));
    }

    /// Takes bytes of a stream of the peer from the front of `data`, up to the next notice; `None`
    /// when all of it was taken. To be called once even for no bytes, which announce the stream.
    pub(super) fn receive(
        &mut self,
        stream: StreamId,
        data: &mut Bytes,
        out: &mut Effects,
    ) -> Result<Option<Notice>, WireErrorKind> {
        loop {
            let state = match self.peers.get_mut(&stream) {
                Some(state) => state,
                None if self.ended.contains(stream) => return Ok(None),
                None => {
                    if self.untyped() >= self.max_unknown {
                        self.ignore(stream, out);
                        return Ok(None);
                    }
                    let (bytes, len) = ([0; VarInt::MAX_LEN], 0);
                    self.peers.insert(stream, PeerStream::Type { bytes, len });
                    continue;
                }
            };
            match state {
                PeerStream::Type { bytes, len } => {
                    let ty = loop {
                        if let Some((ty, _)) = VarInt::decode(&bytes[..*len]) {
                            break ty;
                        }
                        if !data.has_remaining() {
                            return Ok(None);
                        }
                        // Eight bytes always make a varint: `len` stays below the array's end.
                        bytes[*len] = data.get_u8();
                        *len += 1;
                    };
                    self.typed(stream, UniStreamType::from_varint(ty), out)?;
                }
                PeerStream::Control => return self.frames(data),
                PeerStream::Encoder(encoder) => {
                    encoder.feed(data).map_err(|e| e.kind)?;
                    return Ok(None);
                }
                PeerStream::Decoder(decoder) => {
                    decoder.feed(data).map_err(|e| e.kind)?;
                    return Ok(None);
                }
            }
        }
    }

    /// The peer ended one of its streams, by FIN or reset (RFC 9114 §6.2).
    pub(super) fn ended(&mut self, stream: StreamId) -> Result<(), WireErrorKind> {
        match self.peers.remove(&stream) {
            None | Some(PeerStream::Type { .. }) => {
                self.ignored = self.ignored.saturating_add(1);
                self.ended.insert(stream);
                Ok(())
            }
            Some(_) => Err(WireErrorKind::CriticalStreamClosed),
        }
    }

    /// How many streams and frames were passed over since the last call.
    pub(super) fn take_ignored(&mut self) -> u32 {
        core::mem::take(&mut self.ignored)
    }

    fn untyped(&self) -> usize {
        self.peers
            .values()
            .filter(|state| matches!(state, PeerStream::Type { .. }))
            .count()
    }

    fn ignore(&mut self, stream: StreamId, out: &mut Effects) {
        self.ignored = self.ignored.saturating_add(1);
        self.peers.remove(&stream);
        self.ended.insert(stream);
        out.state(Some(stream), "Type", "Ignored");
        out.quic(QuicOutput::Stop {
            stream,
            code: H3Code::STREAM_CREATION_ERROR,
        });
    }

    fn typed(
        &mut self,
        stream: StreamId,
        ty: UniStreamType,
        out: &mut Effects,
    ) -> Result<(), WireErrorKind> {
        let (state, taken) = match ty {
            UniStreamType::Control => (PeerStream::Control, &mut self.has_control),
            UniStreamType::QpackEncoder => (
                PeerStream::Encoder(EncoderStream::default()),
                &mut self.has_encoder,
            ),
            UniStreamType::QpackDecoder => (
                PeerStream::Decoder(DecoderStream::default()),
                &mut self.has_decoder,
            ),
            UniStreamType::Push => {
                return Err(match self.role {
                    Role::Server => WireErrorKind::StreamCreation,
                    // No MAX_PUSH_ID is ever sent, so no push ID can be legal.
                    Role::Client => WireErrorKind::PushId,
                });
            }
            UniStreamType::Unknown(_) => {
                self.ignore(stream, out);
                return Ok(());
            }
        };
        if core::mem::replace(taken, true) {
            return Err(WireErrorKind::StreamCreation);
        }
        out.state(Some(stream), "Type", state.name());
        self.peers.insert(stream, state);
        Ok(())
    }

    fn frames(&mut self, data: &mut Bytes) -> Result<Option<Notice>, WireErrorKind> {
        while let Some(event) = self.frames.decode(data).map_err(|e| e.kind)? {
            match event {
                FrameEvent::Header { ty, .. } => {
                    self.judge(ty)?;
                    let ignored = matches!(ty, FrameType::Unknown(_));
                    self.ignored = self.ignored.saturating_add(ignored.into());
                }
                FrameEvent::Settings(settings) => {
                    self.has_settings = true;
                    return Ok(Some(Notice::Settings(settings)));
                }
                FrameEvent::GoAway(id) => {
                    let legal = self.role == Role::Server || StreamId::new(id).is_request();
                    if !legal || self.goaway.is_some_and(|before| id > before) {
                        return Err(WireErrorKind::GoAwayId);
                    }
                    self.goaway = Some(id);
                    self.ignored = self.ignored.saturating_add(1);
                    return Ok(Some(Notice::GoAway(id)));
                }
                FrameEvent::MaxPushId(id) => {
                    if self.max_push_id.is_some_and(|before| id < before) {
                        return Err(WireErrorKind::PushId);
                    }
                    self.max_push_id = Some(id);
                    self.ignored = self.ignored.saturating_add(1);
                }
                // Nothing was ever promised (server) or allowed (client).
                FrameEvent::CancelPush(_) => return Err(WireErrorKind::PushId),
                FrameEvent::Data(_) | FrameEvent::Headers(_) => {
                    return Err(WireErrorKind::FrameUnexpected);
                }
            }
        }
        Ok(None)
    }

    fn judge(&self, ty: FrameType) -> Result<(), WireErrorKind> {
        match ty {
            FrameType::Settings if self.has_settings => Err(WireErrorKind::FrameUnexpected),
            FrameType::Settings => Ok(()),
            _ if !self.has_settings => Err(WireErrorKind::MissingSettings),
            FrameType::Data | FrameType::Headers | FrameType::PushPromise | FrameType::Http2(_) => {
                Err(WireErrorKind::FrameUnexpected)
            }
            FrameType::MaxPushId if self.role == Role::Client => {
                Err(WireErrorKind::FrameUnexpected)
            }
            FrameType::MaxPushId
            | FrameType::CancelPush
            | FrameType::GoAway
            | FrameType::Unknown(_) => Ok(()),
        }
    }
}
