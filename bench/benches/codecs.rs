//! The codecs: what a control stream and every datagram go through.

use std::hint::black_box;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use masque_core::wire::capsule::{
    AddressAssign, AddressEntry, Capsule, CapsuleDecoder, CapsuleLimits, RequestId,
    RouteAdvertisement,
};
use masque_core::wire::datagram::{self, DatagramHeader};
use masque_core::wire::fields::FieldList;
use masque_core::wire::frame::{FrameDecoder, FrameType, encode_header};
use masque_core::wire::prefix::{AddressRange, IpPrefix};
use masque_core::wire::qpack;
use masque_core::wire::stream::StreamId;
use masque_core::wire::varint::VarInt;

fn varint(c: &mut Criterion) {
    let mut group = c.benchmark_group("varint");
    for value in [37, 15_293, 494_878_333, 151_288_809_941_952_652] {
        let Some(number) = VarInt::new(value) else {
            continue;
        };
        let mut bytes = Vec::new();
        number.encode(&mut bytes);
        group.bench_function(format!("decode {} bytes", bytes.len()), |b| {
            b.iter(|| VarInt::decode(black_box(&bytes)));
        });
        group.bench_function(format!("encode {} bytes", bytes.len()), |b| {
            let mut out = Vec::with_capacity(8);
            b.iter(|| {
                out.clear();
                black_box(number).encode(&mut out);
                black_box(&out);
            });
        });
    }
    group.finish();
}

fn request() -> FieldList {
    let mut fields = FieldList::default();
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", "connect-ip"),
        (":scheme", "https"),
        (":authority", "vpn.example"),
        (":path", "/.well-known/masque/ip/*/*/"),
        ("capsule-protocol", "?1"),
        ("user-agent", "masque/0.1"),
    ] {
        fields.push(name, value);
    }
    fields
}

fn sections(c: &mut Criterion) {
    let fields = request();
    let mut section = Vec::new();
    qpack::encode(&fields, &mut section);
    let mut group = c.benchmark_group("qpack");
    group.throughput(Throughput::Bytes(section.len() as u64));
    group.bench_function("encode a request", |b| {
        let mut out = Vec::with_capacity(section.len());
        b.iter(|| {
            out.clear();
            qpack::encode(black_box(&fields), &mut out);
        });
    });
    group.bench_function("decode a request", |b| {
        b.iter(|| qpack::decode(black_box(&section), 16 << 10));
    });
    group.finish();

    let mut frame = BytesMut::new();
    encode_header(FrameType::Headers, section.len(), &mut frame);
    frame.extend_from_slice(&section);
    let frame = frame.freeze();
    c.bench_function("frame/decode HEADERS", |b| {
        b.iter_batched(
            || frame.clone(),
            |mut input| {
                let mut decoder = FrameDecoder::new(16 << 10);
                while let Ok(Some(event)) = decoder.decode(&mut input) {
                    black_box(event);
                }
            },
            BatchSize::SmallInput,
        );
    });
}

fn routes(count: u32) -> Capsule {
    let ranges = (0..count)
        .filter_map(|nth| {
            let start = IpAddr::from((0x0a00_0000 + nth * 512).to_be_bytes());
            let end = IpAddr::from((0x0a00_00ff + nth * 512).to_be_bytes());
            AddressRange::new(start, end, 0).ok()
        })
        .collect();
    Capsule::RouteAdvertisement(RouteAdvertisement::from_unordered(ranges))
}

fn addresses() -> Capsule {
    let entries = ["10.7.0.2/32", "fd00:7::2/128"]
        .into_iter()
        .filter_map(|text| text.parse::<IpPrefix>().ok())
        .map(|prefix| AddressEntry {
            request_id: RequestId::default(),
            prefix,
        })
        .collect();
    Capsule::AddressAssign(AddressAssign(entries))
}

fn capsules(c: &mut Criterion) {
    let mut group = c.benchmark_group("capsule");
    for (name, capsule) in [
        ("ADDRESS_ASSIGN of 2", addresses()),
        ("ROUTE_ADVERTISEMENT of 1", routes(1)),
        ("ROUTE_ADVERTISEMENT of 1000", routes(1000)),
        ("DATAGRAM of 1400", Capsule::Datagram(vec![0; 1400].into())),
    ] {
        let mut bytes = BytesMut::new();
        capsule.encode(&mut bytes);
        let bytes: Bytes = bytes.freeze();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("encode {name}"), |b| {
            let mut out = BytesMut::with_capacity(bytes.len());
            b.iter(|| {
                out.clear();
                black_box(&capsule).encode(&mut out);
            });
        });
        group.bench_function(format!("decode {name}"), |b| {
            b.iter_batched(
                || bytes.clone(),
                |mut input| CapsuleDecoder::new(CapsuleLimits::default()).decode(&mut input),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn datagrams(c: &mut Criterion) {
    let header = DatagramHeader::ip_packet(StreamId::new(VarInt::from_u32(0)));
    let mut datagram = header.as_slice().to_vec();
    datagram.extend_from_slice(&[0x45; 1380]);
    c.bench_function("datagram/open", |b| {
        b.iter(|| {
            let (stream, start) = datagram::open(black_box(&datagram)).ok()?;
            let context = datagram::open_context(datagram.get(start..)?)?;
            Some((stream, context))
        });
    });
}

criterion_group!(benches, varint, sections, capsules, datagrams);
criterion_main!(benches);
