//! The handshake of null crypto.
//!
//! | side | state | reads | writes | new keys |
//! |---|---|---|---|---|
//! | client | `SendHello` | | client hello | |
//! | client | `AwaitHello` | server hello | | |
//! | client | `TakeHandshakeKeys` | | | Handshake |
//! | client | `AwaitFinished` | parameters, finished | | |
//! | client | `SendFinished` | | finished | 1-RTT |
//! | server | `AwaitHello` | client hello | | |
//! | server | `SendHello` | | server hello | Handshake |
//! | server | `SendFinished` | | parameters, finished | 1-RTT |
//! | server | `AwaitFinished` | finished | | |
//! | both | `Done` | | | |

use std::any::Any;

use masque_core::endpoint::{Identity, PeerIdentity};
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};

use super::keys::{self, Level, Rewrite, TAG_LEN, packet_keys, retry_tag, tag};
use crate::crypto::ALPN;

/// TLS alerts (RFC 8446 §6), which QUIC carries in its error codes.
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_CERTIFICATE: u8 = 42;
const DECODE_ERROR: u8 = 50;
const DECRYPT_ERROR: u8 = 51;
const CERTIFICATE_REQUIRED: u8 = 116;

/// Handshake message types; TLS's numbers.
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const PARAMETERS: u8 = 8;
const FINISHED: u8 = 20;

/// More than any hello needs.
const MAX_MESSAGE: usize = 16 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    SendHello,
    AwaitHello,
    TakeHandshakeKeys,
    AwaitFinished,
    SendFinished,
    Done,
}

pub(super) struct NullSession {
    side: Side,
    state: State,
    /// The name of the server: wanted by a client, owned by a server.
    name: String,
    require_identity: bool,
    own_identity: Option<Identity>,
    own_params: Vec<u8>,
    peer_identity: Option<Identity>,
    peer_params: Option<TransportParameters>,
    peer_server_name: Option<String>,
    /// Handshake bytes that are no whole message yet.
    input: Vec<u8>,
    /// A checksum over all messages so far.
    transcript: [u8; TAG_LEN],
    /// What the keys after Initial come from: the transcript of both hellos.
    secret: [u8; TAG_LEN],
    phase: u64,
    rewrite: Option<Rewrite>,
}

impl NullSession {
    pub(super) fn client(
        server_name: &str,
        identity: Option<Identity>,
        rewrite: Option<Rewrite>,
        params: &TransportParameters,
    ) -> Self {
        Self {
            own_identity: identity,
            rewrite,
            ..Self::new(Side::Client, State::SendHello, server_name, params)
        }
    }

    pub(super) fn server(name: &str, require_identity: bool, params: &TransportParameters) -> Self {
        Self {
            require_identity,
            ..Self::new(Side::Server, State::AwaitHello, name, params)
        }
    }

    fn new(side: Side, state: State, name: &str, params: &TransportParameters) -> Self {
        let mut own_params = Vec::new();
        params.write(&mut own_params);
        Self {
            side,
            state,
            name: name.to_owned(),
            require_identity: false,
            own_identity: None,
            own_params,
            peer_identity: None,
            peer_params: None,
            peer_server_name: None,
            input: Vec::new(),
            transcript: [0; TAG_LEN],
            secret: [0; TAG_LEN],
            phase: 0,
            rewrite: None,
        }
    }

    fn write_message(&mut self, buf: &mut Vec<u8>, ty: u8, body: &[u8]) {
        self.record(ty, body);
        let length = u32::try_from(body.len()).expect("own messages are a few hundred bytes");
        buf.push(ty);
        buf.extend_from_slice(&length.to_be_bytes()[1..]);
        buf.extend_from_slice(body);
    }

    fn record(&mut self, ty: u8, body: &[u8]) {
        self.transcript = tag(&[&self.transcript, &[ty], body]);
    }

    /// The first whole message of the input, taken out of it.
    fn next_message(&mut self) -> Result<Option<(u8, Vec<u8>)>, TransportError> {
        let Some(&[ty, a, b, c]) = self.input.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MAX_MESSAGE {
            return Err(alert(DECODE_ERROR, "message too long"));
        }
        if self.input.len() < 4 + length {
            return Ok(None);
        }
        let body = self.input[4..4 + length].to_vec();
        self.input.drain(..4 + length);
        Ok(Some((ty, body)))
    }

