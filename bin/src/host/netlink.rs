//! Requests to the kernel over one blocking rtnetlink socket: acknowledged, answered once, or dumped.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::HostError;

/// How often an interrupted dump is begun again. On a host whose tables change faster than they can be
/// read, an error is better than a snapshot that never existed.
const DUMP_ATTEMPTS: u32 = 20;

/// Bytes of the header that the kernel repeats in front of its explanation, and of an attribute's header.
const NLMSG_HEADER: usize = 16;
const NLA_HEADER: usize = 4;
/// The attribute that carries the kernel's words (`NLMSGERR_ATTR_MSG`).
const ERROR_TEXT: u16 = 1;

/// A refusal by the kernel, before it is known what was being done.
#[derive(Debug)]
pub(super) struct Refused {
    source: io::Error,
    text: Option<String>,
    /// The socket, not the request, is at fault.
    transport: bool,
}

impl Refused {
    /// The error number; 0 if there is none.
    pub(super) fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// Whether what the request named is not there.
    pub(super) fn is_absent(&self) -> bool {
        matches!(
            self.errno(),
            libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL
        )
    }

    /// Whether the kernel does not have the address family at all.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.errno(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
    }

    /// The error for the caller.
    pub(super) fn doing(self, doing: impl Into<String>) -> HostError {
        let doing = doing.into();
        let Self {
            source,
            text,
            transport,
        } = self;
        if transport {
            return HostError::Netlink { doing, source };
        }
        let reason = || text.clone().unwrap_or_else(|| source.to_string());
        match source.raw_os_error() {
            // The kernel answers EACCES, not EPERM, where IPv6 is switched off.
            Some(libc::EACCES) if text.as_deref().is_some_and(|text| text.contains("IPv6")) => {
                HostError::Unsupported {
                    doing,
                    reason: reason(),
                }
            }
            Some(libc::EPERM | libc::EACCES) => HostError::Permission { doing },
            Some(libc::EEXIST) => HostError::Exists { doing },
            Some(libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL) => {
                HostError::NotFound {
                    doing,
                    reason: reason(),
                }
            }
            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => HostError::Unsupported {
                doing,
                reason: reason(),
            },
            _ => HostError::Kernel {
                doing,
                source,
                kernel: text,
            },
        }
    }

    fn transport(source: io::Error) -> Self {
        Self {
            source,
            text: None,
            transport: true,
        }
    }

    fn malformed(what: impl std::fmt::Display) -> Self {
        Self::transport(io::Error::new(io::ErrorKind::InvalidData, what.to_string()))
    }
}

