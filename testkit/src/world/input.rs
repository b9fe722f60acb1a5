//! What can happen in a world, and how it does.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use masque_core::endpoint::{
    Command, Ecn, Endpoint, PortId, RecvMeta, SocketId, Target, TunnelHandle,
};
use masque_core::wire::offload::VnetHdr;

use super::deed::Deed;
use super::link::LinkConfig;
use super::node::NodeId;
use super::router::{RouterId, Transit};
use super::trace::Place;
use super::{Step, World};
use crate::packet;

/// What can happen in a world.
#[derive(Clone)]
pub enum Input {
    /// A UDP datagram arrives at whoever owns the address.
    Datagram {
        /// From where.
        from: SocketAddr,
        /// To where.
        to: SocketAddr,
        /// Its ECN codepoint.
        ecn: Option<Ecn>,
        /// Its bytes.
        data: Vec<u8>,
    },
    /// A node's TUN has a packet; of a server with several shards, one of its queues.
    Packet {
        /// Where.
        node: NodeId,
        /// The device.
        port: PortId,
        /// The whole IP packet.
        data: Vec<u8>,
    },
    /// A host sends an IP packet beside the tunnels, over the link to another node.
    Outside {
        /// Whose host.
        from: NodeId,
        /// To whose host.
        to: NodeId,
        /// The whole IP packet.
        data: Vec<u8>,
    },
    /// A packet sent beside the tunnels arrives.
    OutsideArrives {
        /// Whose host sent it.
        from: NodeId,
        /// At whose host.
        to: NodeId,
        /// The whole IP packet.
        data: Vec<u8>,
    },
    /// The next piece of mail from one shard of a server arrives at another.
    Mail {
        /// The server.
        group: usize,
        /// From which of its shards.
        from: usize,
        /// To which.
        to: usize,
    },
    /// A node connects.
    Connect {
        /// Who.
        node: NodeId,
        /// To whom.
        target: Box<Target>,
    },
    /// A node is told something.
    Command {
        /// Who.
        node: NodeId,
        /// What.
        command: Command,
    },
    /// Bytes are put onto the stream of a node's tunnel, legal or not.
    Raw {
        /// Who is to send them.
        node: NodeId,
        /// On which of its tunnels.
        tunnel: TunnelHandle,
        /// The bytes, frames and all: see [`super::in_data_frame`].
        data: Vec<u8>,
    },
    /// A node's host wakes.
    Wake {
        /// Where.
        node: NodeId,
        /// What it gave.
        token: u64,
    },
    /// The links between two nodes change, both ways.
    Link {
        /// One.
        a: NodeId,
        /// The other.
        b: NodeId,
        /// How they are from now on.
        config: LinkConfig,
    },
    /// A socket has another address.
    Readdress {
        /// Whose.
        node: NodeId,
        /// Which.
        socket: SocketId,
        /// The new address.
        to: SocketAddr,
        /// Whether the endpoint is told; it is not when a NAT did it.
        tell: bool,
    },
    /// A socket's network is gone, or back: nothing leaves by it or arrives there meanwhile.
    Socket {
        /// Whose.
        node: NodeId,
        /// Which.
        socket: SocketId,
        /// Whether it is there.
        up: bool,
    },
    /// A datagram is at a router.
    Transit(Box<Transit>),
    /// A datagram from behind a router reaches the open network.
    Open(Box<Transit>),
    /// A NAT forgets its mappings: what comes next has another outer address.
    Rebind {
        /// Whose.
        router: RouterId,
    },
    /// A node is told something that depends on what it has then.
    Deed {
        /// Who.
        node: NodeId,
        /// What.
        deed: Deed,
    },
    /// The link in one direction changes.
    LinkOneWay {
        /// From where.
        from: NodeId,
        /// To where.
        to: NodeId,
        /// How it is from now on.
        config: LinkConfig,
    },
    /// A node stops without a word.
    Stop {
        /// Who.
        node: NodeId,
    },
    /// A node starts anew, stopping first: the same configuration and secret, the leases it told of,
    /// and nothing else remembered.
    Restart {
        /// Who.
        node: NodeId,
    },
}

