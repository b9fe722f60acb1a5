//! TCP sockets whose congestion control is chosen before they are connected.
//!
//! A namespace has the default of the machine, which its root may not set to whatever the machine has; and a
//! socket that was BBR's for a moment is paced by the kernel ever after. So each is told at its beginning.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_tcp_congestion;
use socket2::{Domain, Protocol, Socket, Type};

/// The controller of every stream for which no other is chosen.
pub(super) const CUBIC: &str = "cubic";
/// So many may wait to be accepted.
const BACKLOG: i32 = 128;

/// A listener whose streams are of this controller.
pub(super) fn listen(address: SocketAddr, control: &str) -> io::Result<TcpListener> {
    let socket = socket(address, control)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A stream of this controller.
pub(super) fn connect(
    address: SocketAddr,
    control: &str,
    at_most: Duration,
) -> io::Result<TcpStream> {
    let socket = socket(address, control)?;
    socket.connect_timeout(&address.into(), at_most)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, control: &str) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    set_tcp_congestion(&socket, control)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::tcp_congestion;

    use super::*;

    #[test]
    fn both_ends_have_the_controller_that_was_chosen() -> io::Result<()> {
        for control in ["reno", CUBIC] {
            let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), control)?;
            let one = connect(listener.local_addr()?, control, Duration::from_secs(5))?;
            let (other, _) = listener.accept()?;
            assert_eq!(tcp_congestion(&one)?, control);
            assert_eq!(tcp_congestion(&other)?, control);
        }
        Ok(())
    }

    #[test]
    fn an_unknown_controller_is_an_error() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        assert!(listen(address, "no such thing").is_err());
    }
}
