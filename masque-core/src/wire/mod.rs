//! Bytes ⇄ types, without policy.
//!
//! A value that exists is legal: constructors and decoders refuse what the RFCs forbid, so no later
//! layer checks again. Decoders of streams are incremental: they take what has arrived from the
//! front of a [`bytes::Bytes`] and give `Ok(None)` for "more, please"; how the input was split never
//! changes the result.
//!
//! | module | what | RFC |
//! |---|---|---|
//! | [`varint`] | variable-length integers | 9000 §16 |
//! | [`stream`] | stream IDs and unidirectional stream types | 9000 §2.1, 9114 §6.2 |
//! | [`frame`], [`settings`] | HTTP/3 frames | 9114 §7 |
//! | [`qpack`] | field sections, dynamic table capacity 0 | 9204 |
//! | [`fields`] | field lists; request and response heads | 9114 §4, 9220 |
//! | [`capsule`] | the capsule protocol and the capsules of CONNECT-IP | 9297 §3, 9484 §4.7 |
//! | [`datagram`] | HTTP Datagrams and context IDs | 9297 §2, 9484 §5 |
//! | [`prefix`] | addresses, prefixes, ranges | 9484 §4.7 |
//! | [`template`], [`scope`] | URI templates; `target` and `ipproto` | 9484 §3, §4.6 |
//! | [`ip`] | IP and ICMP views, checksums | 791, 8200, 792, 4443 |
//! | [`offload`] | segmentation and coalescing of super-packets | – |

pub mod capsule;
pub mod datagram;
pub mod fields;
pub mod frame;
pub mod ip;
pub mod offload;
pub mod prefix;
pub mod qpack;
pub mod scope;
pub mod settings;
pub mod stream;
pub mod template;
pub mod varint;
