//! Two endpoints back to back in memory, and bare quinn-proto doing the same.

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use masque_bench::pipeline::{Cipher, Pipeline, PipelineError, Settings, Workload};

/// Packets per iteration, so that a turn's batch is small beside it.
const PACKETS: u64 = 4800;

type Make = fn(&Settings) -> Result<Pipeline, PipelineError>;

fn pipelines(c: &mut Criterion) {
    let udp = |payload| Settings {
        workload: Workload::Udp { payload },
        burst: 32,
        ..Settings::default()
    };
    let cases: [(&str, Settings, Make); 9] = [
        ("tunnel, TCP", Settings::default(), Pipeline::tunnel),
        ("bare, TCP", Settings::default(), Pipeline::bare),
        (
            "tunnel, TCP, down",
            Settings {
                down: true,
                ..Settings::default()
            },
            Pipeline::tunnel,
        ),
        (
            "tunnel, TCP, not coalesced",
            Settings {
                coalesce: false,
                ..Settings::default()
            },
            Pipeline::tunnel,
        ),
        (
            "tunnel, TCP, ChaCha20-Poly1305",
            Settings {
                cipher: Cipher::Chacha20,
                ..Settings::default()
            },
            Pipeline::tunnel,
        ),
        ("tunnel, UDP 64", udp(64), Pipeline::tunnel),
        ("bare, UDP 64", udp(64), Pipeline::bare),
        ("tunnel, UDP 1200", udp(1200), Pipeline::tunnel),
        ("bare, UDP 1200", udp(1200), Pipeline::bare),
    ];
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(PACKETS));
    for (name, settings, make) in cases {
        let mut pipeline = make(&settings).unwrap_or_else(|error| panic!("{name}: {error}"));
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let begun = Instant::now();
                let passed = pipeline.run(PACKETS * iterations);
                assert!(passed.is_ok(), "{name}: {passed:?}");
                begun.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pipelines);
criterion_main!(benches);
