//! TLS as our program sets it up: TLS 1.3 only, ALPN `h3`, what it draws from where it is told to.

mod record;
mod replay;

use std::fmt;
use std::sync::Arc;

use masque_core::endpoint::Cipher;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as backend;
use rustls::quic::Suite;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{KeyLog, NoKeyLog, RootCertStore, SupportedCipherSuite};
use rustls_pki_types::CertificateDer;

use crate::record::Tls;
use crate::tape::Tape;

pub(crate) use replay::Draws;

/// Sessions that clients may resume; the oldest give way. Each is a certificate and little else.
const RESUMABLE_SESSIONS: usize = 4096;
/// How many a client may take up again: it may try several times at once.
const TICKETS: usize = 2;
/// Servers whose sessions a client keeps: there is one.
const RESUMABLE_SERVERS: usize = 2;

/// Why rustls cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA certificates of the peers cannot be used.
    #[error("the peers' CA is unusable: {0}")]
    Authority(String),
    /// A server without a certificate, or a cipher that QUIC needs is missing.
    #[error("{0}")]
    Missing(&'static str),
    /// rustls refuses it.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// One side's TLS.
#[derive(Clone)]
pub struct Side {
    /// The CA certificates of the other side.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Our own certificate and key, if we have one.
    pub own: Option<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
    time: Arc<dyn TimeProvider>,
    key_log: Arc<dyn KeyLog>,
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side")
            .field("authorities", &self.authorities.len())
            .field("own", &self.own.is_some())
            .finish_non_exhaustive()
    }
}

/// What this was built with, with these ciphers; nothing is taken from a process-wide default.
#[must_use]
pub fn provider(ciphers: &[Cipher]) -> CryptoProvider {
    CryptoProvider {
        cipher_suites: ciphers.iter().copied().map(suite).collect(),
        ..backend::default_provider()
    }
}

/// A cipher as rustls has it.
#[must_use]
pub fn suite(cipher: Cipher) -> SupportedCipherSuite {
    match cipher {
        Cipher::Aes128Gcm => backend::cipher_suite::TLS13_AES_128_GCM_SHA256,
        Cipher::Aes256Gcm => backend::cipher_suite::TLS13_AES_256_GCM_SHA384,
        Cipher::Chacha20Poly1305 => backend::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}

/// What protects Initial packets, whatever is negotiated later (RFC 9001 §5.2).
fn initial_suite() -> Result<Suite, TlsError> {
    let suite = suite(Cipher::Aes128Gcm).tls13();
    suite
        .and_then(|suite| suite.quic_suite())
        .ok_or(TlsError::Missing(
            "AES-128-GCM is missing, which QUIC begins with",
        ))
}

impl Side {
    /// A side with the randomness and the clock of the system.
    #[must_use]
    pub fn new(
        ciphers: &[Cipher],
        authorities: Vec<CertificateDer<'static>>,
        own: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self {
            authorities,
            own,
            provider: Arc::new(provider(ciphers)),
            time: Arc::new(DefaultTimeProvider),
            key_log: Arc::new(NoKeyLog),
        }
    }

    /// The same, which writes down what it draws.
    ///
    /// It leaks a few hundred bytes: rustls wants its sources of randomness to live for ever.
    #[must_use]
    pub fn recorded(self, tape: &Tape) -> Self {
        Self {
            own: self.own.map(|own| Arc::new(record::key(&own, tape))),
            provider: Arc::new(record::provider(&self.provider, tape)),
            time: Arc::new(record::Clock::new(self.time, tape.clone())),
            ..self
        }
    }

    /// What stands of it in a recording.
    #[must_use]
    pub fn described(&self) -> Tls {
        let provider = &self.provider;
        let own = self.own.as_deref();
        let chain = own.into_iter().flat_map(|own| &own.cert);
        Tls {
            ciphers: provider
                .cipher_suites
                .iter()
                .map(|suite| suite.suite().into())
                .collect(),
            groups: provider
                .kx_groups
                .iter()
                .map(|group| group.name().into())
                .collect(),
            schemes: provider
                .signature_verification_algorithms
                .mapping
                .iter()
                .map(|(scheme, _)| (*scheme).into())
                .collect(),
            roots: self.authorities.iter().map(|der| der.to_vec()).collect(),
            chain: chain.map(|der| der.to_vec()).collect(),
            algorithm: own.map_or(0, |own| own.key.algorithm().into()),
        }
    }

    /// The side that a recording describes: everything it draws comes from `draws`, and the secrets of
    /// its sessions go to `key_log`.
    pub(crate) fn replayed(
        tls: &Tls,
        draws: &Draws,
        key_log: Arc<dyn KeyLog>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            authorities: tls.roots.iter().cloned().map(Into::into).collect(),
            own: match tls.chain.is_empty() {
                true => None,
                false => Some(Arc::new(replay::key(tls, draws))),
            },
            provider: Arc::new(replay::provider(tls, draws)?),
            time: Arc::new(draws.clone()),
            key_log,
        })
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.authorities {
            roots
                .add(certificate.clone())
                .map_err(|error| TlsError::Authority(error.to_string()))?;
        }
        Ok(Arc::new(roots))
    }

    /// A server that demands client certificates.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn server(&self) -> Result<Arc<QuicServerConfig>, TlsError> {
        let own = self
            .own
            .clone()
            .ok_or(TlsError::Missing("a server without a certificate"))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&self.provider))
                .build()
                .map_err(|error| TlsError::Authority(error.to_string()))?;
        let mut config = rustls::ServerConfig::builder_with_details(
            Arc::clone(&self.provider),
            Arc::clone(&self.time),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        config.key_log = Arc::clone(&self.key_log);
        config.alpn_protocols = vec![b"h3".to_vec()];
        // Shared by all shards, each good for one connection, gone with the process. A resumed session has
        // its client's certificate with it, and ends with that as any other does.
        config.session_storage = ServerSessionMemoryCache::new(RESUMABLE_SESSIONS);
        config.send_tls13_tickets = TICKETS;
        let config = QuicServerConfig::with_initial(Arc::new(config), initial_suite()?);
        config
            .map(Arc::new)
            .map_err(|_| TlsError::Missing("QUIC's first cipher does not fit"))
    }

    /// A client.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client(&self) -> Result<Arc<QuicClientConfig>, TlsError> {
        let builder = rustls::ClientConfig::builder_with_details(
            Arc::clone(&self.provider),
            Arc::clone(&self.time),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(self.roots()?);
        let mut config = match &self.own {
            Some(own) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))))
            }
            None => builder.with_no_client_auth(),
        };
        config.key_log = Arc::clone(&self.key_log);
        config.alpn_protocols = vec![b"h3".to_vec()];
        config.resumption = Resumption::in_memory_sessions(RESUMABLE_SERVERS);
        let config = QuicClientConfig::with_initial(Arc::new(config), initial_suite()?);
        config
            .map(Arc::new)
            .map_err(|_| TlsError::Missing("QUIC's first cipher does not fit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cipher_is_the_tls_cipher_suite_of_its_number() {
        for cipher in Cipher::ALL {
            assert_eq!(u16::from(suite(cipher).suite()), cipher.suite());
        }
    }
}
