//! Tasks and channels on smol's global executor.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ::smol::channel::{Receiver, Sender, bounded};
use ::smol::future::or;
use ::smol::{Async, Timer};
use masque_adapter_kit::{App, Error, Pump, Sockets};
use masque_core::endpoint::{PortId, SocketId};
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use super::{BUFFER, CHANNEL, Core, Input, Output, Parts, as_sent, pump};

/// Runs what is in `pump` until its application stops or the process is told to.
///
/// # Errors
/// A socket or a device could not be set up.
pub fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error> {
    ::smol::block_on(serve(pump)).map_err(Error::Readiness)
}

async fn serve<A: App>(all: Pump<A>) -> io::Result<Pump<A>> {
    let parts = Parts::of(all)?;
    let (inputs, incoming) = bounded(CHANNEL);
    let mut net = Net {
        inputs: inputs.clone(),
        sockets: HashMap::new(),
        connections: HashMap::new(),
        next: 0,
    };
    for (id, descriptor) in parts.sockets {
        net.next = net.next.max(id.0);
        net.open(id, descriptor.into())?;
    }
    let mut devices = HashMap::new();
    for (id, descriptor) in parts.ports {
        let device = Arc::new(Async::new_nonblocking(descriptor)?);
        ::smol::spawn(read(id, device.clone(), inputs.clone())).detach();
        let (frames, waiting) = bounded(CHANNEL);
        ::smol::spawn(write(device, waiting)).detach();
        devices.insert(id, frames);
    }
    let mut signals = Signals::new([SIGTERM])?;
    std::thread::spawn(move || {
        signals.forever().next();
        let _ = inputs.send_blocking(Input::Stop);
    });
    let mut core = parts.core;
    core.start(&mut net);
    while !core.stop {
        deliver(&mut core, &mut net, &devices).await;
        let next = async { incoming.recv().await.ok() };
        let input = match core.deadline() {
            Some(deadline) => {
                let passed = async {
                    Timer::at(deadline).await;
                    None
                };
                or(next, passed).await
            }
            None => next.await,
        };
        core.take(input, &mut net);
    }
    deliver(&mut core, &mut net, &devices).await;
    pump(core, parts.io)
}

async fn deliver<A: App>(
    core: &mut Core<A>,
    net: &mut Net,
    devices: &HashMap<PortId, Sender<Vec<u8>>>,
) {
    while let Some(output) = core.next(net) {
        // What a task that has ended cannot take is lost, as on any network.
        let _ = match output {
            Output::Packet(port, packet) => match devices.get(&port) {
                Some(device) => device.send(packet).await,
                None => Ok(()),
            },
            Output::Datagram(socket, destination, data) => {
                match net.connection(socket, destination) {
                    Some(connection) => connection.send(data).await,
                    None => Ok(()),
                }
            }
        };
    }
}

/// Sockets with their tasks, and a task per connection.
struct Net {
    inputs: Sender<Input>,
    sockets: HashMap<SocketId, Arc<Async<UdpSocket>>>,
    connections: HashMap<(SocketId, SocketAddr), Sender<Vec<u8>>>,
    next: u32,
}

impl Net {
    fn open(&mut self, id: SocketId, socket: UdpSocket) -> io::Result<()> {
        let socket = Arc::new(Async::new_nonblocking(socket)?);
        ::smol::spawn(receive(id, socket.clone(), self.inputs.clone())).detach();
        self.sockets.insert(id, socket);
        Ok(())
    }

    fn connection(&mut self, id: SocketId, to: SocketAddr) -> Option<&Sender<Vec<u8>>> {
        let socket = self.sockets.get(&id)?;
        Some(self.connections.entry((id, to)).or_insert_with(|| {
            let (datagrams, waiting) = bounded(CHANNEL);
            ::smol::spawn(send(socket.clone(), to, waiting)).detach();
            datagrams
        }))
    }
}

impl Sockets for Net {
    fn add(&mut self, socket: UdpSocket) -> io::Result<SocketId> {
        self.next += 1;
        let id = SocketId(self.next);
        self.open(id, socket)?;
        Ok(id)
    }

    fn remove(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
        self.connections.retain(|(id, _), _| *id != socket);
    }
}

async fn receive(id: SocketId, socket: Arc<Async<UdpSocket>>, inputs: Sender<Input>) {
    let mut buffer = [0; BUFFER];
    loop {
        // An error is what ICMP tells of an earlier datagram.
        if let Ok((length, remote)) = socket.recv_from(&mut buffer).await {
            let input = Input::Datagram(id, remote, buffer[..length].into());
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    }
}

async fn send(socket: Arc<Async<UdpSocket>>, to: SocketAddr, waiting: Receiver<Vec<u8>>) {
    let local = socket.get_ref().local_addr();
    let to = local.map_or(to, |local| as_sent(local, to));
    while let Ok(datagram) = waiting.recv().await {
        let _ = socket.send_to(&datagram, to).await;
    }
}

async fn read(id: PortId, device: Arc<Async<OwnedFd>>, inputs: Sender<Input>) {
    let mut buffer = [0; BUFFER];
    loop {
        let read = device.read_with(|device| Ok(rustix::io::read(device, &mut buffer)?));
        match read.await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let input = Input::Packet(id, buffer[..length].to_vec());
                if inputs.send(input).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn write(device: Arc<Async<OwnedFd>>, waiting: Receiver<Vec<u8>>) {
    while let Ok(packet) = waiting.recv().await {
        // A packet that the device refuses is lost.
        let _ = device
            .write_with(|device| Ok(rustix::io::write(device, &packet)?))
            .await;
    }
}
