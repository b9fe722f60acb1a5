//! What fuzz targets do with their bytes: each a function that panics if a promise is broken.
//!
//! The targets in `fuzz/` are a line each; their corpora lie in `testdata/corpus/NAME`, and `cargo test`
//! replays them. A body that rejects its bytes just returns.

pub mod codec;
mod model;
pub mod offload;
pub mod session;
pub mod world;

/// A target: its name, which is also its corpus's, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 15] = [
    ("offload_segment", offload::segmenting),
    ("offload_coalesce", offload::coalescing),
    ("offload_identity", offload::identity),
    ("offload_checksum", offload::checksums),
    ("offload_order", offload::order),
    ("capsules", codec::capsules),
    ("frames", codec::frames),
    ("fields", codec::fields),
    ("packets", codec::packets),
    ("texts", codec::texts),
    ("differential", codec::differential),
    ("session_client", session::client),
    ("session_server", session::server),
    ("session_pair", session::pair),
    ("world", world::world),
];
