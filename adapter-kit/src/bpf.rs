//! The little of bpf(2) that steering needs: a map of prefixes, and a program that looks into it.

#![expect(
    unsafe_code,
    reason = "bpf(2) and TUNSETSTEERINGEBPF have no safe form"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const MAP_TYPE_LPM_TRIE: u32 = 11;
/// An LPM trie is never allocated beforehand.
const F_NO_PREALLOC: u32 = 1;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;
/// `_IOR('T', 224, int)`.
const TUNSETSTEERINGEBPF: libc::Ioctl = 0x8004_54e0_u32 as libc::Ioctl;

/// What a map's key is: the length of a prefix in bits, then an address in network order. IPv4 is mapped
/// into IPv6, so that one map has both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Key {
    pub(crate) length: u32,
    pub(crate) address: [u8; 16],
}

/// An instruction of eBPF, as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// The destination in the lower four bits, the source in the upper four.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

// As much of `union bpf_attr` as each command reads. No padding anywhere: the kernel refuses what is not
// zero behind the fields it knows, and reads nothing behind the size it is told.

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapElem {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    prog_flags: u32,
}

/// A map from prefixes to numbers, for longest-prefix match.
#[derive(Debug)]
pub(crate) struct PrefixMap(OwnedFd);

impl PrefixMap {
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let made = bpf_descriptor(
            MAP_CREATE,
            &MapCreate {
                map_type: MAP_TYPE_LPM_TRIE,
                key_size: size_of::<Key>() as u32,
                value_size: size_of::<u32>() as u32,
                max_entries: entries,
                map_flags: F_NO_PREALLOC,
            },
        );
        made.map(Self)
    }

    pub(crate) fn insert(&self, key: &Key, value: u32) -> io::Result<()> {
        self.command(MAP_UPDATE_ELEM, key, &value)
    }

    pub(crate) fn remove(&self, key: &Key) -> io::Result<()> {
        self.command(MAP_DELETE_ELEM, key, &0)
    }

    /// The number by which a program names this map.
    pub(crate) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    fn command(&self, command: libc::c_int, key: &Key, value: &u32) -> io::Result<()> {
        let element = MapElem {
            map: self.0.as_raw_fd() as u32,
            padding: 0,
            key: (&raw const *key) as u64,
            // Deleting reads no value and wants none.
            value: match command {
                MAP_UPDATE_ELEM => (&raw const *value) as u64,
                _ => 0,
            },
            flags: 0,
        };
        // SAFETY: the map's keys and values are of the types behind the two addresses, which live to the
        // end of this function, and the kernel only reads them.
        unsafe { bpf(command, &element) }.map(drop)
    }
}

/// Has the kernel check and load a socket filter.
pub(crate) fn load(program: &[Instruction], license: &CStr) -> io::Result<OwnedFd> {
    bpf_descriptor(
        PROG_LOAD,
        &ProgLoad {
            prog_type: PROG_TYPE_SOCKET_FILTER,
            count: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            instructions: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buffer: 0,
            kernel_version: 0,
            prog_flags: 0,
        },
    )
}

/// Has a program choose the queue of a TUN device for each packet that the kernel sends through it.
pub(crate) fn steer_tun(tun: &impl AsFd, program: &OwnedFd) -> io::Result<()> {
    let number: libc::c_int = program.as_raw_fd();
    // SAFETY: both descriptors are open for the length of the borrows, and the kernel reads one int.
    let result = unsafe {
        libc::ioctl(
            tun.as_fd().as_raw_fd(),
            TUNSETSTEERINGEBPF,
            &raw const number,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A command whose result is a descriptor: making a map, or loading a program.
fn bpf_descriptor<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: addresses inside are those of slices and strings that outlive the call, with their length,
    // and the kernel only reads them.
    let number = unsafe { bpf(command, attributes) }?;
    // SAFETY: the kernel has just made it for us, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The system call itself.
///
/// # Safety
/// `attributes` is what the command reads, of the size it has, and addresses in it are good for the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: as this function demands.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *attributes,
            size_of::<T>() as libc::c_uint,
        )
    };
    match libc::c_int::try_from(result) {
        Ok(number) if number >= 0 => Ok(number),
        _ => Err(io::Error::last_os_error()),
    }
}
