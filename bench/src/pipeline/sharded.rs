//! A server on several cores: as many threads as shards, each with the endpoint of one shard and a
//! client of it.
//!
//! What is compared is one thread with a server that is all in one, and all threads at once. The two
//! take turns, so that what else the machine does hits both alike. A second figure is per second of
//! processor time: it shows what the shards cost each other even where there are fewer cores than
//! threads.

use std::num::NonZeroU16;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use masque_core::endpoint::{Shard, ShardId};
use rustix::time::{ClockId, clock_gettime};

use super::{Pipeline, PipelineError, Settings, tunnel};

/// Packets between two looks at the clock.
const CHUNK: u64 = 5_000;

/// What went through in one turn.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rate {
    /// Gbit/s.
    pub gbit: f64,
    /// Gbit per second of processor time, of all threads that took part.
    pub gbit_per_cpu: f64,
}

/// One thread, and all of them.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Round {
    /// One thread with a server of one shard.
    pub one: Rate,
    /// One thread per shard.
    pub all: Rate,
}

/// What one thread did.
struct Done {
    bits: f64,
    seconds: f64,
    cpu: f64,
}

/// What a thread is to do, for how long.
#[derive(Clone, Copy)]
enum Job {
    Alone(Duration),
    Shard(Duration),
}

struct Worker {
    jobs: Sender<Job>,
    results: Receiver<Result<Done, PipelineError>>,
}

/// Runs `rounds` rounds of one thread and then all, each for `time`, and hands each to `told`.
///
/// # Errors
/// [`PipelineError`] of whichever pipeline fails first.
pub fn compare(
    settings: &Settings,
    shards: NonZeroU16,
    rounds: u32,
    time: Duration,
    mut told: impl FnMut(Round),
) -> Result<(), PipelineError> {
    let shared = tunnel::shared(settings, shards)?;
    thread::scope(|scope| {
        let workers: Vec<Worker> = (0..shared.shards().get())
            .map(|id| {
                let (jobs, todo) = channel();
                let (done, results) = channel();
                let of_shard = Settings {
                    shard: Some(Shard {
                        id: ShardId(id),
                        shared: shared.clone(),
                    }),
                    ..settings.clone()
                };
                let alone = (id == 0).then(|| settings.clone());
                scope.spawn(move || work(alone.as_ref(), &of_shard, &todo, &done));
                Worker { jobs, results }
            })
            .collect();
        // The first answer of each says that it is ready.
        for worker in &workers {
            worker.result()?;
        }
        for _ in 0..rounds.max(1) {
            let one = run(&workers[..1], Job::Alone(time))?;
            let all = run(&workers, Job::Shard(time))?;
            told(Round { one, all });
        }
        Ok(())
    })
}

fn run(workers: &[Worker], job: Job) -> Result<Rate, PipelineError> {
    for worker in workers {
        // One that has ended says why below.
        let _ = worker.jobs.send(job);
    }
    let (mut rate, mut bits, mut cpu) = (Rate::default(), 0.0, 0.0);
    for worker in workers {
        let done = worker.result()?;
        rate.gbit += done.bits * 1e-9 / done.seconds;
        bits += done.bits;
        cpu += done.cpu;
    }
    rate.gbit_per_cpu = bits * 1e-9 / cpu;
    Ok(rate)
}

impl Worker {
    fn result(&self) -> Result<Done, PipelineError> {
        let gone = |_| PipelineError::Stuck("a thread ended".to_owned());
        self.results.recv().map_err(gone)?
    }
}

/// One thread: makes its pipelines where they run, then does what it is told until nobody tells it
/// anything any more.
fn work(
    alone: Option<&Settings>,
    of_shard: &Settings,
    jobs: &Receiver<Job>,
    done: &Sender<Result<Done, PipelineError>>,
) {
    let made = Pipeline::tunnel(of_shard)
        .and_then(|shard| Ok((shard, alone.map(Pipeline::tunnel).transpose()?)));
    let (mut shard, mut alone) = match made {
        Ok(made) => made,
        Err(error) => {
            let _ = done.send(Err(error));
            return;
        }
    };
    let ready = Done {
        bits: 0.0,
        seconds: 0.0,
        cpu: 0.0,
    };
    let mut result = Ok(ready);
    while done.send(result).is_ok() {
        result = match (jobs.recv(), &mut alone) {
            (Ok(Job::Shard(time)), _) => measure(&mut shard, time),
            (Ok(Job::Alone(time)), Some(alone)) => measure(alone, time),
            (Ok(Job::Alone(_)), None) | (Err(_), _) => return,
        };
    }
}

fn measure(pipeline: &mut Pipeline, time: Duration) -> Result<Done, PipelineError> {
    let (start, cpu) = (Instant::now(), cpu_time());
    let mut bytes = 0;
    while start.elapsed() < time {
        bytes += pipeline.run(CHUNK)?.bytes;
    }
    Ok(Done {
        bits: bytes as f64 * 8.0,
        seconds: start.elapsed().as_secs_f64(),
        cpu: cpu_time() - cpu,
    })
}

/// The processor time of this thread in seconds.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_carries_traffic_and_nothing_goes_astray() {
        let shards = NonZeroU16::new(3).expect("not 0");
        let shared = tunnel::shared(&Settings::default(), shards).expect("valid");
        for id in (0..3).map(ShardId) {
            for down in [false, true] {
                let settings = Settings {
                    down,
                    shard: Some(Shard {
                        id,
                        shared: shared.clone(),
                    }),
                    ..Settings::default()
                };
                let mut pipeline = Pipeline::tunnel(&settings).expect("both ends are ours");
                let passed = pipeline.run(5_000).expect("nothing is lost in memory");
                assert!(passed.packets >= 5_000, "{passed:?}");
                assert_eq!((pipeline.lost(), pipeline.astray()), (0, 0));
            }
        }
    }

    #[test]
    fn one_thread_and_all_of_them_take_turns() {
        let shards = NonZeroU16::new(2).expect("not 0");
        let mut rounds = Vec::new();
        let told = |round| rounds.push(round);
        compare(
            &Settings::default(),
            shards,
            2,
            Duration::from_millis(5),
            told,
        )
        .expect("valid");
        assert_eq!(rounds.len(), 2);
        for Round { one, all } in rounds {
            assert!(one.gbit > 0.0 && all.gbit > 0.0 && all.gbit_per_cpu > 0.0);
        }
    }
}
