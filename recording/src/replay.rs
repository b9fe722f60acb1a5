//! Playing a recording again.

use std::collections::VecDeque;
use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use masque_core::endpoint::{ConnectError, Endpoint, Entropy, Event, Transmit, TunBatch};
use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::{KeyLog, NoKeyLog};

use crate::file::{ReadError, Reader};
use crate::record::{Due, End, Input, Output, Record, Start, Written};
use crate::tape::offset;
use crate::tls::{Draws, Side, TlsError};

/// Why a recording cannot be played on.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// TLS cannot be set up as it was.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The endpoint cannot be made as it was.
    #[error("the endpoint: {0}")]
    Endpoint(#[from] ConnectError),
}

/// How a recording ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The endpoint was given up.
    Over,
    /// The recording had become as large as it might.
    Limit,
    /// The process was killed, or the file was cut off.
    Cut,
    /// What follows was not asked for ([`Replay::step_until`]).
    Stopped,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Over => "the endpoint was given up",
            Self::Limit => "the recording was as large as it might be",
            Self::Cut => "the process or the file was cut off",
            Self::Stopped => "more follows",
        })
    }
}

/// An endpoint that is given again what it was given when it was recorded.
pub struct Replay<R> {
    reader: Reader<R>,
    start: Start,
    stage: Stage,
    draws: Draws,
    at: Duration,
    number: u64,
    input: Vec<u8>,
    /// The reader stands at a record that was not taken yet.
    ahead: bool,
    ending: Option<Ending>,
}

/// The endpoint and what calling it takes.
struct Stage {
    endpoint: Endpoint,
    side: Side,
    client: Option<Arc<QuicClientConfig>>,
    /// What times are added to.
    base: Instant,
    buffer: Vec<u8>,
    batch: TunBatch,
}

/// One input, and what it came to.
pub struct Step<'a> {
    /// Counted from 1.
    pub number: u64,
    /// The time since the endpoint was made.
    pub at: Duration,
    /// The input.
    pub input: Input<'a>,
    /// What the endpoint gave now, in short.
    pub output: Output,
    /// What it gave now.
    pub played: Played<'a>,
    /// How that differs from what was recorded.
    pub difference: Option<Difference>,
    /// The recording ends within this input: there is nothing to compare with.
    pub unfinished: bool,
}

/// What an endpoint gave, in full.
pub enum Played<'a> {
    /// Nothing but what is in the output.
    Nothing,
    /// Datagrams and their bytes.
    Transmit(Transmit, &'a [u8]),
    /// Frames for a device.
    Frames(&'a TunBatch),
    /// An event.
    Event(Event),
}

/// How a replay differs from its recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// In what the endpoint gave.
    Output {
        /// In the recording.
        recorded: Output,
        /// Now.
        replayed: Output,
    },
    /// In what TLS drew.
    Draw(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output { recorded, replayed } => {
                write!(f, "recorded {recorded:?}, now {replayed:?}")
            }
            Self::Draw(what) => f.write_str(what),
        }
    }
}

enum Gave {
    Nothing,
    Transmit(Transmit),
    Frames,
    Event(Event),
}

