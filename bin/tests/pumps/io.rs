//! Sockets, a device and a clock that are not the system's: time stands still until the pump sleeps, and
//! then goes to whatever comes next.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use masque_adapter_kit::{Descriptors, Io, Sockets, Source};
use masque_core::endpoint::{Ecn, PortId, RecvMeta, SocketId, Transmit};
use masque_core::wire::offload::{TunFrame, VnetHdr};
use masque_testkit::seed::Fnv;
use masque_testkit::world::World;

/// The sockets there are in turn: the first is open at first.
pub(crate) const SOCKETS: [SocketId; 2] = [SocketId(0), SocketId(1)];

/// The device.
pub(crate) const PORT: PortId = PortId(0);

/// Nothing takes longer.
const LIMIT: Duration = Duration::from_secs(600);

/// A descriptor that is readable after [`Bell::ring`] and until [`Bell::clear`].
struct Bell {
    rope: UnixStream,
    bell: UnixStream,
}

impl Bell {
    fn new() -> Self {
        let (rope, bell) = UnixStream::pair().expect("descriptors are left");
        for end in [&rope, &bell] {
            end.set_nonblocking(true).expect("a socket");
        }
        Self { rope, bell }
    }

    fn ring(&mut self) {
        self.clear();
        self.rope.write_all(&[0]).expect("room for a byte");
    }

    fn clear(&mut self) {
        while self.bell.read(&mut [0; 8]).is_ok_and(|read| read > 0) {}
    }
}

struct Socket {
    id: SocketId,
    open: bool,
    address: SocketAddr,
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    bell: Bell,
}

/// What surrounds the pump: a world with a server in it, and a path that loses datagrams.
pub(crate) struct Net {
    pub(crate) world: World,
    /// What is lost of a thousand datagrams, each way.
    pub(crate) loss: u64,
    luck: u64,
    sockets: Vec<Socket>,
    generation: u64,
    /// What the device has to be read, with the header of a super-packet.
    pub(crate) outgoing: VecDeque<(VnetHdr, Vec<u8>)>,
    device: Bell,
    timer: Bell,
    log: Vec<String>,
}

impl Net {
    pub(crate) fn new(world: World, seed: u64) -> Self {
        let socket = |id| Socket {
            id,
            open: id == SOCKETS[0],
            address: address(id, 50_000),
            arrived: VecDeque::new(),
            bell: Bell::new(),
        };
        let mut net = Self {
            world,
            loss: 0,
            luck: seed,
            sockets: SOCKETS.map(socket).into(),
            generation: 0,
            outgoing: VecDeque::new(),
            device: Bell::new(),
            timer: Bell::new(),
            log: Vec::new(),
        };
        for id in SOCKETS {
            net.world.add_stranger(address(id, 50_000));
        }
        net
    }

    /// Opens the second socket, or closes the first.
    pub(crate) fn set_open(&mut self, id: SocketId, open: bool) {
        self.generation += 1;
        let socket = self.socket(id);
        socket.open = open;
        socket.arrived.clear();
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        let mut sockets = self.sockets.iter_mut();
        sockets.find(|socket| socket.id == id).expect("one of two")
    }

    /// A NAT before the socket gives it another port; what is on its way to the old one is lost.
    pub(crate) fn rebind(&mut self, id: SocketId) {
        let new = address(id, 50_001);
        self.world.add_stranger(new);
        self.socket(id).address = new;
    }

    pub(crate) fn note(&mut self, what: impl Display) {
        let at = self.world.now().as_nanos();
        self.log.push(format!("{at} {what}"));
    }

    /// Everything that happened.
    pub(crate) fn into_log(self) -> (Vec<String>, World) {
        (self.log, self.world)
    }

    /// Loses the same datagrams in every run.
    fn loses(&mut self) -> bool {
        // Knuth's MMIX.
        let next = self.luck.wrapping_mul(0x5851_f42d_4c95_7f2d);
        self.luck = next.wrapping_add(0x1405_7b7e_f767_814f);
        (self.luck >> 33) % 1000 < self.loss
    }

    /// The pump sleeps: goes to the next moment at which anything is ready, and rings one bell, so that
    /// no runtime can hear two in another order.
    fn sleep(&mut self, until: Option<Duration>) {
        self.timer.clear();
        loop {
            self.collect();
            let waiting = self.sockets.iter_mut().find(|it| !it.arrived.is_empty());
            if let Some(socket) = waiting {
                return socket.bell.ring();
            }
            if !self.outgoing.is_empty() {
                return self.device.ring();
            }
            if until.is_some_and(|until| until <= self.world.now()) {
                return self.timer.ring();
            }
            let next = self.world.next_at().into_iter().chain(until).min();
            let next = next.filter(|next| *next < LIMIT);
            let log = &self.log;
            let next = next.unwrap_or_else(|| panic!("nothing ends it: {:?}", log.last()));
            self.world.run_until(next);
        }
    }

