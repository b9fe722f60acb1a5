//! Hears when links, addresses or routes of the host change.

use std::io::{self, ErrorKind, PipeWriter};
use std::os::fd::AsFd;
use std::thread;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::HostError;

/// Links, addresses and routes of both IP versions.
const GROUPS: libc::c_int = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// A thread that listens until this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Closed, it ends the thread.
    _open: PipeWriter,
}

impl Watch {
    /// Calls `changed` whenever something has changed in the network namespace of the calling thread, once
    /// for what came together; what it was is for the listener to find out.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn begin(changed: impl FnMut() + Send + 'static) -> Result<Self, HostError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, GROUPS as u32))?;
            socket.set_non_blocking(true)?;
            let (reader, writer) = io::pipe()?;
            let listen = move || listen(&socket, reader, changed);
            thread::Builder::new()
                .name("network changes".to_owned())
                .spawn(listen)?;
            Ok(Self { _open: writer })
        };
        open().map_err(|source| HostError::Netlink {
            doing: "listening for changes of the network".into(),
            source,
        })
    }
}

fn listen(socket: &Socket, end: impl AsFd, mut changed: impl FnMut()) {
    // Longer messages are cut short: nobody reads them.
    let mut buffer = Vec::with_capacity(8 << 10);
    loop {
        let mut waited = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(end.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        if waited[1].any() == Some(true) {
            return;
        }
        let mut any = false;
        loop {
            buffer.clear();
            match socket.recv(&mut buffer, 0) {
                Ok(_) => any = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // More came than the kernel keeps: something has changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(_) => break,
            }
        }
        if any {
            changed();
        }
    }
}
