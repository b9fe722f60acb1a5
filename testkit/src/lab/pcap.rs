//! pcapng (draft-ietf-opsawg-pcapng): what crossed one node, outside and inside the tunnels, with the
//! TLS secrets that open it.

use std::time::Duration;

use crate::packet;
use crate::world::{Place, Trace, WALL, World};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;
/// Secrets in the NSS key log format: "TLSK".
const TLS_KEY_LOG: u32 = 0x544c_534b;
/// Packets begin with an IP header.
const LINKTYPE_RAW: u16 = 101;

const OPTION_COMMENT: u16 = 1;
const OPTION_NAME: u16 = 2;
const OPTION_FLAGS: u16 = 2;
const OPTION_RESOLUTION: u16 = 9;

/// The capture of a node: interface 0 is its UDP sockets, 1 its TUN device. Times are nanoseconds.
#[must_use]
pub fn pcapng(world: &World, node: &str) -> Vec<u8> {
    let about = format!("virtual time since {} s after 1970", WALL.as_secs());
    let secrets = world.secrets().map(|secrets| secrets.text());
    capture_of(world.trace(), node, &about, WALL, secrets)
}

/// The capture of a node of a trace, which began at `wall` after 1970.
pub(super) fn capture_of(
    trace: &Trace,
    node: &str,
    about: &str,
    wall: Duration,
    secrets: Option<String>,
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut section = Vec::new();
    section.extend_from_slice(&0x1a2b_3c4d_u32.to_le_bytes());
    section.extend_from_slice(&[1, 0, 0, 0]);
    section.extend_from_slice(&u64::MAX.to_le_bytes());
    option(&mut section, OPTION_COMMENT, about.as_bytes());
    block(&mut file, SECTION, &section, true);
    // Secrets come before what they open.
    if let Some(text) = secrets {
        let mut body = TLS_KEY_LOG.to_le_bytes().to_vec();
        body.extend_from_slice(&length(text.len()));
        body.extend_from_slice(text.as_bytes());
        block(&mut file, DECRYPTION_SECRETS, &body, false);
    }
    for place in ["outer", "inner"] {
        let mut body = LINKTYPE_RAW.to_le_bytes().to_vec();
        body.extend_from_slice(&[0; 6]);
        option(&mut body, OPTION_NAME, format!("{node} {place}").as_bytes());
        option(&mut body, OPTION_RESOLUTION, &[9]);
        block(&mut file, INTERFACE, &body, true);
    }
    for captured in trace.captured().iter().filter(|one| one.node == node) {
        let (interface, outward, packet) = match captured.place {
            Place::Sent { from, to } => (0, true, packet::udp(from, to, &captured.data)),
            Place::Received { from, to } => (0, false, packet::udp(from, to, &captured.data)),
            Place::IntoTun => (1, false, captured.data.clone()),
            Place::OutOfTun => (1, true, captured.data.clone()),
        };
        let body = enhanced(interface, wall + captured.at, &packet, outward);
        block(&mut file, ENHANCED_PACKET, &body, true);
    }
    file
}

fn enhanced(interface: u32, at: Duration, packet: &[u8], outward: bool) -> Vec<u8> {
    // Good until the year 2554.
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    let mut body = interface.to_le_bytes().to_vec();
    body.extend_from_slice(&((nanos >> 32) as u32).to_le_bytes());
    body.extend_from_slice(&(nanos as u32).to_le_bytes());
    body.extend_from_slice(&length(packet.len()));
    body.extend_from_slice(&length(packet.len()));
    body.extend_from_slice(packet);
    pad(&mut body);
    let direction: u32 = if outward { 2 } else { 1 };
    option(&mut body, OPTION_FLAGS, &direction.to_le_bytes());
    body
}

fn block(file: &mut Vec<u8>, ty: u32, body: &[u8], options: bool) {
    let mut body = body.to_vec();
    pad(&mut body);
    if options {
        // The end of the options.
        body.extend_from_slice(&[0; 4]);
    }
    let total = length(body.len() + 12);
    file.extend_from_slice(&ty.to_le_bytes());
    file.extend_from_slice(&total);
    file.extend_from_slice(&body);
    file.extend_from_slice(&total);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let size = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&size.to_le_bytes());
    body.extend_from_slice(&value[..usize::from(size)]);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes()
}
