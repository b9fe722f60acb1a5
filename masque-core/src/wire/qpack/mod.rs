//! QPACK (RFC 9204) with a dynamic table capacity of 0: the static table, literals and Huffman.
//!
//! | module | what |
//! |---|---|
//! | [`prefix_int`] | prefixed integers (RFC 7541 §5.1) |
//! | [`huffman`] | the Huffman code (RFC 7541 appendix B) |
//! | [`static_table`] | the static table (RFC 9204 appendix A) |

pub mod huffman;
pub mod prefix_int;
pub mod static_table;

mod decode;
mod encode;
mod streams;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use encode::encode;
pub use streams::{DecoderStream, EncoderStream};
