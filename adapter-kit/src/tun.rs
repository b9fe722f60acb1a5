//! TUN devices.

use std::io;

/// How a TUN device is made.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// Its name; a `%d` in it is replaced by a number, `None` lets the system name it.
    pub name: Option<String>,
    /// Its MTU in bytes.
    pub mtu: u16,
    /// Whether super-packets are asked for (`IFF_VNET_HDR`); falls back to none.
    pub offload: bool,
    /// The length of its transmit queue in packets.
    pub queue: Option<u32>,
    /// Whether the link is brought up at once.
    pub up: bool,
}

/// Which offloads a device really has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// Packets have a virtio-net header.
    pub vnet_hdr: bool,
    /// TCP super-packets both ways.
    pub tcp: bool,
    /// UDP super-packets both ways (Linux 6.2).
    pub udp: bool,
}

/// A TUN device of the system.
pub struct TunDevice {
    _todo: (),
}

impl TunDevice {
    /// Makes one. Where the system gives no offload it is made without, and says so once.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(config: &TunConfig) -> io::Result<Self> {
        let _ = config;
        unimplemented!()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        unimplemented!()
    }

    /// The number of its interface.
    #[must_use]
    pub fn index(&self) -> u32 {
        unimplemented!()
    }

    /// Which offloads it has.
    #[must_use]
    pub fn offload(&self) -> Offload {
        unimplemented!()
    }
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}
