//! Socket options that no library sets.

#![expect(unsafe_code, reason = "setsockopt has no safe form for these options")]

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
    outcome(result)
}

/// Has a classic BPF program choose the socket of a `SO_REUSEPORT` group: by its number, in the order in
/// which they were bound. A number that is none leaves the choice to the kernel.
pub(crate) fn attach_reuseport_filter(
    socket: &impl AsFd,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        // The kernel copies it and never writes there.
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the descriptor is open for the length of the borrow, the value is a `sock_fprog` of the
    // size that is passed, and it says how many instructions are where it points.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    outcome(result)
}

fn outcome(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
