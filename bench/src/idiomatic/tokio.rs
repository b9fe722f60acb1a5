//! Tasks and channels on tokio's multi-threaded runtime.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::net::UdpSocket;
use ::tokio::runtime::Builder;
use ::tokio::signal::unix::{SignalKind, signal};
use ::tokio::sync::mpsc::{Receiver, Sender, channel};
use ::tokio::time::timeout_at;
use masque_adapter_kit::{App, Error, Pump, Sockets};
use masque_core::endpoint::{PortId, SocketId};

use super::{BUFFER, CHANNEL, Core, Input, Output, Parts, as_sent, pump};

/// Runs what is in `pump` until its application stops or the process is told to.
///
/// # Errors
/// The runtime or a device could not be set up.
pub fn run<A: App>(pump: Pump<A>) -> Result<Pump<A>, Error> {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::Readiness)?;
    let served = runtime.block_on(serve(pump));
    runtime.shutdown_background();
    served.map_err(Error::Readiness)
}

async fn serve<A: App>(all: Pump<A>) -> io::Result<Pump<A>> {
    let parts = Parts::of(all)?;
    let (inputs, mut incoming) = channel(CHANNEL);
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
        let device = Arc::new(watched(descriptor)?);
        ::tokio::spawn(read(id, device.clone(), inputs.clone()));
        let (frames, waiting) = channel(CHANNEL);
        ::tokio::spawn(write(device, waiting));
        devices.insert(id, frames);
    }
    ::tokio::spawn(stop(inputs));
    let mut core = parts.core;
    core.start(&mut net);
    while !core.stop {
        deliver(&mut core, &mut net, &devices).await;
        let input = match core.deadline() {
            Some(deadline) => timeout_at(deadline.into(), incoming.recv()).await.ok(),
            None => Some(incoming.recv().await),
        };
        core.take(input.flatten(), &mut net);
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
    sockets: HashMap<SocketId, Arc<UdpSocket>>,
    connections: HashMap<(SocketId, SocketAddr), Sender<Vec<u8>>>,
    next: u32,
}

impl Net {
    fn open(&mut self, id: SocketId, socket: std::net::UdpSocket) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        ::tokio::spawn(receive(id, socket.clone(), self.inputs.clone()));
        self.sockets.insert(id, socket);
        Ok(())
    }

    fn connection(&mut self, id: SocketId, to: SocketAddr) -> Option<&Sender<Vec<u8>>> {
        let socket = self.sockets.get(&id)?;
        Some(self.connections.entry((id, to)).or_insert_with(|| {
            let (datagrams, waiting) = channel(CHANNEL);
            ::tokio::spawn(send(socket.clone(), to, waiting));
            datagrams
        }))
    }
}

impl Sockets for Net {
    fn add(&mut self, socket: std::net::UdpSocket) -> io::Result<SocketId> {
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

async fn receive(id: SocketId, socket: Arc<UdpSocket>, inputs: Sender<Input>) {
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

async fn send(socket: Arc<UdpSocket>, to: SocketAddr, mut waiting: Receiver<Vec<u8>>) {
    let to = socket.local_addr().map_or(to, |local| as_sent(local, to));
    while let Some(datagram) = waiting.recv().await {
        let _ = socket.send_to(&datagram, to).await;
    }
}

async fn read(id: PortId, device: Arc<AsyncFd<OwnedFd>>, inputs: Sender<Input>) {
    let mut buffer = [0; BUFFER];
    loop {
        let read = device.async_io(Interest::READABLE, |device| {
            Ok(rustix::io::read(device, &mut buffer)?)
        });
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

async fn write(device: Arc<AsyncFd<OwnedFd>>, mut waiting: Receiver<Vec<u8>>) {
    while let Some(packet) = waiting.recv().await {
        // A packet that the device refuses is lost.
        let _ = device
            .async_io(Interest::WRITABLE, |device| {
                Ok(rustix::io::write(device, &packet)?)
            })
            .await;
    }
}

#[expect(
    deprecated,
    reason = "the new form is unsafe, for types that are not what an `OwnedFd` is: one descriptor, open"
)]
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(descriptor)
}

async fn stop(inputs: Sender<Input>) {
    if let Ok(mut signals) = signal(SignalKind::terminate()) {
        signals.recv().await;
        let _ = inputs.send(Input::Stop).await;
    }
}
