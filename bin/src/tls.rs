//! Certificates, and TLS as QUIC needs it: TLS 1.3 only, ALPN `h3`, mutual authentication.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use masque_core::endpoint::Cipher;
use masque_recording::tls::{self, Side, TlsError};
use masque_recording::{Tape, Tls};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use toml::Spanned;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{Pem, Source};
use crate::exit::Failure;

/// The CA of the other side, our own certificate and key if we have one, and the ciphers that may be used.
#[derive(Clone)]
pub struct Credentials {
    authorities: Vec<CertificateDer<'static>>,
    own: Option<Arc<CertifiedKey>>,
    ciphers: Vec<Cipher>,
    tape: Option<Tape>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("authorities", &self.authorities.len())
            .field("own", &self.own.is_some())
            .field("ciphers", &self.ciphers)
            .finish()
    }
}

/// What a person wants to know of a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The subject's distinguished name.
    pub subject: String,
    /// The issuer's.
    pub issuer: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
    /// The common name.
    pub common_name: Option<String>,
    /// Whether it is a CA.
    pub ca: bool,
    /// Valid from, in Unix seconds and in words.
    pub not_before: (i64, String),
    /// Valid until, in Unix seconds and in words.
    pub not_after: (i64, String),
}

impl Described {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| format!("not an X.509 certificate: {error}"))?;
        let mut described = Self {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            dns: Vec::new(),
            addresses: Vec::new(),
            uris: Vec::new(),
            common_name: parsed
                .subject()
                .iter_common_name()
                .next()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            ca: parsed.is_ca(),
            not_before: moment(&parsed.validity().not_before),
            not_after: moment(&parsed.validity().not_after),
        };
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| format!("unreadable subject alternative name: {error}"))?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => described.dns.push((*name).to_owned()),
                GeneralName::URI(uri) => described.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => described.addresses.extend(ip(bytes)),
                _ => {}
            }
        }
        Ok(described)
    }

    /// Who a peer with this certificate is: URI SAN, else DNS SAN, else CN.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.uris
            .first()
            .or(self.dns.first())
            .or(self.common_name.as_ref())
            .map(String::as_str)
    }

    /// Why it cannot be used now, if so.
    #[must_use]
    pub fn unusable_at(&self, now: SystemTime) -> Option<String> {
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
            });
        if now > self.not_after.0 {
            Some(format!("expired on {}", self.not_after.1))
        } else if now < self.not_before.0 {
            Some(format!(
                "is not valid before {} (is the clock right?)",
                self.not_before.1
            ))
        } else {
            None
        }
    }
}

fn moment(time: &x509_parser::time::ASN1Time) -> (i64, String) {
    (time.timestamp(), time.to_string())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// All ciphers, the fastest on this processor first: AES-128-GCM where it has instructions for AES,
/// ChaCha20-Poly1305 where it has none.
#[must_use]
pub fn default_ciphers() -> Vec<Cipher> {
    by_preference(has_aes())
}

fn by_preference(aes: bool) -> Vec<Cipher> {
    match aes {
        true => vec![
            Cipher::Aes128Gcm,
            Cipher::Chacha20Poly1305,
            Cipher::Aes256Gcm,
        ],
        false => vec![
            Cipher::Chacha20Poly1305,
            Cipher::Aes128Gcm,
            Cipher::Aes256Gcm,
        ],
    }
}

/// Whether the processor has instructions for AES and for the multiplication in GCM.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has = std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

/// The provider this was built with, with the default ciphers; nothing is taken from a process-wide default.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(tls::provider(&default_ciphers()))
}

/// 32 bytes of the operating system's randomness.
///
/// # Errors
/// The system has none.
pub fn random_seed() -> Result<[u8; 32], Failure> {
    let mut seed = [0; 32];
    provider()
        .secure_random
        .fill(&mut seed)
        .map_err(|_| Failure::internal("the system gives no random numbers"))?;
    Ok(seed)
}

