//! Giving rustls again what it drew.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::{
    ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom,
    SharedSecret, SupportedKxGroup, WebPkiSupportedAlgorithms,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, PeerMisbehaved, SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::UnixTime;

use super::TlsError;
use crate::codec::Octets;
use crate::digest::Digest;
use crate::record::{Completed, Draw, Share, Tls};
use masque_core::endpoint::Cipher;

/// What was drawn during one input, and what is wrong with how it is drawn again.
#[derive(Clone, Default)]
pub(crate) struct Draws(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    draws: VecDeque<Draw>,
    /// The first thing that was otherwise.
    wrong: Option<String>,
}

impl fmt::Debug for Draws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Draws")
    }
}

impl Draws {
    /// What the next input will draw.
    pub(crate) fn load(&self, draws: VecDeque<Draw>) {
        *self.lock() = Waiting { draws, wrong: None };
    }

    /// What was wrong with the last input's draws; that it left some is wrong, too.
    pub(crate) fn verdict(&self) -> Option<String> {
        let mut waiting = self.lock();
        let left = waiting.draws.front();
        let left = left.map(|draw| format!("TLS did not ask for {}", draw.name()));
        waiting.wrong.take().or(left)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Whole after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next draw, if it is what `wanted` takes; `name` is what is asked for.
    fn next<T>(&self, name: &str, wanted: impl FnOnce(Draw) -> Result<T, Draw>) -> Option<T> {
        let mut waiting = self.lock();
        let found = match waiting.draws.pop_front().map(wanted) {
            Some(Ok(value)) => return Some(value),
            Some(Err(other)) => other.name(),
            None => "nothing",
        };
        let wrong = format!("TLS asked for {name}, where it drew {found}");
        waiting.wrong.get_or_insert(wrong);
        None
    }

    fn differs(&self, what: &str) {
        self.lock().wrong.get_or_insert_with(|| what.to_owned());
    }

    /// The secret that was agreed, if the peer's share is the same.
    fn agreed(&self, peer: &[u8], completed: Completed) -> Result<SharedSecret, Error> {
        if completed.peer != Digest::of(peer) {
            self.differs("the peer's key share is another");
        }
        let secret = completed.secret;
        secret.map_or(Err(PeerMisbehaved::InvalidKeyShare.into()), |secret| {
            Ok(SharedSecret::from(secret.0))
        })
    }
}

/// What could not be had when it was recorded.
fn failed() -> Error {
    Error::General("it failed when it was recorded".to_owned())
}

/// Stands for what is not in the recording. The difference is told of elsewhere; an error would not do, as
/// quinn-proto takes it that a session can be begun.
const NOTHING: [u8; 32] = [0; 32];

/// A key exchange that is not in the recording.
fn no_exchange() -> Completed {
    Completed {
        peer: 0,
        secret: Some(Octets(NOTHING.to_vec())),
    }
}

/// Ciphers, groups and schemes in their order, of whatever provider they were.
pub(super) fn provider(tls: &Tls, draws: &Draws) -> Result<CryptoProvider, TlsError> {
    let ciphers: Option<Vec<Cipher>> = tls.ciphers.iter().map(|n| Cipher::from_suite(*n)).collect();
    let ciphers = ciphers.ok_or(TlsError::Missing("a cipher of the recording"))?;
    let provider = super::provider(&ciphers);
    let group = |number: &u16| {
        let group: &'static Group =
            Box::leak(Box::new(Group(NamedGroup::from(*number), draws.clone())));
        group as &'static dyn SupportedKxGroup
    };
    let algorithms = provider.signature_verification_algorithms;
    let scheme = |number: &u16| {
        let mut all = algorithms.mapping.iter();
        all.find(|(scheme, _)| u16::from(*scheme) == *number)
            .copied()
    };
    let mapping: Option<Vec<_>> = tls.schemes.iter().map(scheme).collect();
    let mapping = mapping.ok_or(TlsError::Missing("a signature scheme of the recording"))?;
    Ok(CryptoProvider {
        kx_groups: tls.groups.iter().map(group).collect(),
        secure_random: Box::leak(Box::new(draws.clone())),
        signature_verification_algorithms: WebPkiSupportedAlgorithms {
            all: algorithms.all,
            mapping: Box::leak(mapping.into_boxed_slice()),
        },
        ..provider
    })
}

/// Our own certificate, and a key that signs as it did.
pub(super) fn key(tls: &Tls, draws: &Draws) -> CertifiedKey {
    CertifiedKey {
        cert: tls.chain.iter().cloned().map(Into::into).collect(),
        key: Arc::new(Key(tls.algorithm.into(), draws.clone())),
        ocsp: None,
    }
}

impl SecureRandom for Draws {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        let bytes = self.next("random bytes", |draw| match draw {
            Draw::Random(bytes) => Ok(bytes),
            other => Err(other),
        });
        buf.fill(0);
        match bytes {
            Some(Some(bytes)) if bytes.len() == buf.len() => buf.copy_from_slice(&bytes),
            Some(Some(_)) => self.differs("TLS asked for another number of random bytes"),
            Some(None) => return Err(GetRandomFailed),
            None => {}
        }
        Ok(())
    }
}

