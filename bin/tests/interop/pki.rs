//! Certificates of a test's own, for both sides.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;

/// The name in the client's certificate.
pub(crate) const CLIENT_NAME: &str = "laptop.example";

/// A CA, a certificate for `localhost` (and 127.0.0.1) and one for a client: in memory and, for the peer, in files.
pub(crate) struct Pki {
    directory: TempDir,
    ca: CertificateDer<'static>,
    server: Certified,
    client: Certified,
}

struct Certified {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a place for files");
        let write = |name: &str, text: String| {
            std::fs::write(directory.path().join(name), text).expect("a place for files");
        };
        let mut params = CertificateParams::new([]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "interop CA");
        let key = KeyPair::generate().expect("a key");
        let ca = params.self_signed(&key).expect("a certificate");
        write("ca.pem", ca.pem());
        let issuer = Issuer::new(params, key);
        let issue = |file: &str, names: &[&str], usage| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names).expect("good names");
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            write(&format!("{file}.pem"), certificate.pem());
            write(&format!("{file}.key"), key.serialize_pem());
            Certified {
                certificate: certificate.der().clone(),
                key: key.serialize_der(),
            }
        };
        let server = issue(
            "server",
            &["localhost", "127.0.0.1"],
            ExtendedKeyUsagePurpose::ServerAuth,
        );
        let client = issue(
            "client",
            &[CLIENT_NAME],
            ExtendedKeyUsagePurpose::ClientAuth,
        );
        Self {
            ca: ca.der().clone(),
            server,
            client,
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory().join("ca.pem")
    }

    pub(crate) fn server_cert_file(&self) -> PathBuf {
        self.directory().join("server.pem")
    }

    pub(crate) fn server_key_file(&self) -> PathBuf {
        self.directory().join("server.key")
    }

    pub(crate) fn client_cert_file(&self) -> PathBuf {
        self.directory().join("client.pem")
    }

    pub(crate) fn client_key_file(&self) -> PathBuf {
        self.directory().join("client.key")
    }

    /// The peer's arguments to show the client's certificate.
    pub(crate) fn client_arguments(&self) -> String {
        let directory = self.directory().display();
        format!("--cert {directory}/client.pem --key {directory}/client.key")
    }

    /// Our server, which asks for client certificates if told so.
    pub(crate) fn server_crypto(&self, client_certificates: bool) -> Arc<QuicServerConfig> {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3");
        let builder = if client_certificates {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider())
                    .build()
                    .expect("one root");
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let (chain, key) = self.server.for_rustls();
        let mut tls = builder
            .with_single_cert(chain, key)
            .expect("a key of the certificate");
        tls.alpn_protocols = vec![b"h3".to_vec()];
        Arc::new(QuicServerConfig::try_from(tls).expect("a QUIC cipher suite"))
    }

    /// Our client, with its certificate.
    pub(crate) fn client_crypto(&self) -> Arc<QuicClientConfig> {
        let (chain, key) = self.client.for_rustls();
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .expect("a key of the certificate");
        tls.alpn_protocols = vec![b"h3".to_vec()];
        Arc::new(QuicClientConfig::try_from(tls).expect("a QUIC cipher suite"))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a certificate");
        roots
    }
}

impl Certified {
    fn for_rustls(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        (vec![self.certificate.clone()], key)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
