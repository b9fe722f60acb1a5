//! TLS 1.3 that repeats itself: the same seed gives the same certificates and the same bytes.
//!
//! rustls draws randomness in three places: [`SecureRandom`] (hellos, the order of extensions), the
//! key exchange group (an ephemeral key), and signatures. The first two are replaced here; Ed25519
//! signatures are deterministic by themselves. Tickets are off (they hold the time), and rustls's
//! clock is the world's.
//!
//! Only one group is offered, X25519, whose private key comes from the seed and whose arithmetic is
//! aws-lc-rs's.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::agreement;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use rcgen::{KeyPair, PKCS_ED25519};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{Error, NamedGroup, PeerMisbehaved};

use super::tls::{Authority, Source, TlsError};
use crate::seed::Seed;

/// An authority whose keys, and everything its configurations draw, come from `seed`.
///
/// Each configuration leaks a few hundred bytes: rustls wants its sources of randomness to live for
/// ever.
///
/// # Errors
/// [`TlsError::Certificate`] if the keys cannot be made.
pub fn authority(seed: &Seed) -> Result<Authority, TlsError> {
    Authority::new(Box::new(Seeded(seed.fork("tls"))))
}

struct Seeded(Seed);

impl Source for Seeded {
    fn key(&self, label: &str) -> Result<KeyPair, rcgen::Error> {
        // PKCS #8 of an Ed25519 key (RFC 8410 §7): everything before the 32 bytes is fixed.
        let mut pkcs8 = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        pkcs8.extend_from_slice(&self.0.bytes(&format!("key {label}")));
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)
    }

    fn provider(&self, label: &str) -> Arc<CryptoProvider> {
        let random: &'static SeededRandom = Box::leak(Box::new(SeededRandom::new(
            self.0.rng(&format!("random {label}")),
        )));
        let group: &'static SeededX25519 = Box::leak(Box::new(SeededX25519(SeededRandom::new(
            self.0.rng(&format!("x25519 {label}")),
        ))));
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![group];
        provider.secure_random = random;
        Arc::new(provider)
    }
}

struct SeededRandom(Mutex<ChaCha20Rng>);

impl SeededRandom {
    fn new(rng: ChaCha20Rng) -> Self {
        Self(Mutex::new(rng))
    }

    fn draw(&self, buf: &mut [u8]) {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rng.fill_bytes(buf);
    }
}

impl fmt::Debug for SeededRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededRandom")
    }
}

impl SecureRandom for SeededRandom {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.draw(buf);
        Ok(())
    }
}

#[derive(Debug)]
struct SeededX25519(SeededRandom);

impl SupportedKxGroup for SeededX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut bytes = [0; 32];
        self.0.draw(&mut bytes);
        let failed = || Error::General("seeded X25519 key".to_owned());
        let private = agreement::PrivateKey::from_private_key(&agreement::X25519, &bytes)
            .map_err(|_| failed())?;
        let public = private.compute_public_key().map_err(|_| failed())?;
        Ok(Box::new(Exchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    private: agreement::PrivateKey,
    public: agreement::PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, peer_pub_key);
        let invalid = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);
        agreement::agree(&self.private, peer, invalid, |secret| {
            Ok(SharedSecret::from(secret))
        })
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
