//! The program by hand, and by the kernel.

use std::net::SocketAddr;
use std::time::Duration;

use masque_core::endpoint::shard_of;

use super::*;

fn shards(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).expect("not zero")
}

/// What the kernel does with the few instructions there are.
fn interpret(program: &[Instruction], datagram: &[u8]) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        match code {
            0x30 => match datagram.get(k as usize) {
                Some(byte) => accumulator = u32::from(*byte),
                None => return 0,
            },
            0x45 => at += usize::from(if accumulator & k != 0 { jt } else { jf }),
            0x15 => at += usize::from(if accumulator == k { jt } else { jf }),
            0x05 => at += k as usize,
            0x94 => accumulator %= k,
            0x16 => return accumulator,
            0x06 => return k,
            other => panic!("no such instruction: {other:#x}"),
        }
    }
}

/// Datagrams of every length up to the connection ID and beyond it, and of every byte that counts.
fn datagrams() -> impl Iterator<Item = Vec<u8>> {
    let lengths = 0..12_usize;
    lengths.flat_map(|length| {
        [0x00, 0x40, 0x7f, 0x80, 0xc3, 0xff]
            .into_iter()
            .flat_map(move |first| {
                (0..=255_u8).flat_map(move |id| {
                    [0, 1, 8, 20, 255].into_iter().map(move |id_length| {
                        let mut datagram = vec![first, id, 0, 0, 1, id_length, !id, 3, 4, 5, 6, 7];
                        datagram.truncate(length);
                        datagram
                    })
                })
            })
    })
}

#[test]
fn the_program_finds_the_shard_that_the_endpoint_finds() {
    for count in [1, 2, 3, 7, 16, 63, 64] {
        let program = steering_program(shards(count));
        for datagram in datagrams() {
            let found = interpret(&program, &datagram);
            let expected = shard_of(&datagram, shards(count));
            assert_eq!(found, u32::from(expected.0), "{datagram:x?} of {count}");
        }
    }
}

/// Over loopback, from many ports, so that a group without a program would spread them otherwise.
#[test]
fn the_kernel_delivers_by_connection_id_whatever_the_source() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    for count in [2, 3] {
        let group = UdpConfig::new(local)
            .bind_group(shards(count), true)
            .expect("a group");
        assert!(group.failure.is_none(), "{:?}", group.failure);
        let to = group.sockets[0].local_addr().expect("bound");
        for id in 0..24_u8 {
            let sender = UdpSocket::bind(local).expect("bound");
            for datagram in [
                vec![0x40, id, 1, 2, 3, 4, 5, 6, 7, 8],
                vec![0xc0, 0, 0, 0, 1, 8, id, 2, 3, 4, 5, 6, 7, 8],
            ] {
                sender.send_to(&datagram, to).expect("sent");
                let shard = shard_of(&datagram, shards(count));
                let socket = &group.sockets[usize::from(shard.0)];
                // Non-blocking as it was made; loopback delivers within the send.
                socket.set_nonblocking(false).expect("set");
                socket
                    .set_read_timeout(Some(Duration::from_secs(10)))
                    .expect("set");
                let mut buffer = [0; 32];
                let length = socket.recv(&mut buffer).expect("at its shard");
                assert_eq!(buffer[..length], datagram);
            }
        }
    }
}

#[test]
fn a_group_without_steering_is_one_address_all_the_same() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let group = UdpConfig::new(local)
        .bind_group(shards(3), false)
        .expect("a group");
    assert_eq!(group.sockets.len(), 3);
    let to = group.sockets[0].local_addr().expect("bound");
    for socket in &group.sockets {
        assert_eq!(socket.local_addr().expect("bound"), to);
    }
}

/// `SO_REUSEPORT` alone would let a second server of the same user take every other client.
#[test]
fn an_address_that_another_group_has_is_in_use() {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let group = UdpConfig::new(local)
        .bind_group(shards(2), true)
        .expect("a group");
    let to = group.sockets[0].local_addr().expect("bound");
    for count in [1, 2] {
        let second = UdpConfig::new(to).bind_group(shards(count), true);
        let error = second.expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
