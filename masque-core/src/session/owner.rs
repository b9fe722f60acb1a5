//! The owner's commands.

use super::client::Slot;
use super::request::{Request, State};
use super::tunnel::{self, PACKET_OVERHEAD};
use super::{CloseHow, Command, CommandError, Event, Session, SessionEnd, Timer, TunnelEnd};
use super::{TunnelId, output::Output};
use crate::error::H3Code;
use crate::wire::capsule::Capsule;
use crate::wire::fields::{FieldList, ResponseHead};
use crate::wire::stream::{Role, StreamId};

impl Session {
    pub(super) fn command(&mut self, command: Command) -> Result<(), CommandError> {
        let (name, tunnel) = describe(&command);
        let stream = tunnel.and_then(|tunnel| self.stream_of(tunnel));
        self.out.command(stream, name);
        match command {
            Command::Accept { tunnel } => self.accept(tunnel, FieldList::default()),
            Command::AcceptWith { tunnel, fields } => self.accept(tunnel, fields),
            Command::Refuse {
                tunnel,
                status,
                fields,
            } => self.refuse(tunnel, status, fields),
            Command::AssignAddresses { tunnel, assign } => {
                self.send(tunnel, &Capsule::AddressAssign(assign))
            }
            Command::AdvertiseRoutes { tunnel, routes } => {
                self.send(tunnel, &Capsule::RouteAdvertisement(routes))
            }
            Command::RequestAddresses { tunnel, prefixes } => {
                let max = self.config.max_stream_output;
                let request = self.open(tunnel)?;
                has_room(&request.output, max)?;
                let capsule = request
                    .capsules
                    .request(&prefixes)
                    .ok_or(CommandError::State)?;
                self.send(tunnel, &capsule)
            }
            Command::SendPacket { tunnel, packet } => self.send_packet(tunnel, &packet),
            Command::CloseTunnel { tunnel, how } => self.close_tunnel(tunnel, how),
            Command::Shutdown => {
                self.shutdown();
                Ok(())
            }
            Command::Close { code, reason } => {
                self.close(code, reason);
                self.end(SessionEnd::Local(code));
                Ok(())
            }
        }
    }

    fn accept(&mut self, tunnel: TunnelId, fields: FieldList) -> Result<(), CommandError> {
        let stream = self.pending(tunnel)?;
        let status = 200;
        let bare = fields.0.is_empty();
        let fields = ResponseHead {
            status,
            capsule_protocol: true,
            fields,
        }
        .to_fields();
        let limit = self
            .peer_settings
            .as_ref()
            .and_then(|settings| settings.max_field_section_size);
        if !bare && exceeds(&fields, limit) {
            return Err(CommandError::Limit);
        }
        let request = self
            .requests
            .get_mut(&stream)
            .ok_or(CommandError::UnknownTunnel)?;
        request.enter(State::Open, &mut self.out);
        request.send_head(&fields, &mut self.out);
        self.out.disarm(Timer::Response(tunnel));
        self.out.event(Event::Established { tunnel, status });
        self.read(stream);
        self.settle(stream);
        Ok(())
    }

    fn refuse(
        &mut self,
        tunnel: TunnelId,
        status: u16,
        fields: FieldList,
    ) -> Result<(), CommandError> {
        let stream = self.pending(tunnel)?;
        if !(300..=599).contains(&status) {
            return Err(CommandError::State);
        }
        let limit = self
            .peer_settings
            .as_ref()
            .and_then(|settings| settings.max_field_section_size);
        if exceeds(&fields, limit) {
            return Err(CommandError::Limit);
        }
        if let Some(request) = self.requests.get_mut(&stream) {
            request.tunnel = None;
        }
        self.end_tunnel(tunnel, None);
        self.respond(stream, status, fields);
        Ok(())
    }

    fn send(&mut self, tunnel: TunnelId, capsule: &Capsule) -> Result<(), CommandError> {
        let max = self.config.max_stream_output;
        let stream = self.open(tunnel)?.stream();
        let request = self
            .requests
            .get_mut(&stream)
            .ok_or(CommandError::UnknownTunnel)?;
        has_room(&request.output, max)?;
        request.send_capsule(capsule, &mut self.out);
        self.settle(stream);
        Ok(())
    }

