//! TCP streams that carry as much as they can.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::TcpResult;
use super::stream::{self, CUBIC};
use crate::error::Error;

const BUFFER: usize = 128 << 10;
/// Direction, seconds, omitted seconds.
const OPENING: usize = 17;

/// Takes streams for ever, each in a thread.
pub(super) fn serve(listen: SocketAddr) -> Result<(), Error> {
    let listener =
        stream::listen(listen, CUBIC).map_err(Error::system(format!("listening on {listen}")))?;
    super::print(&"listening")?;
    for stream in listener.incoming() {
        let stream = stream.map_err(Error::system("accepting"))?;
        // A stream that breaks is its client's to tell.
        thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut opening = [0; OPENING];
    stream.read_exact(&mut opening)?;
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&opening[at..at + 8]);
        f64::from_le_bytes(bytes)
    };
    let (secs, omit) = (number(1), number(9));
    if opening[0] == b'd' {
        return fill(&mut stream, secs + omit);
    }
    let (bytes, nanos, total) = drain(&mut stream, omit)?;
    for number in [bytes, nanos, total] {
        stream.write_all(&number.to_le_bytes())?;
    }
    Ok(())
}

/// Runs streams side by side.
pub(super) fn run(
    server: SocketAddr,
    streams: usize,
    down: bool,
    secs: f64,
    omit: f64,
) -> Result<TcpResult, Error> {
    let threads: Vec<_> = (0..streams)
        .map(|_| thread::spawn(move || carry(server, down, secs, omit)))
        .collect();
    let mut result = TcpResult::default();
    for thread in threads {
        let (bytes, nanos, total) = thread
            .join()
            .map_err(|_| Error::Probe("a stream panicked".to_owned()))?
            .map_err(Error::system(format!("TCP to {server}")))?;
        result.bytes += bytes;
        result.total += total;
        result.secs = result.secs.max(nanos as f64 / 1e9);
    }
    Ok(result)
}

fn carry(server: SocketAddr, down: bool, secs: f64, omit: f64) -> io::Result<(u64, u64, u64)> {
    let mut stream = stream::connect(server, CUBIC, Duration::from_secs(5))?;
    // A dead tunnel must not hold the whole run up.
    let patience = Some(Duration::from_secs_f64(secs + omit + 10.0));
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)?;
    let mut opening = vec![if down { b'd' } else { b'u' }];
    opening.extend_from_slice(&secs.to_le_bytes());
    opening.extend_from_slice(&omit.to_le_bytes());
    stream.write_all(&opening)?;
    if down {
        return drain(&mut stream, omit);
    }
    fill(&mut stream, secs + omit)?;
    let mut number = || {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes)?;
        Ok::<_, io::Error>(u64::from_le_bytes(bytes))
    };
    Ok((number()?, number()?, number()?))
}

fn fill(stream: &mut TcpStream, secs: f64) -> io::Result<()> {
    let data = vec![0x5a; BUFFER];
    let end = Instant::now() + Duration::from_secs_f64(secs);
    while Instant::now() < end {
        stream.write_all(&data)?;
    }
    stream.shutdown(Shutdown::Write)
}

/// Reads to the end: bytes and nanoseconds behind the omitted beginning, and bytes in all.
fn drain(stream: &mut TcpStream, omit: f64) -> io::Result<(u64, u64, u64)> {
    let mut data = vec![0; BUFFER];
    let begun = Instant::now();
    let mut counting = None;
    let (mut bytes, mut total) = (0, 0);
    let mut last = begun;
    loop {
        let count = stream.read(&mut data)? as u64;
        let now = Instant::now();
        if count == 0 {
            break;
        }
        last = now;
        total += count;
        match counting {
            Some(_) => bytes += count,
            None if now - begun >= Duration::from_secs_f64(omit) => counting = Some(now),
            None => {}
        }
    }
    let time = counting.map_or(Duration::ZERO, |since| last - since);
    Ok((bytes, time.as_nanos() as u64, total))
}
