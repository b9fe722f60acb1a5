//! The real thing: UDP sockets and TUN devices of the system.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use masque_core::endpoint::{Ecn, PortId, RecvMeta, SocketId, Transmit};
use masque_core::wire::offload::{TunFrame, VnetHdr};
use quinn_udp::{EcnCodepoint, UdpSocketState};

use crate::app::Sockets;
use crate::fallback::Fallbacks;
use crate::io::{Descriptors, Io, Source};
use crate::memory::MemoryTun;
use crate::sockopt;
use crate::timer::Alarm;
use crate::tun::TunDevice;

/// UDP sockets, TUN devices and the clock of the system, with devices in memory where those are wanted.
#[derive(Debug, Default)]
pub struct SystemIo {
    sockets: Vec<Socket>,
    ports: Vec<(PortId, Port)>,
    next_socket: u32,
    generation: u64,
    alarm: Alarm,
    no_gso: bool,
    no_gro: bool,
    fallbacks: Fallbacks,
    told: Told,
}

/// What has been told of, here or by a sibling, and is not told of again.
#[derive(Clone, Debug, Default)]
struct Told {
    gso: Arc<OnceLock<()>>,
    gro: Arc<OnceLock<()>>,
    uso: Arc<OnceLock<()>>,
}

#[derive(Debug)]
struct Socket {
    id: SocketId,
    socket: UdpSocket,
    state: UdpSocketState,
    ipv6: bool,
    max_segments: usize,
}

#[derive(Debug)]
enum Port {
    Tun(TunDevice),
    Memory(MemoryTun),
}

impl SystemIo {
    /// Without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another one for another loop, without sockets and devices: what is forbidden here is forbidden
    /// there, and what either tells about missing offloads the other does not repeat.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self {
            no_gso: self.no_gso,
            no_gro: self.no_gro,
            told: self.told.clone(),
            ..Self::default()
        }
    }

    /// Turns GSO off for all sockets, now and later.
    pub fn forbid_gso(&mut self) {
        self.no_gso = true;
        for socket in &mut self.sockets {
            self.fallbacks.gso += u64::from(socket.max_segments > 1);
            socket.max_segments = 1;
        }
    }

    /// Turns GRO off for sockets added from now on.
    pub fn forbid_gro(&mut self) {
        self.no_gro = true;
    }

    /// Adds a bound socket (see [`crate::udp::UdpConfig::bind`]); it is made non-blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn add_socket(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        let state = UdpSocketState::new((&socket).into())?;
        // A kernel that has none refuses to turn it off, too.
        let gro = state.gro_segments() > 1;
        if self.no_gro && gro {
            sockopt::disable_gro(&socket)?;
        }
        // quinn-udp takes any `EINVAL` for a failure of GSO, and with it a destination that cannot
        // be; its own number is asked only once.
        let max_segments = if self.no_gso {
            1
        } else {
            state.max_gso_segments()
        };
        self.without(max_segments > 1, gro);
        let id = SocketId(self.next_socket);
        self.next_socket += 1;
        self.generation += 1;
        self.sockets.push(Socket {
            id,
            ipv6: socket.local_addr()?.is_ipv6(),
            socket,
            state,
            max_segments,
        });
        Ok(id)
    }

    /// Adds a TUN device. Ports count up from 0.
    pub fn add_tun(&mut self, device: TunDevice) -> PortId {
        let offload = device.offload();
        if device.is_write_only() {
            // Its queue is counted where it is read.
        } else if !offload.vnet_hdr {
            self.fallbacks.vnet_hdr += 1;
        } else if !offload.udp {
            self.fallbacks.uso += 1;
            self.told.uso.get_or_init(|| {
                tracing::info!("the kernel has no UDP super-packets: those of TCP only");
            });
        }
        self.add_port(Port::Tun(device))
    }

    /// Adds one end of a memory device.
    pub fn add_memory(&mut self, device: MemoryTun) -> PortId {
        self.add_port(Port::Memory(device))
    }

    /// The address a socket is bound to.
    #[must_use]
    pub fn local_addr(&self, socket: SocketId) -> Option<SocketAddr> {
        self.socket(socket)?.socket.local_addr().ok()
    }

    /// What its sockets and devices went without, those that are gone included.
    #[must_use]
    pub fn fallbacks(&self) -> Fallbacks {
        self.fallbacks
    }

    /// Counts what a new socket lacks, and tells of what the kernel lacks.
    fn without(&mut self, gso: bool, gro: bool) {
        if !gso {
            self.fallbacks.gso += 1;
            if !self.no_gso {
                self.told.gso.get_or_init(|| {
                    tracing::warn!(
                        "the kernel has no UDP segmentation offload: datagrams are sent one by one"
                    );
                });
            }
        }
        if !gro || self.no_gro {
            self.fallbacks.gro += 1;
            if !self.no_gro {
                self.told.gro.get_or_init(|| {
                    tracing::warn!(
                        "the kernel has no UDP receive offload: datagrams are received one by one"
                    );
                });
            }
        }
    }

    fn add_port(&mut self, port: Port) -> PortId {
        // Devices never leave, and there are not four thousand million of them.
        let id = PortId(u32::try_from(self.ports.len()).unwrap_or(u32::MAX));
        self.ports.push((id, port));
        self.generation += 1;
        id
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets.iter().find(|socket| socket.id == id)
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0 as usize).map(|(_, port)| port)
    }
}

