//! TLS for the pipeline: real, with one cipher.

use std::sync::Arc;

use masque_core::endpoint::Identity;
use masque_testkit::crypto::{Authority, real};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, RootCertStore, server::WebPkiClientVerifier};

use super::PipelineError;

/// What the server is called.
pub(super) const SERVER: &str = "vpn.example";

/// The cipher of the QUIC packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Cipher {
    /// AES-128-GCM.
    #[default]
    Aes128,
    /// AES-256-GCM.
    Aes256,
    /// ChaCha20-Poly1305.
    Chacha20,
}

impl Cipher {
    fn suite(self) -> CipherSuite {
        match self {
            Self::Aes128 => CipherSuite::TLS13_AES_128_GCM_SHA256,
            Self::Aes256 => CipherSuite::TLS13_AES_256_GCM_SHA384,
            Self::Chacha20 => CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        }
    }

    /// The wanted suite first. AES-128-GCM stays in the list, as QUIC's Initial packets need it.
    fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        let initial = CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider
            .cipher_suites
            .retain(|suite| [self.suite(), initial].contains(&suite.suite()));
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != self.suite());
        Arc::new(provider)
    }
}

/// Both ends' configurations, which trust each other.
pub(super) struct Keys {
    pub(super) client: Arc<QuicClientConfig>,
    pub(super) server: Arc<QuicServerConfig>,
}

impl Keys {
    /// For a client of this name.
    pub(super) fn new(cipher: Cipher, name: &str) -> Result<Self, PipelineError> {
        let authority = real::authority().map_err(PipelineError::tls)?;
        Ok(Self {
            client: client(&authority, cipher, name)?,
            server: server(&authority, cipher)?,
        })
    }
}

fn roots(authority: &Authority) -> Result<RootCertStore, PipelineError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.certificate())
        .map_err(PipelineError::tls)?;
    Ok(roots)
}

fn client(
    authority: &Authority,
    cipher: Cipher,
    name: &str,
) -> Result<Arc<QuicClientConfig>, PipelineError> {
    let (certificate, key) = authority
        .issue_client(&Identity(name.to_owned()))
        .map_err(PipelineError::tls)?;
    let mut config = rustls::ClientConfig::builder_with_provider(cipher.provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PipelineError::tls)?
        .with_root_certificates(roots(authority)?)
        .with_client_auth_cert(vec![certificate], key)
        .map_err(PipelineError::tls)?;
    config.alpn_protocols = vec![masque_testkit::crypto::ALPN.to_vec()];
    let config = QuicClientConfig::try_from(config).map_err(PipelineError::tls)?;
    Ok(Arc::new(config))
}

fn server(authority: &Authority, cipher: Cipher) -> Result<Arc<QuicServerConfig>, PipelineError> {
    let (certificate, key) = authority.issue_server(SERVER).map_err(PipelineError::tls)?;
    let provider = cipher.provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider.clone())
            .build()
            .map_err(PipelineError::tls)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PipelineError::tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(PipelineError::tls)?;
    config.alpn_protocols = vec![masque_testkit::crypto::ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    let config = QuicServerConfig::try_from(config).map_err(PipelineError::tls)?;
    Ok(Arc::new(config))
}