impl TimeProvider for Draws {
    fn current_time(&self) -> Option<UnixTime> {
        let time = self.next("the time", |draw| match draw {
            Draw::Time(time) => Ok(time),
            other => Err(other),
        });
        let seconds = time.unwrap_or(Some(0))?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            seconds,
        )))
    }
}

#[derive(Debug)]
struct Group(NamedGroup, Draws);

impl Group {
    /// A key share that is not in the recording.
    fn nothing(&self) -> Share {
        Share {
            group: self.0.into(),
            public: Octets(NOTHING.to_vec()),
            hybrid: None,
        }
    }

    fn check(&self, share: &Share) {
        if share.group != u16::from(self.0) {
            self.1.differs("TLS chose another group");
        }
    }
}

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let share = self.1.next("a key share", |draw| match draw {
            Draw::Share(share) => Ok(share),
            other => Err(other),
        });
        let share = share.unwrap_or_else(|| Some(self.nothing()));
        let share = share.ok_or_else(failed)?;
        self.check(&share);
        Ok(Box::new(Exchange(share, self.1.clone())))
    }

    fn start_and_complete(&self, peer: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let exchange = self.1.next("a key exchange", |draw| match draw {
            Draw::Exchange(share, completed) => Ok((share, completed)),
            other => Err(other),
        });
        let nothing = || (Some(self.nothing()), no_exchange());
        let (share, completed) = exchange.unwrap_or_else(nothing);
        let secret = self.1.agreed(peer, completed);
        let share = match share {
            Some(share) => share,
            None => return Err(secret.err().unwrap_or_else(failed)),
        };
        self.check(&share);
        Ok(CompletedKeyExchange {
            group: self.0,
            pub_key: share.public.0,
            secret: secret?,
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        self.0
    }
}

struct Exchange(Share, Draws);

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let completed = self.1.next("a shared secret", |draw| match draw {
            Draw::Secret(completed) => Ok(completed),
            other => Err(other),
        });
        self.1.agreed(peer, completed.unwrap_or_else(no_exchange))
    }

    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        let (group, public) = self.0.hybrid.as_ref()?;
        Some((NamedGroup::from(*group), &public.0))
    }

    fn complete_hybrid_component(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let name = "the shared secret of a hybrid's half";
        let completed = self.1.next(name, |draw| match draw {
            Draw::HybridSecret(completed) => Ok(completed),
            other => Err(other),
        });
        self.1.agreed(peer, completed.unwrap_or_else(no_exchange))
    }

    fn pub_key(&self) -> &[u8] {
        &self.0.public.0
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::from(self.0.group)
    }
}

#[derive(Debug)]
struct Key(SignatureAlgorithm, Draws);

impl SigningKey for Key {
    fn choose_scheme(&self, _offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self.1.next("a signature scheme", |draw| match draw {
            Draw::Scheme(scheme) => Ok(scheme),
            other => Err(other),
        });
        let scheme = SignatureScheme::from(scheme.flatten()?);
        Some(Box::new(Pen(scheme, self.1.clone())))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0
    }
}

#[derive(Debug)]
struct Pen(SignatureScheme, Draws);

impl Signer for Pen {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signed = self.1.next("a signature", |draw| match draw {
            Draw::Signature(signed) => Ok(signed),
            other => Err(other),
        });
        let Some(signed) = signed else {
            return Ok(NOTHING.to_vec());
        };
        if signed.message != Digest::of(message) {
            self.1.differs("TLS signs another message");
        }
        Ok(signed.signature.ok_or_else(failed)?.0)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}
