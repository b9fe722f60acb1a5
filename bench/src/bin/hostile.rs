//! A server under attack: what a client that behaves well still gets.
//!
//! ```text
//! hostile                    every attack, uploading and downloading, in a table
//! hostile --attack replay    one
//! hostile --model            with the time a model gives instead of the time it takes
//! hostile --costs            what a first packet costs, by what becomes of it
//! ```

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use masque_bench::hostile::costs::{Answer, of_first_packet};
use masque_bench::hostile::{Attack, Clock, Outcome, Settings, run};
use masque_bench::pipeline::PipelineError;

/// A server under attack, in memory.
#[derive(Parser)]
struct Args {
    /// One attack only: replay, tunnel, noise, hosts, initials, handshakes, or the name of a script.
    #[arg(long)]
    attack: Option<String>,
    /// Milliseconds that are measured.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// How often, each time next to a run with a companion instead of the attack.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Gbit/s of a flood.
    #[arg(long, default_value_t = 8.0)]
    gbit: f64,
    /// Packets per second of a flood whose packets come one by one.
    #[arg(long, default_value_t = 300_000)]
    packets: u64,
    /// Handshakes per second of a storm.
    #[arg(long, default_value_t = 5000)]
    handshakes: u32,
    /// Time by a model.
    #[arg(long)]
    model: bool,
    /// What a first packet costs the server with real TLS, by what becomes of it; nothing else.
    #[arg(long)]
    costs: bool,
    /// Null crypto instead of TLS.
    #[arg(long)]
    null: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.costs {
        true => costs(),
        false => table(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn costs() -> Result<(), PipelineError> {
    println!("| first packets answered with | µs of the server's |\n|---|---:|");
    for answer in Answer::ALL {
        let took = of_first_packet(answer)?.as_secs_f64() * 1e6;
        println!("| {} | {took:.1} |", format!("{answer:?}").to_lowercase());
    }
    Ok(())
}

fn table(args: &Args) -> Result<(), PipelineError> {
    println!(
        "| attack | victim | Gbit/s | share | echo p50 | p99 | max | lost | longest turn | lost at socket/s | at device/s | handshakes/s |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for down in [false, true] {
        let settings = |attack| Settings {
            attack,
            rate: (args.gbit * 1e9) as u64,
            packets: args.packets,
            handshakes: match attack {
                Attack::Handshakes => 100,
                _ => args.handshakes,
            },
            newcomers: 0,
            down,
            clock: if args.model {
                Clock::Model
            } else {
                Clock::Measured
            },
            real_tls: !args.null,
            time: Duration::from_millis(args.millis),
        };
        let attacks = Attack::ALL.into_iter().chain(Attack::SCRIPTS);
        for attack in [Attack::None].into_iter().chain(attacks) {
            let name = match attack {
                Attack::Script(name) => name.trim_start_matches("attack-").to_owned(),
                _ => format!("{attack:?}").to_lowercase(),
            };
            if args.attack.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            // What the machine does besides, it does to both of a pair.
            let mut rounds = Vec::new();
            for _ in 0..args.rounds.max(1) {
                let fair = run(&settings(Attack::Companion))?.victim;
                let outcome = run(&settings(attack))?;
                rounds.push((outcome.victim / fair * 100.0, outcome));
            }
            rounds.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            line(&name, down, &rounds);
        }
    }
    Ok(())
}

/// The round in the middle, with the smallest and the largest share.
fn line(name: &str, down: bool, rounds: &[(f64, Outcome)]) {
    let (Some((least, _)), Some((most, _)), Some((share, outcome))) =
        (rounds.first(), rounds.last(), rounds.get(rounds.len() / 2))
    else {
        return;
    };
    let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
    println!(
        "| {name} | {} | {:.2} | {share:.0} % ({least:.0}–{most:.0}) | {} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} |",
        if down { "down" } else { "up" },
        outcome.victim / 1e9,
        ms(outcome.echo(50)),
        ms(outcome.echo(99)),
        ms(outcome.echo(100)),
        outcome.lost_echoes,
        ms(outcome.longest_turn),
        outcome.lost_datagrams,
        outcome.lost_packets,
        outcome.handshakes,
    );
}
