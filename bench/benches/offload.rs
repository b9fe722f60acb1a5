//! Segmentation, coalescing and checksums: where the core touches every byte.

use std::hint::black_box;
use std::net::Ipv4Addr;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use masque_bench::pipeline::{Traffic, Workload};
use masque_core::wire::ip::PacketInfo;
use masque_core::wire::ip::checksum::Sum;
use masque_core::wire::offload::{Coalescer, segment};

const MTU: usize = 1380;

fn traffic(segments: usize) -> Traffic {
    let ends = (Ipv4Addr::new(10, 7, 0, 2), Ipv4Addr::new(192, 0, 2, 1));
    Traffic::new(Workload::Tcp { segments }, MTU, ends.0, ends.1)
}

fn segmentation(c: &mut Criterion) {
    let mut group = c.benchmark_group("segment");
    for segments in [1, 8, 48] {
        let mut traffic = traffic(segments);
        let mut out = BytesMut::with_capacity(128 << 10);
        group.throughput(Throughput::Elements(segments as u64));
        group.bench_function(format!("TCP, {segments} of {MTU} bytes"), |b| {
            b.iter(|| {
                out.clear();
                let (header, packet) = traffic.next_packet();
                segment(header, black_box(packet), &[0, 0], None, &mut out)
            });
        });
    }
    group.finish();
}

/// Packets as they come out of a tunnel.
fn packets(count: usize) -> Vec<Vec<u8>> {
    let mut traffic = traffic(count);
    let mut out = BytesMut::new();
    let (header, packet) = traffic.next_packet();
    let Ok(made) = segment(header, packet, &[], None, &mut out) else {
        return Vec::new();
    };
    out.chunks(made.stride).map(<[u8]>::to_vec).collect()
}

fn coalescing(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    for (name, count, tcp) in [
        ("1", 1, true),
        ("8", 8, true),
        ("48", 48, true),
        ("off", 48, false),
    ] {
        let packets = packets(count);
        let mut coalescer = Coalescer::new(16, tcp, tcp);
        group.throughput(Throughput::Elements(packets.len() as u64));
        group.bench_function(format!("TCP, {name} of {MTU} bytes"), |b| {
            b.iter(|| {
                for packet in &packets {
                    coalescer.push(black_box(packet));
                }
                coalescer.flush();
                while let Some(frame) = coalescer.pop() {
                    coalescer.recycle(frame);
                }
            });
        });
    }
    group.finish();
}

fn sums(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for size in [20, 64, 1328, 65_483] {
        let data: Vec<u8> = (0..size).map(|nth| nth as u8).collect();
        let mut copy = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("add {size}"), |b| {
            b.iter(|| Sum::default().add(black_box(&data)).checksum());
        });
        group.bench_function(format!("copy and add {size}"), |b| {
            b.iter(|| {
                copy.copy_from_slice(black_box(&data));
                Sum::default().add(&data).checksum()
            });
        });
    }
    group.finish();
    if let Some(packet) = packets(1).first() {
        c.bench_function("ip/parse a TCP packet", |b| {
            b.iter(|| PacketInfo::parse(black_box(packet)));
        });
    }
}

criterion_group!(benches, segmentation, coalescing, sums);
criterion_main!(benches);