    fn collect(&mut self) {
        for at in 0..self.sockets.len() {
            let (id, address) = (self.sockets[at].id, self.sockets[at].address);
            while let Some(letter) = self.world.take_letter(address) {
                let lost = self.loses();
                let how = if lost { "lost" } else { "arrived" };
                self.note(format_args!("{how} {} for {id:?}", digest(&letter.1)));
                if !lost && self.sockets[at].open {
                    self.sockets[at].arrived.push_back(letter);
                }
            }
        }
    }
}

/// Length and hash: enough to tell bytes apart.
fn digest(bytes: &[u8]) -> String {
    let mut hash = Fnv::default();
    hash.write(bytes);
    format!("{} bytes {:016x}", bytes.len(), hash.value())
}

fn address(socket: SocketId, port: u16) -> SocketAddr {
    let last = u8::try_from(socket.0 + 100).expect("few sockets");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)), port)
}

/// The pump's view of it.
pub(crate) struct VirtualIo {
    /// There has been a turn.
    begun: bool,
    net: Rc<RefCell<Net>>,
    /// Descriptors to lend out: those in the net cannot be borrowed for long enough.
    lent: Vec<(Source, UnixStream)>,
}

impl VirtualIo {
    pub(crate) fn new(net: Rc<RefCell<Net>>) -> Self {
        let borrowed = net.borrow();
        let sockets = borrowed.sockets.iter();
        let sockets = sockets.map(|socket| (Source::Socket(socket.id), &socket.bell));
        let device = (Source::Port(PORT), &borrowed.device);
        let lent = [device, (Source::Timer, &borrowed.timer)]
            .into_iter()
            .chain(sockets)
            .map(|(source, bell)| (source, bell.bell.try_clone().expect("descriptors are left")))
            .collect();
        drop(borrowed);
        Self {
            begun: false,
            net,
            lent,
        }
    }
}

impl Sockets for VirtualIo {
    fn add(&mut self, _: UdpSocket) -> io::Result<SocketId> {
        Err(ErrorKind::Unsupported.into())
    }

    fn remove(&mut self, socket: SocketId) {
        self.net.borrow_mut().set_open(socket, false);
    }
}

impl Io for VirtualIo {
    fn try_recv(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<(RecvMeta, usize)> {
        let mut net = self.net.borrow_mut();
        let socket = net.socket(id);
        let Some((remote, data)) = socket.arrived.pop_front() else {
            socket.bell.clear();
            return Err(ErrorKind::WouldBlock.into());
        };
        buffer[..data.len()].copy_from_slice(&data);
        let meta = RecvMeta {
            socket: id,
            remote,
            local_ip: None,
            ecn: None::<Ecn>,
            stride: data.len().max(1),
        };
        Ok((meta, data.len()))
    }

    fn try_send(&mut self, transmit: &Transmit, data: &[u8]) -> io::Result<()> {
        let mut net = self.net.borrow_mut();
        let from = net.socket(transmit.socket).address;
        for datagram in data.chunks(transmit.segment_size.unwrap_or(data.len())) {
            let lost = net.loses();
            let how = if lost { "lost" } else { "sent" };
            net.note(format_args!("{how} {} from {from}", digest(datagram)));
            if !lost {
                let to = transmit.destination;
                net.world.send_as_stranger(from, to, datagram.to_vec());
            }
        }
        Ok(())
    }

    fn max_segments(&self, _: SocketId) -> usize {
        16
    }

    fn disable_gso(&mut self, _: SocketId) {}

    fn try_read_tun(
        &mut self,
        _: PortId,
        buffer: &mut [u8],
    ) -> io::Result<(VnetHdr, Range<usize>)> {
        let mut net = self.net.borrow_mut();
        let Some((header, packet)) = net.outgoing.pop_front() else {
            net.device.clear();
            return Err(ErrorKind::WouldBlock.into());
        };
        buffer[..packet.len()].copy_from_slice(&packet);
        Ok((header, 0..packet.len()))
    }

    fn try_write_tun(&mut self, _: PortId, frame: &TunFrame) -> io::Result<()> {
        let digest = digest(frame.with_header());
        self.net
            .borrow_mut()
            .note(format_args!("delivered {digest}"));
        Ok(())
    }

    fn sockets(&self) -> Vec<SocketId> {
        let net = self.net.borrow();
        let open = net.sockets.iter().filter(|socket| socket.open);
        open.map(|socket| socket.id).collect()
    }

    fn ports(&self) -> Vec<PortId> {
        vec![PORT]
    }

    fn generation(&self) -> u64 {
        self.net.borrow().generation
    }

    fn now(&self) -> Instant {
        self.net.borrow().world.instant()
    }

    fn arm(&mut self, _: Instant, deadline: Option<Instant>, _: bool) -> io::Result<bool> {
        if !std::mem::replace(&mut self.begun, true) {
            return Ok(false);
        }
        let mut net = self.net.borrow_mut();
        let until = deadline.map(|deadline| net.world.since_start(deadline));
        net.sleep(until);
        Ok(true)
    }
}

impl Descriptors for VirtualIo {
    fn descriptor(&self, source: Source) -> Option<BorrowedFd<'_>> {
        let lent = self.lent.iter().find(|(of, _)| *of == source);
        lent.map(|(_, stream)| stream.as_fd())
    }
}
