//! What can happen in a world.

use std::net::SocketAddr;

use masque_core::endpoint::{Command, Ecn, PortId, SocketId, Target};

use super::deed::Deed;
use super::link::LinkConfig;
use super::node::NodeId;
use super::router::{RouterId, Transit};

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
