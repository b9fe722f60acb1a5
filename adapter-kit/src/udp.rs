//! UDP sockets as a tunnel needs them.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use socket2::{Domain, Protocol, Socket, Type};

/// How a UDP socket is set up.
///
/// ```
/// use masque_adapter_kit::UdpConfig;
///
/// let socket = UdpConfig::new("127.0.0.1:0".parse()?).bind()?;
/// assert_ne!(socket.local_addr()?.port(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
        let socket = Socket::new(
            Domain::for_address(self.local),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if self.local.is_ipv6() {
            socket.set_only_v6(!self.local.ip().is_unspecified())?;
        }
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        // Beyond the system's limit where we may, up to it where not.
        if set_socket_recv_buffer_size_force(&socket, self.receive_buffer).is_err() {
            let _ = socket.set_recv_buffer_size(self.receive_buffer);
        }
        if set_socket_send_buffer_size_force(&socket, self.send_buffer).is_err() {
            let _ = socket.set_send_buffer_size(self.send_buffer);
        }
        socket.bind(&self.local.into())?;
        Ok(socket.into())
    }
}
