//! `masque-lab probe`: every script that applies, each on a fresh connection, and a table.

use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use masque_core::wire::template::{TemplateError, UriTemplate, Wildcard};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use super::bytes::Material;
use super::catalogue::{self, Case};
use super::report::{Report, Verdict};
use super::script::{Need, Subject};
use super::udp::{self, ToServer};
use crate::crypto::ALPN;

/// What to probe, and how.
#[derive(Args, Clone, Debug, Default)]
pub struct Probe {
    /// The URI template of the server to judge: https://host:port/.well-known/masque/ip/{target}/{ipproto}/
    #[arg(required_unless_present = "listen", conflicts_with = "listen")]
    pub url: Option<String>,
    /// Judge clients instead: listen on this address; each connection gets the next script.
    #[arg(long, requires_all = ["cert", "key"])]
    pub listen: Option<SocketAddr>,
    /// The UDP address to connect to, where the URL's name does not lead there.
    #[arg(long)]
    pub connect: Option<SocketAddr>,
    /// The CA of the server's certificate, PEM.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// A certificate to show, PEM: as a client if the server wants one, as a server always.
    #[arg(long, requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, requires = "cert")]
    pub key: Option<PathBuf>,
    /// Only scripts whose name contains this.
    #[arg(long)]
    pub only: Option<String>,
    /// The subject is of this project, with its limits at their defaults: scripts about limits, too.
    #[arg(long)]
    pub ours: bool,
    /// How long an expectation may take, in milliseconds.
    #[arg(long, default_value_t = 3000)]
    pub patience: u64,
    /// How long to wait for the next client, in seconds.
    #[arg(long, default_value_t = 60)]
    pub wait: u64,
    /// JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Why nothing can be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The scripts that are built in cannot be read.
    #[error("{0}")]
    Scripts(String),
    /// The URL is no template.
    #[error("{0:?} is no URI template of a proxy: {1}")]
    Url(String, TemplateError),
    /// No CA is given.
    #[error("--ca is needed: whose certificate the server's is signed by")]
    NoCa,
    /// A file cannot be used.
    #[error("{}: {words}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        words: String,
    },
    /// rustls refuses the configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The provider lacks AES-128-GCM.
    #[error("cipher suite: {0}")]
    Suite(#[from] NoInitialCipherSuite),
    /// The name leads nowhere, a socket fails, or the table cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a probe came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Tally {
    /// As expected.
    pub pass: usize,
    /// Different where the standards leave a choice.
    pub differs: usize,
    /// Requirements broken.
    pub violations: usize,
    /// Not run.
    pub skipped: usize,
}

impl Tally {
    fn count(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Pass => &mut self.pass,
            Verdict::Differs => &mut self.differs,
            Verdict::Violation => &mut self.violations,
            Verdict::Skipped => &mut self.skipped,
        } += 1;
    }
}

/// Runs all scripts that apply and writes a line, or an object, for each as it ends.
///
/// # Errors
/// [`ProbeError`].
pub fn probe(options: &Probe, out: &mut impl Write) -> Result<Tally, ProbeError> {
    let mut table = Table {
        json: options.json,
        tally: Tally::default(),
        out,
    };
    let cases = catalogue::all().map_err(ProbeError::Scripts)?;
    let wanted = |case: &&Case| {
        let name = &case.script.name;
        options.only.as_ref().is_none_or(|only| name.contains(only))
    };
    let cases = cases.iter().filter(wanted);
    let patience = Duration::from_millis(options.patience);
    if let Some(address) = options.listen {
        let socket = UdpSocket::bind(address)?;
        let crypto = Arc::new(server_tls(options)?);
        let wait = Duration::from_secs(options.wait);
        for case in cases.filter(|case| case.subject == Subject::Client) {
            let report = match omitted(case, options, false) {
                Some(why) => udp::skipped(case, why),
                None => udp::against_client(case, &socket, crypto.clone(), patience, wait)?,
            };
            table.add(&report)?;
        }
    } else {
        let url = options.url.clone().unwrap_or_default();
        let template =
            UriTemplate::parse(&url).map_err(|error| ProbeError::Url(url.clone(), error))?;
        let to = server(options, &template)?;
        let scoped = url.contains("{target}") && url.contains("{ipproto}");
        for case in cases.filter(|case| case.subject == Subject::Server) {
            let report = match omitted(case, options, !scoped) {
                Some(why) => udp::skipped(case, why),
                None => udp::against_server(case, &to, patience)?,
            };
            table.add(&report)?;
        }
    }
    table.end()
}

