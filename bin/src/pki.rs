//! A small certificate authority: one CA, server and client certificates.
//!
//! Keys are ECDSA P-256, written with mode 0600 into files that did not exist before.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::config::Template;
use crate::exit::{Exit, Failure};
use crate::files;
use crate::tls::{self, Described};

/// `masque pki …`
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a CA: ca.pem and ca.key.
    Init(InitArgs),
    /// Issue a server's or a client's certificate.
    Issue(IssueArgs),
    /// Print what certificates say.
    Show(ShowArgs),
}

/// `masque pki init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder of the CA.
    #[arg(long, value_name = "DIR", default_value = "pki")]
    pub dir: PathBuf,
    /// The CA's name.
    #[arg(long, default_value = "masque CA")]
    pub name: String,
    /// How long it is valid.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub days: u32,
    /// Overwrite an existing CA: every certificate it issued becomes worthless.
    #[arg(long)]
    pub force: bool,
}

/// `masque pki issue`
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("kind").required(true).args(["server", "client"])))]
pub struct IssueArgs {
    /// The folder of the CA; the certificate is written there too.
    #[arg(long, value_name = "DIR", default_value = "pki")]
    pub dir: PathBuf,
    /// A server's certificate for these DNS names and IP addresses.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub server: Vec<String>,
    /// A client's certificate for this identity.
    #[arg(long, value_name = "IDENTITY")]
    pub client: Option<String>,
    /// How long it is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub days: u32,
    /// The name of the files, without .pem and .key.
    #[arg(long, value_name = "NAME")]
    pub out: Option<String>,
    /// Write the client's whole configuration, keys and all, into one file instead.
    #[arg(long, value_name = "FILE", requires = "client", requires = "url")]
    pub bundle: Option<PathBuf>,
    /// The server's URI template, for --bundle; `https://HOST:PORT` stands for the default one.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Overwrite existing files.
    #[arg(long)]
    pub force: bool,
}

/// `masque pki show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// PEM files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// A certificate authority in memory.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, as PEM.
    pub certificate: String,
    not_after: SystemTime,
}

/// Runs a command.
///
/// # Errors
/// A [`Failure`].
pub fn run(command: &PkiCommand) -> Result<(), Failure> {
    match command {
        PkiCommand::Init(args) => init(args),
        PkiCommand::Issue(args) => issue(args),
        PkiCommand::Show(args) => show(args),
    }
}

impl Authority {
    /// Makes a CA.
    ///
    /// # Errors
    /// No randomness, or a name that does not fit into a certificate.
    pub fn generate(name: &str, days: u32) -> Result<(Self, Issued), Failure> {
        let key = generate_key()?;
        let mut params = base(name, days, None)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let not_after = end(days);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let issued = Issued {
            certificate: certificate.clone(),
            key: key.serialize_pem(),
        };
        let authority = Self {
            issuer: Issuer::new(params, key),
            certificate,
            not_after,
        };
        Ok((authority, issued))
    }

