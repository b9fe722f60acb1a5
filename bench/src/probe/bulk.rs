//! TCP streams that carry as much as they can, and what arrived when.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Args;
use rustix::net::sockopt::set_socket_linger;
use serde::{Deserialize, Serialize};

use super::{SLOT, monotonic, sleep_until, stream};
use crate::error::Error;

const BUFFER: usize = 64 << 10;
/// So long a stream waits for anything before it looks at the clock.
const BLINK: Duration = Duration::from_millis(50);

/// What streams do.
#[derive(Clone, Debug, Args)]
pub struct BulkArgs {
    /// Whom to connect to, or where to listen.
    pub address: SocketAddr,
    /// How many.
    #[arg(long)]
    pub streams: usize,
    /// When they begin, on the monotonic clock in nanoseconds.
    #[arg(long)]
    pub begin: u64,
    /// How long they last.
    #[arg(long)]
    pub secs: f64,
    /// The kernel's congestion control.
    #[arg(long)]
    pub control: String,
    /// This end sends.
    #[arg(long)]
    pub send: bool,
}

/// What came of them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BulkResult {
    /// Bytes received in each tenth of a second since the beginning; of the sender, nothing.
    pub slots: Vec<u64>,
    /// Bytes received of each stream.
    pub streams: Vec<u64>,
    /// Streams that broke or never came to be.
    pub broken: usize,
}

struct Shared {
    args: BulkArgs,
    end: u64,
    slots: Vec<AtomicU64>,
}

impl Shared {
    fn new(args: &BulkArgs) -> Arc<Self> {
        let length = Duration::from_secs_f64(args.secs);
        let slots = length.as_nanos().div_ceil(SLOT.as_nanos());
        Arc::new(Self {
            args: args.clone(),
            end: args.begin + length.as_nanos() as u64,
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Carries until the end; gives the bytes received.
    fn carry(&self, mut stream: TcpStream) -> (u64, io::Result<()>) {
        let mut total = 0;
        let done = self.set_up(&stream).and_then(|()| {
            if self.args.send {
                self.fill(&mut stream)
            } else {
                self.drain(&mut stream, &mut total)
            }
        });
        // What is still on its way does not count, and must not be in the next test's way.
        let _ = set_socket_linger(&stream, Some(Duration::ZERO));
        (total, done)
    }

    fn set_up(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(BLINK))?;
        stream.set_write_timeout(Some(BLINK))
    }

    fn fill(&self, stream: &mut TcpStream) -> io::Result<()> {
        let data = vec![0x5a; BUFFER];
        while monotonic() < self.end {
            match stream.write(&data) {
                Err(error) if !is_only_late(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn drain(&self, stream: &mut TcpStream, total: &mut u64) -> io::Result<()> {
        let mut data = vec![0; BUFFER];
        loop {
            let read = stream.read(&mut data);
            let now = monotonic();
            if now >= self.end {
                return Ok(());
            }
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    *total += count as u64;
                    let slot = now.saturating_sub(self.args.begin) / SLOT.as_nanos() as u64;
                    if let Some(slot) = self.slots.get(slot as usize) {
                        slot.fetch_add(count as u64, Ordering::Relaxed);
                    }
                }
                Err(error) if is_only_late(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn result(&self, streams: &[(u64, io::Result<()>)]) -> BulkResult {
        let received = |slot: &AtomicU64| slot.load(Ordering::Relaxed);
        let came = streams.iter().filter(|(_, done)| done.is_ok()).count();
        BulkResult {
            slots: match self.args.send {
                true => Vec::new(),
                false => self.slots.iter().map(received).collect(),
            },
            streams: streams.iter().map(|(bytes, _)| *bytes).collect(),
            broken: self.args.streams.saturating_sub(came),
        }
    }
}

fn is_only_late(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Takes the streams of one run.
pub(super) fn serve(args: &BulkArgs) -> Result<(), Error> {
    let shared = Shared::new(args);
    let failed = || Error::system(format!("listening on {}", args.address));
    let listener = stream::listen(args.address, &args.control).map_err(failed())?;
    listener.set_nonblocking(true).map_err(failed())?;
    super::print(&"listening")?;
    let mut threads = Vec::new();
    while monotonic() < shared.end && threads.len() < args.streams {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(failed())?;
                let shared = Arc::clone(&shared);
                threads.push(thread::spawn(move || shared.carry(stream)));
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    finish(&shared, threads)
}

/// Opens streams and carries.
pub(super) fn run(args: &BulkArgs) -> Result<(), Error> {
    let shared = Shared::new(args);
    sleep_until(args.begin);
    let threads = (0..args.streams).map(|_| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let left = Duration::from_nanos(shared.end.saturating_sub(monotonic()));
            let left = left.max(BLINK);
            match stream::connect(shared.args.address, &shared.args.control, left) {
                Ok(stream) => shared.carry(stream),
                Err(error) => (0, Err(error)),
            }
        })
    });
    let threads = threads.collect();
    finish(&shared, threads)
}

type Carrier = thread::JoinHandle<(u64, io::Result<()>)>;

fn finish(shared: &Shared, threads: Vec<Carrier>) -> Result<(), Error> {
    let mut streams = Vec::new();
    for thread in threads {
        let done = thread.join();
        streams.push(done.map_err(|_| Error::Probe("a stream panicked".to_owned()))?);
    }
    super::print(&shared.result(&streams))
}
