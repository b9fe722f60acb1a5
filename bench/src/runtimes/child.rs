//! One test of one runtime, in a process of its own: whatever threads a runtime has are then its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use masque_adapter_kit::memory::MemoryTun;
use masque_testkit::packet::udp;

use super::account::{Threads, resident, this_thread};
use super::ends::{End, Keys, Order, Told};
use super::host::{Busy, Runtime};
use super::{Amounts, RuntimesError, Test};

/// How long a tunnel may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until everything that belongs to a start is over.
const SETTLE: Duration = Duration::from_millis(500);
/// A slice of the busy task: longer than a turn, shorter than what anybody would call blocking.
const SLICE: Duration = Duration::from_micros(50);
/// A host behind the server.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 9);
/// Bytes in front of each packet's time.
const HEADERS: usize = 28;

/// Results by name.
pub(super) type Numbers = BTreeMap<String, f64>;

/// Runs it. The process is to be ended afterwards: its loops still run.
///
/// # Errors
/// [`RuntimesError`].
pub(super) fn run(
    test: Test,
    runtime: Runtime,
    amounts: &Amounts,
) -> Result<Numbers, RuntimesError> {
    match test {
        Test::Wake => wake(runtime, amounts.wakes),
        Test::Timer => timer(runtime, amounts.deadlines),
        Test::Idle => idle(runtime, amounts.seconds),
        Test::Rate => rate(runtime, amounts, None),
        Test::Busy => rate(runtime, amounts, Some(&Busy::new(SLICE))),
        Test::Connections => connections(runtime, amounts),
    }
}

/// A message from another thread, until the application has it: one wake-up, one turn, no packet.
fn wake(runtime: Runtime, count: u32) -> Result<Numbers, RuntimesError> {
    let end = End::alone()?;
    let (notes, controller) = (end.notes.clone(), end.pump.controller());
    let _tun = end.tun;
    spawn(runtime, end.pump, None);
    let threads = settled(&[]);
    let send = |count| {
        for _ in 0..count {
            thread::sleep(Duration::from_millis(1));
            // A full queue would be a loop that has ended: the notes are then too few.
            let _ = controller.send(Order::Stamp(Instant::now()));
        }
    };
    send(100);
    notes.take();
    let before = threads.used();
    send(count);
    thread::sleep(Duration::from_millis(50));
    let used = threads.used().since(before);
    let latencies = notes.take();
    let mut numbers = percentiles("wake", latencies);
    let each = f64::from(count);
    numbers.insert(
        "wake_cpu_us".to_owned(),
        used.cpu.as_secs_f64() * 1e6 / each,
    );
    numbers.insert("wake_sleeps".to_owned(), used.sleeps as f64 / each);
    if let Some(calls) = threads.calls() {
        let counted = count.min(2_000);
        send(counted);
        thread::sleep(Duration::from_millis(50));
        let calls = calls.end().map(|calls| calls / f64::from(counted));
        numbers.extend(calls.map(|calls| ("wake_calls".to_owned(), calls)));
    }
    Ok(numbers)
}

/// Deadlines of the application, 0.1 to 5.1 ms ahead: how late they are served.
fn timer(runtime: Runtime, count: u32) -> Result<Numbers, RuntimesError> {
    let end = End::alone()?;
    let (notes, controller) = (end.notes.clone(), end.pump.controller());
    let _tun = end.tun;
    spawn(runtime, end.pump, None);
    let threads = settled(&[]);
    let before = threads.used();
    for number in 0..count {
        let after = Duration::from_micros(100 + u64::from(number) * 617 % 5_000);
        let _ = controller.send(Order::Deadline(after));
        thread::sleep(Duration::from_millis(7));
    }
    let used = threads.used().since(before);
    let mut numbers = percentiles("timer", notes.take());
    let each = used.cpu.as_secs_f64() * 1e6 / f64::from(count);
    numbers.insert("timer_cpu_us".to_owned(), each);
    Ok(numbers)
}

