//! A packet described, and written out slowly and obviously, without any code of masque-core's.

use arbitrary::{Result, Unstructured};

/// The flags of TCP (RFC 9293 §3.1).
pub(super) const FIN: u8 = 0x01;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const CWR: u8 = 0x80;

/// The fields of the virtio-net header.
pub(super) const NEEDS_CSUM: u8 = 1;
pub(super) const GSO_TCPV4: u8 = 1;
pub(super) const GSO_TCPV6: u8 = 4;
pub(super) const GSO_UDP: u8 = 5;

/// RFC 1071, word by word.
pub(super) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or_default());
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// One TCP or UDP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) v4: bool,
    pub(super) tcp: bool,
    pub(super) host: u8,
    pub(super) port: u8,
    pub(super) traffic_class: u8,
    pub(super) flow_label: u16,
    pub(super) hop_limit: u8,
    pub(super) identification: u16,
    pub(super) dont_fragment: bool,
    /// IPv4: words of options.
    pub(super) ip_options: Vec<u8>,
    /// IPv6: destination options headers, each of so many times eight bytes.
    pub(super) extensions: Vec<u8>,
    /// IPv6: a routing header that has not been used up, so that another destination counts.
    pub(super) routed: bool,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    /// The bits beside the data offset.
    pub(super) reserved: u8,
    pub(super) tcp_flags: u8,
    pub(super) window: u16,
    pub(super) urgent: u16,
    pub(super) tcp_options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Packet {
    /// One that may be coalesced, with `payload` still to be set.
    pub(super) fn plain(v4: bool, tcp: bool, host: u8, port: u8) -> Self {
        Self {
            v4,
            tcp,
            host,
            port,
            traffic_class: 0,
            flow_label: 0,
            hop_limit: 64,
            identification: 7,
            dont_fragment: true,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            routed: false,
            sequence: 1000,
            acknowledgment: 9,
            reserved: 0,
            tcp_flags: ACK,
            window: 500,
            urgent: 0,
            tcp_options: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// Any headers; those that coalesce have no options, extension headers or odd flags.
    pub(super) fn headers(bytes: &mut Unstructured<'_>, coalesces: bool) -> Result<Self> {
        let [v4, tcp, dont_fragment] = bytes.arbitrary()?;
        let mut packet = Self {
            traffic_class: bytes.arbitrary()?,
            flow_label: bytes.arbitrary()?,
            hop_limit: bytes.arbitrary()?,
            identification: bytes.arbitrary()?,
            dont_fragment,
            sequence: bytes.arbitrary()?,
            acknowledgment: bytes.arbitrary()?,
            reserved: bytes.int_in_range(0..=15)?,
            window: bytes.arbitrary()?,
            urgent: bytes.arbitrary()?,
            ..Self::plain(v4, tcp, 1, 80)
        };
        packet.tcp_options = words(bytes)?;
        packet.tcp_flags = if coalesces {
            ACK | if bytes.arbitrary()? { PSH } else { 0 }
        } else {
            packet.ip_options = words(bytes)?;
            for _ in 0..bytes.int_in_range(0..=3)? {
                packet.extensions.push(bytes.int_in_range(1..=4)?);
            }
            packet.routed = bytes.arbitrary()?;
            bytes.arbitrary()?
        };
        Ok(packet)
    }

    /// Bytes of IP header, options and extension headers.
    pub(super) fn network_len(&self) -> usize {
        if self.v4 {
            return 20 + self.ip_options.len();
        }
        let extensions = self.extensions.iter().map(|units| usize::from(*units) * 8);
        40 + extensions.sum::<usize>() + if self.routed { 24 } else { 0 }
    }

    pub(super) fn transport_len(&self) -> usize {
        if self.tcp {
            20 + self.tcp_options.len()
        } else {
            8
        }
    }

    pub(super) fn header_len(&self) -> usize {
        self.network_len() + self.transport_len()
    }

    fn protocol(&self) -> u8 {
        if self.tcp { 6 } else { 17 }
    }

    fn source(&self) -> Vec<u8> {
        match self.v4 {
            true => vec![192, 0, 2, self.host],
            false => vec![0x20 + self.host; 16],
        }
    }

    fn destination(&self) -> Vec<u8> {
        match self.v4 {
            true => vec![198, 51, 100, 2],
            false => vec![0x31; 16],
        }
    }

    /// Where the packet is going in the end (RFC 8200 §8.1).
    fn last_destination(&self) -> Vec<u8> {
        match self.routed && !self.v4 {
            true => vec![0x42; 16],
            false => self.destination(),
        }
    }

    fn network(&self, behind: usize) -> Vec<u8> {
        let length = behind + self.network_len();
        if self.v4 {
            let mut header = vec![
                0x40 | (self.network_len() / 4) as u8,
                self.traffic_class,
                (length >> 8) as u8,
                length as u8,
                (self.identification >> 8) as u8,
                self.identification as u8,
                if self.dont_fragment { 0x40 } else { 0 },
                0,
                self.hop_limit,
                self.protocol(),
                0,
                0,
            ];
            header.extend(self.source());
            header.extend(self.destination());
            header.extend(&self.ip_options);
            let checksum = !slow_sum(&header);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            return header;
        }
        let mut chain: Vec<(u8, Vec<u8>)> = self
            .extensions
            .iter()
            .map(|units| (60, vec![0; usize::from(*units) * 8]))
            .collect();
        if self.routed {
            let mut routing = vec![0, 2, 2, 1, 0, 0, 0, 0];
            routing.extend(self.last_destination());
            chain.push((43, routing));
        }
        let payload = length - 40;
        let first = chain.first().map_or(self.protocol(), |(kind, _)| *kind);
        let mut header = vec![
            0x60 | self.traffic_class >> 4,
            self.traffic_class << 4,
            (self.flow_label >> 8) as u8,
            self.flow_label as u8,
            (payload >> 8) as u8,
            payload as u8,
            first,
            self.hop_limit,
        ];
        header.extend(self.source());
        header.extend(self.destination());
        for at in 0..chain.len() {
            let next = chain.get(at + 1).map_or(self.protocol(), |(kind, _)| *kind);
            let (kind, mut body) = chain[at].clone();
            body[0] = next;
            if kind == 60 {
                // One PadN option fills it (RFC 8200 §4.2).
                body[1] = (body.len() / 8 - 1) as u8;
                body[2] = 1;
                body[3] = (body.len() - 4) as u8;
            }
            header.extend(body);
        }
        header
    }

    /// The transport header, its checksum zero.
    fn transport(&self) -> Vec<u8> {
        let mut header = vec![0x1f, 0x90, 0, self.port];
        if self.tcp {
            header.extend(self.sequence.to_be_bytes());
            header.extend(self.acknowledgment.to_be_bytes());
            let words = self.transport_len() / 4;
            header.extend([(words << 4) as u8 | self.reserved, self.tcp_flags]);
            header.extend(self.window.to_be_bytes());
            header.extend([0, 0]);
            header.extend(self.urgent.to_be_bytes());
            header.extend(&self.tcp_options);
        } else {
            header.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            header.extend([0, 0]);
        }
        header
    }

    fn pseudo_header(&self) -> Vec<u8> {
        let length = (self.transport_len() + self.payload.len()) as u32;
        let mut bytes = self.source();
        bytes.extend(self.last_destination());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, self.protocol()]);
        bytes
    }

    fn with_checksum(&self, checksum: u16) -> Vec<u8> {
        let mut transport = self.transport();
        let at = if self.tcp { 16 } else { 6 };
        transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        let behind = transport.len() + self.payload.len();
        [self.network(behind), transport, self.payload.clone()].concat()
    }

    /// As it goes over the wire.
    pub(super) fn on_wire(&self) -> Vec<u8> {
        let all = [self.pseudo_header(), self.transport(), self.payload.clone()].concat();
        match !slow_sum(&all) {
            0 if !self.tcp => self.with_checksum(0xffff),
            checksum => self.with_checksum(checksum),
        }
    }

    /// As a device gives it, its checksum partial.
    pub(super) fn partial(&self) -> Vec<u8> {
        self.with_checksum(slow_sum(&self.pseudo_header()))
    }

    /// The segments of `size` bytes of payload.
    pub(super) fn split(&self, size: usize) -> Vec<Self> {
        let mut parts: Vec<&[u8]> = self.payload.chunks(size).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let segment = |(nth, payload): (usize, &&[u8])| {
            let mut part = self.clone();
            part.payload = payload.to_vec();
            part.identification = self.identification.wrapping_add(nth as u16);
            part.sequence = self.sequence.wrapping_add((nth * size) as u32);
            if nth != last {
                part.tcp_flags &= !(FIN | PSH);
            }
            if nth != 0 {
                part.tcp_flags &= !CWR;
            }
            part
        };
        parts.iter().enumerate().map(segment).collect()
    }
}

/// Up to ten words.
fn words(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = bytes.int_in_range(0..=10)?;
    Ok(bytes.bytes(count * 4)?.to_vec())
}

/// A payload of up to `most` bytes that takes few bytes to describe.
pub(super) fn payload(bytes: &mut Unstructured<'_>, most: usize) -> Result<Vec<u8>> {
    let (length, first, step): (u16, u8, u8) = bytes.arbitrary()?;
    let length = usize::from(length).min(most);
    Ok((0..length)
        .map(|at| (at as u8).wrapping_mul(step).wrapping_add(first))
        .collect())
}
