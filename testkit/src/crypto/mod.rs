//! Cryptography for simulations: none at all, TLS that repeats itself, and TLS as it is used.
//!
//! | kind | packets | handshake | same bytes again |
//! |---|---|---|---|
//! | [`null`] | readable, with a checksum | two flights of our own | yes |
//! | [`seeded`] | TLS 1.3 | rustls, every random number from a seed | yes |
//! | [`real`] | TLS 1.3 | rustls with its default provider | no |

pub mod null;
pub mod real;
pub mod seeded;

#[cfg(test)]
mod tests;
mod tls;

pub use tls::{ALPN, Authority, Secrets, TlsError};