impl World {
    /// Lets it happen.
    pub(super) fn take(&mut self, input: Input) -> Step {
        let (node, input) = match input {
            Input::Datagram {
                from,
                to,
                ecn,
                data,
            } => self.arrive(from, to, ecn, &data),
            Input::Packet { node, port, data } => {
                let node = self.steer_packet(node, &data);
                let words = format!("<- tun {}", packet::summary(&data));
                let name = &self.nodes[node.0].name;
                self.trace.packet(self.now, name, Place::IntoTun, &data);
                if self.nodes[node.0].endpoint.is_some() {
                    self.watch_packet(node, &data);
                }
                self.tell(node, &words, |endpoint, now| {
                    let accepted = endpoint.handle_tun(now, port, VnetHdr::default(), &data);
                    let count = accepted.queued + accepted.dropped;
                    assert_eq!(count, 1, "one packet is queued or dropped: {accepted:?}");
                    None
                });
                (Some(node), words)
            }
            Input::Outside { from, to, data } => {
                let words = format!("-> outside {} bytes to {}", data.len(), to.0);
                self.log(from, &words);
                self.send_outside(from, to, data);
                (Some(from), words)
            }
            Input::OutsideArrives { from, to, data } => {
                let words = format!("<- outside {} bytes from {}", data.len(), from.0);
                self.log(to, &words);
                self.with_host(to, |host, cx| host.on_outside(cx, from, &data));
                (Some(to), words)
            }
            Input::Mail { group, from, to } => self.deliver_mail(group, from, to),
            Input::Connect { node, target } => {
                let words = format!("<- connect {} {}", target.remote, target.server_name);
                self.tell(node, &words, |endpoint, now| {
                    let result = endpoint.connect(now, *target);
                    result.err().map(|error| error.to_string())
                });
                (Some(node), words)
            }
            Input::Command { node, command } => {
                let words = format!("<- command {command:?}");
                self.tell(node, &words, |endpoint, now| {
                    let result = endpoint.handle_command(now, command);
                    result.err().map(|error| error.to_string())
                });
                (Some(node), words)
            }
            Input::Raw { node, tunnel, data } => {
                self.watch_nothing();
                let words = format!("<- raw {} bytes for {tunnel}", data.len());
                self.tell(node, &words, |endpoint, now| {
                    let result = endpoint.send_raw(now, tunnel, &data);
                    result.err().map(|error| error.to_string())
                });
                (Some(node), words)
            }
            Input::Wake { node, token } => {
                let words = format!("host wakes {token}");
                self.log(node, &words);
                self.with_host(node, |host, cx| host.on_wake(cx, token));
                (Some(node), words)
            }
            Input::Link { a, b, config } => {
                self.link(a, b, config);
                (None, format!("link {} {} {config:?}", a.0, b.0))
            }
            Input::LinkOneWay { from, to, config } => {
                self.link_one_way(from, to, config);
                (None, format!("link {} > {} {config:?}", from.0, to.0))
            }
            Input::Transit(datagram) => (None, self.transit(*datagram)),
            Input::Open(datagram) => {
                let words = format!("{} > {} is out", datagram.from, datagram.to);
                self.send_down(None, *datagram);
                (None, words)
            }
            Input::Rebind { router } => {
                self.forget_mappings(router);
                (None, format!("router {} forgets", router.0))
            }
            Input::Deed { node, deed } => {
                let words = format!("<- {deed:?}");
                self.perform(node, &deed, &words);
                (Some(node), words)
            }
            Input::Readdress {
                node,
                socket,
                to,
                tell,
            } => {
                let words = format!("<- socket {} is {to}", socket.0);
                let place = self.nodes[node.0].sockets.get_mut(socket.0 as usize);
                let place = place.expect("the scenario names a socket there is");
                let before = std::mem::replace(place, to);
                self.watch_move(before.ip());
                self.tell(node, &words, |endpoint, now| {
                    if !tell {
                        return None;
                    }
                    let result = endpoint.handle_command(now, Command::Rebound { socket });
                    result.err().map(|error| error.to_string())
                });
                (Some(node), words)
            }
            Input::Socket { node, socket, up } => {
                let words = format!("<- socket {} {}", socket.0, if up { "up" } else { "down" });
                self.log(node, &words);
                let down = &mut self.nodes[node.0].down;
                if up {
                    down.remove(&socket.0);
                } else {
                    down.insert(socket.0);
                }
                (Some(node), words)
            }
            Input::Stop { node } => {
                self.stop(node);
                self.log(node, "stops");
                (Some(node), "stops".to_owned())
            }
            Input::Restart { node } => {
                self.stop(node);
                self.log(node, "restarts");
                self.start(node);
                (Some(node), "restarts".to_owned())
            }
        };
        if node.is_none() {
            self.trace.line(self.now, "world", &input);
        }
        Step {
            at: self.now,
            node,
            input,
        }
    }

    /// Hands an input to an endpoint and drains it. `handle` says what was refused.
    pub(super) fn tell(
        &mut self,
        id: NodeId,
        words: &str,
        handle: impl FnOnce(&mut Endpoint, Instant) -> Option<String>,
    ) {
        self.log(id, words);
        let now = self.instant();
        let Some(endpoint) = &mut self.nodes[id.0].endpoint else {
            self.log(id, "is stopped");
            return;
        };
        if let Some(error) = handle(endpoint, now) {
            self.log(id, format_args!("refuses: {error}"));
            self.nodes[id.0].errors.push(error);
        }
        self.drain(id);
    }

    fn arrive(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<Ecn>,
        data: &[u8],
    ) -> (Option<NodeId>, String) {
        let words = format!("<- udp {} bytes {from} > {to}", data.len());
        self.watch_sender(from.ip());
        if self.keep(from, to, data) {
            return (None, words);
        }
        let home = self.owner(to);
        let home = home.map(|(id, socket)| (self.steer_datagram(id, from, data), socket));
        let home = home.filter(|(id, _)| self.nodes[id.0].endpoint.is_some());
        let Some((id, socket)) = home else {
            self.stats.nobody_home += 1;
            return (None, format!("{words}: nobody home"));
        };
        let name = &self.nodes[id.0].name;
        let place = Place::Received { from, to };
        self.trace.packet(self.now, name, place, data);
        let meta = RecvMeta {
            socket,
            remote: from,
            local_ip: Some(to.ip()),
            ecn,
            stride: data.len().max(1),
        };
        self.tell(id, &words, |endpoint, now| {
            endpoint.handle_udp(now, meta, BytesMut::from(data));
            None
        });
        (Some(id), words)
    }

    pub(super) fn owner(&self, address: SocketAddr) -> Option<(NodeId, SocketId)> {
        self.nodes.iter().enumerate().find_map(|(index, node)| {
            let socket = node.sockets.iter().position(|own| *own == address)?;
            let socket = u32::try_from(socket).ok()?;
            if node.down.contains(&socket) {
                return None;
            }
            Some((NodeId(index), SocketId(socket)))
        })
    }
}
