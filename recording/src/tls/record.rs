//! Writing down what rustls draws.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{
    ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom,
    SharedSecret, SupportedKxGroup,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, ProtocolVersion, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{SubjectPublicKeyInfoDer, UnixTime};

use crate::codec::Octets;
use crate::digest::Digest;
use crate::record::{Completed, Draw, Share, Signed};
use crate::tape::Tape;

/// The same provider, which writes down what it draws.
pub(super) fn provider(provider: &CryptoProvider, tape: &Tape) -> CryptoProvider {
    let group = |inner: &&'static dyn SupportedKxGroup| {
        let group: &'static Group = Box::leak(Box::new(Group(*inner, tape.clone())));
        group as &'static dyn SupportedKxGroup
    };
    CryptoProvider {
        kx_groups: provider.kx_groups.iter().map(group).collect(),
        secure_random: Box::leak(Box::new(Random(provider.secure_random, tape.clone()))),
        ..provider.clone()
    }
}

/// The same certificate and key, whose signatures are written down.
pub(super) fn key(own: &CertifiedKey, tape: &Tape) -> CertifiedKey {
    CertifiedKey {
        key: Arc::new(Key(Arc::clone(&own.key), tape.clone())),
        ..own.clone()
    }
}

#[derive(Debug)]
struct Random(&'static dyn SecureRandom, Tape);

impl SecureRandom for Random {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        let result = self.0.fill(buf);
        let bytes = result.is_ok().then(|| buf.to_vec());
        self.1.draw(Draw::Random(bytes));
        result
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

#[derive(Debug)]
struct Group(&'static dyn SupportedKxGroup, Tape);

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let result = self.0.start();
        let share = result.as_ref().ok().map(|exchange| Share {
            group: exchange.group().into(),
            public: Octets(exchange.pub_key().to_vec()),
            hybrid: exchange
                .hybrid_component()
                .map(|(group, public)| (group.into(), Octets(public.to_vec()))),
        });
        self.1.draw(Draw::Share(share));
        let exchange = Exchange(result?, self.1.clone());
        Ok(Box::new(exchange))
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let result = self.0.start_and_complete(peer);
        let exchange = result.as_ref().ok();
        let share = exchange.map(|exchange| Share {
            group: exchange.group.into(),
            public: Octets(exchange.pub_key.clone()),
            hybrid: None,
        });
        let completed = completed(peer, exchange.map(|exchange| &exchange.secret));
        self.1.draw(Draw::Exchange(share, completed));
        result
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        self.0.ffdhe_group()
    }

    fn name(&self) -> NamedGroup {
        self.0.name()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        self.0.usable_for_version(version)
    }
}

fn completed(peer: &[u8], secret: Option<&SharedSecret>) -> Completed {
    Completed {
        peer: Digest::of(peer),
        secret: secret.map(|secret| Octets(secret.secret_bytes().to_vec())),
    }
}

struct Exchange(Box<dyn ActiveKeyExchange>, Tape);

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let result = self.0.complete(peer);
        let completed = completed(peer, result.as_ref().ok());
        self.1.draw(Draw::Secret(completed));
        result
    }

    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        self.0.hybrid_component()
    }

    fn complete_hybrid_component(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let result = self.0.complete_hybrid_component(peer);
        let completed = completed(peer, result.as_ref().ok());
        self.1.draw(Draw::HybridSecret(completed));
        result
    }

    fn pub_key(&self) -> &[u8] {
        self.0.pub_key()
    }

    fn group(&self) -> NamedGroup {
        self.0.group()
    }
}

struct Key(Arc<dyn SigningKey>, Tape);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered);
        let scheme = signer.as_ref().map(|signer| signer.scheme().into());
        self.1.draw(Draw::Scheme(scheme));
        Some(Box::new(Pen(signer?, self.1.clone())))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[derive(Debug)]
struct Pen(Box<dyn Signer>, Tape);

impl Signer for Pen {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let result = self.0.sign(message);
        self.1.draw(Draw::Signature(Signed {
            message: Digest::of(message),
            signature: result.as_ref().ok().cloned().map(Octets),
        }));
        result
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

/// A clock whose readings are written down.
#[derive(Debug)]
pub(super) struct Clock(Arc<dyn TimeProvider>, Tape);

impl Clock {
    pub(super) fn new(inner: Arc<dyn TimeProvider>, tape: Tape) -> Self {
        Self(inner, tape)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let time = self.0.current_time();
        self.1.draw(Draw::Time(time.map(|time| time.as_secs())));
        time
    }
}
