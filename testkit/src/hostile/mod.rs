//! A hostile peer: a QUIC client or server that says whatever a script has it say, and judges what it
//! hears.
//!
//! | module | what is there |
//! |---|---|
//! | [`script`] | scripts as data: steps that act, steps that expect |
//! | [`bytes`] | what a script sends, in pieces: raw bytes, frames, field sections, capsules, packets |
//! | [`peer`] | QUIC without manners: any bytes on any stream; and what it hears, taken apart |
//! | [`runner`] | takes a script through a connection; sans I/O |
//! | [`report`] | what came of it: pass, differs, violation, skipped |
//! | [`catalogue`] | the scripts of `testdata/hostile` |
//! | [`vectors`] | writes those of them that are made from `testdata/vectors.json` |
//! | [`world`] | runs scripts against our endpoints in the simulated world |
//! | [`udp`] | runs them against anybody over UDP |
//! | [`probe`] | `masque-lab probe` |
//!
//! The one who is judged is the *subject*, in the role that [`script::Script::against`] names.
//!
//! A subject that breaks a MUST is a [`report::Verdict::Violation`]. Where the standards leave a choice
//! (which code an abort carries, whether a stream error ends the connection, whether to notice at all),
//! what is not our own choice is a [`report::Verdict::Differs`]: told, and nobody's fault.

pub mod bytes;
pub mod catalogue;
mod hear;
pub mod peer;
pub mod probe;
pub mod report;
pub mod runner;
pub mod script;
pub mod udp;
pub mod vectors;
pub mod world;