/// A tunnel that nobody uses.
fn idle(runtime: Runtime, seconds: u32) -> Result<Numbers, RuntimesError> {
    let pair = Pair::start(runtime, 1, None)?;
    // Path MTU discovery ends some round trips after the start.
    thread::sleep(SETTLE);
    let threads = pair.threads();
    let before = threads.used();
    thread::sleep(Duration::from_secs(seconds.into()));
    let used = threads.used().since(before);
    let per_second = |number: f64| number / f64::from(seconds);
    Ok(Numbers::from([
        ("idle_wakes".to_owned(), per_second(used.sleeps as f64)),
        (
            "idle_cpu_us".to_owned(),
            per_second(used.cpu.as_secs_f64() * 1e6),
        ),
    ]))
}

/// Packets through the tunnel, evenly spaced: device of the client to device of the server.
fn rate(
    runtime: Runtime,
    amounts: &Amounts,
    busy: Option<&Busy>,
) -> Result<Numbers, RuntimesError> {
    let pair = Pair::start(runtime, 1, busy)?;
    let name = if busy.is_some() { "busy" } else { "rate" };
    let threads = pair.threads();
    let (rate, seconds) = (amounts.rate, amounts.seconds);
    pair.send(rate, rate / 4)?;
    thread::sleep(SETTLE);
    pair.arrived();
    let slices = busy.map_or(0, Busy::slices);
    let before = threads.used();
    let started = Instant::now();
    let count = rate * seconds;
    pair.send(rate, count)?;
    let lasted = started.elapsed();
    let used = threads.used().since(before);
    let slices = busy.map_or(0, Busy::slices) - slices;
    thread::sleep(SETTLE);
    let latencies = pair.arrived();
    let lost = 100.0 * (1.0 - latencies.len() as f64 / f64::from(count));
    let mut numbers = percentiles(name, latencies);
    let mut put = |what: &str, number: f64| numbers.insert(format!("{name}_{what}"), number);
    put("lost_percent", lost);
    if busy.is_some() {
        let worked = SLICE * u32::try_from(slices).unwrap_or(u32::MAX);
        put("work_percent", share(worked, lasted));
        return Ok(numbers);
    }
    put("cpu_percent", share(used.cpu, lasted));
    put("sleeps", used.sleeps as f64 / f64::from(count));
    if let Some(calls) = threads.calls() {
        let counted = rate * 2;
        pair.send(rate, counted)?;
        thread::sleep(Duration::from_millis(50));
        if let Some(calls) = calls.end() {
            put("calls", calls / f64::from(counted));
        }
    }
    Ok(numbers)
}

/// Many idle connections between two loops.
fn connections(runtime: Runtime, amounts: &Amounts) -> Result<Numbers, RuntimesError> {
    let count = amounts.connections;
    let before = resident();
    let started = Instant::now();
    let pair = Pair::start(runtime, count as usize, None)?;
    let set_up = started.elapsed();
    thread::sleep(2 * SETTLE);
    let held = resident() - before;
    let threads = pair.threads();
    let before = threads.used();
    thread::sleep(Duration::from_secs(amounts.seconds.max(10).into()));
    let used = threads.used().since(before);
    let seconds = f64::from(amounts.seconds.max(10));
    let count = f64::from(count);
    Ok(Numbers::from([
        ("conn_per_s".to_owned(), count / set_up.as_secs_f64()),
        ("conn_kb".to_owned(), held / count / 1e3),
        (
            "conn_idle_cpu_percent".to_owned(),
            100.0 * used.cpu.as_secs_f64() / seconds,
        ),
        ("conn_idle_wakes".to_owned(), used.sleeps as f64 / seconds),
    ]))
}

/// A server's and a client's loop, and the far ends of their devices.
struct Pair {
    tun: MemoryTun,
    inside: Ipv4Addr,
    latencies: Receiver<Duration>,
    measuring: Vec<u32>,
    _told: Receiver<Told>,
}

