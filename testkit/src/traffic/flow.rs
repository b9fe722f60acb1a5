//! One TCP-like bulk flow at the level of packets: sender and receiver, pure.
//!
//! Packets are numbered 0, 1, 2 and all of one size. Loss is detected as RACK-TLP (RFC 8985) has it:
//! a packet is lost when one sent later was delivered and a reordering window has passed; the window
//! is a quarter of the shortest round trip once reordering was seen, and grows with every duplicate
//! that the receiver reports. A reduction of the window all of whose retransmissions turn out to be
//! needless is undone.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::control::{Acked, Control, ControlKind};

/// The least retransmission timeout.
const MIN_RTO: Duration = Duration::from_millis(200);
/// How long a receiver waits for a second packet before it acknowledges the first.
const ACK_DELAY: Duration = Duration::from_millis(40);
/// Blocks in an acknowledgement (RFC 2018 has room for three beside timestamps).
const BLOCKS: usize = 3;

/// A packet of data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// The how-manieth transmission of the flow this is.
    pub transmission: u64,
    /// When it was sent.
    pub at: Duration,
}

/// An acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// All packets below it have arrived.
    pub next: u64,
    /// The transmission that it answers.
    pub transmission: u64,
    /// When that was sent.
    pub at: Duration,
    /// How many packets arrived more than once.
    pub duplicates: u64,
    /// Whether congestion was marked on what it acknowledges.
    pub marked: bool,
    /// What else has arrived: ranges above `next`, the latest first.
    pub blocks: Vec<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Flying,
    Lost,
    Arrived,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    state: State,
    transmission: u64,
    at: Duration,
    again: bool,
    /// What had been delivered when it was sent, and when that was.
    delivered: u64,
    delivered_at: Duration,
    first_at: Duration,
}

/// The sending end: has always more to send.
pub struct Sender {
    control: Box<dyn Control>,
    base: u64,
    slots: VecDeque<Slot>,
    flying: u64,
    lost: u64,
    transmissions: u64,
    delivered: u64,
    delivered_at: Duration,
    first_at: Duration,
    round_ends: u64,
    /// The latest transmission known to have arrived, when it was sent and its round trip.
    latest: (u64, Duration, Duration),
    highest: u64,
    reordered: bool,
    reorder_steps: u32,
    duplicates: u64,
    srtt: Option<Duration>,
    var: Duration,
    min_rtt: Duration,
    /// While recovering: until this number has arrived, and how many retransmissions may yet prove
    /// needless.
    recovery: Option<u64>,
    needless: i64,
    retransmitted: u64,
    backoff: u32,
    probed: bool,
    last_sent: Duration,
    next_send: Duration,
    reorder_timer: Option<Duration>,
    last_step: Duration,
}

impl Sender {
    /// A flow that begins at `now`.
    #[must_use]
    pub fn new(kind: ControlKind, now: Duration) -> Self {
        Self {
            control: kind.build(now),
            base: 0,
            slots: VecDeque::new(),
            flying: 0,
            lost: 0,
            transmissions: 0,
            delivered: 0,
            delivered_at: now,
            first_at: now,
            round_ends: 0,
            latest: (0, Duration::ZERO, Duration::ZERO),
            highest: 0,
            reordered: false,
            reorder_steps: 1,
            duplicates: 0,
            srtt: None,
            var: Duration::ZERO,
            min_rtt: Duration::MAX,
            recovery: None,
            needless: 0,
            retransmitted: 0,
            backoff: 0,
            probed: false,
            last_sent: now,
            next_send: now,
            reorder_timer: None,
            last_step: Duration::ZERO,
        }
    }

    /// Packets retransmitted.
    #[must_use]
    pub fn retransmitted(&self) -> u64 {
        self.retransmitted
    }

    /// The window in packets.
    #[must_use]
    pub fn window(&self) -> f64 {
        self.control.window()
    }

