//! The congestion controller made for tunnels.
//!
//! The flows inside a tunnel control congestion themselves, so the outer connection need not repeat
//! what they do (RFC 9484 §10). What is left for it: to learn how much the path carries, to keep what it
//! does not carry in the tunnel's own queue ([`super::fq_codel`]) and out of queues that nobody decides
//! about, and to leave others on the path their share. Loss tells little of that: on radio it is noise.
//! Delay tells it well: a path that carries less than it is given answers every packet later.
//!
//! # What is measured
//!
//! | value | how |
//! |---|---|
//! | interval | at least one round trip: it ends with the first ACK of a packet sent after its begin |
//! | `standing` | the shortest round trip of an interval: what every packet waits, without jitter |
//! | `base` | the shortest of the last 10 to 20 s |
//! | `jitter` | how much longer than the shortest the mean round trip of an interval is, smoothed |
//! | `rate` | bytes acknowledged in an interval over its length; the largest of the last 10 |
//! | `noise` | how much the shortest round trips of two intervals in a row differ, smoothed |
//! | `loss` | bytes declared lost over those acknowledged and lost, per interval |
//!
//! # What is done
//!
//! | phase | window | leaves when |
//! |---|---|---|
//! | startup | grows by what is acknowledged, up to three times `rate` × round trip | a queue stands and the rate has stopped growing, or the rate is flat for three intervals → steady |
//! | drain | what empties the queue, for an interval: else a queue that always stands became the base | → steady |
//! | steady | times (`base` + target) / `standing` per interval: the queue on the path is held at the target | shrinking costs rate but shortens no queue: somebody else fills it → compete |
//! | compete | holds just under half of what the path carried while nobody else was on it, or Cubic's (RFC 9438) where that is not known; reduced where loss meets a long queue | the queue has gone, nearly all the path carries is ours again, or on trial where its capacity is not known → steady |
//!
//! The target is a few milliseconds, more on long and on restless paths. While the application sends less
//! than it may, a window shrinks only to what is used, and only where a queue stands. Loss alone reduces
//! the window only from a quarter on. Why it is so, and what it was measured to do: `docs/congestion.md`.
//!
//! Everything is a function of the calls and their times: no clock, no randomness, and no floating-point
//! function beyond the four operations.

mod filter;
mod tunnel;

pub(super) use tunnel::TunnelFactory;

#[cfg(test)]
mod tests;
