//! What the endpoint reads from certificates and TLS alerts.

use std::any::Any;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::types::{Identity, PeerIdentity};

/// What a peer proved about itself.
pub(super) struct Proven {
    pub(super) identity: Option<Identity>,
    /// When its certificate expires.
    pub(super) expires: Option<SystemTime>,
}

/// Reads the identity of the peer of a crypto session: URI SAN, else DNS SAN, else CN.
pub(super) fn proven(peer: Option<Box<dyn Any>>) -> Proven {
    let nothing = Proven {
        identity: None,
        expires: None,
    };
    let Some(peer) = peer else { return nothing };
    let peer = match peer.downcast::<Vec<CertificateDer<'static>>>() {
        Ok(chain) => return chain.first().map_or(nothing, |leaf| of_certificate(leaf)),
        Err(peer) => peer,
    };
    match peer.downcast::<PeerIdentity>() {
        Ok(peer) => Proven {
            identity: Some(peer.identity),
            expires: None,
        },
        Err(_) => nothing,
    }
}

/// The chain was verified by rustls; here it is only read.
fn of_certificate(der: &[u8]) -> Proven {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Proven {
            identity: None,
            expires: None,
        };
    };
    let names = || {
        certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default()
            .iter()
    };
    let uri = names().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let dns = || {
        names().find_map(|name| match name {
            GeneralName::DNSName(dns) => Some((*dns).to_owned()),
            _ => None,
        })
    };
    let common_name = || {
        let name = certificate.subject().iter_common_name().next()?;
        name.as_str().ok().map(ToOwned::to_owned)
    };
    let identity = uri
        .or_else(dns)
        .or_else(common_name)
        .filter(|name| !name.is_empty())
        .map(Identity);
    let not_after = certificate.validity().not_after.timestamp();
    let expires = u64::try_from(not_after)
        .ok()
        .map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    Proven { identity, expires }
}

/// A TLS alert (RFC 8446 §6) in words a user can act on.
pub(super) fn alert_in_words(alert: u8) -> &'static str {
    match alert {
        40 => "handshake failure",
        42 => "bad certificate",
        43 => "unsupported certificate",
        44 => "certificate revoked",
        45 => "certificate expired",
        46 => "certificate not accepted",
        47 => "illegal parameter",
        48 => "certificate from an unknown CA",
        49 => "access denied",
        50 => "decode error",
        51 => "decrypt error",
        70 => "protocol version not supported",
        80 => "internal error",
        109 => "missing extension",
        112 => "server name not recognised",
        116 => "a client certificate is required",
        120 => "the peer does not speak HTTP/3 (ALPN)",
        _ => "alert",
    }
}