/// Why a case is not run.
fn omitted(case: &Case, options: &Probe, no_scope: bool) -> Option<String> {
    if case.needs(Need::Virtual) {
        return Some("takes minutes".to_owned());
    }
    if case.needs(Need::Ours) && !options.ours {
        return Some("about limits of our own".to_owned());
    }
    (case.needs(Need::Scope) && no_scope).then(|| "the template has no scope".to_owned())
}

fn server(options: &Probe, template: &UriTemplate) -> Result<ToServer, ProbeError> {
    let host = template.host().trim_matches(['[', ']']);
    let address = match options.connect {
        Some(address) => address,
        None => (host, template.port())
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::other(format!("{host} has no address")))?,
    };
    Ok(ToServer {
        address,
        name: host.to_owned(),
        crypto: Arc::new(client_tls(options)?),
        material: Material {
            authority: template.authority().to_owned(),
            path: template.expand(Some("*"), Some("*"), Wildcard::default()),
            assigned: Vec::new(),
        },
    })
}

fn client_tls(options: &Probe) -> Result<QuicClientConfig, ProbeError> {
    let ca = options.ca.as_ref().ok_or(ProbeError::NoCa)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut tls = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            builder.with_client_auth_cert(certificates(cert)?, private_key(key)?)?
        }
        _ => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(QuicClientConfig::try_from(tls)?)
}

fn server_tls(options: &Probe) -> Result<QuicServerConfig, ProbeError> {
    let missing = || ProbeError::Io(io::Error::other("--cert and --key are needed"));
    let cert = options.cert.as_ref().ok_or_else(missing)?;
    let key = options.key.as_ref().ok_or_else(missing)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates(cert)?, private_key(key)?)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(QuicServerConfig::try_from(tls)?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ProbeError> {
    let bad = |error: rustls::pki_types::pem::Error| file(path, &error.to_string());
    let all = CertificateDer::pem_file_iter(path).map_err(bad)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(bad)?;
    if all.is_empty() {
        return Err(file(path, "no certificate"));
    }
    Ok(all)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ProbeError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| file(path, &error.to_string()))
}

fn file(path: &Path, words: &str) -> ProbeError {
    ProbeError::File {
        path: path.to_owned(),
        words: words.to_owned(),
    }
}

/// What has been found so far.
struct Table<'a, W> {
    json: bool,
    tally: Tally,
    out: &'a mut W,
}

impl<W: Write> Table<'_, W> {
    fn add(&mut self, report: &Report) -> Result<(), ProbeError> {
        self.tally.count(report.verdict);
        if self.json {
            serde_json::to_writer(&mut *self.out, report).map_err(io::Error::from)?;
            writeln!(self.out)?;
        } else {
            let verdict = report.verdict.name();
            let requirements = report.requirements.join(" ");
            writeln!(
                self.out,
                "{verdict:<9}  {:<42}  {requirements}",
                report.script
            )?;
            if report.verdict != Verdict::Pass {
                writeln!(self.out, "{:11}expected {}", "", report.expected)?;
                writeln!(self.out, "{:11}seen     {}", "", report.seen)?;
            }
        }
        self.out.flush()?;
        Ok(())
    }

    fn end(self) -> Result<Tally, ProbeError> {
        let tally = self.tally;
        if self.json {
            serde_json::to_writer(&mut *self.out, &tally).map_err(io::Error::from)?;
            writeln!(self.out)?;
        } else {
            writeln!(
                self.out,
                "{} pass, {} differ, {} violations, {} skipped",
                tally.pass, tally.differs, tally.violations, tally.skipped
            )?;
        }
        Ok(tally)
    }
}
