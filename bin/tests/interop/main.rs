//! Interoperability with an independent CONNECT-IP peer in Python (`testdata/interop/aioquic`), which
//! checks strictly what it receives and misbehaves when asked.
//!
//! Python is looked for at `$MASQUE_INTEROP_PYTHON`, then at `target/interop-venv/bin/python`, then as
//! `python3`; it needs the packages of `requirements.txt`. Where they are missing each test says
//! `SKIPPED` on stderr, whatever the test runner captures.
//!
//! In `server.rs` and `client.rs` our side is an endpoint in a real loop with real UDP, and a device in
//! memory with a host behind it that answers echo requests: no privilege is needed. In `binaries.rs` our
//! side is the programs themselves, in network namespaces of their own.
//!
//! In `probe.rs` the peer is the hostile one of `masque-testkit`, over UDP: it needs no Python.

mod binaries;
mod capsules;
mod client;
mod log;
mod ours;
mod packets;
mod peer;
mod pki;
mod probe;
mod server;
