//! Socket options that no library sets.

#![expect(unsafe_code, reason = "setsockopt has no safe form for this option")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Has the kernel deliver UDP datagrams one by one.
pub(crate) fn disable_gro(socket: &impl AsFd) -> io::Result<()> {
    let off: libc::c_int = 0;
    // SAFETY: the descriptor is open for the length of the borrow, and the value is an int of the
    // size that is passed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const off).cast(),
            size_of_val(&off) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
