//! Which shard has the tunnel to an inner address, where the kernel can look it up.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use masque_core::endpoint::TunnelHandle;
use masque_core::wire::prefix::IpPrefix;

use crate::bpf::{self, Instruction, Key, PrefixMap};
use crate::tun::TunDevice;

/// Steers a TUN's queues by the destination of the packets (`TUNSETSTEERINGEBPF`): a prefix that a tunnel
/// has leads to the queue of the shard whose tunnel it is, everything else to the first. Cheap to clone;
/// all clones are the same table.
#[derive(Clone, Debug)]
pub struct Destinations {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    map: PrefixMap,
    table: Mutex<Table>,
}

/// What is in the map, and on whose account: when a client comes back, its new tunnel has the addresses
/// before its old one has ended.
#[derive(Debug, Default)]
struct Table {
    owners: BTreeMap<IpPrefix, TunnelHandle>,
    tunnels: BTreeMap<TunnelHandle, Vec<IpPrefix>>,
    failures: u64,
}

impl Destinations {
    /// The most prefixes; what comes beyond is steered to the first shard.
    pub const CAPACITY: u32 = 1 << 18;

    /// Attaches an empty table to a device with several queues, which count in the order in which they
    /// were made. It stays attached as long as the device exists.
    ///
    /// # Errors
    /// What the system says: not permitted (it takes CAP_BPF and CAP_NET_ADMIN, as a rule outside any
    /// user namespace), or unknown to this kernel.
    pub fn attach(device: &TunDevice) -> io::Result<Self> {
        let map = PrefixMap::new(Self::CAPACITY)?;
        let program = bpf::load(&program(map.number()), c"MIT")?;
        bpf::steer_tun(device, &program)?;
        Ok(Self {
            inner: Arc::new(Inner {
                map,
                table: Mutex::default(),
            }),
        })
    }

    /// From now on `tunnel`, which is `shard`'s, has exactly these prefixes; none when it has ended.
    ///
    /// # Errors
    /// The last prefix that the kernel refused (the table is full), and why. All others are steered.
    pub fn set(
        &self,
        tunnel: TunnelHandle,
        shard: u16,
        prefixes: &[IpPrefix],
    ) -> Result<(), (IpPrefix, io::Error)> {
        // A table is whole after every step.
        let mut table = self
            .inner
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut outcome = Ok(());
        let before = table.tunnels.remove(&tunnel).unwrap_or_default();
        for gone in before.iter().filter(|prefix| !prefixes.contains(prefix)) {
            if let Entry::Occupied(owner) = table.owners.entry(*gone)
                && *owner.get() == tunnel
            {
                owner.remove();
                // It may never have been in.
                let _ = self.inner.map.remove(&key(gone));
            }
        }
        for prefix in prefixes {
            match self.inner.map.insert(&key(prefix), shard.into()) {
                Ok(()) => drop(table.owners.insert(*prefix, tunnel)),
                Err(error) => {
                    table.failures += 1;
                    outcome = Err((*prefix, error));
                }
            }
        }
        if !prefixes.is_empty() {
            table.tunnels.insert(tunnel, prefixes.to_vec());
        }
        outcome
    }

    /// How often the kernel has refused a prefix.
    #[must_use]
    pub fn failures(&self) -> u64 {
        let table = self.inner.table.lock();
        table.unwrap_or_else(PoisonError::into_inner).failures
    }
}

/// IPv4 prefixes become mapped ones.
fn key(prefix: &IpPrefix) -> Key {
    let length = u32::from(prefix.length());
    match prefix.address() {
        IpAddr::V4(address) => Key {
            length: 96 + length,
            address: address.to_ipv6_mapped().octets(),
        },
        IpAddr::V6(address) => Key {
            length,
            address: address.octets(),
        },
    }
}

/// The registers by their use.
const RESULT: u8 = 0;
const ARGUMENT: [u8; 4] = [1, 2, 3, 4];
/// Kept across calls; loads from the packet take it for the packet.
const PACKET: u8 = 6;
const FRAME: u8 = 10;

/// Where on the stack the key is, and the address in it, and an IPv4 address in that.
const KEY: i16 = -20;
const ADDRESS: i16 = KEY + 4;
const MAPPED: i16 = ADDRESS + 12;

/// Where the destination address is in an IPv4 and in an IPv6 header (RFC 791, RFC 8200).
const DESTINATION_V4: i32 = 16;
const DESTINATION_V6: i32 = 24;

/// Helper functions of the kernel.
const MAP_LOOKUP_ELEM: i32 = 1;
const SKB_LOAD_BYTES: i32 = 26;

/// A packet's destination, looked up in `map`: its value, or 0.
fn program(map: i32) -> [Instruction; 33] {
    // As in the kernel's headers: class, size or operation, mode or source.
    let op = |code, destination: u8, source: u8, offset, immediate| Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    };
    let copy = |to, from| op(0xbf, to, from, 0, 0);
    let set = |to, value| op(0xb7, to, 0, 0, value);
    let add = |to, value| op(0x07, to, 0, 0, value);
    let shift_right = |to, bits| op(0x77, to, 0, 0, bits);
    let packet_byte = |offset| op(0x30, 0, 0, 0, offset);
    let store_word = |at, value| op(0x62, FRAME, 0, at, value);
    let load_word = |to, from| op(0x61, to, from, 0, 0);
    let if_equal = |register, value, skip| op(0x15, register, 0, skip, value);
    let if_other = |register, value, skip| op(0x55, register, 0, skip, value);
    let skip = |count| op(0x05, 0, 0, count, 0);
    let call = |helper| op(0x85, 0, 0, 0, helper);
    let exit = op(0x95, 0, 0, 0, 0);
    let [one, two, three, four] = ARGUMENT;
    [
        copy(PACKET, one),
        store_word(KEY, 128),
        packet_byte(0),
        shift_right(RESULT, 4),
        if_equal(RESULT, 6, 11),
        if_other(RESULT, 4, 25),
        // IPv4.
        store_word(ADDRESS, 0),
        store_word(ADDRESS + 4, 0),
        store_word(ADDRESS + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff])),
        copy(one, PACKET),
        set(two, DESTINATION_V4),
        copy(three, FRAME),
        add(three, MAPPED.into()),
        set(four, 4),
        call(SKB_LOAD_BYTES),
        skip(6),
        // IPv6.
        copy(one, PACKET),
        set(two, DESTINATION_V6),
        copy(three, FRAME),
        add(three, ADDRESS.into()),
        set(four, 16),
        call(SKB_LOAD_BYTES),
        // Both.
        if_other(RESULT, 0, 8),
        // Two instructions' room: the map by its descriptor.
        op(0x18, one, 1, 0, map),
        op(0, 0, 0, 0, 0),
        copy(two, FRAME),
        add(two, KEY.into()),
        call(MAP_LOOKUP_ELEM),
        if_equal(RESULT, 0, 1),
        load_word(RESULT, RESULT),
        exit,
        set(RESULT, 0),
        exit,
    ]
}

#[cfg(test)]
mod tests;
