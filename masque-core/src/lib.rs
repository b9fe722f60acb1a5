//! Proxying IP in HTTP/3 (CONNECT-IP, RFC 9484) as a pure state machine.
//!
//! | layer | in | out | needs |
//! |---|---|---|---|
//! | [`wire`] | bytes | types that are legal by construction | `no_std` + alloc |
//! | [`session`] | [`session::QuicInput`], [`session::Command`] | [`session::QuicOutput`], [`session::Event`] | `no_std` + alloc; no QUIC stack, clock or randomness |
//! | `endpoint` (feature `quic`) | UDP datagrams, IP packets, time | the same | quinn-proto, rustls |
//!
//! No layer opens a socket, reads a clock, starts a thread or draws randomness: time and entropy
//! are arguments. Imports run one way: endpoint → session → wire.
//!
//! # The contract
//!
//! *Hand in any number of inputs with one non-decreasing `now`; take outputs until there are none;
//! sleep until the deadline.* Peer input never returns an error: it becomes an output and an event.
//! Forgetting to take outputs is safe: the deadline is then now.
//!
//! # The canonical loop
//!
//! What every adapter does, with its own sockets, devices and waiting in place of `Outside`:
//!
#![cfg_attr(feature = "quic", doc = "```")]
#![cfg_attr(not(feature = "quic"), doc = "```ignore")]
//! use std::num::NonZeroUsize;
//! use std::time::Instant;
//!
//! use bytes::{Bytes, BytesMut};
//! use masque_core::endpoint::{
//!     Deadline, Endpoint, Event, Origin, PortId, RecvMeta, Transmit, TunBatch,
//! };
//!
//! enum Input {
//!     Udp(RecvMeta, BytesMut),
//!     Packet(PortId, Bytes),
//!     Stop,
//! }
//!
//! trait Outside {
//!     fn now(&self) -> Instant;
//!     /// What is there, or nothing once the deadline has passed.
//!     fn wait(&mut self, until: Option<Deadline>) -> Vec<Input>;
//!     fn send(&mut self, transmit: Transmit, bytes: &[u8]);
//!     fn deliver(&mut self, batch: &TunBatch);
//!     fn tell(&mut self, event: Event);
//! }
//!
//! fn run(endpoint: &mut Endpoint, outside: &mut impl Outside) {
//!     let mut udp = Vec::new();
//!     let mut tun = TunBatch::default();
//!     let at_once = NonZeroUsize::new(16).unwrap();
//!     loop {
//!         // 1. Sleep until something comes or the deadline does.
//!         let inputs = outside.wait(endpoint.poll_timeout());
//!         // 2. One reading of the clock for the whole turn.
//!         let now = outside.now();
//!         // 3. Everything in.
//!         endpoint.handle_timeout(now);
//!         for input in inputs {
//!             match input {
//!                 Input::Udp(meta, data) => endpoint.handle_udp(now, meta, data),
//!                 Input::Packet(port, packet) => {
//!                     // A refused packet comes back, with the reason; here it is dropped.
//!                     let _ = endpoint.handle_ip(now, port, Origin::Local, packet);
//!                 }
//!                 Input::Stop => return,
//!             }
//!         }
//!         // 4. Everything out.
//!         while let Some(transmit) = endpoint.poll_transmit(now, at_once, &mut udp) {
//!             outside.send(transmit, &udp[..transmit.size]);
//!             udp.clear();
//!         }
//!         while endpoint.poll_tun(&mut tun) {
//!             outside.deliver(&tun);
//!             tun.frames.clear();
//!         }
//!         while let Some(event) = endpoint.poll_event() {
//!             outside.tell(event);
//!         }
//!     }
//! }
//!
//! // A client's endpoint before its first connection has nothing to do.
//! # use masque_core::endpoint::{Config, Entropy, Limits, TransportProfile};
//! # use masque_core::session::SessionConfig;
//! # struct Nothing(Instant);
//! # impl Outside for Nothing {
//! #     fn now(&self) -> Instant { self.0 }
//! #     fn wait(&mut self, until: Option<Deadline>) -> Vec<Input> {
//! #         assert_eq!(until, None);
//! #         vec![Input::Stop]
//! #     }
//! #     fn send(&mut self, _: Transmit, _: &[u8]) { unreachable!() }
//! #     fn deliver(&mut self, _: &TunBatch) { unreachable!() }
//! #     fn tell(&mut self, _: Event) { unreachable!() }
//! # }
//! # let now = Instant::now();
//! # let config = Config {
//! #     server: None,
//! #     transport: TransportProfile::default(),
//! #     limits: Limits::default(),
//! #     session: SessionConfig::default(),
//! #     shard: None,
//! #     ports: Vec::new(),
//! # };
//! # let wall = std::time::SystemTime::now();
//! # let mut endpoint = Endpoint::new(now, wall, config, Entropy::from_seed([7; 32])).unwrap();
//! # run(&mut endpoint, &mut Nothing(now));
//! ```
//!
//! # A session alone
//!
//! Below the endpoint, QUIC is data. Two sessions joined by a loop are a whole CONNECT-IP tunnel,
//! without sockets, time or cryptography:
//!
//! ```
//! use masque_core::session::{
//!     Command, Event, QuicInput, QuicOutput, Session, SessionConfig, TunnelRequest,
//! };
//! use masque_core::wire::fields::FieldList;
//! use masque_core::wire::scope::Scope;
//! use masque_core::wire::stream::{Direction, Role, StreamId};
//! use masque_core::wire::template::{UriTemplate, Wildcard};
//!
//! /// Does what `from` wants done: streams arrive at `to` as they were written.
//! fn carry(role: Role, from: &mut Session, to: &mut Session, opened: &mut [u32; 2]) {
//!     while let Some(output) = from.poll_quic() {
//!         match output {
//!             QuicOutput::Open { direction } => {
//!                 let count = &mut opened[usize::from(direction == Direction::Unidirectional)];
//!                 let stream = StreamId::nth(role, direction, *count);
//!                 *count += 1;
//!                 from.handle_quic(QuicInput::Opened { stream });
//!             }
//!             QuicOutput::Write { stream, data } => {
//!                 let bytes = data.len();
//!                 from.handle_quic(QuicInput::Written { stream, bytes });
//!                 to.handle_quic(QuicInput::Data { stream, data, fin: false });
//!             }
//!             // Nothing was held back: a real owner asks `wants_data` before it hands data over.
//!             QuicOutput::Resume { .. } => {}
//!             other => panic!("nothing ends here: {other:?}"),
//!         }
//!     }
//! }
//!
//! let template = "https://proxy.example/.well-known/masque/ip/{target}/{ipproto}/";
//! let template = UriTemplate::parse(template)?;
//! let request = TunnelRequest {
//!     authority: template.authority().to_owned(),
//!     path: template.expand(Some("*"), Some("*"), Wildcard::Encoded),
//!     protocol: "connect-ip".to_owned(),
//!     scope: Scope::default(),
//!     fields: FieldList::default(),
//! };
//!
//! let mut client = Session::new(Role::Client, SessionConfig::default());
//! let templates = vec![template];
//! let mut server = Session::new(Role::Server, SessionConfig { templates, ..Default::default() });
//! for session in [&mut client, &mut server] {
//!     session.handle_quic(QuicInput::Connected { peer_max_datagram_frame_size: Some(65535) });
//! }
//! let tunnel = client.open_tunnel(request)?;
//!
//! let mut streams = [[0; 2]; 2];
//! let mut established = false;
//! for _ in 0..4 {
//!     carry(Role::Client, &mut client, &mut server, &mut streams[0]);
//!     while let Some(event) = server.poll_event() {
//!         if let Event::Requested { tunnel, .. } = event {
//!             server.handle_command(Command::Accept { tunnel })?;
//!         }
//!     }
//!     carry(Role::Server, &mut server, &mut client, &mut streams[1]);
//!     while let Some(event) = client.poll_event() {
//!         established |= event == Event::Established { tunnel, status: 200 };
//!     }
//! }
//! assert!(established);
//! // From here on an IP packet is a QUIC DATAGRAM with this in front of it.
//! let header = client.datagram_header(tunnel).unwrap();
//! assert_eq!(header.as_slice(), [0, 0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(not(feature = "quic"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod error;
mod few;
pub mod session;
pub mod trace;
pub mod wire;

#[cfg(all(feature = "quic", any(feature = "aws-lc-rs", feature = "ring")))]
pub mod endpoint;

// The endpoint is left out above, so that this is the only error.
#[cfg(all(feature = "quic", not(any(feature = "aws-lc-rs", feature = "ring"))))]
compile_error!(
    "masque-core's feature `quic` needs cryptography: turn on `aws-lc-rs` or `ring` (both imply `quic`)"
);

pub use error::{ErrorScope, H3Code, WireError, WireErrorKind};
