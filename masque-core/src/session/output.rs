//! The sending part of one stream: a bounded queue with at most one write under way.
//!
//! | flow | meaning | leaves on |
//! |---|---|---|
//! | `Idle` | nothing under way | bytes queued → `Writing` |
//! | `Writing` | a `Write` waits for its `Written` | all taken → `Idle`; fewer → `Blocked` |
//! | `Blocked` | QUIC takes no more | `Writable` → `Idle` |
//!
//! The part ends with `Finish` once everything was taken, or at once with `Reset`.

use bytes::{Buf, Bytes, BytesMut};

use super::QuicOutput;
use super::effects::Effects;
use crate::error::H3Code;
use crate::wire::stream::StreamId;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flow {
    Idle,
    Writing,
    Blocked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Open,
    Finishing,
    Done,
}

/// The sending part of a stream, before and after the stream exists.
#[derive(Debug)]
pub(super) struct Output {
    stream: Option<StreamId>,
    /// Not yet given to QUIC.
    queued: BytesMut,
    /// Given to QUIC and not yet taken by it.
    given: Bytes,
    flow: Flow,
    end: End,
}

impl Output {
    pub(super) fn new(stream: Option<StreamId>) -> Self {
        Self {
            stream,
            queued: BytesMut::new(),
            given: Bytes::new(),
            flow: Flow::Idle,
            end: End::Open,
        }
    }

    pub(super) fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// Names the stream, which was opened by now.
    pub(super) fn opened(&mut self, stream: StreamId, out: &mut Effects) {
        self.stream = Some(stream);
        self.flush(out);
    }

    /// How many bytes wait here.
    pub(super) fn buffered(&self) -> usize {
        self.queued.len() + self.given.len()
    }

    /// Whether `Finish` or `Reset` was given.
    pub(super) fn is_done(&self) -> bool {
        self.end == End::Done
    }

    /// Queues what `write` appends; nothing once the part has ended.
    pub(super) fn push(&mut self, out: &mut Effects, write: impl FnOnce(&mut BytesMut)) {
        if self.end == End::Open {
            write(&mut self.queued);
            self.flush(out);
        }
    }

    /// Ends the part after what is queued.
    pub(super) fn finish(&mut self, out: &mut Effects) {
        if self.end == End::Open {
            self.end = End::Finishing;
            self.flush(out);
        }
    }

    /// Ends the part now, if it has not ended.
    pub(super) fn reset(&mut self, code: H3Code, out: &mut Effects) {
        if let (Some(stream), false) = (self.stream, self.is_done()) {
            out.state(Some(stream), "sending", "reset");
            out.quic(QuicOutput::Reset { stream, code });
        }
        self.end = End::Done;
        self.queued = BytesMut::new();
        self.given = Bytes::new();
    }

    /// QUIC took `bytes` of the write under way.
    pub(super) fn written(&mut self, bytes: usize, out: &mut Effects) {
        if self.flow != Flow::Writing {
            return;
        }
        self.given.advance(bytes.min(self.given.len()));
        if self.given.is_empty() {
            // Lets go of the allocation the write shared.
            self.given = Bytes::new();
            self.flow = Flow::Idle;
            self.flush(out);
        } else {
            out.state(self.stream, "Writing", "Blocked");
            self.flow = Flow::Blocked;
        }
    }

    /// QUIC takes bytes again.
    pub(super) fn writable(&mut self, out: &mut Effects) {
        if self.flow == Flow::Blocked {
            out.state(self.stream, "Blocked", "Idle");
            self.flow = Flow::Idle;
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut Effects) {
        let Some(stream) = self.stream else { return };
        if self.flow != Flow::Idle || self.end == End::Done {
            return;
        }
        if self.given.is_empty() {
            self.given = self.queued.split().freeze();
        }
        if !self.given.is_empty() {
            self.flow = Flow::Writing;
            let data = self.given.clone();
            out.quic(QuicOutput::Write { stream, data });
        } else if self.end == End::Finishing {
            self.end = End::Done;
            out.state(Some(stream), "sending", "finished");
            out.quic(QuicOutput::Finish { stream });
        }
    }
}
