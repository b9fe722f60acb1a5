//! Keys that only check.

use bytes::BytesMut;
use quinn_proto::crypto::{
    AeadKey, CryptoError, HandshakeTokenKey, HeaderKey, HmacKey, KeyPair, Keys, PacketKey,
};
use quinn_proto::{ConnectionId, Side};

/// The bytes a packet grows by, as with every TLS 1.3 suite.
pub const TAG_LEN: usize = 16;

/// The level a packet is protected at (RFC 9001 §2.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Level {
    /// Initial packets; the secret is the client's first destination connection ID.
    Initial,
    /// Handshake packets.
    Handshake,
    /// 1-RTT packets.
    Data,
}

/// 16 bytes that depend on every bit of `parts` and on where one part ends. Not cryptographic: a
/// single changed word is always seen, and anyone can compute it.
#[must_use]
pub fn tag(parts: &[&[u8]]) -> [u8; TAG_LEN] {
    let mut lanes = [0x243f_6a88_85a3_08d3_u64, 0x1319_8a2e_0370_7344];
    for part in parts {
        let (words, rest) = part.as_chunks::<8>();
        for word in words {
            mix(&mut lanes, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(&mut lanes, u64::from_le_bytes(last));
        mix(&mut lanes, part.len() as u64);
    }
    let mut out = [0; TAG_LEN];
    out[..8].copy_from_slice(&lanes[0].to_le_bytes());
    out[8..].copy_from_slice(&lanes[1].to_le_bytes());
    out
}

/// A tag that every receiver takes for good, whatever its keys: so a laboratory changes packets on
/// their way.
#[must_use]
pub fn forged_tag(header: &[u8], payload: &[u8]) -> [u8; TAG_LEN] {
    tag(&[b"forged", header, payload])
}

/// Each lane's step is a bijection of lane and of word: a difference once made never vanishes by
/// equal input.
fn mix(lanes: &mut [u64; 2], word: u64) {
    lanes[0] = (lanes[0] ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    lanes[0] ^= lanes[0] >> 29;
    lanes[1] = (lanes[1] ^ word.rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    lanes[1] ^= lanes[1] >> 32;
}

/// Changes the frames of a 1-RTT packet in place before its checksum is made: so a peer says what its
/// QUIC never would.
pub type Rewrite = fn(&mut [u8]);

/// The checksum over one direction of one level of one connection, in one key phase.
#[derive(Clone, Copy)]
pub(super) struct NullPacketKey {
    secret: [u8; TAG_LEN],
    rewrite: Option<Rewrite>,
}

impl NullPacketKey {
    pub(super) fn new(secret: &[u8], level: Level, sender: Side, phase: u64) -> Self {
        let kind = [level as u8, u8::from(sender.is_client())];
        Self {
            secret: tag(&[secret, &kind, &phase.to_le_bytes()]),
            rewrite: None,
        }
    }

    fn tag(&self, packet: u64, header: &[u8], payload: &[u8]) -> [u8; TAG_LEN] {
        tag(&[&self.secret, &packet.to_le_bytes(), header, payload])
    }
}

impl PacketKey for NullPacketKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let (body, place) = buf.split_at_mut(buf.len() - TAG_LEN);
        let (header, payload) = body.split_at_mut(header_len);
        if let Some(rewrite) = self.rewrite {
            rewrite(payload);
        }
        place.copy_from_slice(&self.tag(packet, header, payload));
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        let length = payload.len().checked_sub(TAG_LEN).ok_or(CryptoError)?;
        let (body, found) = payload.split_at(length);
        if self.tag(packet, header, body) != *found && forged_tag(header, body) != *found {
            return Err(CryptoError);
        }
        payload.truncate(length);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    // The limits of AES-128-GCM (RFC 9001 §6.6), so that QUIC updates keys as often as with TLS.
    fn confidentiality_limit(&self) -> u64 {
        1 << 23
    }

    fn integrity_limit(&self) -> u64 {
        1 << 52
    }
}

/// Header protection that changes nothing.
struct NullHeaderKey;

impl HeaderKey for NullHeaderKey {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    // As with TLS, so that the smallest packet has the same size.
    fn sample_size(&self) -> usize {
        16
    }
}

pub(super) fn packet_keys(
    secret: &[u8],
    level: Level,
    side: Side,
    phase: u64,
    rewrite: Option<Rewrite>,
) -> KeyPair<Box<dyn PacketKey>> {
    let local = NullPacketKey::new(secret, level, side, phase);
    KeyPair {
        local: Box::new(NullPacketKey { rewrite, ..local }),
        remote: Box::new(NullPacketKey::new(secret, level, !side, phase)),
    }
}

pub(super) fn keys(secret: &[u8], level: Level, side: Side, rewrite: Option<Rewrite>) -> Keys {
    Keys {
        header: KeyPair {
            local: Box::new(NullHeaderKey),
            remote: Box::new(NullHeaderKey),
        },
        packet: packet_keys(secret, level, side, 0, rewrite),
    }
}

pub(super) fn initial_keys(dst_cid: &ConnectionId, side: Side) -> Keys {
    keys(dst_cid, Level::Initial, side, None)
}

/// The integrity tag of a Retry packet given in pieces (RFC 9001 §5.8).
pub(super) fn retry_tag(orig_dst_cid: &ConnectionId, packet: &[&[u8]]) -> [u8; TAG_LEN] {
    tag(&[b"retry", orig_dst_cid, &packet.concat()])
}

/// A stateless reset key without cryptography.
#[derive(Clone, Debug)]
pub struct NullHmac(pub [u8; 32]);

impl HmacKey for NullHmac {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let first = tag(&[&self.0, b"hmac 0", data]);
        let second = tag(&[&self.0, b"hmac 1", data]);
        let both = first.iter().chain(&second);
        for (out, byte) in signature_out.iter_mut().zip(both) {
            *out = *byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = [0; 32];
        self.sign(data, &mut expected);
        if signature == expected {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

/// A key for Retry and validation tokens without cryptography.
#[derive(Clone, Debug)]
pub struct NullTokenKey(pub [u8; 32]);

impl HandshakeTokenKey for NullTokenKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(NullAead(tag(&[&self.0, b"token", random_bytes])))
    }
}

/// Appends and checks a tag.
#[derive(Clone, Debug)]
pub struct NullAead([u8; TAG_LEN]);

impl AeadKey for NullAead {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let tag = tag(&[&self.0, additional_data, data]);
        data.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(
        &self,
        data: &'a mut [u8],
        additional_data: &[u8],
    ) -> Result<&'a mut [u8], CryptoError> {
        let length = data.len().checked_sub(TAG_LEN).ok_or(CryptoError)?;
        let (body, found) = data.split_at_mut(length);
        if tag(&[&self.0, additional_data, body]) == *found {
            Ok(body)
        } else {
            Err(CryptoError)
        }
    }
}