impl Pair {
    /// With so many connections, all up. `busy` runs beside the client.
    fn start(
        runtime: Runtime,
        connections: usize,
        busy: Option<&Busy>,
    ) -> Result<Self, RuntimesError> {
        let keys = Keys::new()?;
        let server = End::server(&keys, runtime.has_pump())?;
        let (teller, told) = channel();
        let client = End::client(
            &keys,
            server.address,
            connections,
            teller,
            runtime.has_pump(),
        )?;
        let (reader, latencies) = watch(server.tun);
        spawn(runtime, server.pump, None);
        spawn(runtime, client.pump, busy.cloned());
        let mut inside = None;
        for number in 0..connections {
            match told.recv_timeout(PATIENCE) {
                Ok(Told::Up(address)) => inside = Some(address),
                Ok(Told::Lost(why)) => return Err(RuntimesError::setting_up(why)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let why = format!("{number} of {connections} tunnels came up");
                    return Err(RuntimesError::setting_up(why));
                }
            }
        }
        Ok(Self {
            tun: client.tun,
            inside: inside.ok_or_else(|| RuntimesError::setting_up("no connection"))?,
            latencies,
            measuring: vec![reader],
            _told: told,
        })
    }

    fn threads(&self) -> Threads {
        settled(&self.measuring)
    }

    /// So many packets at so many a second. One that comes late does not shift the next.
    fn send(&self, rate: u32, count: u32) -> Result<(), RuntimesError> {
        let (start, gap) = (Instant::now(), Duration::from_secs(1) / rate);
        let source = SocketAddr::new(self.inside.into(), 9);
        for number in 0..count {
            let wait = (start + gap * number).saturating_duration_since(Instant::now());
            thread::sleep(wait);
            let payload = [&now().to_be_bytes()[..], &[0; 100]].concat();
            self.tun
                .send(&udp(source, OUTSIDE, &payload))
                .map_err(RuntimesError::setting_up)?;
        }
        Ok(())
    }

    /// How long the packets since the last call were on their way.
    fn arrived(&self) -> Vec<Duration> {
        self.latencies.try_iter().collect()
    }
}

/// Reads what leaves the tunnel on a thread of its own, whose number is given.
fn watch(tun: MemoryTun) -> (u32, Receiver<Duration>) {
    let (teller, latencies) = channel();
    let (hand_over, thread) = channel();
    thread::spawn(move || {
        let _ = hand_over.send(this_thread());
        let mut buffer = vec![0; 2048];
        while let Ok(length) = tun.recv(&mut buffer) {
            let arrived = now();
            let packet = buffer.get(HEADERS..length).unwrap_or_default();
            if let Some(sent) = packet.first_chunk() {
                let nanos = arrived.saturating_sub(u64::from_be_bytes(*sent));
                let _ = teller.send(Duration::from_nanos(nanos));
            }
        }
    });
    (thread.recv().unwrap_or_default(), latencies)
}

/// Nanoseconds on a clock that all threads share.
fn now() -> u64 {
    crate::probe::monotonic()
}

fn spawn(
    runtime: Runtime,
    pump: masque_adapter_kit::Pump<super::ends::Puppet>,
    busy: Option<Busy>,
) {
    thread::spawn(move || {
        let done = match busy {
            Some(busy) => runtime.run_beside(pump, &busy),
            None => runtime.run(pump).map(drop),
        };
        if let Err(error) = done {
            eprintln!("{}: {error}", runtime.name());
        }
    });
}

/// The threads of the loops, once they have come to rest.
fn settled(measuring: &[u32]) -> Threads {
    thread::sleep(SETTLE);
    let mut ours = measuring.to_vec();
    ours.push(this_thread());
    Threads::without(&ours)
}

fn share(part: Duration, whole: Duration) -> f64 {
    100.0 * part.as_secs_f64() / whole.as_secs_f64()
}

/// Median and tails, in microseconds.
fn percentiles(name: &str, mut latencies: Vec<Duration>) -> Numbers {
    latencies.sort_unstable();
    let at = |share: f64| {
        let last = latencies.len().checked_sub(1)?;
        let at = (share * last as f64).round() as usize;
        latencies.get(at).map(|latency| latency.as_secs_f64() * 1e6)
    };
    [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)]
        .into_iter()
        .filter_map(|(what, share)| Some((format!("{name}_{what}_us"), at(share)?)))
        .collect()
}
