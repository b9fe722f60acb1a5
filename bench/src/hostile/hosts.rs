//! Floods, and what the hosts behind the server send.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use masque_core::wire::offload::VnetHdr;

use super::kernel::{Batch, Kernel};
use super::peer::{HOST, MTU, Peer, udp};
use crate::pipeline::{Traffic, Workload};

/// So many datagrams arrive at a time, as if the sender used GSO or the network card GRO.
const AT_ONCE: usize = 16;
/// Segments by which a window grows in a round trip: as Cubic recovers from a loss on such paths,
/// within the tenths of a second that are looked at.
const GROWTH: f64 = 16.0;
/// Segments in a super-packet of a download.
const SEGMENTS: u32 = 8;

/// Something that comes at a steady rate, whatever becomes of it.
pub(super) struct Flood {
    pub(super) next: Instant,
    each: Duration,
    what: What,
    nth: u32,
}

enum What {
    /// The same batch from the same address.
    Datagrams(SocketAddr, usize, Vec<u8>),
    /// Noise from everywhere.
    Noise,
    /// Each packet once, from everywhere.
    Initials(Vec<Vec<u8>>),
    /// Packets for the device.
    Packets(Vec<u8>),
}

impl Flood {
    /// `peer` sends its last datagram again and again.
    pub(super) fn replay(peer: &mut Peer, now: Instant, rate: u64) -> Self {
        let packet = peer
            .inner
            .map(|inner| udp(inner, HOST, &[0x5a; MTU - 28]))
            .unwrap_or_default();
        let port = masque_core::endpoint::PortId(0);
        let _ = peer
            .endpoint
            .handle_tun(now, port, VnetHdr::default(), &packet);
        let (stride, one) = peer.transmit(now).unwrap_or((1200, vec![0x40; 1200]));
        let data = one.repeat(AT_ONCE);
        Self::new(
            now,
            rate,
            data.len(),
            What::Datagrams(peer.address, stride, data),
        )
    }

    pub(super) fn noise(now: Instant, per_second: u64) -> Self {
        Self::new(now, per_second * 8, 1, What::Noise)
    }

    pub(super) fn initials(packets: Vec<Vec<u8>>, now: Instant, per_second: u32) -> Self {
        let rate = u64::from(per_second) * 8;
        Self::new(now, rate, 1, What::Initials(packets))
    }

    /// To `inner`, in packets of the tunnel's MTU.
    pub(super) fn hosts(inner: Ipv4Addr, now: Instant, per_second: u64) -> Self {
        let packet = udp(HOST, inner, &[0x5a; MTU - 28]);
        Self::new(now, per_second * 8, 1, What::Packets(packet))
    }

    fn new(now: Instant, rate: u64, bytes: usize, what: What) -> Self {
        Self {
            next: now,
            each: Duration::from_nanos(bytes as u64 * 8_000_000_000 / rate.max(1)),
            what,
            nth: 0,
        }
    }

    pub(super) fn run(&mut self, until: Instant, kernel: &mut Kernel) {
        while self.next <= until {
            self.next += self.each.max(Duration::from_nanos(1));
            self.nth = self.nth.wrapping_add(1);
            // Scattered over networks.
            let ip = Ipv4Addr::from(0x0b00_0000 | self.nth.wrapping_mul(0x9e37_79b1) >> 8);
            let from = SocketAddr::from((ip, 1024 + (self.nth % 60_000) as u16));
            match &self.what {
                What::Datagrams(address, stride, data) => kernel.arrive(Batch {
                    from: *address,
                    stride: *stride,
                    data: data.clone(),
                }),
                What::Noise => {
                    let mut data = vec![0x55; 64];
                    data[1..5].copy_from_slice(&self.nth.to_be_bytes());
                    kernel.arrive(Batch {
                        from,
                        stride: 64,
                        data,
                    });
                }
                What::Initials(packets) => {
                    if let Some(data) = packets.get(self.nth as usize) {
                        kernel.arrive(Batch {
                            from,
                            stride: data.len(),
                            data: data.clone(),
                        });
                    }
                }
                What::Packets(packet) => {
                    let _ = kernel.route(VnetHdr::default(), packet.clone());
                }
            }
        }
    }
}

/// A host that sends to a client as TCP does: a window that grows with each round trip, and shrinks
/// by three tenths when something is lost.
pub(super) struct Download {
    traffic: Traffic,
    /// Segments.
    window: f64,
    /// Nothing has been lost yet: it doubles with each round trip.
    starting: bool,
    in_flight: u32,
    sent: u32,
    /// The sequence number that comes next at the client, once one has come.
    expected: Option<u32>,
    /// Losses before this number belong to the same event.
    recovered: u32,
    heard: Option<Instant>,
    length: u32,
}

impl Download {
    pub(super) fn new(client: Ipv4Addr) -> Self {
        let workload = Workload::Tcp {
            segments: SEGMENTS as usize,
        };
        Self {
            traffic: Traffic::new(workload, MTU, HOST, client),
            window: 16.0,
            starting: true,
            in_flight: 0,
            sent: 0,
            expected: None,
            recovered: 0,
            heard: None,
            length: (MTU - 52) as u32,
        }
    }

    pub(super) fn send(&mut self, now: Instant, kernel: &mut Kernel) {
        let heard = *self.heard.get_or_insert(now);
        if self.in_flight > 0 && now - heard > Duration::from_millis(200) {
            self.in_flight = 0;
            self.window = 10.0;
            self.expected = None;
            self.heard = Some(now);
        }
        while self.in_flight + SEGMENTS <= self.window as u32 {
            let (header, packet) = self.traffic.next_packet();
            let number = packet.get(24..28).and_then(|bytes| bytes.first_chunk());
            self.sent = number.map_or(0, |bytes| u32::from_be_bytes(*bytes));
            self.in_flight += SEGMENTS;
            let _ = kernel.route(header, packet.to_vec());
        }
    }

    /// Packets and super-packets have come out of the tunnel; how many bytes.
    pub(super) fn arrived(&mut self, now: Instant, packets: Vec<Vec<u8>>) -> u64 {
        let mut bytes = 0;
        for packet in packets {
            let number = packet.get(24..28).and_then(|bytes| bytes.first_chunk());
            let Some(number) = number.map(|bytes| u32::from_be_bytes(*bytes)) else {
                continue;
            };
            self.heard = Some(now);
            bytes += packet.len() as u64;
            let payload = packet.len().saturating_sub(52) as u32;
            let segments = payload.div_ceil(self.length);
            let expected = self.expected.unwrap_or(number);
            let missing = number.wrapping_sub(expected) / self.length;
            if missing > 0 && missing < 1 << 20 {
                self.in_flight = self.in_flight.saturating_sub(missing);
                if number.wrapping_sub(self.recovered) < 1 << 31 {
                    self.window = (self.window * 0.7).max(10.0);
                    self.starting = false;
                    self.recovered = self.sent;
                }
            }
            self.expected = Some(number.wrapping_add(payload));
            self.in_flight = self.in_flight.saturating_sub(segments);
            let more = match self.starting {
                true => f64::from(segments),
                false => f64::from(segments) * GROWTH / self.window,
            };
            self.window = (self.window + more).min(4_000.0);
        }
        bytes
    }
}
