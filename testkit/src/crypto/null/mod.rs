//! Null crypto: QUIC whose packets can be read, forged and fuzzed, and are the same in every run.
//!
//! Nothing is encrypted and nothing is random. A packet carries a 16-byte keyed checksum in place of
//! the AEAD tag, so that a flipped bit is found and a packet of another connection, level or direction
//! is refused; header protection does nothing. The handshake has TLS's shape, so that QUIC goes
//! through the same key levels at the same moments:
//!
//! ```text
//! client                                   server
//!   Initial    client hello      ------>
//!              <------  server hello       Initial
//!              <------  parameters, finished   Handshake   (server has 1-RTT keys)
//!   Handshake  finished          ------>
//! ```
//!
//! It proves nothing about who anybody is: the client states an identity and is believed.

mod keys;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use masque_core::endpoint::Identity;
use quinn_proto::ConnectError;
use quinn_proto::ConnectionId;
use quinn_proto::Side;
use quinn_proto::crypto::{self, Keys, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;

pub use keys::{Level, NullAead, NullHmac, NullTokenKey, Rewrite, TAG_LEN, forged_tag, tag};
use keys::{initial_keys, retry_tag};
use session::NullSession;

/// A client of null crypto.
#[derive(Clone, Debug, Default)]
pub struct NullClient {
    /// Who the client says it is; `None` is a client without a certificate.
    pub identity: Option<Identity>,
    /// What becomes of the frames of its 1-RTT packets; nothing if `None`.
    pub rewrite: Option<Rewrite>,
}

impl NullClient {
    /// A client that calls itself `identity`.
    #[must_use]
    pub fn named(identity: &str) -> Arc<Self> {
        Arc::new(Self {
            identity: Some(Identity(identity.to_owned())),
            rewrite: None,
        })
    }
}

impl crypto::ClientConfig for NullClient {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        check_version(version)?;
        Ok(Box::new(NullSession::client(
            server_name,
            self.identity.clone(),
            self.rewrite,
            params,
        )))
    }
}

/// A server of null crypto.
#[derive(Clone, Debug)]
pub struct NullServer {
    /// Its name: a client that wants another refuses it with `bad_certificate`.
    pub name: String,
    /// Refuse clients without an identity with `certificate_required`.
    pub require_identity: bool,
}

impl NullServer {
    /// A server called `name` that demands identities.
    #[must_use]
    pub fn named(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            require_identity: true,
        })
    }
}

impl crypto::ServerConfig for NullServer {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        check_version(version)?;
        Ok(initial_keys(dst_cid, Side::Server))
    }

    fn retry_tag(&self, _version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(orig_dst_cid, &[packet])
    }

    fn start_session(
        self: Arc<Self>,
        _version: u32,
        params: &TransportParameters,
    ) -> Box<dyn crypto::Session> {
        Box::new(NullSession::server(
            &self.name,
            self.require_identity,
            params,
        ))
    }
}

fn check_version(version: u32) -> Result<(), UnsupportedVersion> {
    if quinn_proto::DEFAULT_SUPPORTED_VERSIONS.contains(&version) {
        Ok(())
    } else {
        Err(UnsupportedVersion)
    }
}
