//! What the pump knows of each socket and device.

use std::collections::VecDeque;

use masque_core::endpoint::{PortId, SocketId};
use masque_core::wire::offload::TunFrame;

use crate::io::{Interest, Io, Source};

/// A socket: what it is taken for until it says `WouldBlock`.
#[derive(Debug)]
pub(super) struct SocketLink {
    pub(super) id: SocketId,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Has taken nothing for too long: what is for it is dropped until it is writable again.
    pub(super) stuck: bool,
}

/// A device.
#[derive(Debug)]
pub(super) struct PortLink {
    pub(super) id: PortId,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Cannot be read any more.
    pub(super) lost: bool,
    /// Another pump reads it: nothing tells when it is writable, either.
    pub(super) write_only: bool,
    /// A refused frame has been told of.
    pub(super) complained: bool,
    /// Frames it did not take yet, in order.
    pub(super) waiting: VecDeque<TunFrame>,
}

#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) sockets: Vec<SocketLink>,
    pub(super) ports: Vec<PortLink>,
    generation: Option<u64>,
    changed: bool,
}

impl Links {
    /// Takes over sockets and devices that came or went.
    pub(super) fn sync(&mut self, io: &impl Io) {
        let generation = Some(io.generation());
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        self.changed = true;
        let sockets = io.sockets();
        self.sockets.retain(|link| sockets.contains(&link.id));
        for id in sockets {
            if self.sockets.iter().all(|link| link.id != id) {
                self.sockets.push(SocketLink {
                    id,
                    readable: true,
                    writable: true,
                    stuck: false,
                });
            }
        }
        let ports = io.ports();
        self.ports.retain(|link| ports.contains(&link.id));
        for id in ports {
            if self.ports.iter().all(|link| link.id != id) {
                self.ports.push(PortLink {
                    id,
                    readable: !io.is_write_only(id),
                    writable: true,
                    lost: false,
                    write_only: io.is_write_only(id),
                    complained: false,
                    waiting: VecDeque::new(),
                });
            }
        }
    }

    /// Whether any socket or device may have something to read.
    pub(super) fn any_readable(&self) -> bool {
        let sockets = self.sockets.iter().any(|link| link.readable);
        sockets || self.ports.iter().any(|link| link.readable)
    }

    /// Whether any came or went since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Frees the room of frames that no longer wait.
    pub(super) fn rest(&mut self) {
        for port in &mut self.ports {
            port.waiting.shrink_to_fit();
        }
    }

    pub(super) fn socket(&mut self, id: SocketId) -> Option<&mut SocketLink> {
        self.sockets.iter_mut().find(|link| link.id == id)
    }

    pub(super) fn port(&mut self, id: PortId) -> Option<&mut PortLink> {
        self.ports.iter_mut().find(|link| link.id == id)
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        let sockets = self.sockets.iter().map(|link| Source::Socket(link.id));
        let ports = self.ports.iter();
        let ports = ports.filter(|link| !link.lost && !link.write_only);
        sockets.chain(ports.map(|link| Source::Port(link.id)))
    }

    /// What of a socket or device is to be waited for.
    pub(super) fn interest(&self, source: Source) -> Interest {
        match source {
            Source::Socket(id) => self.sockets.iter().find(|link| link.id == id).map_or_else(
                Interest::default,
                |link| Interest {
                    read: !link.readable,
                    write: !link.writable,
                },
            ),
            Source::Port(id) => self.ports.iter().find(|link| link.id == id).map_or_else(
                Interest::default,
                |link| Interest {
                    read: !link.readable && !link.lost,
                    write: !link.writable && !link.lost,
                },
            ),
            Source::Timer | Source::Control | Source::Mail => Interest::default(),
        }
    }

    pub(super) fn ready(&mut self, source: Source, ready: Interest) {
        match source {
            Source::Socket(id) => {
                if let Some(link) = self.socket(id) {
                    link.readable |= ready.read;
                    link.writable |= ready.write;
                    link.stuck &= !ready.write;
                }
            }
            Source::Port(id) => {
                if let Some(link) = self.port(id) {
                    link.readable |= ready.read && !link.lost;
                    link.writable |= ready.write;
                }
            }
            Source::Timer | Source::Control | Source::Mail => {}
        }
    }
}