    fn send_packet(&mut self, tunnel: TunnelId, packet: &[u8]) -> Result<(), CommandError> {
        // Packets leave the other half of the queue to the capsules that set a tunnel up, and never
        // stop the session from reading.
        let max = self.config.max_stream_output / 2;
        let stream = self.open(tunnel)?.stream();
        let request = self
            .requests
            .get_mut(&stream)
            .ok_or(CommandError::UnknownTunnel)?;
        let buffered = request.output.buffered();
        let size = packet.len().saturating_add(PACKET_OVERHEAD);
        if buffered > 0 && buffered.saturating_add(size) > max {
            self.out
                .dropped(Some(stream), "stream blocked", packet.len());
            return Err(CommandError::Blocked);
        }
        request
            .output
            .push(&mut self.out, |buf| tunnel::put_packet(packet, buf));
        self.settle(stream);
        Ok(())
    }

    fn close_tunnel(&mut self, tunnel: TunnelId, how: CloseHow) -> Result<(), CommandError> {
        let end = Some(TunnelEnd::Local);
        let stream = match self.tunnels.get(&tunnel) {
            None => return Err(CommandError::UnknownTunnel),
            Some(Slot::Waiting(_) | Slot::Opening(_)) => {
                self.end_tunnel(tunnel, end);
                return Ok(());
            }
            Some(Slot::Stream(stream)) => *stream,
        };
        let open = self
            .requests
            .get(&stream)
            .is_some_and(|request| matches!(request.state(), State::Open));
        match (how, self.role) {
            // RFC 9114 §4.1.1: never of a client, nor of a request that was begun.
            (CloseHow::Abort(H3Code::REQUEST_REJECTED), role) if open || role == Role::Client => {
                return Err(CommandError::State);
            }
            (CloseHow::Abort(code), _) => self.abort(stream, code, end),
            (CloseHow::Finish, _) if open => {
                self.finish(stream, TunnelEnd::Local);
                // What is held will not be looked at.
                self.read(stream);
                self.settle(stream);
            }
            // RFC 9114 §4.1.1: nobody waits for the response any more.
            (CloseHow::Finish, Role::Client) => {
                self.abort(stream, H3Code::REQUEST_CANCELLED, end);
            }
            // An undecided request wants an answer.
            (CloseHow::Finish, Role::Server) => return Err(CommandError::State),
        }
        Ok(())
    }

    /// The stream of a request that waits for the owner's decision.
    fn pending(&self, tunnel: TunnelId) -> Result<StreamId, CommandError> {
        if self.role == Role::Client {
            return Err(CommandError::Role);
        }
        let stream = self.stream_of(tunnel).ok_or(CommandError::UnknownTunnel)?;
        match self.requests.get(&stream).map(Request::state) {
            Some(State::Pending) => Ok(stream),
            _ => Err(CommandError::State),
        }
    }

    /// The stream of an established tunnel.
    pub(super) fn open(&mut self, tunnel: TunnelId) -> Result<&mut Request, CommandError> {
        if !self.tunnels.contains_key(&tunnel) {
            return Err(CommandError::UnknownTunnel);
        }
        let stream = self.stream_of(tunnel).ok_or(CommandError::State)?;
        self.requests
            .get_mut(&stream)
            .filter(|request| matches!(request.state(), State::Open))
            .ok_or(CommandError::State)
    }
}

fn has_room(output: &Output, max: usize) -> Result<(), CommandError> {
    if output.buffered() < max || output.buffered() == 0 {
        Ok(())
    } else {
        Err(CommandError::Blocked)
    }
}

fn describe(command: &Command) -> (&'static str, Option<TunnelId>) {
    match command {
        Command::Accept { tunnel } | Command::AcceptWith { tunnel, .. } => {
            ("accept", Some(*tunnel))
        }
        Command::Refuse { tunnel, .. } => ("refuse", Some(*tunnel)),
        Command::AssignAddresses { tunnel, .. } => ("assign addresses", Some(*tunnel)),
        Command::RequestAddresses { tunnel, .. } => ("request addresses", Some(*tunnel)),
        Command::AdvertiseRoutes { tunnel, .. } => ("advertise routes", Some(*tunnel)),
        Command::SendPacket { tunnel, .. } => ("send packet", Some(*tunnel)),
        Command::CloseTunnel { tunnel, .. } => ("close tunnel", Some(*tunnel)),
        Command::Shutdown => ("shut down", None),
        Command::Close { .. } => ("close", None),
    }
}

/// Whether a field section is larger than a peer takes, as RFC 9114 §4.2.2 counts.
pub(super) fn exceeds(fields: &FieldList, limit: Option<u64>) -> bool {
    limit.is_some_and(|limit| fields.size() as u64 > limit)
}