    /// Reads the CA in `folder`.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => {
                    Failure::config(format!("there is no CA: {} is missing", path.display()))
                        .help("make one with `masque pki init`, or name its folder with --dir")
                }
                _ => Failure::system(format!("cannot read {}", path.display()), &error),
            })
        };
        let (certificate, key) = (read("ca.pem")?, read("ca.key")?);
        let broken = |what: &dyn std::fmt::Display| {
            Failure::config(format!(
                "the CA in {} is unusable: {what}",
                folder.display()
            ))
        };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| broken(&error))?;
        let described = Described::of(&der).map_err(|error| broken(&error))?;
        if let Some(why) = described.unusable_at(SystemTime::now()) {
            return Err(broken(&why));
        }
        let key = KeyPair::from_pem(&key).map_err(|error| broken(&error))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| broken(&error))?;
        let seconds = u64::try_from(described.not_after.0).unwrap_or(0);
        Ok(Self {
            issuer,
            certificate,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }

    /// A server's certificate for DNS names and IP addresses.
    ///
    /// # Errors
    /// A name that is neither.
    pub fn issue_server(&self, names: &[String], days: u32) -> Result<Issued, Failure> {
        let mut params = base(&names[0], days, Some(self.not_after))?;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if is_dns_name(name) => dns(name)?,
                Err(_) => {
                    return Err(Failure::new(
                        Exit::Usage,
                        format!("{name:?} is neither a DNS name nor an IP address"),
                    ));
                }
            });
        }
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate for an identity: a DNS name as such, anything else as a URI.
    ///
    /// # Errors
    /// An empty or overlong identity.
    pub fn issue_client(&self, identity: &str, days: u32) -> Result<Issued, Failure> {
        if identity.is_empty() || identity.len() > 200 {
            return Err(Failure::new(
                Exit::Usage,
                "an identity has 1 to 200 characters",
            ));
        }
        let mut params = base(identity, days, Some(self.not_after))?;
        params.subject_alt_names.push(if is_dns_name(identity) {
            dns(identity)?
        } else {
            SanType::URI(identity_uri(identity).try_into().map_err(failed)?)
        });
        self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Issued, Failure> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The URI that stands for an identity which is no DNS name: itself if it is one, otherwise under the
/// scheme `masque`.
#[must_use]
pub fn identity_uri(identity: &str) -> String {
    let scheme = identity.split_once(':').map(|(scheme, _)| scheme);
    let is_uri = scheme.is_some_and(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let mut uri = String::from(if is_uri { "" } else { "masque:" });
    for byte in identity.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}

fn is_dns_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    name.len() <= 253
        && name.parse::<IpAddr>().is_err()
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn dns(name: &str) -> Result<SanType, Failure> {
    Ok(SanType::DnsName(
        name.to_owned().try_into().map_err(failed)?,
    ))
}

fn generate_key() -> Result<KeyPair, Failure> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)
}

fn end(days: u32) -> SystemTime {
    SystemTime::now() + Duration::from_secs(u64::from(days) * 86_400)
}

fn base(name: &str, days: u32, latest: Option<SystemTime>) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // X.520 bounds a common name to 64 characters.
    let common: String = name.chars().take(64).collect();
    params.distinguished_name.push(DnType::CommonName, common);
    // Clocks of clients and servers differ.
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    let not_after = latest.map_or(end(days), |latest| latest.min(end(days)));
    params.not_after = not_after.into();
    let mut serial = tls::random_seed()?;
    // A positive integer of at most 20 bytes (RFC 5280 §4.1.2.2).
    serial[0] &= 0x7f;
    serial[0] |= 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial[..16]));
    Ok(params)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::internal(format!("cannot make the certificate: {error}"))
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    files::private_folder(&args.dir)
        .map_err(|error| Failure::system(format!("cannot make {}", args.dir.display()), &error))?;
    let (certificate, key) = (args.dir.join("ca.pem"), args.dir.join("ca.key"));
    refuse_existing(&[&certificate, &key], args.force)?;
    let (_, issued) = Authority::generate(&args.name, args.days)?;
    write(&key, &issued.key, 0o600, args.force)?;
    write(&certificate, &issued.certificate, 0o644, args.force)?;
    println!("wrote {} and {}", certificate.display(), key.display());
    Ok(())
}

fn issue(args: &IssueArgs) -> Result<(), Failure> {
    let authority = Authority::open(&args.dir)?;
    let (issued, name) = match &args.client {
        Some(identity) => (
            authority.issue_client(identity, args.days)?,
            identity.as_str(),
        ),
        None => (
            authority.issue_server(&args.server, args.days)?,
            args.server[0].as_str(),
        ),
    };
    if let (Some(path), Some(url)) = (&args.bundle, &args.url) {
        let bundle = bundle(url, &authority.certificate, &issued)?;
        refuse_existing(&[path], args.force)?;
        write(path, &bundle, 0o600, args.force)?;
        println!("wrote {}", path.display());
    } else {
        let stem = match &args.out {
            Some(out) => out.clone(),
            None => file_stem(name),
        };
        let certificate = args.dir.join(format!("{stem}.pem"));
        let key = args.dir.join(format!("{stem}.key"));
        refuse_existing(&[&certificate, &key], args.force)?;
        write(&key, &issued.key, 0o600, args.force)?;
        write(&certificate, &issued.certificate, 0o644, args.force)?;
        println!("wrote {} and {}", certificate.display(), key.display());
    }
    if args.client.is_some() {
        let der = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).map_err(failed)?;
        let described = Described::of(&der).map_err(failed)?;
        println!("identity: {}", described.identity().unwrap_or_default());
    }
    Ok(())
}

