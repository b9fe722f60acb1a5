//! The real binaries between real network namespaces: a client, a router, a server, a host behind it.

mod ciphers;
mod clients;
mod hostile;
mod moves;
mod namespace;
mod pairs;
mod paths;
mod process;
mod recordings;
mod refusals;
mod restores;
mod shards;
mod spoofing;
mod traffic;
mod without;
mod world;
