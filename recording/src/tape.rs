//! Writing a recording.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::file::{MAGIC, frame};
use crate::record::{Draw, End, Input, Output, Record, Start, put_input};

/// So much waits at most before it is written.
const ENOUGH: usize = 256 << 10;

/// A recording being made. Clones write to the same one: the endpoint's inputs and what TLS draws
/// meanwhile are one sequence.
///
/// An input is written out before the endpoint gets it, so that one that ends the process is there;
/// what the endpoint gives goes along with the next.
#[derive(Clone)]
pub struct Tape(Arc<Mutex<Writer>>);

struct Writer {
    out: Box<dyn Write + Send>,
    /// What was not written yet; whole records.
    buffer: Vec<u8>,
    written: u64,
    limit: u64,
    /// When the endpoint was made; `None` before.
    start: Option<Instant>,
    /// The last time told.
    now: Option<Instant>,
    stopped: bool,
}

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tape").finish_non_exhaustive()
    }
}

impl Tape {
    /// A recording of at most `limit` bytes. It stops there, or where writing fails, with one warning in
    /// the log; the endpoint goes on.
    #[must_use]
    pub fn new(out: impl Write + Send + 'static, limit: u64) -> Self {
        Self(Arc::new(Mutex::new(Writer {
            out: Box::new(out),
            buffer: MAGIC.to_vec(),
            written: 0,
            limit,
            start: None,
            now: None,
            stopped: false,
        })))
    }

    /// The endpoint is made, at `now`.
    pub fn start(&self, now: Instant, start: Start) {
        let mut writer = self.lock();
        writer.start = Some(now);
        writer.now = Some(now);
        writer.add(|out| Record::Start(Box::new(start)).put(out));
        writer.write_out();
    }

    /// What an endpoint is to tell, from now until it is given up; then the recording ends.
    #[must_use]
    pub fn recorder(&self) -> Box<dyn Recorder> {
        Box::new(Session(self.clone()))
    }

    /// Ends the recording: nothing that follows is written.
    pub fn end(&self) {
        let mut writer = self.lock();
        writer.write_out();
        writer.end(End::Over);
    }

    pub(crate) fn draw(&self, draw: Draw) {
        self.lock().add(|out| Record::Draw(draw).put(out));
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // What a panic leaves in the buffer is whole records and perhaps one that is not, the last.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told of every call of an endpoint, before and after.
pub trait Recorder: Send {
    /// A call is about to be made; `None` for those that are given no time.
    fn input(&mut self, now: Option<Instant>, input: &Input<'_>);

    /// What it gave.
    fn output(&mut self, output: Output);

    /// A moment as it stands in a recording.
    fn due(&self, at: Instant) -> Result<Duration, Duration>;
}

/// Ends the recording when the endpoint goes.
struct Session(Tape);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Recorder for Session {
    fn input(&mut self, now: Option<Instant>, input: &Input<'_>) {
        let mut writer = self.0.lock();
        writer.now = now.or(writer.now);
        let at = match (writer.now, writer.start) {
            (Some(now), Some(start)) => now.saturating_duration_since(start),
            _ => Duration::ZERO,
        };
        writer.add(|out| put_input(at, input, out));
        // Once a turn what has gathered is written, too.
        if input.is_told() || matches!(input, Input::PollTimeout) {
            writer.write_out();
        }
    }

    fn output(&mut self, output: Output) {
        self.0.lock().add(|out| Record::Output(output).put(out));
    }

    fn due(&self, at: Instant) -> Result<Duration, Duration> {
        offset(self.0.lock().start.unwrap_or(at), at)
    }
}

/// How long after `start`, or before it.
pub(crate) fn offset(start: Instant, at: Instant) -> Result<Duration, Duration> {
    at.checked_duration_since(start)
        .ok_or_else(|| start.saturating_duration_since(at))
}

impl Writer {
    fn add(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if self.stopped {
            return;
        }
        frame(&mut self.buffer, put);
        if self.buffer.len() > ENOUGH {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        if self.stopped {
            return;
        }
        let after = self.written + self.buffer.len() as u64;
        if after > self.limit {
            tracing::warn!(
                bytes = self.written,
                limit = self.limit,
                "the recording is as large as it may be and ends here"
            );
            self.buffer.clear();
            if self.written == 0 {
                self.buffer.extend_from_slice(MAGIC);
            }
            return self.end(End::Limit);
        }
        match self.out.write_all(&self.buffer) {
            Ok(()) => self.written = after,
            Err(error) => self.failed(&error),
        }
        self.buffer.clear();
    }

    fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        frame(&mut self.buffer, |out| Record::End(end).put(out));
        let written = self.out.write_all(&self.buffer);
        if let Err(error) = written.and_then(|()| self.out.flush()) {
            self.failed(&error);
        }
        self.buffer = Vec::new();
    }

    fn failed(&mut self, error: &io::Error) {
        self.stopped = true;
        tracing::warn!(%error, bytes = self.written, "the recording cannot be written on and ends here");
    }
}
