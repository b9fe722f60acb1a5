//! Scripts over UDP: blocking, one socket, one connection at a time.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::crypto;

use super::bytes::Material;
use super::catalogue::Case;
use super::peer::Peer;
use super::report::{Report, Verdict};
use super::runner::Runner;
use crate::seed::Seed;

/// The longest sleep: a socket's timeout of zero would be none.
const LONGEST: Duration = Duration::from_secs(1);
/// The shortest.
const SHORTEST: Duration = Duration::from_micros(500);

/// A server to be judged.
pub struct ToServer {
    /// Its address.
    pub address: SocketAddr,
    /// Its name in TLS.
    pub name: String,
    /// TLS.
    pub crypto: Arc<dyn crypto::ClientConfig>,
    /// A good request.
    pub material: Material,
}

/// Runs a script against a server, on a socket of its own.
///
/// # Errors
/// What the socket says.
pub fn against_server(case: &Case, to: &ToServer, patience: Duration) -> io::Result<Report> {
    let any = match to.address {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    let socket = UdpSocket::bind(any)?;
    let peer = Peer::client(
        Instant::now(),
        &seed(),
        to.crypto.clone(),
        &case.script.offer,
        to.address,
        &to.name,
    );
    let peer = match peer {
        Ok(peer) => peer,
        Err(error) => return Ok(skipped(case, error.to_string())),
    };
    let material = to.material.clone();
    let mut runner = Runner::new(case.script.clone(), case.subject, peer, material, patience);
    drive(&socket, &mut runner, None)?;
    Ok(done(case, &runner))
}

/// Runs a script against the next client that comes, which may take `until_then`.
///
/// # Errors
/// What the socket says.
pub fn against_client(
    case: &Case,
    socket: &UdpSocket,
    crypto: Arc<dyn crypto::ServerConfig>,
    patience: Duration,
    until_then: Duration,
) -> io::Result<Report> {
    let peer = Peer::server(&seed(), crypto, &case.script.offer);
    let mut runner = Runner::new(
        case.script.clone(),
        case.subject,
        peer,
        Material::default(),
        patience,
    );
    drive(socket, &mut runner, Some(Instant::now() + until_then))?;
    Ok(done(case, &runner))
}

/// A report of a script that was not run.
#[must_use]
pub fn skipped(case: &Case, why: String) -> Report {
    Report {
        script: case.script.name.clone(),
        subject: case.subject,
        requirements: case.script.requirements.clone(),
        expected: String::new(),
        seen: why,
        verdict: Verdict::Skipped,
    }
}

fn done(case: &Case, runner: &Runner) -> Report {
    let report = runner.report().cloned();
    report.unwrap_or_else(|| skipped(case, "no client came".to_owned()))
}

/// Until there is a report; with `until`, nothing begins before somebody comes, and that time is all
/// they have to do so.
fn drive(socket: &UdpSocket, runner: &mut Runner, until: Option<Instant>) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    if until.is_none() {
        runner.handle_timeout(Instant::now());
    }
    loop {
        let now = Instant::now();
        while let Some((to, data)) = runner.poll_transmit(now) {
            // A path that is not there is silence, which scripts know.
            let _ = socket.send_to(&data, to);
        }
        if runner.report().is_some() {
            return Ok(());
        }
        if until.is_some_and(|until| now >= until) && !runner.has_subject() {
            return Ok(());
        }
        let wake = runner
            .poll_timeout()
            .map_or(LONGEST, |at| at.saturating_duration_since(now));
        socket.set_read_timeout(Some(wake.clamp(SHORTEST, LONGEST)))?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                runner.handle_udp(Instant::now(), from, None, &buffer[..length]);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::ConnectionRefused
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        if runner.poll_timeout().is_some_and(|at| at <= now) {
            runner.handle_timeout(now);
        }
    }
}

/// No two connections alike: connection IDs of the last one may still be known at the other end.
fn seed() -> Seed {
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH);
    Seed::new(since.map_or(0, |since| since.as_nanos() as u64))
}