impl Sockets for SystemIo {
    fn add(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        self.add_socket(socket)
    }

    fn remove(&mut self, socket: SocketId) {
        self.sockets.retain(|other| other.id != socket);
        self.generation += 1;
    }
}

impl Io for SystemIo {
    fn try_recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> io::Result<(RecvMeta, usize)> {
        let socket = self.socket(socket).ok_or(io::ErrorKind::NotFound)?;
        let mut meta = [quinn_udp::RecvMeta::default()];
        let buffers = &mut [IoSliceMut::new(buffer)];
        socket
            .state
            .recv((&socket.socket).into(), buffers, &mut meta)?;
        let [meta] = meta;
        Ok((
            RecvMeta {
                socket: socket.id,
                remote: SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port()),
                local_ip: meta.dst_ip.map(|address| address.to_canonical()),
                ecn: meta.ecn.map(|ecn| match ecn {
                    EcnCodepoint::Ect0 => Ecn::Ect0,
                    EcnCodepoint::Ect1 => Ecn::Ect1,
                    EcnCodepoint::Ce => Ecn::Ce,
                }),
                stride: meta.stride.max(1),
            },
            meta.len,
        ))
    }

    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        let socket = self
            .socket(transmit.socket)
            .ok_or(io::ErrorKind::NotFound)?;
        socket.state.try_send(
            (&socket.socket).into(),
            &quinn_udp::Transmit {
                destination: socket.as_sent(transmit.destination),
                ecn: transmit.ecn.map(|ecn| match ecn {
                    Ecn::Ect0 => EcnCodepoint::Ect0,
                    Ecn::Ect1 => EcnCodepoint::Ect1,
                    Ecn::Ce => EcnCodepoint::Ce,
                }),
                contents: data,
                segment_size: transmit.segment_size,
                src_ip: transmit.src_ip,
            },
        )
    }

    fn max_segments(&self, socket: SocketId) -> usize {
        self.socket(socket).map_or(1, |socket| socket.max_segments)
    }

    fn disable_gso(&mut self, socket: SocketId) {
        if let Some(socket) = self.sockets.iter_mut().find(|other| other.id == socket) {
            self.fallbacks.gso += u64::from(socket.max_segments > 1);
            socket.max_segments = 1;
            self.told.gso.get_or_init(|| {
                tracing::warn!("UDP segmentation offload failed: datagrams are sent one by one");
            });
        }
    }

    fn try_read_tun(
        &mut self,
        port: PortId,
        buffer: &mut [u8],
    ) -> io::Result<(VnetHdr, Range<usize>)> {
        let port = self.port(port).ok_or(io::ErrorKind::NotFound)?;
        let length = match port {
            Port::Tun(device) => device.recv(buffer)?,
            Port::Memory(device) => device.recv(buffer)?,
        };
        if !port.vnet_hdr() {
            return Ok((VnetHdr::default(), 0..length));
        }
        let read = buffer.get(..length).unwrap_or_default();
        Ok(match read.first_chunk() {
            Some(header) => (VnetHdr::from_bytes(*header), VnetHdr::LEN..length),
            None => (VnetHdr::default(), 0..0),
        })
    }

    fn try_write_tun(&mut self, port: PortId, frame: &TunFrame) -> io::Result<()> {
        let port = self.port(port).ok_or(io::ErrorKind::NotFound)?;
        let packet = if port.vnet_hdr() {
            frame.with_header()
        } else {
            frame.packet()
        };
        match port {
            Port::Tun(device) => device.send(packet),
            Port::Memory(device) => device.send(packet),
        }
    }

    fn sockets(&self) -> Vec<SocketId> {
        self.sockets.iter().map(|socket| socket.id).collect()
    }

    fn ports(&self) -> Vec<PortId> {
        self.ports.iter().map(|(id, _)| *id).collect()
    }

    fn is_write_only(&self, port: PortId) -> bool {
        match self.port(port) {
            Some(Port::Tun(device)) => device.is_write_only(),
            Some(Port::Memory(_)) | None => false,
        }
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn arm(&mut self, now: Instant, deadline: Option<Instant>, fired: bool) -> io::Result<bool> {
        self.alarm.arm(now, deadline, fired)
    }
}

impl Descriptors for SystemIo {
    fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>> {
        match source {
            Source::Socket(id) => self.socket(id).map(|socket| socket.socket.as_fd()),
            Source::Port(id) => self.port(id).map(|port| match port {
                Port::Tun(device) => device.as_fd(),
                Port::Memory(device) => device.as_fd(),
            }),
            Source::Timer => self.alarm.as_fd(),
            Source::Control | Source::Mail => None,
        }
    }
}

impl Socket {
    /// An IPv6 socket sends to an IPv4 address as a mapped one; the endpoint sees the plain one.
    fn as_sent(&self, destination: SocketAddr) -> SocketAddr {
        match destination.ip() {
            IpAddr::V4(address) if self.ipv6 => {
                SocketAddrV6::new(address.to_ipv6_mapped(), destination.port(), 0, 0).into()
            }
            _ => destination,
        }
    }
}

impl Port {
    fn vnet_hdr(&self) -> bool {
        match self {
            Self::Tun(device) => device.offload().vnet_hdr,
            Self::Memory(device) => device.vnet_hdr(),
        }
    }
}

#[cfg(test)]
mod tests;