    /// The smoothed round trip, once there is one.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.srtt
    }

    /// The next packet to send now.
    pub fn poll(&mut self, now: Duration) -> Option<Segment> {
        if self.flying as f64 + 1.0 > self.control.window().max(1.0) || now < self.next_send {
            return None;
        }
        let number = if self.lost > 0 {
            let lost = self.slots.iter().position(|slot| slot.state == State::Lost);
            self.base + lost? as u64
        } else {
            self.base + self.slots.len() as u64
        };
        Some(self.send(now, number))
    }

    /// When [`Self::on_timer`] or [`Self::poll`] has something to do though nothing arrives.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let may_send = self.flying as f64 + 1.0 <= self.control.window().max(1.0);
        let pacing = (may_send && self.next_send > now).then_some(self.next_send);
        let timeout = (!self.slots.is_empty()).then(|| self.timeout());
        [pacing, timeout, self.reorder_timer]
            .into_iter()
            .flatten()
            .min()
    }

    /// The time of [`Self::deadline`] has come; gives a probe if one is due.
    pub fn on_timer(&mut self, now: Duration) -> Option<Segment> {
        if self.reorder_timer.is_some_and(|at| at <= now) {
            self.detect(now);
        }
        if self.slots.is_empty() || now < self.timeout() {
            return None;
        }
        if !self.probed && self.srtt.is_some() {
            self.probed = true;
            let last = (0..self.slots.len())
                .rev()
                .find(|index| self.slots[*index].state != State::Arrived);
            return last.map(|index| self.send(now, self.base + index as u64));
        }
        for slot in &mut self.slots {
            if slot.state == State::Flying {
                slot.state = State::Lost;
                self.flying -= 1;
                self.lost += 1;
            }
        }
        self.backoff += 1;
        self.last_sent = now;
        self.control.on_timeout(now);
        self.recovery = Some(self.base + self.slots.len() as u64);
        self.needless = i64::MAX / 2;
        None
    }

    /// An acknowledgement arrives.
    pub fn on_ack(&mut self, now: Duration, ack: &Ack) {
        let before = self.delivered;
        let mut newest: Option<Slot> = None;
        let end = ack.next.min(self.base + self.slots.len() as u64);
        let arrived = |this: &mut Self, number: u64, newest: &mut Option<Slot>| {
            let Some(index) = number.checked_sub(this.base) else {
                return;
            };
            let Some(slot) = this.slots.get_mut(index as usize) else {
                return;
            };
            match slot.state {
                State::Arrived => return,
                State::Flying => this.flying -= 1,
                State::Lost => this.lost -= 1,
            }
            slot.state = State::Arrived;
            this.delivered += 1;
            let slot = *slot;
            if !slot.again {
                this.reordered |= number < this.highest;
                this.highest = this.highest.max(number);
            }
            if newest.is_none_or(|other| slot.transmission > other.transmission) {
                *newest = Some(slot);
            }
        };
        for number in self.base..end {
            arrived(self, number, &mut newest);
        }
        for &(first, last) in ack.blocks.iter().rev() {
            // Never more than there are packets.
            let known = self.base + self.slots.len() as u64;
            for number in first.max(self.base)..last.min(known) {
                arrived(self, number, &mut newest);
            }
        }
        while self.base < end {
            self.slots.pop_front();
            self.base += 1;
        }
        while self
            .slots
            .front()
            .is_some_and(|slot| slot.state == State::Arrived)
        {
            self.slots.pop_front();
            self.base += 1;
        }
        let rtt = now.saturating_sub(ack.at);
        self.sample(rtt);
        self.take_duplicates(now, ack.duplicates);
        if let Some(slot) = newest {
            self.backoff = 0;
            self.probed = false;
            self.delivered_at = now;
            if slot.transmission > self.latest.0 {
                self.latest = (slot.transmission, slot.at, now.saturating_sub(slot.at));
            }
            self.detect(now);
            let interval = (now - slot.delivered_at).max(slot.at.saturating_sub(slot.first_at));
            self.first_at = slot.at;
            let round = slot.delivered >= self.round_ends;
            if round {
                self.round_ends = self.delivered;
            }
            let secs = interval.as_secs_f64();
            let valid = interval >= self.min_rtt && secs > 0.0;
            self.control.on_ack(&Acked {
                now,
                rtt: Some(rtt),
                min_rtt: self.min_rtt,
                packets: self.delivered - before,
                flying: self.flying,
                rate: valid.then(|| (self.delivered - slot.delivered) as f64 / secs),
                round,
                recovering: self.recovery.is_some(),
            });
        }
        if ack.marked && self.recovery.is_none() {
            self.enter_recovery(now);
            self.needless = i64::MAX / 2;
        }
        if self.recovery.is_some_and(|until| self.base >= until) {
            self.recovery = None;
        }
    }

    fn take_duplicates(&mut self, now: Duration, total: u64) {
        let new = total.saturating_sub(self.duplicates);
        self.duplicates = total;
        if new == 0 {
            return;
        }
        let srtt = self.srtt.unwrap_or(self.min_rtt);
        if now.saturating_sub(self.last_step) > srtt {
            self.last_step = now;
            self.reorder_steps = (self.reorder_steps + 1).min(16);
        }
        self.reordered = true;
        self.needless -= i64::try_from(new).unwrap_or(i64::MAX);
        if self.needless <= 0 {
            self.needless = i64::MAX / 2;
            self.control.undo(now);
            self.recovery = None;
        }
    }

    fn send(&mut self, now: Duration, number: u64) -> Segment {
        let index = (number - self.base) as usize;
        if self.flying == 0 {
            self.first_at = now;
            self.delivered_at = now;
        }
        self.transmissions += 1;
        let again = index < self.slots.len();
        let slot = Slot {
            state: State::Flying,
            transmission: self.transmissions,
            at: now,
            again,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_at: self.first_at,
        };
        if again {
            self.retransmitted += 1;
            self.needless = self.needless.saturating_add(1);
            match self.slots[index].state {
                State::Lost => {
                    self.lost -= 1;
                    self.flying += 1;
                }
                State::Flying | State::Arrived => {}
            }
            self.slots[index] = slot;
        } else {
            self.flying += 1;
            self.slots.push_back(slot);
        }
        self.last_sent = now;
        if let Some(rate) = self.control.pacing() {
            let gap = Duration::from_secs_f64(1.0 / rate.max(1.0));
            self.next_send = self
                .next_send
                .max(now.saturating_sub(Duration::from_millis(1)))
                + gap;
        }
        Segment {
            number,
            transmission: self.transmissions,
            at: now,
        }
    }

    fn enter_recovery(&mut self, now: Duration) {
        self.recovery = Some(self.base + self.slots.len() as u64);
        self.needless = 0;
        self.control.on_loss(now);
    }

    /// Marks as lost what RACK says is.
    fn detect(&mut self, now: Duration) {
        let (latest, _, rtt) = self.latest;
        let arrived_above = self.slots.iter().take(64);
        let arrived_above = arrived_above
            .filter(|slot| slot.state == State::Arrived)
            .count();
        let window = if !self.reordered && (self.recovery.is_some() || arrived_above >= 3) {
            Duration::ZERO
        } else {
            let most = self.srtt.unwrap_or(self.min_rtt);
            (self.min_rtt.min(most) / 4 * self.reorder_steps).min(most)
        };
        let (mut lost, mut timer) = (0, None);
        for slot in &mut self.slots {
            if slot.transmission > latest {
                if slot.again {
                    continue;
                }
                break;
            }
            if slot.state != State::Flying {
                continue;
            }
            let until = slot.at + rtt + window;
            if until <= now {
                slot.state = State::Lost;
                lost += 1;
            } else {
                timer = Some(timer.map_or(until, |other: Duration| other.min(until)));
            }
        }
        self.reorder_timer = timer;
        self.flying -= lost;
        self.lost += lost;
        if lost > 0 && self.recovery.is_none() {
            self.enter_recovery(now);
        }
    }

    fn sample(&mut self, rtt: Duration) {
        self.min_rtt = self.min_rtt.min(rtt);
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.var = rtt / 2;
            }
            Some(srtt) => {
                self.var = (self.var * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    fn timeout(&self) -> Duration {
        let Some(srtt) = self.srtt else {
            return self.last_sent + Duration::from_secs(1) * 2u32.pow(self.backoff.min(6));
        };
        let full = (srtt + self.var * 4).max(MIN_RTO) * 2u32.pow(self.backoff.min(6));
        if self.probed || self.backoff > 0 {
            self.last_sent + full
        } else {
            let delay = if self.flying == 1 {
                MIN_RTO
            } else {
                Duration::ZERO
            };
            self.last_sent + (srtt * 2 + delay).min(full)
        }
    }
}

/// The receiving end.
#[derive(Default)]
pub struct Receiver {
    next: u64,
    arrived: u64,
    /// What has arrived above `next`: first to one past the last.
    ranges: BTreeMap<u64, u64>,
    recent: VecDeque<u64>,
    duplicates: u64,
    pending: Option<(Duration, Ack)>,
    marked: bool,
}

impl Receiver {
    /// Packets that have arrived, each counted once.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Takes a packet, and gives the acknowledgement if one is due.
    pub fn on_segment(&mut self, now: Duration, segment: Segment, marked: bool) -> Option<Ack> {
        let number = segment.number;
        let before = self.ranges.range(..=number).next_back();
        let known = number < self.next || before.is_some_and(|(_, end)| number < *end);
        let in_order = number == self.next && self.ranges.is_empty();
        self.marked |= marked;
        if known {
            self.duplicates += 1;
        } else {
            self.arrived += 1;
            self.insert(number);
        }
        self.recent.retain(|recent| *recent != number);
        self.recent.push_front(number);
        self.recent.truncate(8);
        let ack = self.ack(segment);
        let second = self.pending.is_some();
        // The first packets of a flow are acknowledged one by one.
        if in_order && !second && !marked && self.next > 16 {
            self.pending = Some((now + ACK_DELAY, ack));
            return None;
        }
        self.pending = None;
        self.marked = false;
        Some(ack)
    }

    /// When an acknowledgement is due though nothing arrives.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.pending.as_ref().map(|(at, _)| *at)
    }

    /// The acknowledgement that is due.
    pub fn on_timer(&mut self, now: Duration) -> Option<Ack> {
        if self.pending.as_ref().is_some_and(|(at, _)| *at <= now) {
            self.marked = false;
            return self.pending.take().map(|(_, ack)| ack);
        }
        None
    }

    fn insert(&mut self, number: u64) {
        let mut first = number;
        let mut end = number + 1;
        if let Some((&start, &until)) = self.ranges.range(..=number).next_back()
            && until == number
        {
            self.ranges.remove(&start);
            first = start;
        }
        if let Some(&until) = self.ranges.get(&end) {
            self.ranges.remove(&end);
            end = until;
        }
        if first <= self.next {
            self.next = end;
        } else {
            self.ranges.insert(first, end);
        }
    }

    fn ack(&self, segment: Segment) -> Ack {
        let mut blocks: Vec<(u64, u64)> = Vec::new();
        for number in &self.recent {
            let range = self.ranges.range(..=*number).next_back();
            if let Some((&first, &end)) = range
                && *number < end
                && !blocks.contains(&(first, end))
                && blocks.len() < BLOCKS
            {
                blocks.push((first, end));
            }
        }
        Ack {
            next: self.next,
            transmission: segment.transmission,
            at: segment.at,
            duplicates: self.duplicates,
            marked: self.marked,
            blocks,
        }
    }
}