impl Credentials {
    /// Reads what a configuration names, and checks that it fits together.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(
        source: &Source,
        ca: &Spanned<Pem>,
        own: Option<(&Spanned<Pem>, &Spanned<Pem>)>,
    ) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        let authorities = certificates(source, ca)?;
        for certificate in &authorities {
            let described = Described::of(certificate).map_err(|error| source.fault(ca, error))?;
            if !described.ca {
                return Err(source
                    .fault(
                        ca,
                        format!("the certificate of {} is not a CA's", described.subject),
                    )
                    .help("ca is the file ca.pem that `masque pki init` wrote"));
            }
            roots
                .add(certificate.clone())
                .map_err(|error| source.fault(ca, format!("unusable CA certificate: {error}")))?;
        }
        let own = own
            .map(|(certificate, key)| certified_key(source, certificate, key))
            .transpose()?;
        Ok(Self {
            authorities,
            own,
            ciphers: default_ciphers(),
            tape: None,
        })
    }

    /// The same, with these ciphers instead of [`default_ciphers`]: what a client offers, the best first,
    /// and what a server accepts, where the client's order decides. At least one.
    #[must_use]
    pub fn with_ciphers(self, ciphers: Vec<Cipher>) -> Self {
        Self { ciphers, ..self }
    }

    /// The same; what TLS draws is written to this recording.
    #[must_use]
    pub fn recorded_by(self, tape: Tape) -> Self {
        Self {
            tape: Some(tape),
            ..self
        }
    }

    /// The recording that what TLS draws is written to, and what stands in it of TLS.
    #[must_use]
    pub fn recording(&self) -> Option<(Tape, Tls)> {
        Some((self.tape.clone()?, self.plain_side().described()))
    }

    fn plain_side(&self) -> Side {
        let (authorities, own) = (self.authorities.clone(), self.own.clone());
        Side::new(&self.ciphers, authorities, own)
    }

    fn side(&self) -> Side {
        match &self.tape {
            Some(tape) => self.plain_side().recorded(tape),
            None => self.plain_side(),
        }
    }

    /// Our own certificate.
    #[must_use]
    pub fn described(&self) -> Option<Described> {
        let certificate = self.own.as_ref()?.cert.first()?;
        Described::of(certificate).ok()
    }

    /// The names that clients may know a server with our certificate by.
    #[must_use]
    pub fn server_names(&self) -> Vec<String> {
        let Some(described) = self.described() else {
            return Vec::new();
        };
        described
            .dns
            .iter()
            .filter(|name| !name.starts_with('*'))
            .cloned()
            .chain(described.addresses.iter().map(IpAddr::to_string))
            .collect()
    }

    /// TLS of a server that demands client certificates.
    ///
    /// # Errors
    /// rustls refuses the certificate or the CA.
    pub fn server(&self) -> Result<Arc<QuicServerConfig>, Failure> {
        self.side().server().map_err(refused)
    }

    /// TLS of a client.
    ///
    /// # Errors
    /// rustls refuses the certificate.
    pub fn client(&self) -> Result<Arc<QuicClientConfig>, Failure> {
        self.side().client().map_err(refused)
    }
}

fn refused(error: TlsError) -> Failure {
    match error {
        TlsError::Authority(_) => Failure::config(error.to_string()),
        TlsError::Missing(_) | TlsError::Rustls(_) => Failure::internal(error.to_string()),
    }
}

/// All certificates of a PEM text.
fn certificates(
    source: &Source,
    setting: &Spanned<Pem>,
) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let text = source.pem(setting)?;
    let chain = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| source.fault(setting, format!("broken PEM: {error}")))?;
    if chain.is_empty() {
        return Err(source.fault(
            setting,
            "no PEM certificate in it (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(chain)
}

fn certified_key(
    source: &Source,
    certificate: &Spanned<Pem>,
    key: &Spanned<Pem>,
) -> Result<Arc<CertifiedKey>, Failure> {
    let chain = certificates(source, certificate)?;
    Described::of(&chain[0]).map_err(|error| source.fault(certificate, error))?;
    let text = source.pem(key)?;
    let private = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| {
        source.fault(
            key,
            format!("no PEM private key in it (-----BEGIN PRIVATE KEY-----): {error}"),
        )
    })?;
    let signing = provider()
        .key_provider
        .load_private_key(private)
        .map_err(|error| source.fault(key, format!("unusable private key: {error}")))?;
    let own = CertifiedKey::new(chain, signing);
    own.keys_match().map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => source
            .fault(key, "the key does not belong to the certificate")
            .help("certificate and key must come from the same `masque pki issue`"),
        error => source.fault(certificate, format!("unusable certificate: {error}")),
    })?;
    Ok(Arc::new(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_without_aes_prefers_chacha20_and_neither_rules_anything_out() {
        assert_eq!(by_preference(true)[0], Cipher::Aes128Gcm);
        assert_eq!(by_preference(false)[0], Cipher::Chacha20Poly1305);
        for aes in [true, false] {
            let mut all = by_preference(aes);
            all.sort_unstable();
            assert_eq!(all, Cipher::ALL);
        }
    }
}
