//! TLS 1.3 as the program uses it: fresh keys, the default provider.

use std::sync::Arc;

use rcgen::KeyPair;
use rustls::crypto::CryptoProvider;

use super::tls::{Authority, Source, TlsError};

/// A new authority with random keys; its configurations draw from the operating system.
///
/// # Errors
/// [`TlsError::Certificate`] if no key can be made.
pub fn authority() -> Result<Authority, TlsError> {
    Authority::new(Box::new(System))
}

struct System;

impl Source for System {
    fn key(&self, _label: &str) -> Result<KeyPair, rcgen::Error> {
        KeyPair::generate()
    }

    fn provider(&self, _label: &str) -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::aws_lc_rs::default_provider())
    }
}
