//! A host in memory: a smoltcp TCP/IP stack behind one end of a memory device.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use masque_adapter_kit::memory::MemoryTun;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::broken;
use crate::exit::Failure;

/// A host with its device, its addresses and its sockets.
pub(super) struct Host {
    device: Link,
    interface: Interface,
    /// Its sockets.
    pub(super) sockets: SocketSet<'static>,
    begun: Instant,
}

impl Host {
    /// With these addresses; everything is routed into the device.
    pub(super) fn new(tun: MemoryTun, mtu: usize, addresses: &[IpAddr]) -> Result<Self, Failure> {
        let mut device = Link {
            tun,
            mtu,
            waiting: VecDeque::new(),
        };
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut device, Moment::ZERO);
        let mut fits = true;
        interface.update_ip_addrs(|list| {
            for address in addresses {
                // A prefix of length 0: every destination is on the link.
                fits &= list.push(IpCidr::new(IpAddress::from(*address), 0)).is_ok();
            }
        });
        match fits {
            true => Ok(Self {
                device,
                interface,
                sockets: SocketSet::new(Vec::new()),
                begun: Instant::now(),
            }),
            false => Err(broken("too many addresses for a host in memory")),
        }
    }

    /// A TCP socket with buffers for a fast path.
    pub(super) fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    /// One step: what has come in, what is to go out.
    pub(super) fn step(&mut self) {
        let now = self.now();
        // Bounded by what waits in the device.
        let _ = self
            .interface
            .poll(now, &mut self.device, &mut self.sockets);
        self.device.flush();
    }

    /// Waits for a packet or a timer, at most `most`.
    pub(super) fn wait(&mut self, most: Duration) -> Result<(), Failure> {
        let now = self.now();
        let delay = self
            .interface
            .poll_delay(now, &self.sockets)
            .map_or(most, |delay| Duration::from(delay).min(most));
        // A whole millisecond is the finest there is; rounding up spares a busy loop.
        let millis = u16::try_from(delay.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, !self.device.waiting.is_empty());
        let mut waited = [PollFd::new(self.device.tun.as_fd(), flags)];
        match poll(&mut waited, PollTimeout::from(millis)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(Failure::system("poll", &io::Error::from(error))),
        }
    }

    /// The sockets, and the context that a TCP connect needs.
    pub(super) fn connect(
        &mut self,
        handle: SocketHandle,
        to: (IpAddr, u16),
        local: u16,
    ) -> Result<(), Failure> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket
            .connect(
                self.interface.context(),
                (IpAddress::from(to.0), to.1),
                local,
            )
            .map_err(|error| broken(format!("connect {}: {error}", to.0)))
    }

    fn now(&self) -> Moment {
        Moment::from_micros(i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

struct Link {
    tun: MemoryTun,
    mtu: usize,
    /// What the device did not take yet.
    waiting: VecDeque<Vec<u8>>,
}

impl Link {
    fn flush(&mut self) {
        while let Some(packet) = self.waiting.front() {
            match self.tun.send(packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Sent, or the other end is gone: nobody is left to tell.
                _ => drop(self.waiting.pop_front()),
            }
        }
    }
}

struct Received(Vec<u8>);

struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Link {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Received, Sent<'_>)> {
        self.flush();
        let mut packet = vec![0; self.mtu];
        let count = self.tun.recv(&mut packet).ok()?;
        packet.truncate(count);
        Some((Received(packet), Sent(&mut self.waiting)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sent<'_>> {
        self.flush();
        // A link that takes no more stops the stack, where a dropped packet would cost a timeout.
        self.waiting.is_empty().then_some(Sent(&mut self.waiting))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
