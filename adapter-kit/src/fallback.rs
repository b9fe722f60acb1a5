//! What a loop goes without.

use std::fmt;

/// Sockets and devices that go without an offload, because it was forbidden, because the kernel has none
/// or because it failed. Each is counted once, when it is added or when its offload fails.
///
/// ```
/// use masque_adapter_kit::Fallbacks;
///
/// let without = Fallbacks { gso: 2, vnet_hdr: 1, ..Fallbacks::default() };
/// assert_eq!(without.to_string(), "gso 2, vnet_hdr 1");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fallbacks {
    /// UDP sockets that send datagrams one by one.
    pub gso: u64,
    /// UDP sockets that receive datagrams one by one.
    pub gro: u64,
    /// TUN devices, or queues of one, whose packets cross one by one.
    pub vnet_hdr: u64,
    /// TUN devices, or queues of one, with super-packets of TCP only (before Linux 6.2).
    pub uso: u64,
}

impl Fallbacks {
    /// What several loops go without together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            gso: self.gso + other.gso,
            gro: self.gro + other.gro,
            vnet_hdr: self.vnet_hdr + other.vnet_hdr,
            uso: self.uso + other.uso,
        }
    }
}

impl fmt::Display for Fallbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("gso", self.gso),
            ("gro", self.gro),
            ("vnet_hdr", self.vnet_hdr),
            ("uso", self.uso),
        ];
        let mut comma = "";
        for (name, count) in all.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{comma}{name} {count}")?;
            comma = ", ";
        }
        Ok(())
    }
}
