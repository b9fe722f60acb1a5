//! The kernel hands each shard what is its own: UDP datagrams by connection ID, packets of a TUN by
//! inner destination.
//!
//! Neither is needed for correctness. What comes to the wrong shard reaches the right one by mail
//! ([`crate::mail`]), so that steering that fails, or is forbidden, costs speed and nothing else.

mod destinations;

use std::io;
use std::net::UdpSocket;
use std::num::NonZeroU16;

use crate::sockopt;
use crate::udp::UdpConfig;

pub use destinations::Destinations;

/// A classic BPF instruction, as [`steering_program`] makes them and the kernel takes them.
pub type Instruction = libc::sock_filter;

/// The sockets of one address, one per shard.
#[derive(Debug)]
pub struct SocketGroup {
    /// In the order of the shards.
    pub sockets: Vec<UdpSocket>,
    /// Why the kernel does not steer by connection ID, if it was to: it then spreads datagrams by their
    /// addresses and ports.
    pub failure: Option<io::Error>,
}

impl UdpConfig {
    /// Makes one socket per shard on the same address (`SO_REUSEPORT`), steered by connection ID if
    /// `steering` and the kernel can.
    ///
    /// # Errors
    /// As [`UdpConfig::bind`]. An address in use by a socket outside this group is an error too, although
    /// `SO_REUSEPORT` would allow some.
    pub fn bind_group(&self, shards: NonZeroU16, steering: bool) -> io::Result<SocketGroup> {
        let mut config = self.clone();
        config.reuse_port = false;
        let alone = config.bind()?;
        if shards.get() == 1 {
            return Ok(SocketGroup {
                sockets: vec![alone],
                failure: None,
            });
        }
        // Port 0 has become a real one, which all of them share.
        config.local = alone.local_addr()?;
        drop(alone);
        config.reuse_port = true;
        // The program's answer is the number of a socket in the order in which they were bound.
        let sockets = (0..shards.get())
            .map(|_| config.bind())
            .collect::<io::Result<Vec<_>>>()?;
        let failure = match sockets.first() {
            Some(socket) if steering => {
                sockopt::attach_reuseport_filter(socket, &steering_program(shards)).err()
            }
            _ => None,
        };
        Ok(SocketGroup { sockets, failure })
    }
}

/// The bit of a QUIC packet's first byte that says "long header" (RFC 9000 §17).
const LONG_HEADER: u32 = 0x80;
/// Where the length of the destination connection ID is in a long header (RFC 8999 §5.1).
const LONG_LENGTH: u32 = 5;
/// Where the destination connection ID begins in a long header.
const LONG_ID: u32 = 6;
/// Where the destination connection ID begins in a short header (RFC 8999 §5.2).
const SHORT_ID: u32 = 1;

/// A program for `SO_ATTACH_REUSEPORT_CBPF` that finds the shard of a datagram: the first byte of its
/// destination connection ID modulo `shards`. The first shard where there is no such byte. It is
/// [`masque_core::endpoint::shard_of`] for the kernel.
#[must_use]
pub fn steering_program(shards: NonZeroU16) -> [Instruction; 10] {
    let instruction = |code: u32, jt, jf, k| Instruction {
        // All codes are below 256.
        code: code as u16,
        jt,
        jf,
        k,
    };
    // A load past the end of the datagram ends the program with 0.
    let byte = |offset| instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, offset);
    let jump = |condition, value, yes, no| {
        instruction(libc::BPF_JMP | condition | libc::BPF_K, yes, no, value)
    };
    let modulo = u32::from(shards.get());
    [
        byte(0),
        jump(libc::BPF_JSET, LONG_HEADER, 0, 4),
        byte(LONG_LENGTH),
        jump(libc::BPF_JEQ, 0, 5, 0),
        byte(LONG_ID),
        jump(libc::BPF_JA, 1, 0, 0),
        byte(SHORT_ID),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, modulo),
        instruction(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests;
