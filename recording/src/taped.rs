//! An endpoint whose every input may be recorded.

use std::num::NonZeroUsize;
use std::ops::Deref;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use masque_core::endpoint::{
    Accepted, Command, CommandError, ConnId, ConnectError, Deadline, Endpoint, Event, Mail, Origin,
    PortId, RecvMeta, Rejected, ShardId, Target, Transmit, TunBatch,
};
use masque_core::wire::offload::VnetHdr;

use crate::record::{Destination, Due, Input, Output, Sent, Written};
use crate::tape::Recorder;

/// An [`Endpoint`] and, if it is recorded, the recorder that is told of every call.
///
/// What only looks at the endpoint goes straight to it. There is no way to change it past the
/// recorder. Mail between the shards of a server is not recorded: [`Taped::record`] is for endpoints
/// that are alone.
pub struct Taped {
    endpoint: Endpoint,
    recorder: Option<Box<dyn Recorder>>,
}

impl std::fmt::Debug for Taped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taped")
            .field("endpoint", &self.endpoint)
            .field("recorded", &self.recorder.is_some())
            .finish()
    }
}

impl From<Endpoint> for Taped {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            recorder: None,
        }
    }
}

impl Deref for Taped {
    type Target = Endpoint;

    #[inline]
    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Taped {
    /// From now on tells `recorder`: to be called before anything else, on an endpoint that is no shard.
    pub fn record(&mut self, recorder: Box<dyn Recorder>) {
        self.recorder = Some(recorder);
    }

    /// The endpoint, recorded no longer.
    #[must_use]
    pub fn into_inner(self) -> Endpoint {
        self.endpoint
    }

    /// [`Endpoint::handle_udp`].
    #[inline]
    pub fn handle_udp(&mut self, now: Instant, meta: RecvMeta, data: BytesMut) {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.handle_udp(now, meta, data);
        };
        recorder.input(Some(now), &Input::Udp { meta, data: &data });
        self.endpoint.handle_udp(now, meta, data);
        recorder.output(Output::Done);
    }

    /// [`Endpoint::handle_tun`].
    #[inline]
    pub fn handle_tun(
        &mut self,
        now: Instant,
        port: PortId,
        header: VnetHdr,
        data: &[u8],
    ) -> Accepted {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.handle_tun(now, port, header, data);
        };
        recorder.input(Some(now), &Input::Tun { port, header, data });
        let accepted = self.endpoint.handle_tun(now, port, header, data);
        recorder.output(Output::Accepted(accepted));
        accepted
    }

    /// [`Endpoint::handle_ip`].
    ///
    /// # Errors
    /// As there.
    pub fn handle_ip(
        &mut self,
        now: Instant,
        port: PortId,
        origin: Origin,
        packet: Bytes,
    ) -> Result<(), Rejected> {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.handle_ip(now, port, origin, packet);
        };
        let input = Input::Ip {
            port,
            origin,
            data: &packet,
        };
        recorder.input(Some(now), &input);
        let result = self.endpoint.handle_ip(now, port, origin, packet);
        recorder.output(Output::judged(&result));
        result
    }

    /// [`Endpoint::connect`].
    ///
    /// # Errors
    /// As there.
    pub fn connect(&mut self, now: Instant, target: Target) -> Result<ConnId, ConnectError> {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.connect(now, target);
        };
        let destination = Box::new(Destination::of(&target));
        recorder.input(Some(now), &Input::Connect(destination));
        let result = self.endpoint.connect(now, target);
        recorder.output(Output::connected(&result));
        result
    }

    /// [`Endpoint::handle_command`].
    ///
    /// # Errors
    /// As there.
    pub fn handle_command(&mut self, now: Instant, command: Command) -> Result<(), CommandError> {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.handle_command(now, command);
        };
        let told = Box::new(command.clone());
        recorder.input(Some(now), &Input::Command(told));
        let result = self.endpoint.handle_command(now, command);
        recorder.output(Output::judged(&result));
        result
    }

    /// [`Endpoint::handle_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.handle_timeout(now);
        };
        recorder.input(Some(now), &Input::Timeout);
        self.endpoint.handle_timeout(now);
        recorder.output(Output::Done);
    }

    /// [`Endpoint::handle_mail`], of a shard.
    pub fn handle_mail(&mut self, now: Instant, mail: Mail) {
        self.endpoint.handle_mail(now, mail);
    }

    /// [`Endpoint::mail_refused`], of a shard.
    pub fn mail_refused(&mut self, mail: Mail) {
        self.endpoint.mail_refused(mail);
    }

    /// [`Endpoint::poll_mail`]: there is none of an endpoint that is alone.
    #[must_use]
    #[inline]
    pub fn poll_mail(&mut self) -> Option<(ShardId, Mail)> {
        self.endpoint.poll_mail()
    }

    /// [`Endpoint::poll_transmit`].
    #[must_use]
    #[inline]
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: NonZeroUsize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.poll_transmit(now, max_segments, buf);
        };
        recorder.input(Some(now), &Input::PollTransmit(max_segments));
        let transmit = self.endpoint.poll_transmit(now, max_segments, buf);
        recorder.output(Output::transmit(transmit.as_ref(), buf));
        transmit
    }

    /// [`Endpoint::poll_tun`].
    #[must_use]
    #[inline]
    pub fn poll_tun(&mut self, batch: &mut TunBatch) -> bool {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.poll_tun(batch);
        };
        recorder.input(None, &Input::PollTun);
        let some = self.endpoint.poll_tun(batch);
        recorder.output(Output::Frames(some.then(|| Written::of(batch))));
        some
    }

    /// [`Endpoint::poll_event`].
    #[must_use]
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.poll_event();
        };
        recorder.input(None, &Input::PollEvent);
        let event = self.endpoint.poll_event();
        recorder.output(Output::event(event.as_ref()));
        event
    }

    /// [`Endpoint::poll_timeout`].
    #[must_use]
    #[inline]
    pub fn poll_timeout(&mut self) -> Option<Deadline> {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.poll_timeout();
        };
        recorder.input(None, &Input::PollTimeout);
        let deadline = self.endpoint.poll_timeout();
        let due = deadline.map(|deadline| Due {
            at: recorder.due(deadline.at),
            reason: format!("{:?}", deadline.reason),
        });
        recorder.output(Output::Deadline(due));
        deadline
    }

    /// [`Endpoint::rest`].
    pub fn rest(&mut self, now: Instant) {
        let Some(recorder) = &mut self.recorder else {
            return self.endpoint.rest(now);
        };
        recorder.input(Some(now), &Input::Rest);
        self.endpoint.rest(now);
        recorder.output(Output::Done);
    }
}

impl Output {
    pub(crate) fn judged<E: std::fmt::Display>(result: &Result<(), E>) -> Self {
        Self::Judged(match result {
            Ok(()) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
    }

    pub(crate) fn connected(result: &Result<ConnId, ConnectError>) -> Self {
        Self::Connected(match result {
            Ok(conn) => Ok(*conn),
            Err(error) => Err(error.to_string()),
        })
    }

    pub(crate) fn transmit(transmit: Option<&Transmit>, buf: &[u8]) -> Self {
        Self::Transmit(transmit.map(|transmit| Sent::of(transmit, buf)))
    }

    pub(crate) fn event(event: Option<&Event>) -> Self {
        Self::Event(event.map(|event| format!("{event:?}")))
    }
}
