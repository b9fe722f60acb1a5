//! `masque-lab profiles`: tunnels judged on named paths.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::outputs::save;
use super::{LabError, Series, chart};
use crate::traffic::control::ControlKind;
use crate::traffic::distribution;
use crate::traffic::host::End;
use crate::traffic::profile::{self, PROFILES};
use crate::traffic::sweep::{self, Record};
use crate::traffic::trial::{DEVICE_MTU, Point, Subject, Trial};

/// What is run: every combination.
#[derive(Args, Clone, Debug)]
pub struct Comparison {
    /// The paths; all of them if none is named.
    #[arg(long, value_delimiter = ',')]
    pub profile: Vec<String>,
    /// What carries the flows: raw, cubic, newreno, bbr, none, tunnel.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "raw,cubic,bbr,none,tunnel"
    )]
    pub subjects: Vec<String>,
    /// Numbers of bulk flows.
    #[arg(long, value_delimiter = ',', default_value = "16")]
    pub flows: Vec<usize>,
    /// The control of the bulk flows.
    #[arg(long, value_delimiter = ',', default_value = "cubic")]
    pub control: Vec<ControlArg>,
    /// Who sends.
    #[arg(long, value_delimiter = ',', default_value = "up")]
    pub direction: Vec<DirectionArg>,
    /// Voice beside the bulk flows.
    #[arg(long)]
    pub voice: bool,
    /// It begins so many seconds before them.
    #[arg(long, default_value_t = -0.5, allow_negative_numbers = true)]
    pub voice_before: f64,
    /// A flow outside the tunnel on the same path.
    #[arg(long)]
    pub rival: Option<ControlArg>,
    /// The rival begins so many seconds after the flows; before them if negative.
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub rival_after: f64,
    /// The MTU of the devices inside, where the tunnel carries as much.
    #[arg(long, default_value_t = DEVICE_MTU)]
    pub mtu: usize,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    pub seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub first_seed: u64,
    /// Virtual seconds per run.
    #[arg(long, default_value_t = 15.0)]
    pub secs: f64,
    /// Runs at once.
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Where to write one JSON object per run and line.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Print the course of every run, ten lines a second.
    #[arg(long)]
    pub course: bool,
    /// Print how all seeds are spread instead of their medians.
    #[arg(long)]
    pub spread: bool,
    /// Where to write how all seeds are spread, one JSON object per path, flows and subject.
    #[arg(long)]
    pub spread_json: Option<PathBuf>,
    /// The directory for a plot of the course of every run, as SVG.
    #[arg(long)]
    pub plots: Option<PathBuf>,
}

/// A control of bulk flows.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlArg {
    /// RFC 9438.
    Cubic,
    /// BBR, version 1.
    Bbr,
}

impl From<ControlArg> for ControlKind {
    fn from(arg: ControlArg) -> Self {
        match arg {
            ControlArg::Cubic => Self::Cubic,
            ControlArg::Bbr => Self::Bbr,
        }
    }
}

/// Who sends.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectionArg {
    /// The client.
    Up,
    /// The server.
    Down,
}

impl Comparison {
    /// The runs, or the name nothing has.
    ///
    /// # Errors
    /// [`LabError::Name`].
    pub fn trials(&self) -> Result<(Vec<Trial>, Vec<Subject>), LabError> {
        let unknown = |name: &String| LabError::Name(name.clone());
        let subjects = self.subjects.iter();
        let subjects: Vec<_> = subjects
            .map(|name| Subject::named(name).ok_or_else(|| unknown(name)))
            .collect::<Result<_, _>>()?;
        let mut paths: Vec<_> = self
            .profile
            .iter()
            .map(|name| profile::named(name).ok_or_else(|| unknown(name)))
            .collect::<Result<_, _>>()?;
        if paths.is_empty() {
            paths = PROFILES.to_vec();
        }
        let mut trials = Vec::new();
        for profile in paths {
            for direction in &self.direction {
                for control in &self.control {
                    for flows in &self.flows {
                        for subject in &subjects {
                            for seed in self.first_seed..self.first_seed + self.seeds {
                                trials.push(Trial {
                                    profile,
                                    subject: *subject,
                                    flows: *flows,
                                    control: (*control).into(),
                                    from: match direction {
                                        DirectionArg::Up => End::Client,
                                        DirectionArg::Down => End::Server,
                                    },
                                    voice: self.voice,
                                    voice_before: self.voice_before,
                                    rival: self.rival.map(Into::into),
                                    rival_after: self.rival_after,
                                    length: Duration::from_secs_f64(self.secs.max(0.1)),
                                    mtu: self.mtu,
                                    seed,
                                    changes: Vec::new(),
                                });
                            }
                        }
                    }
                }
            }
        }
        Ok((trials, subjects))
    }
}