/// The socket. It belongs to the network namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Netlink {
    pub(super) fn open() -> Result<Self, HostError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Without these the kernel only gives the error number; old kernels lack them.
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_ext_ack(true);
            Ok(socket)
        };
        let socket = open().map_err(|source| HostError::Netlink {
            doing: "opening a netlink socket".into(),
            source,
        })?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::new(),
        })
    }

    /// Sends a change and waits for the kernel to accept or refuse it.
    pub(super) fn change(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), Refused> {
        self.send(message, NLM_F_ACK | flags)?;
        loop {
            for reply in self.receive()? {
                if let NetlinkPayload::Error(error) = reply.payload {
                    return match error.code {
                        None => Ok(()),
                        Some(code) => Err(refusal(code.get(), &error.header)),
                    };
                }
            }
        }
    }

    /// Asks for one thing.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, Refused> {
        self.send(message, 0)?;
        loop {
            for reply in self.receive()? {
                match reply.payload {
                    NetlinkPayload::InnerMessage(inner) => return Ok(inner),
                    NetlinkPayload::Error(error) => {
                        let code = error.code.map_or(0, std::num::NonZero::get);
                        return Err(refusal(code, &error.header));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Asks for all things of a kind: a consistent snapshot.
    pub(super) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Refused> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(things) = self.dump_once(message.clone())? {
                return Ok(things);
            }
        }
        Err(Refused::transport(io::Error::new(
            io::ErrorKind::Interrupted,
            "the tables changed during every attempt to read them",
        )))
    }

    fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, Refused> {
        self.send(message, NLM_F_DUMP)?;
        let mut things = Vec::new();
        let mut interrupted = false;
        loop {
            for reply in self.receive()? {
                interrupted |= reply.header.flags & NLM_F_DUMP_INTR != 0;
                match reply.payload {
                    NetlinkPayload::InnerMessage(inner) => things.push(inner),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(refusal(done.code, &[]));
                    }
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(things)),
                    NetlinkPayload::Error(error) => {
                        let code = error.code.map_or(0, std::num::NonZero::get);
                        return Err(refusal(code, &error.header));
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Refused> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let sent = retry(|| self.socket.send(&bytes, 0)).map_err(Refused::transport)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(Refused::malformed("the request was cut short"))
        }
    }

    /// The messages of one datagram that answer the latest request. What an earlier, abandoned one left is skipped.
    fn receive(&mut self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, Refused> {
        let Self { socket, buffer, .. } = self;
        buffer.clear();
        // A first look tells the length, whatever it is; the kernel says it only when asked so.
        let length = retry(|| socket.recv(buffer, libc::MSG_PEEK | libc::MSG_TRUNC))
            .map_err(Refused::transport)?;
        buffer.clear();
        buffer.reserve(length);
        retry(|| socket.recv(buffer, 0)).map_err(Refused::transport)?;

        let mut rest = self.buffer.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let header = NetlinkBuffer::new_checked(rest).map_err(Refused::malformed)?;
            // Each message is padded to a multiple of four bytes, save perhaps the last.
            let length = usize::try_from(header.length()).unwrap_or(usize::MAX);
            let padded = length.saturating_add(3) & !3;
            if header.sequence_number() == self.sequence {
                match NetlinkMessage::deserialize(rest) {
                    Ok(message) => messages.push(message),
                    // One exotic link must not hide all the others.
                    Err(error) => tracing::debug!(%error, "a netlink message could not be read"),
                }
            }
            rest = rest.get(padded..).unwrap_or_default();
        }
        Ok(messages)
    }
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// `tail` is the request's header, then attributes.
fn refusal(code: i32, tail: &[u8]) -> Refused {
    Refused {
        source: io::Error::from_raw_os_error(code.saturating_abs()),
        text: explanation(tail.get(NLMSG_HEADER..).unwrap_or_default()),
        transport: false,
    }
}

fn explanation(mut attributes: &[u8]) -> Option<String> {
    while let [l0, l1, k0, k1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(NLA_HEADER..length)?;
        if u16::from_ne_bytes([k0, k1]) == ERROR_TEXT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get((length + 3) & !3..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(NLA_HEADER + value.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_kernels_words_are_found_behind_other_attributes() {
        let mut tail = vec![0; NLMSG_HEADER];
        tail.extend(attribute(2, &[1, 2, 3, 4]));
        tail.extend(attribute(ERROR_TEXT, b"Device does not exist\0"));
        let refused = refusal(-libc::ENODEV, &tail);
        assert_eq!(refused.text.as_deref(), Some("Device does not exist"));
        assert!(refused.is_absent());
    }

    #[test]
    fn a_truncated_explanation_is_none() {
        let whole = attribute(ERROR_TEXT, b"text");
        for end in 0..whole.len() {
            assert_eq!(explanation(&whole[..end]), None, "{end}");
        }
        assert_eq!(explanation(&[0; 8]), None, "a length of nothing");
    }

    #[test]
    fn each_error_number_becomes_its_own_kind() {
        let kind = |errno: i32| refusal(-errno, &[]).doing("trying");
        assert!(matches!(kind(libc::EPERM), HostError::Permission { .. }));
        assert!(kind(libc::EPERM).is_permission());
        assert!(matches!(kind(libc::EEXIST), HostError::Exists { .. }));
        assert!(kind(libc::ESRCH).is_not_found());
        assert!(kind(libc::ENODEV).is_not_found());
        assert!(matches!(
            kind(libc::EAFNOSUPPORT),
            HostError::Unsupported { .. }
        ));
        let other = kind(libc::ENETDOWN).to_string();
        assert!(
            other.contains("trying") && other.contains("down"),
            "{other}"
        );
    }
}
