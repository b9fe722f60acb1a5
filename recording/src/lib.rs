//! Every input of one endpoint, in order and with its time, its randomness included: written down while
//! a program runs, and played again to the same bytes.
//!
//! An [`Endpoint`](masque_core::endpoint::Endpoint) depends on nothing but its inputs and its seed; TLS,
//! which it is given, draws from the system. So a recording is
//!
//! 1. how the endpoint was made: configuration, seed, calendar time ([`Start`]);
//! 2. every call that is more than a look at it ([`Input`]), and in short what it gave ([`Output`]);
//! 3. what TLS drew during each call ([`Draw`]): random bytes, the public half of every ephemeral key and
//!    the secret agreed by it, signatures, the time.
//!
//! The private key of a certificate is not in it. The secrets of all its sessions are: who has a
//! recording can read what was sent.
//!
//! | file | what |
//! |---|---|
//! | `record.rs`, `values.rs`, `codec.rs` | what stands in a recording, as bytes |
//! | `file.rs` | a recording as a stream |
//! | `tape.rs`, `taped.rs` | writing one: beside an endpoint |
//! | `tls/` | rustls as our program sets it up; what it draws, written down and given again |
//! | `replay.rs` | playing one again |
//!
//! # Example
//!
//! ```no_run
//! let file = std::fs::File::open("client.rec")?;
//! let mut replay = masque_recording::Replay::new(std::io::BufReader::new(file))?;
//! while let Some(step) = replay.step()? {
//!     if let Some(difference) = step.difference {
//!         println!("{:?}: {difference}", step.at);
//!         break;
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("masque-recording needs cryptography: turn on `aws-lc-rs` or `ring`");

mod codec;
mod digest;
mod file;
mod record;
mod replay;
mod tape;
mod taped;
pub mod tls;
mod values;

pub use codec::Malformed;
pub use file::{MAGIC, ReadError, Reader};
pub use record::{
    Completed, Destination, Draw, Due, End, Input, Output, Record, Sent, Setup, Share, Signed,
    Start, Tls, Written,
};
pub use replay::{Difference, Ending, Played, Replay, ReplayError, Step};
pub use tape::{Recorder, Tape};
pub use taped::Taped;