/// Runs them, and prints the table.
///
/// # Errors
/// [`LabError`].
pub fn profiles(what: &Comparison, out: &mut impl Write) -> Result<(), LabError> {
    let (trials, subjects) = what.trials()?;
    let records = sweep::run(&trials, what.jobs)?;
    if let Some(path) = &what.json {
        lines(path, &records)?;
    }
    if what.course {
        for record in &records {
            writeln!(
                out,
                "# {} {} seed {}",
                record.profile, record.subject, record.seed
            )?;
            for point in &record.outcome.points {
                writeln!(
                    out,
                    "{:6.1} window {:8} back {:7} rtt {:7.1} queue {:6.1} own {:8} mbit {:7.2} rival {:7.2} lost {}",
                    point.at,
                    point.window,
                    point.back_window,
                    point.rtt_ms,
                    point.queue_ms,
                    point.tunnel_queue,
                    point.mbit,
                    point.rival_mbit,
                    point.lost
                )?;
            }
        }
    }
    if let Some(folder) = &what.plots {
        for record in &records {
            let path = folder.join(format!(
                "{}-{}-{}-{}-{}.svg",
                record.profile, record.flows, record.direction, record.subject, record.seed
            ));
            save(&path, plot(record))?;
        }
    }
    let spread = distribution::distributions(&records);
    if let Some(path) = &what.spread_json {
        lines(path, &spread)?;
    }
    let table = match what.spread {
        true => distribution::table(&spread),
        false => sweep::table(&records, &subjects),
    };
    out.write_all(table.as_bytes())?;
    Ok(())
}

fn lines<T: Serialize>(path: &Path, values: &[T]) -> Result<(), LabError> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for value in values {
        let line = serde_json::to_string(value).map_err(std::io::Error::from)?;
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    Ok(())
}

/// A line of a plot: its name, and what it shows of a point.
type Line<'a> = (&'a str, &'a dyn Fn(&Point) -> f64);

/// Window, delays, loss and goodput of one run over time.
fn plot(record: &Record) -> String {
    let points = &record.outcome.points;
    let line = |value: &dyn Fn(&Point) -> f64| -> Vec<(f64, f64)> {
        points
            .iter()
            .map(|point| (point.at, value(point)))
            .collect()
    };
    let of = |lines: &[Line<'_>]| -> Series {
        let named = lines.iter();
        named
            .map(|(name, value)| ((*name).to_owned(), line(value)))
            .collect()
    };
    let mut lost = points.first().map_or(0, |point| point.lost);
    let losses = points.iter().map(|point| {
        let more = point.lost - std::mem::replace(&mut lost, point.lost);
        (point.at, more as f64)
    });
    let losses = Series::from([("declared lost".to_owned(), losses.collect())]);
    chart::stack(&[
        (
            "window and what waits before it",
            "kB",
            of(&[
                ("window", &|point| point.window as f64 / 1e3),
                ("own queue", &|point| point.tunnel_queue as f64 / 1e3),
            ]),
        ),
        (
            "delay",
            "ms",
            of(&[
                ("outer round trip", &|point| point.rtt_ms),
                ("queue on the path", &|point| point.queue_ms),
            ]),
        ),
        ("loss", "packets per 0.1 s", losses),
        ("goodput", "Mbit/s", of(&[("inside", &|point| point.mbit)])),
    ])
}
