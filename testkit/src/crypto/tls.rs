//! What [`super::real`] and [`super::seeded`] share: certificates and rustls configurations.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use masque_core::endpoint::Identity;
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;

use crate::world::WALL;

/// The one application protocol spoken (RFC 9114 §3.1).
pub const ALPN: &[u8] = b"h3";

/// Why certificates or configurations cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rcgen refuses the key or the certificate.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls refuses the configuration.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The verifier of client certificates cannot be made.
    #[error("client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The provider lacks AES-128-GCM.
    #[error("cipher suite: {0}")]
    Suite(#[from] NoInitialCipherSuite),
}

/// A certificate authority, and what makes keys and providers for those it certifies.
///
/// Every configuration gets a provider of its own, so that what one node draws does not shift what
/// another draws.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    source: Box<dyn Source>,
    secrets: Arc<Secrets>,
}

/// The secrets of every connection of an authority's configurations, in the NSS key log format, which
/// Wireshark reads.
#[derive(Debug, Default)]
pub struct Secrets(Mutex<BTreeSet<String>>);

impl Secrets {
    /// One line per secret, each once, in order.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl rustls::KeyLog for Secrets {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let line = format!("{label} {} {}", hex(client_random), hex(secret));
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.insert(line);
    }
}

/// Where keys and providers come from: the operating system, or a seed.
pub(super) trait Source: Send + Sync {
    /// A key pair for `label`.
    fn key(&self, label: &str) -> Result<KeyPair, rcgen::Error>;

    /// A provider for `label`.
    fn provider(&self, label: &str) -> Arc<CryptoProvider>;
}

impl Authority {
    pub(super) fn new(source: Box<dyn Source>) -> Result<Self, TlsError> {
        let mut params = params("masque-testkit CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, source.key("ca")?)?;
        let secrets = Arc::default();
        Ok(Self {
            issuer,
            source,
            secrets,
        })
    }

    /// Where the secrets of all connections of its configurations are collected.
    #[must_use]
    pub fn secrets(&self) -> Arc<Secrets> {
        self.secrets.clone()
    }

    /// The authority's own certificate.
    #[must_use]
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A certificate with the DNS name `name`, and its key.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] if `name` is no DNS name.
    pub fn issue_server(
        &self,
        name: &str,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let mut params = params(name);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, name)
    }

    /// A certificate for the identity (URI SAN) `identity`, and its key.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] if the identity cannot stand in a URI SAN.
    pub fn issue_client(
        &self,
        identity: &Identity,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        self.issue(client_params(identity)?, &identity.0)
    }

    /// A server called `name` that demands certificates of this authority.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn server(&self, name: &str) -> Result<Arc<QuicServerConfig>, TlsError> {
        self.server_with(name, false)
    }

    /// The same, whose clients may resume their sessions if `resumable`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn server_with(
        &self,
        name: &str,
        resumable: bool,
    ) -> Result<Arc<QuicServerConfig>, TlsError> {
        let (certificate, key) = self.issue_server(name)?;
        let provider = self.source.provider(name);
        let roots = Arc::new(self.roots()?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?;
        let mut config = rustls::ServerConfig::builder_with_details(provider, Arc::new(WorldClock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)?;
        config.key_log = self.secrets.clone();
        config.alpn_protocols = vec![ALPN.to_vec()];
        if resumable {
            config.session_storage = ServerSessionMemoryCache::new(256);
            config.send_tls13_tickets = 2;
        } else {
            // Tickets live in a cache shared by all connections: without them, each is by itself.
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(QuicServerConfig::try_from(config)?))
    }

    /// A client with a certificate for `identity`, or without any.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client(&self, identity: Option<&Identity>) -> Result<Arc<QuicClientConfig>, TlsError> {
        self.client_for(identity, None)
    }

    /// A client whose certificate lasts so long from [`WALL`] on.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client_for(
        &self,
        identity: Option<&Identity>,
        lasting: Option<Duration>,
    ) -> Result<Arc<QuicClientConfig>, TlsError> {
        self.client_with(identity, lasting, false)
    }

    /// The same, which resumes its sessions if `resuming` and the server lets it.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn client_with(
        &self,
        identity: Option<&Identity>,
        lasting: Option<Duration>,
        resuming: bool,
    ) -> Result<Arc<QuicClientConfig>, TlsError> {
        let label = identity.map_or("anonymous", |identity| &identity.0);
        let builder = rustls::ClientConfig::builder_with_details(
            self.source.provider(label),
            Arc::new(WorldClock),
        )
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(self.roots()?);
        let mut config = match identity {
            Some(identity) => {
                let mut params = client_params(identity)?;
                if let Some(lasting) = lasting {
                    params.not_after = date_time_ymd(2026, 1, 1) + lasting;
                }
                let (certificate, key) = self.issue(params, &identity.0)?;
                builder.with_client_auth_cert(vec![certificate], key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.key_log = self.secrets.clone();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = match resuming {
            true => Resumption::in_memory_sessions(8),
            false => Resumption::disabled(),
        };
        Ok(Arc::new(QuicClientConfig::try_from(config)?))
    }

    fn issue(
        &self,
        params: CertificateParams,
        label: &str,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let key = self.source.key(label)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((certificate.der().clone(), key.into()))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate())?;
        Ok(roots)
    }
}

/// The calendar of the simulated world, which stands still.
#[derive(Debug)]
struct WorldClock;

impl TimeProvider for WorldClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(WALL))
    }
}

fn client_params(identity: &Identity) -> Result<CertificateParams, TlsError> {
    let mut params = params(&identity.0);
    params.subject_alt_names = vec![SanType::URI(identity.0.as_str().try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// Valid around [`WALL`], and today.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}