    fn handle_message(&mut self, ty: u8, body: &[u8]) -> Result<(), TransportError> {
        match (self.side, self.state, ty) {
            (Side::Server, State::AwaitHello, CLIENT_HELLO) => {
                let mut rest = body;
                let server_name = take_string(&mut rest)?;
                let identity = take_string(&mut rest)?;
                if identity.is_empty() && self.require_identity {
                    return Err(alert(CERTIFICATE_REQUIRED, "no identity"));
                }
                self.peer_server_name = Some(server_name);
                self.peer_identity = (!identity.is_empty()).then_some(Identity(identity));
                self.peer_params = Some(TransportParameters::read(self.side, &mut rest)?);
                self.record(ty, body);
                self.state = State::SendHello;
            }
            (Side::Client, State::AwaitHello, SERVER_HELLO) => {
                self.record(ty, body);
                self.secret = self.transcript;
                self.state = State::TakeHandshakeKeys;
            }
            (Side::Client, State::AwaitFinished, PARAMETERS) if self.peer_params.is_none() => {
                let mut rest = body;
                let name = take_string(&mut rest)?;
                if name != self.name {
                    return Err(alert(BAD_CERTIFICATE, "another server name"));
                }
                self.peer_params = Some(TransportParameters::read(self.side, &mut rest)?);
                self.record(ty, body);
            }
            (Side::Client, State::AwaitFinished, FINISHED) if self.peer_params.is_some() => {
                self.check_finished(body)?;
                self.state = State::SendFinished;
            }
            (Side::Server, State::AwaitFinished, FINISHED) => {
                self.check_finished(body)?;
                self.state = State::Done;
            }
            _ => return Err(alert(UNEXPECTED_MESSAGE, "unexpected message")),
        }
        Ok(())
    }

    fn check_finished(&mut self, body: &[u8]) -> Result<(), TransportError> {
        if body != self.transcript {
            return Err(alert(DECRYPT_ERROR, "transcripts differ"));
        }
        self.record(FINISHED, body);
        Ok(())
    }

    fn data_keys(&self) -> Keys {
        keys::keys(&self.secret, Level::Data, self.side, self.rewrite)
    }

    fn write_finished(&mut self, buf: &mut Vec<u8>) {
        let body = self.transcript;
        self.write_message(buf, FINISHED, &body);
    }
}

impl crypto::Session for NullSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        keys::initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.peer_params.as_ref()?;
        Some(Box::new(HandshakeData {
            protocol: Some(ALPN.to_vec()),
            server_name: self.peer_server_name.clone(),
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let identity = self.peer_identity.clone()?;
        Some(Box::new(PeerIdentity { identity }))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.side.is_client().then_some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.state != State::Done
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let known = self.peer_params.is_some();
        self.input.extend_from_slice(buf);
        while let Some((ty, body)) = self.next_message()? {
            self.handle_message(ty, &body)?;
        }
        Ok(!known && self.peer_params.is_some())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.peer_params)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        match (self.side, self.state) {
            (Side::Client, State::SendHello) => {
                let mut body = Vec::new();
                put_string(&mut body, &self.name);
                let identity = self.own_identity.as_ref();
                put_string(&mut body, identity.map_or("", |identity| &identity.0));
                body.extend_from_slice(&self.own_params);
                self.write_message(buf, CLIENT_HELLO, &body);
                self.state = State::AwaitHello;
                None
            }
            (Side::Client, State::TakeHandshakeKeys) => {
                self.state = State::AwaitFinished;
                Some(keys::keys(&self.secret, Level::Handshake, self.side, None))
            }
            (Side::Client, State::SendFinished) => {
                self.write_finished(buf);
                self.state = State::Done;
                Some(self.data_keys())
            }
            (Side::Server, State::SendHello) => {
                // Stands for the server's random: differs between connections as its parameters do.
                let random = tag(&[b"server random", &self.own_params]);
                self.write_message(buf, SERVER_HELLO, &random);
                self.secret = self.transcript;
                self.state = State::SendFinished;
                Some(keys::keys(&self.secret, Level::Handshake, self.side, None))
            }
            (Side::Server, State::SendFinished) => {
                let mut body = Vec::new();
                put_string(&mut body, &self.name);
                body.extend_from_slice(&self.own_params);
                self.write_message(buf, PARAMETERS, &body);
                self.write_finished(buf);
                self.state = State::AwaitFinished;
                Some(self.data_keys())
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.phase += 1;
        Some(packet_keys(
            &self.secret,
            Level::Data,
            self.side,
            self.phase,
            self.rewrite,
        ))
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some((token, found)) = payload.split_last_chunk::<TAG_LEN>() else {
            return false;
        };
        retry_tag(orig_dst_cid, &[header, token]) == *found
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        for (index, chunk) in output.chunks_mut(TAG_LEN).enumerate() {
            let counter = (index as u64).to_le_bytes();
            let block = tag(&[&self.secret, label, context, &counter]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        Ok(())
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("names are shorter than 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn take_string(input: &mut &[u8]) -> Result<String, TransportError> {
    let cut = || alert(DECODE_ERROR, "string cut");
    let (length, rest) = input.split_first_chunk::<2>().ok_or_else(cut)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (text, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
    *input = rest;
    String::from_utf8(text.to_vec()).map_err(|_| alert(DECODE_ERROR, "string not UTF-8"))
}

fn alert(code: u8, reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(code),
        frame: None,
        reason: reason.to_owned(),
    }
}
