//! The client's address changes while it uploads and talks.

use std::thread;
use std::time::Duration;

use super::scenario::{Outcome, Stage};
use crate::error::Error;
use crate::lab::{FIRST_LINK, SECOND_LINK, Space};
use crate::probe::{VoiceResult, monotonic};

/// Seconds before the change.
pub(super) const BEFORE: f64 = 5.0;
/// And after the new address works.
pub(super) const AFTER: f64 = 8.0;
/// Flows that fill the link.
const FLOWS: usize = 4;
/// How long both networks are there, where they overlap.
const OVERLAP: Duration = Duration::from_secs(2);

/// Runs it. `gap`: seconds without any address.
pub(super) fn run(stage: &mut Stage<'_, '_>, gap: u32) -> Result<Outcome, Error> {
    let begin = Stage::begin();
    let secs = BEFORE + f64::from(gap) + AFTER;
    let mut flows = stage.flows(begin, FLOWS);
    flows.secs = secs;
    let call = stage.handover_call(begin, secs);
    let running = flows.start(stage)?;
    let talking = call.start(stage)?;
    let change = call.begin + Duration::from_secs_f64(BEFORE).as_nanos() as u64;
    thread::sleep(Duration::from_nanos(change.saturating_sub(monotonic())));
    let went = monotonic();
    if gap > 0 {
        leave(stage)?;
        thread::sleep(Duration::from_secs(gap.into()));
    }
    arrive(stage)?;
    let new = monotonic();
    if gap == 0 {
        thread::sleep(OVERLAP);
        leave(stage)?;
    }
    let bulk = flows.result(running)?;
    let (client, server) = call.result(talking)?;
    let mut outcome = Outcome::default();
    let since = |at: u64| at.saturating_sub(call.begin) as f64 / 1e6;
    for (way, sent, heard) in [("up", client.sent, &server), ("down", server.sent, &client)] {
        outcome.set_voice(way, sent, heard, call.secs);
        let (went, new) = (since(went), since(new));
        if let Some(first) = first(heard, new) {
            outcome.set(&format!("first_{way}_ms"), first);
        }
        let every = call.every_ms;
        let window = (went - 500.0, new + 4_000.0);
        outcome.set(&format!("lost_{way}"), lost(heard, every, window));
        // What is sent from here on is sent into a network that works.
        let later = (new, new + 4_000.0);
        outcome.set(&format!("lost_after_{way}"), lost(heard, every, later));
        outcome.set(&format!("silence_{way}_ms"), silence(heard, window));
    }
    let slot = crate::probe::SLOT.as_nanos() as u64;
    let from = new.saturating_sub(flows.begin).div_ceil(slot) as usize;
    let back = bulk.slots.iter().skip(from).position(|bytes| *bytes > 0);
    if let Some(slots) = back {
        outcome.set("bulk_back_ms", slots as f64 * slot as f64 / 1e6);
    }
    let course = bulk.slots.iter().map(|bytes| Some(*bytes as f64 * 8e-5));
    outcome.series.insert("mbit".to_owned(), course.collect());
    Ok(outcome)
}

/// The old network is gone, silently: nobody tells the server.
fn leave(stage: &Stage<'_, '_>) -> Result<(), Error> {
    let lab = stage.tunnel.lab;
    let device = FIRST_LINK.device;
    lab.ip_batch(Space::Client, &[format!("link set {device} down")])?;
    let address = FIRST_LINK.address.split('/').next().unwrap_or_default();
    lab.ip_batch(
        Space::Router,
        &[format!("route replace blackhole {address}/32")],
    )
}

fn arrive(stage: &Stage<'_, '_>) -> Result<(), Error> {
    let (device, gateway) = (SECOND_LINK.device, SECOND_LINK.gateway);
    let lines = [
        format!("link set {device} up"),
        format!("addr add {} dev {device}", SECOND_LINK.address),
        format!("route replace default via {gateway} dev {device}"),
    ];
    stage.tunnel.lab.ip_batch(Space::Client, &lines)
}

/// Milliseconds from `new` to the first packet that arrived after it.
fn first(heard: &VoiceResult, new: f64) -> Option<f64> {
    let arrivals = heard
        .heard
        .iter()
        .map(|(_, sent, delay)| sent + delay - new);
    arrivals.filter(|after| *after >= 0.0).reduce(f64::min)
}

/// How many packets sent in `window` never arrived.
fn lost(heard: &VoiceResult, every: f64, window: (f64, f64)) -> f64 {
    let inside = |at: f64| (window.0..window.1).contains(&at);
    let (from, to) = (
        (window.0 / every).ceil().max(0.0) as u32,
        (window.1 / every).ceil() as u32,
    );
    let numbers = heard.heard.iter().map(|(number, _, _)| *number);
    let arrived = numbers.filter(|number| inside(f64::from(*number) * every));
    f64::from(to - from) - arrived.count() as f64
}

/// The longest time in `window` in which nothing arrived.
fn silence(heard: &VoiceResult, window: (f64, f64)) -> f64 {
    let mut arrivals: Vec<f64> = heard
        .heard
        .iter()
        .map(|(_, sent, delay)| sent + delay)
        .collect();
    arrivals.sort_by(f64::total_cmp);
    let inside = arrivals
        .into_iter()
        .filter(|at| (window.0..window.1).contains(at));
    let (last, longest) = inside.fold((window.0, 0.0_f64), |(last, longest), at| {
        (at, longest.max(at - last))
    });
    longest.max(window.1 - last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_told_by_what_came_first_what_never_came_and_how_long_nothing_did() {
        let heard = VoiceResult {
            sent: 10,
            heard: vec![
                (0, 0.0, 5.0),
                (1, 10.0, 5.0),
                (4, 40.0, 25.0),
                (5, 50.0, 5.0),
            ],
            doubled: 0,
        };
        assert_eq!(first(&heard, 30.0), Some(25.0));
        assert_eq!(lost(&heard, 10.0, (0.0, 60.0)), 2.0);
        assert_eq!(silence(&heard, (0.0, 60.0)), 40.0);
        assert_eq!(first(&heard, 70.0), None);
    }
}
