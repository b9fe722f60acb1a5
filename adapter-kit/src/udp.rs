//! UDP sockets as a tunnel needs them.

use std::io;
use std::net::{SocketAddr, UdpSocket};

/// How a UDP socket is set up.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The address to bind to; port 0 takes any. `[::]` takes IPv4 as well.
    pub local: SocketAddr,
    /// The firewall mark of what is sent (`SO_MARK`; needs CAP_NET_ADMIN).
    pub mark: Option<u32>,
    /// The interface to be bound to (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
    /// Bytes of the kernel's receive buffer; the system may give less.
    pub receive_buffer: usize,
    /// Bytes of the kernel's send buffer; the system may give less.
    pub send_buffer: usize,
    /// Several sockets on one address (`SO_REUSEPORT`), one per shard.
    pub reuse_port: bool,
}

impl UdpConfig {
    /// Bound to `local`, with buffers for a fast tunnel, without mark or interface.
    #[must_use]
    pub fn new(local: SocketAddr) -> Self {
        Self {
            local,
            mark: None,
            interface: None,
            receive_buffer: 4 << 20,
            send_buffer: 4 << 20,
            reuse_port: false,
        }
    }

    /// Makes the socket: bound and non-blocking. Buffers smaller than asked for are no error.
    ///
    /// # Errors
    /// What the system says; a mark or an interface that cannot be set is an error.
    pub fn bind(&self) -> io::Result<UdpSocket> {
        unimplemented!()
    }
}
