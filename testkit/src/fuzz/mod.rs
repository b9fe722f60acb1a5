//! What fuzz targets do with their bytes: each a function that panics if a promise is broken.
//!
//! The targets in `fuzz/` are a line each; their corpora lie in `testdata/corpus/NAME`, and `cargo test`
//! replays them. A body that rejects its bytes just returns.

mod model;
pub mod offload;

/// A target: its name, which is also its corpus's, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("offload_segment", offload::segmenting),
    ("offload_coalesce", offload::coalescing),
    ("offload_identity", offload::identity),
    ("offload_checksum", offload::checksums),
    ("offload_order", offload::order),
];
