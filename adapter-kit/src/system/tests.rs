use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::io::UDP_BATCH;
use crate::udp::UdpConfig;

fn io(local: &str) -> (SystemIo, SocketId, SocketAddr) {
    let mut io = SystemIo::new();
    let local = local.parse().expect("an address");
    let socket = UdpConfig::new(local).bind().expect("bind");
    let id = io.add_socket(socket).expect("add");
    let address = io.local_addr(id).expect("bound");
    (io, id, address)
}

fn receive(io: &mut SystemIo, id: SocketId) -> (RecvMeta, Vec<u8>) {
    let mut buffer = vec![0; UDP_BATCH];
    loop {
        match io.try_recv(id, &mut buffer) {
            Ok((meta, length)) => return (meta, buffer[..length].to_vec()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        let descriptor = io.socket(id).expect("there").socket.as_fd();
        poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None).expect("poll");
    }
}

fn transmit(socket: SocketId, destination: SocketAddr, size: usize) -> Transmit {
    Transmit {
        socket,
        destination,
        src_ip: None,
        ecn: None,
        size,
        segment_size: None,
    }
}

#[test]
fn a_dual_stack_socket_shows_plain_ipv4_addresses_and_answers_from_the_right_one() {
    let (mut server, server_id, server_address) = io("[::]:0");
    let (mut client, client_id, client_address) = io("127.0.0.1:0");
    let to = SocketAddr::new("127.0.0.3".parse().expect("address"), server_address.port());
    let ask = Transmit {
        ecn: Some(Ecn::Ect0),
        ..transmit(client_id, to, 5)
    };
    client.try_send(&ask, b"hello").expect("send");
    let (meta, data) = receive(&mut server, server_id);
    assert_eq!(data, b"hello");
    assert_eq!(meta.remote, client_address);
    assert_eq!(meta.local_ip, Some(to.ip()));
    assert_eq!(meta.ecn, Some(Ecn::Ect0));

    let answer = Transmit {
        src_ip: meta.local_ip,
        ecn: Some(Ecn::Ce),
        ..transmit(server_id, meta.remote, 2)
    };
    server.try_send(&answer, b"ok").expect("send");
    let (meta, data) = receive(&mut client, client_id);
    assert_eq!(data, b"ok");
    assert_eq!(meta.remote, to);
    assert_eq!(meta.ecn, Some(Ecn::Ce));
}

#[test]
fn a_segmented_send_arrives_whole_with_and_without_gro() {
    for gro in [true, false] {
        let mut server = SystemIo::new();
        if !gro {
            server.forbid_gro();
        }
        let local = "127.0.0.1:0".parse().expect("an address");
        let socket = UdpConfig::new(local).bind().expect("bind");
        let server_id = server.add_socket(socket).expect("add");
        let to = server.local_addr(server_id).expect("bound");
        let (mut client, client_id, _) = io("127.0.0.1:0");
        let data: Vec<u8> = (0..10_500u32).map(|byte| byte as u8).collect();
        let segments = client.max_segments(client_id);
        for chunk in data.chunks(1_000 * segments.min(64)) {
            let send = Transmit {
                segment_size: (chunk.len() > 1_000).then_some(1_000),
                ..transmit(client_id, to, chunk.len())
            };
            client.try_send(&send, chunk).expect("send");
        }
        let mut received = Vec::new();
        while received.len() < data.len() {
            let (meta, batch) = receive(&mut server, server_id);
            assert!(gro || batch.len() <= 1_000);
            assert!(meta.stride <= 1_000);
            received.extend(batch);
        }
        assert_eq!(received, data);
    }
}

#[test]
fn sockets_count_up_and_a_removed_one_is_not_found() {
    let (mut io, first, _) = io("127.0.0.1:0");
    let before = io.generation();
    io.remove(first);
    assert_ne!(io.generation(), before);
    let local = "127.0.0.1:0".parse().expect("an address");
    let socket = UdpConfig::new(local).bind().expect("bind");
    let second = io.add(socket).expect("add");
    assert_ne!(first, second);
    let error = io.try_recv(first, &mut [0; 16]).expect_err("removed");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_memory_port_splits_the_header_off_and_skips_a_cut_one() {
    let mut io = SystemIo::new();
    let (ours, theirs) = MemoryTun::pair(true).expect("pair");
    let port = io.add_memory(ours);
    let header = VnetHdr {
        flags: VnetHdr::NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 16,
        ..VnetHdr::default()
    };
    let mut packet = header.to_bytes().to_vec();
    packet.extend([0x45; 40]);
    theirs.send(&packet).expect("send");
    theirs.send(&[1, 2, 3]).expect("send");
    let mut buffer = vec![0; crate::io::TUN_READ];
    let (read, range) = io.try_read_tun(port, &mut buffer).expect("packet");
    assert_eq!(read, header);
    assert_eq!(&buffer[range], &[0x45; 40]);
    let (_, range) = io.try_read_tun(port, &mut buffer).expect("cut packet");
    assert!(range.is_empty());
}

#[test]
fn every_socket_that_goes_without_an_offload_is_counted_once() {
    let (mut io, first, _) = io("127.0.0.1:0");
    let gso = u64::from(io.max_segments(first) == 1);
    assert_eq!(io.fallbacks().gso, gso);
    io.disable_gso(first);
    io.disable_gso(first);
    io.forbid_gso();
    assert_eq!(io.fallbacks().gso, 1);
    io.forbid_gro();
    let gro = io.fallbacks().gro;
    let local = "127.0.0.1:0".parse().expect("an address");
    let socket = UdpConfig::new(local).bind().expect("bind");
    let second = io.add_socket(socket).expect("add");
    assert_eq!(io.max_segments(second), 1);
    assert_eq!((io.fallbacks().gso, io.fallbacks().gro), (2, gro + 1));
    io.remove(second);
    assert_eq!(io.fallbacks().gso, 2);
}

#[test]
fn no_datagram_is_fragmented_on_the_way() {
    let mut io = SystemIo::new();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // Not every machine has IPv6.
        if let Ok(socket) = UdpSocket::bind(address) {
            io.add_socket(socket).expect("a socket like others");
        }
    }
    assert!(!io.sockets.is_empty());
    for socket in &io.sockets {
        // 9000-14-02
        assert!(!socket.state.may_fragment(), "{socket:?}");
    }
}
