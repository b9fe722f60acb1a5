//! Handover tokens: what a client shows on a new connection to go on with a tunnel of an old one.
//!
//! A response header field carries it to the client, and a request header field back: both sides
//! ignore fields they do not know (RFC 9110 §5.1), it costs no capsule type, and it is there when the
//! decision about the request is made. A token is worth nothing without the identity it was given to.

use std::collections::BTreeMap;

use rand_core::Rng;

use super::types::{Identity, TunnelHandle};

/// The private field that carries a token.
pub(super) const FIELD: &str = "masque-handover";

/// An unguessable name of one tunnel, good for one handover.
#[derive(Clone)]
pub(super) struct Token([u8; 16]);

/// Not told: whoever reads a trace must not be able to use it.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Reads a field's value: 32 hexadecimal digits in lower case, and nothing else.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let digits: &[u8; 32] = value.try_into().ok()?;
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    pub(super) fn to_field(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes as long whatever differs, and wherever.
    fn equals(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        let difference = pairs.fold(0, |all, (one, other)| all | (one ^ other));
        std::hint::black_box(difference) == 0
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// The tokens given out, by whom they were given to: another identity's are not even compared.
#[derive(Default)]
pub(super) struct Tokens(BTreeMap<Identity, Vec<(Token, TunnelHandle)>>);

impl Tokens {
    pub(super) fn issue(&mut self, identity: &Identity, token: Token, tunnel: TunnelHandle) {
        let of_identity = self.0.entry(identity.clone()).or_default();
        of_identity.reserve_exact(1);
        of_identity.push((token, tunnel));
    }

    /// Whose token this is, which is then used up.
    pub(super) fn redeem(&mut self, identity: &Identity, token: &Token) -> Option<TunnelHandle> {
        let of_identity = self.0.get(identity)?;
        // All are compared: how long it takes says nothing about which it was.
        let found = of_identity.iter().fold(None, |found, (known, tunnel)| {
            if known.equals(token) {
                Some(*tunnel)
            } else {
                found
            }
        })?;
        self.withdraw(identity, found);
        Some(found)
    }

    /// A tunnel has ended: its token with it.
    pub(super) fn withdraw(&mut self, identity: &Identity, tunnel: TunnelHandle) {
        if let Some(of_identity) = self.0.get_mut(identity) {
            of_identity.retain(|(_, of)| *of != tunnel);
            if of_identity.is_empty() {
                self.0.remove(identity);
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::types::ConnId;
    use super::*;
    use crate::session::TunnelId;
    use crate::wire::fields::FieldList;

    fn tunnel(conn: u64) -> TunnelHandle {
        TunnelHandle {
            conn: ConnId(conn),
            tunnel: TunnelId(0),
        }
    }

    #[test]
    fn the_field_that_carries_a_token_is_kept_out_of_traces() {
        let mut fields = FieldList::default();
        fields.push(FIELD, Token([7; 16]).to_field());
        assert!(fields.0[0].is_secret());
    }

    proptest! {
        #[test]
        fn a_field_carries_a_token_and_nothing_else_is_one(bytes: [u8; 16], other: Vec<u8>) {
            let token = Token(bytes);
            let back = Token::parse(token.to_field().as_bytes()).expect("our own");
            prop_assert!(back.equals(&token));
            if let Some(parsed) = Token::parse(&other) {
                prop_assert_eq!(parsed.to_field().into_bytes(), other);
            }
        }

        #[test]
        fn a_changed_bit_makes_another_token(bytes: [u8; 16], bit in 0..128_usize) {
            let mut changed = bytes;
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!Token(bytes).equals(&Token(changed)));
        }

        #[test]
        fn a_token_is_good_once_for_its_own_identity_and_tunnel(
            given in prop::collection::vec((0..3_u8, 0..8_u64), 0..20),
            shown in prop::collection::vec((0..3_u8, 0..20_usize), 0..40),
            ended in prop::collection::vec((0..3_u8, 0..8_u64), 0..5),
        ) {
            let name = |number: u8| Identity(number.to_string());
            let token = |at: usize| Token([u8::try_from(at).unwrap_or(255); 16]);
            let mut tokens = Tokens::default();
            let mut model = BTreeMap::new();
            for (at, (identity, conn)) in given.iter().enumerate() {
                tokens.issue(&name(*identity), token(at), tunnel(*conn));
                model.insert(at, (*identity, *conn));
            }
            for (identity, conn) in ended {
                tokens.withdraw(&name(identity), tunnel(conn));
                model.retain(|_, of| *of != (identity, conn));
            }
            for (identity, at) in shown {
                let expected = model.get(&at).filter(|(owner, _)| *owner == identity).copied();
                let got = tokens.redeem(&name(identity), &token(at));
                prop_assert_eq!(got, expected.map(|(_, conn)| tunnel(conn)));
                if let Some(used) = expected {
                    model.retain(|_, of| *of != used);
                }
            }
            prop_assert_eq!(tokens.len(), model.len());
        }
    }
}
