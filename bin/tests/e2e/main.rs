//! The real binaries between real network namespaces: a client, a router, a server, a host behind it.

mod namespace;
mod pairs;
mod process;
mod traffic;
mod world;
