//! Which cipher a connection came to use. quinn-proto does not tell, so a session is watched from
//! outside: the ServerHello, which crosses it in the clear, names the cipher (RFC 8446 §4.1.3).

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use quinn_proto::crypto::{
    ClientConfig, ExportKeyingMaterialError, KeyPair, Keys, PacketKey, ServerConfig, Session,
    UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError};

/// What protects a connection's packets once its handshake is over (RFC 8446 §B.4). Initial packets
/// always use AES-128-GCM (RFC 9001 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cipher {
    /// TLS_AES_128_GCM_SHA256.
    Aes128Gcm,
    /// TLS_AES_256_GCM_SHA384.
    Aes256Gcm,
    /// TLS_CHACHA20_POLY1305_SHA256.
    Chacha20Poly1305,
}

impl Cipher {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Chacha20Poly1305];

    /// Its name in configurations and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Chacha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Its number as a TLS cipher suite.
    #[must_use]
    pub const fn suite(self) -> u16 {
        match self {
            Self::Aes128Gcm => 0x1301,
            Self::Aes256Gcm => 0x1302,
            Self::Chacha20Poly1305 => 0x1303,
        }
    }

    /// The cipher of a TLS cipher suite; `None` for one that QUIC has no use for, or an unknown one.
    #[must_use]
    pub fn from_suite(suite: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.suite() == suite)
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `crypto` negotiated, if it was made by [`watched_client`] or [`watched_server`] and speaks TLS.
pub(super) fn negotiated(crypto: &dyn Session) -> Option<Cipher> {
    crypto
        .handshake_data()?
        .downcast::<Negotiated>()
        .ok()
        .map(|negotiated| negotiated.0)
}

/// The same configuration, its sessions watched.
pub(super) fn watched_client(inner: Arc<dyn ClientConfig>) -> Arc<dyn ClientConfig> {
    Arc::new(Watched(inner))
}

/// The same configuration, its sessions watched.
pub(super) fn watched_server(inner: Arc<dyn ServerConfig>) -> Arc<dyn ServerConfig> {
    Arc::new(Watched(inner))
}

struct Negotiated(Cipher);

struct Watched<C: ?Sized>(Arc<C>);

impl ClientConfig for Watched<dyn ClientConfig> {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.0).start_session(version, server_name, params)?;
        Ok(Box::new(WatchedSession {
            inner,
            hello: Hello::default(),
            server: false,
        }))
    }
}

impl ServerConfig for Watched<dyn ServerConfig> {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        self.0.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(WatchedSession {
            inner: Arc::clone(&self.0).start_session(version, params),
            hello: Hello::default(),
            server: true,
        })
    }
}

struct WatchedSession {
    inner: Box<dyn Session>,
    hello: Hello,
    server: bool,
}

impl Session for WatchedSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        match self.hello.cipher() {
            Some(cipher) => Some(Box::new(Negotiated(cipher))),
            None => self.inner.handshake_data(),
        }
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(
        &self,
    ) -> Option<(Box<dyn quinn_proto::crypto::HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if !self.server {
            self.hello.take(buf);
        }
        self.inner.read_handshake(buf)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let before = buf.len();
        let keys = self.inner.write_handshake(buf);
        if self.server {
            self.hello.take(buf.get(before..).unwrap_or_default());
        }
        keys
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// The beginning of what a server says: the head of its first message, up to the cipher suite. That is
/// a ServerHello or a HelloRetryRequest, which must name the same cipher (RFC 8446 §4.1.4).
#[derive(Debug, Default)]
struct Hello {
    bytes: Vec<u8>,
}

impl Hello {
    /// Type and length of the message, the version, the random value.
    const FIXED: usize = 4 + 2 + 32;
    /// The longest head: a session ID of 32 bytes with its length, and the suite.
    const MOST: usize = Self::FIXED + 1 + 32 + 2;
    /// The type of a ServerHello.
    const TYPE: u8 = 2;

    /// Bytes of the server's side of the handshake, in order.
    fn take(&mut self, data: &[u8]) {
        let room = Self::MOST.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&data[..room.min(data.len())]);
    }

    fn cipher(&self) -> Option<Cipher> {
        if *self.bytes.first()? != Self::TYPE {
            return None;
        }
        let session_id = usize::from(*self.bytes.get(Self::FIXED)?);
        let suite = self.bytes.get(Self::FIXED + 1 + session_id..)?;
        let suite = suite.first_chunk()?;
        Cipher::from_suite(u16::from_be_bytes(*suite))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(kind: u8, session_id: &[u8], suite: u16) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 90, 3, 3];
        bytes.extend([0x13; 32]);
        bytes.push(u8::try_from(session_id.len()).expect("a short session ID"));
        bytes.extend(session_id);
        bytes.extend(suite.to_be_bytes());
        bytes.extend([0; 40]);
        bytes
    }

    #[test]
    fn a_server_hello_names_its_cipher_however_it_is_cut() {
        for cipher in Cipher::ALL {
            for session_id in [&[][..], &[7; 32]] {
                let bytes = hello(2, session_id, cipher.suite());
                for cut in 0..bytes.len() {
                    let mut hello = Hello::default();
                    hello.take(&bytes[..cut]);
                    assert!(hello.cipher().is_none() || hello.cipher() == Some(cipher));
                    hello.take(&bytes[cut..]);
                    assert_eq!(hello.cipher(), Some(cipher));
                    assert!(hello.bytes.len() <= Hello::MOST);
                }
            }
        }
    }

    #[test]
    fn what_is_no_server_hello_names_none() {
        let cipher_of = |bytes: &[u8]| {
            let mut hello = Hello::default();
            hello.take(bytes);
            hello.cipher()
        };
        assert_eq!(cipher_of(&hello(1, &[], 0x1301)), None);
        assert_eq!(cipher_of(&hello(2, &[], 0xc02f)), None);
        assert_eq!(cipher_of(&hello(2, &[1; 255], 0x1301)), None);
        assert_eq!(cipher_of(&[2; 3]), None);
    }
}