impl<R: Read> Replay<R> {
    /// The endpoint of a recording, made again.
    ///
    /// It leaks about a kilobyte: rustls wants its sources of randomness to live for ever.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn new(from: R) -> Result<Self, ReplayError> {
        Self::with_key_log(from, Arc::new(NoKeyLog))
    }

    /// The same, with a place for the secrets of its sessions.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn with_key_log(from: R, key_log: Arc<dyn KeyLog>) -> Result<Self, ReplayError> {
        let (reader, start) = Reader::new(from)?;
        let draws = Draws::default();
        let side = Side::replayed(&start.tls, &draws, key_log)?;
        let config = start.setup.clone().config(|| {
            let server: Arc<dyn quinn_proto::crypto::ServerConfig> = side.server()?;
            Ok::<_, TlsError>(server)
        })?;
        let base = Instant::now();
        let entropy = Entropy::from_seed(start.seed);
        Ok(Self {
            stage: Stage {
                endpoint: Endpoint::new(base, start.wall, config, entropy)?,
                side,
                client: None,
                base,
                buffer: Vec::new(),
                batch: TunBatch::default(),
            },
            reader,
            start,
            draws,
            at: Duration::ZERO,
            number: 0,
            input: Vec::new(),
            ahead: false,
            ending: None,
        })
    }

    /// How the endpoint was made.
    #[must_use]
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// The endpoint, as it is now.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.stage.endpoint
    }

    /// The endpoint's trace: to be turned on, and taken.
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.stage.endpoint
    }

    /// How the recording ends, once [`Replay::step`] has given `None`.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The next input with its time; `None` if there is none.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn peek(&mut self) -> Result<Option<(Duration, Input<'_>)>, ReplayError> {
        if self.ending.is_some() || !self.look()? {
            return Ok(None);
        }
        Ok(match self.reader.record()? {
            Record::Input(at, input) => Some((at, input)),
            _ => None,
        })
    }

    /// Has the reader stand at the next record; `false` if there is none.
    fn look(&mut self) -> Result<bool, ReplayError> {
        if !self.ahead {
            self.ahead = self.reader.advance()?;
        }
        Ok(self.ahead)
    }

    /// Gives the endpoint its next input; `None` if there is none.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn step(&mut self) -> Result<Option<Step<'_>>, ReplayError> {
        self.step_until(Duration::MAX)
    }

    /// The same; an input later than `until` is not given, nor any that follows.
    ///
    /// # Errors
    /// [`ReplayError`].
    pub fn step_until(&mut self, until: Duration) -> Result<Option<Step<'_>>, ReplayError> {
        if self.ending.is_some() {
            return Ok(None);
        }
        if !self.look()? {
            self.ending = Some(Ending::Cut);
            return Ok(None);
        }
        match self.reader.record()? {
            Record::Input(at, _) if at > until => {
                self.ending = Some(Ending::Stopped);
                return Ok(None);
            }
            Record::Input(..) => {}
            Record::End(end) => {
                self.ending = Some(match end {
                    End::Over => Ending::Over,
                    End::Limit => Ending::Limit,
                });
                return Ok(None);
            }
            _ => return Err(self.reader.wrong("neither an input nor the end").into()),
        }
        self.ahead = false;
        std::mem::swap(&mut self.input, self.reader.bytes());
        let recorded = self.answer()?;
        let Ok(Record::Input(at, input)) = Record::parse(&self.input) else {
            return Err(self.reader.wrong("no input").into());
        };
        let now = self.stage.base.checked_add(at).filter(|_| at >= self.at);
        let now = now.ok_or_else(|| self.reader.wrong("time goes back, or too far"))?;
        self.at = at;
        self.number += 1;
        let (output, gave) = self.stage.play(now, &input)?;
        let unfinished = recorded.is_none();
        let difference = match (self.draws.verdict(), recorded) {
            (_, None) => None,
            (_, Some(recorded)) if recorded != output => Some(Difference::Output {
                recorded,
                replayed: output.clone(),
            }),
            (wrong, Some(_)) => wrong.map(Difference::Draw),
        };
        Ok(Some(Step {
            number: self.number,
            at,
            input,
            output,
            played: match gave {
                Gave::Nothing => Played::Nothing,
                Gave::Transmit(transmit) => Played::Transmit(transmit, &self.stage.buffer),
                Gave::Frames => Played::Frames(&self.stage.batch),
                Gave::Event(event) => Played::Event(event),
            },
            difference,
            unfinished,
        }))
    }

    /// Takes up what was drawn during an input, and what came of it; `None` where the recording ends
    /// before.
    fn answer(&mut self) -> Result<Option<Output>, ReplayError> {
        let mut draws = VecDeque::new();
        let output = loop {
            if !self.reader.advance()? {
                self.ending = Some(Ending::Cut);
                break None;
            }
            match self.reader.record()? {
                Record::Draw(draw) => draws.push_back(draw),
                Record::Output(output) => break Some(output),
                Record::End(_) => {
                    self.ending = Some(Ending::Limit);
                    break None;
                }
                _ => return Err(self.reader.wrong("an input without an answer").into()),
            }
        };
        self.draws.load(draws);
        Ok(output)
    }
}

impl Stage {
    /// Makes the call that an input is.
    fn play(&mut self, now: Instant, input: &Input<'_>) -> Result<(Output, Gave), ReplayError> {
        let endpoint = &mut self.endpoint;
        let output = match input {
            Input::Udp { meta, data } => {
                endpoint.handle_udp(now, *meta, BytesMut::from(*data));
                Output::Done
            }
            Input::Tun { port, header, data } => {
                Output::Accepted(endpoint.handle_tun(now, *port, *header, data))
            }
            Input::Ip { port, origin, data } => {
                let packet = Bytes::copy_from_slice(data);
                Output::judged(&endpoint.handle_ip(now, *port, *origin, packet))
            }
            Input::Connect(destination) => {
                let crypto = match &self.client {
                    Some(crypto) => Arc::clone(crypto),
                    None => Arc::clone(self.client.insert(self.side.client()?)),
                };
                let target = (**destination).clone().target(crypto);
                Output::connected(&endpoint.connect(now, target))
            }
            Input::Command(command) => {
                Output::judged(&endpoint.handle_command(now, (**command).clone()))
            }
            Input::Timeout => {
                endpoint.handle_timeout(now);
                Output::Done
            }
            Input::PollTransmit(max) => {
                self.buffer.clear();
                let transmit = endpoint.poll_transmit(now, *max, &mut self.buffer);
                let output = Output::transmit(transmit.as_ref(), &self.buffer);
                return Ok((output, transmit.map_or(Gave::Nothing, Gave::Transmit)));
            }
            Input::PollTun => {
                let some = endpoint.poll_tun(&mut self.batch);
                let written = some.then(|| Written::of(&self.batch));
                let gave = if some { Gave::Frames } else { Gave::Nothing };
                return Ok((Output::Frames(written), gave));
            }
            Input::PollEvent => {
                let event = endpoint.poll_event();
                let output = Output::event(event.as_ref());
                return Ok((output, event.map_or(Gave::Nothing, Gave::Event)));
            }
            Input::PollTimeout => Output::Deadline(endpoint.poll_timeout().map(|deadline| Due {
                at: offset(self.base, deadline.at),
                reason: format!("{:?}", deadline.reason),
            })),
            Input::Rest => {
                endpoint.rest(now);
                Output::Done
            }
        };
        Ok((output, Gave::Nothing))
    }
}