/// A client's whole configuration.
fn bundle(url: &str, ca: &str, issued: &Issued) -> Result<String, Failure> {
    let usage = |error: String| Failure::new(Exit::Usage, format!("--url: {error}"));
    let bare = url
        .strip_prefix("https://")
        .is_some_and(|rest| !rest.trim_end_matches('/').contains(['/', '{']));
    let url = match bare {
        true => format!(
            "{}{}",
            url.trim_end_matches('/'),
            crate::config::server::DEFAULT_PATH
        ),
        false => url.to_owned(),
    };
    let template = Template::parse(&url).map_err(usage)?;
    Ok(format!(
        "# A masque client: run `masque-tokio client -c THIS_FILE`. It holds a private key: keep it secret.\n\
         url = {:?}\n\nca = \"\"\"\n{}\"\"\"\n\ncertificate = \"\"\"\n{}\"\"\"\n\nkey = \"\"\"\n{}\"\"\"\n",
        template.text,
        unix_lines(ca),
        unix_lines(&issued.certificate),
        unix_lines(&issued.key),
    ))
}

fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    for path in &args.files {
        let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Failure::config(format!("cannot read {}: {error}", path.display()))
            }
            _ => Failure::system(format!("cannot read {}", path.display()), &error),
        })?;
        let wrong =
            |error: &dyn std::fmt::Display| Failure::config(format!("{}: {error}", path.display()));
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            let described = Described::of(&certificate).map_err(|error| wrong(&error))?;
            print!("{}", page(path, &certificate, &described));
            count += 1;
        }
        if count == 0 {
            return Err(wrong(&"no PEM certificate in it"));
        }
    }
    Ok(())
}

fn page(path: &Path, certificate: &[u8], described: &Described) -> String {
    let names: Vec<String> = described
        .dns
        .iter()
        .map(|name| format!("DNS:{name}"))
        .chain(described.addresses.iter().map(|ip| format!("IP:{ip}")))
        .chain(described.uris.iter().map(|uri| format!("URI:{uri}")))
        .collect();
    let state = match described.unusable_at(SystemTime::now()) {
        Some(why) => format!("  ({why})"),
        None => String::new(),
    };
    let kind = if described.ca { "CA" } else { "end entity" };
    format!(
        "{}\n  subject      {}\n  issuer       {}\n  kind         {kind}\n  names        {}\n  identity     {}\n  not before   {}\n  not after    {}{state}\n  sha256       {}\n",
        path.display(),
        described.subject,
        described.issuer,
        names.join(", "),
        described.identity().unwrap_or("none"),
        described.not_before.1,
        described.not_after.1,
        fingerprint(certificate),
    )
}

/// SHA-256 in hexadecimal, by the hash of TLS_AES_128_GCM_SHA256.
fn fingerprint(bytes: &[u8]) -> String {
    let provider = tls::provider();
    let hash = provider
        .cipher_suites
        .iter()
        .find_map(|suite| suite.tls13())
        .map(|suite| suite.common.hash_provider.hash(bytes));
    let mut text = String::new();
    for byte in hash.iter().flat_map(|hash| hash.as_ref()) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A file name that stays in its folder, whatever the identity.
fn file_stem(name: &str) -> String {
    let stem: String = name
        .chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "-_.@".contains(c) => c,
            _ => '_',
        })
        .collect();
    match stem.starts_with('.') || stem == "ca" {
        true => format!("_{stem}"),
        false => stem,
    }
}

fn refuse_existing(paths: &[&Path], force: bool) -> Result<(), Failure> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) if !force => {
            Err(Failure::config(format!("{} exists", path.display())).help("--force overwrites it"))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str, mode: u32, force: bool) -> Result<(), Failure> {
    files::create(path, text.as_bytes(), mode, force)
        .map_err(|error| Failure::system(format!("cannot write {}", path.display()), &error))
}
