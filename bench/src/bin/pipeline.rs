//! Packets through two endpoints in memory, and through bare quinn-proto for comparison.
//!
//! ```text
//! pipeline                        the tunnel
//! pipeline --bare                 quinn-proto alone
//! pipeline --both                 both, and the ratio
//! pipeline --shards 2             a server on two cores, and one on one, in turns
//! pipeline --udp 64 --segments 1  small packets, one datagram per send
//! ```

use std::num::{NonZeroU16, NonZeroUsize};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use masque_bench::pipeline::{
    Cipher, Pipeline, PipelineError, Rate, Round, Settings, Workload, compare,
};

/// Packets through two endpoints in memory.
#[derive(Parser)]
struct Args {
    /// How many inner packets.
    #[arg(long, default_value_t = 1_000_000)]
    packets: u64,
    /// Bare quinn-proto instead of the tunnel.
    #[arg(long)]
    bare: bool,
    /// Both, in turns, and the ratio.
    #[arg(long, conflicts_with = "bare")]
    both: bool,
    /// A server of so many shards, a thread for each, beside one thread with a server of one.
    #[arg(long, conflicts_with_all = ["bare", "both"])]
    shards: Option<NonZeroU16>,
    /// For how many seconds each turn of `--shards` lasts.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds of `--both` and of `--shards`.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// UDP packets with so many bytes of payload instead of TCP super-packets.
    #[arg(long)]
    udp: Option<usize>,
    /// Segments per TCP super-packet.
    #[arg(long, default_value_t = 48)]
    super_packet: usize,
    /// Packets or super-packets per turn.
    #[arg(long, default_value_t = 2)]
    burst: usize,
    /// The most datagrams per send.
    #[arg(long, default_value = "64")]
    segments: NonZeroUsize,
    /// The inner MTU.
    #[arg(long, default_value_t = 1380)]
    mtu: usize,
    /// The cipher.
    #[arg(long, value_enum, default_value_t)]
    cipher: Cipher,
    /// The device at the far end takes no super-packets.
    #[arg(long)]
    no_coalesce: bool,
    /// From the server to the client.
    #[arg(long)]
    down: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), PipelineError> {
    let settings = Settings {
        workload: match args.udp {
            Some(payload) => Workload::Udp { payload },
            None => Workload::Tcp {
                segments: args.super_packet,
            },
        },
        cipher: args.cipher,
        mtu: args.mtu,
        burst: args.burst,
        max_segments: args.segments,
        coalesce: !args.no_coalesce,
        down: args.down,
        shard: None,
    };
    if let Some(shards) = args.shards {
        return side_by_side(args, &settings, shards);
    }
    if !args.both {
        let (name, mut pipeline) = match args.bare {
            false => ("tunnel", Pipeline::tunnel(&settings)?),
            true => ("bare", Pipeline::bare(&settings)?),
        };
        measure(name, &mut pipeline, args.packets)?;
        return Ok(());
    }
    let mut tunnel = Pipeline::tunnel(&settings)?;
    let mut bare = Pipeline::bare(&settings)?;
    let (mut tunnels, mut bares) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds.max(1) {
        tunnels.push(measure("tunnel", &mut tunnel, args.packets)?);
        bares.push(measure("bare", &mut bare, args.packets)?);
    }
    let (tunnel, bare) = (median(&mut tunnels), median(&mut bares));
    println!(
        "tunnel {tunnel:.0} ns, bare {bare:.0} ns: speed ratio {:.3}",
        bare / tunnel
    );
    Ok(())
}

/// One thread and one per shard, in turns.
fn side_by_side(args: &Args, settings: &Settings, shards: NonZeroU16) -> Result<(), PipelineError> {
    let time = Duration::try_from_secs_f64(args.seconds)
        .map_err(|error| PipelineError::SetUp(error.to_string()))?;
    let cores = std::thread::available_parallelism().map_or(0, NonZeroUsize::get);
    println!("{shards} shards, a thread for each and its client, on {cores} cores");
    let mut rounds = Vec::new();
    compare(settings, shards, args.rounds, time, |round| {
        println!("{}", in_words(round, shards));
        rounds.push(round);
    })?;
    let of = |figure: fn(&Round) -> f64| median(&mut rounds.iter().map(figure).collect::<Vec<_>>());
    let middle = Round {
        one: Rate {
            gbit: of(|round| round.one.gbit),
            gbit_per_cpu: of(|round| round.one.gbit_per_cpu),
        },
        all: Rate {
            gbit: of(|round| round.all.gbit),
            gbit_per_cpu: of(|round| round.all.gbit_per_cpu),
        },
    };
    println!(
        "median: {}; {:.2} times as fast, at {:.2} of the work per second of processor time",
        in_words(middle, shards),
        of(|round| round.all.gbit / round.one.gbit),
        of(|round| round.all.gbit_per_cpu / round.one.gbit_per_cpu),
    );
    Ok(())
}

fn in_words(round: Round, shards: NonZeroU16) -> String {
    format!(
        "1: {:.2} Gbit/s ({:.2} per CPU second), {shards}: {:.2} Gbit/s ({:.2} per CPU second)",
        round.one.gbit, round.one.gbit_per_cpu, round.all.gbit, round.all.gbit_per_cpu,
    )
}

/// Nanoseconds per packet.
fn measure(name: &str, pipeline: &mut Pipeline, packets: u64) -> Result<f64, PipelineError> {
    let start = Instant::now();
    let passed = pipeline.run(packets)?;
    let seconds = start.elapsed().as_secs_f64();
    let nanoseconds = seconds * 1e9 / passed.packets as f64;
    println!(
        "{name:7} {} packets of {} bytes: {nanoseconds:.0} ns each, {:.2} Gbit/s; {:.1} packets per send, \
         {:.2} answers per send, {:.1} packets per frame, {} lost",
        passed.packets,
        pipeline.packet_length(),
        passed.bytes as f64 * 8e-9 / seconds,
        passed.packets as f64 / passed.transmits.max(1) as f64,
        passed.answers as f64 / passed.transmits.max(1) as f64,
        passed.packets as f64 / passed.frames.max(1) as f64,
        pipeline.lost(),
    );
    Ok(nanoseconds)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
