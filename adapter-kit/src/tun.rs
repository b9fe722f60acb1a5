//! TUN devices.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tun_rs::{DeviceBuilder, SyncDevice};

/// Packets the kernel keeps while a turn lasts: what one host floods, flows of others would lose with
/// the usual 500. The queue is always emptied, so it makes nobody wait longer.
const QUEUE: u32 = 1024;

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

impl Default for TunConfig {
    fn default() -> Self {
        Self {
            name: None,
            mtu: 1280,
            offload: true,
            queue: Some(QUEUE),
            up: true,
        }
    }
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

/// A TUN device of the system, or one of its queues.
pub struct TunDevice {
    device: Arc<SyncDevice>,
    name: String,
    index: u32,
    offload: Offload,
    write_only: bool,
}

/// One TUN device for several shards.
#[derive(Debug)]
pub struct TunQueues {
    /// In the order of the shards. Without multi-queue only the first can be read; the others write to
    /// its one queue.
    pub devices: Vec<TunDevice>,
    /// Why it has one queue, if it was to have several.
    pub failure: Option<io::Error>,
}

impl TunDevice {
    /// Makes one. Where the system gives no offload it is made without, and says so once.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(config: &TunConfig) -> io::Result<Self> {
        Self::new(open(config, false)?)
    }

    /// Makes one that `shards` threads share: with a queue for each (`IFF_MULTI_QUEUE`) if `multi_queue`
    /// and the kernel can.
    ///
    /// # Errors
    /// What the system says; that it cannot have several queues is none.
    pub fn create_queues(
        config: &TunConfig,
        shards: NonZeroU16,
        multi_queue: bool,
    ) -> io::Result<TunQueues> {
        let mut failure = None;
        if multi_queue && shards.get() > 1 {
            match queues(config, shards) {
                Ok(devices) => {
                    return Ok(TunQueues {
                        devices,
                        failure: None,
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        let first = Self::create(config)?;
        let writers: Vec<Self> = (1..shards.get()).map(|_| first.writer()).collect();
        let devices = [first].into_iter().chain(writers).collect();
        Ok(TunQueues { devices, failure })
    }

    fn new(device: SyncDevice) -> io::Result<Self> {
        device.set_nonblocking(true)?;
        let offload = Offload {
            vnet_hdr: device.tcp_gso(),
            tcp: device.tcp_gso(),
            udp: device.udp_gso(),
        };
        Ok(Self {
            name: device.name()?,
            index: device.if_index()?,
            offload,
            device: Arc::new(device),
            write_only: false,
        })
    }

    /// The same queue, to write to.
    fn writer(&self) -> Self {
        Self {
            device: Arc::clone(&self.device),
            name: self.name.clone(),
            write_only: true,
            ..*self
        }
    }

    /// Whether it is only written to, because another thread reads its queue.
    #[must_use]
    pub fn is_write_only(&self) -> bool {
        self.write_only
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of its interface.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Which offloads it has.
    #[must_use]
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Reads one packet with its header, if it has one.
    pub(crate) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.write_only {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // On Linux this is the plain `read`: segmentation is the core's work.
        self.device.recv(buffer)
    }

    /// Writes one packet with its header, if it has one.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.device.send(packet).map(drop)
    }
}

fn queues(config: &TunConfig, count: NonZeroU16) -> io::Result<Vec<TunDevice>> {
    let first = TunDevice::new(open(config, true)?)?;
    let more = (1..count.get())
        .map(|_| TunDevice::new(first.device.try_clone()?))
        .collect::<io::Result<Vec<_>>>()?;
    Ok([first].into_iter().chain(more).collect())
}

fn open(config: &TunConfig, multi_queue: bool) -> io::Result<SyncDevice> {
    match build(config, config.offload, multi_queue) {
        Err(error) if config.offload && error.raw_os_error() == Some(libc::EINVAL) => {
            let device = build(config, false, multi_queue)?;
            tracing::warn!(%error, "the kernel has no TUN offload: packets cross the TUN device one by one");
            Ok(device)
        }
        other => other,
    }
}

fn build(config: &TunConfig, offload: bool, multi_queue: bool) -> io::Result<SyncDevice> {
    let mut builder = DeviceBuilder::new()
        .mtu(config.mtu)
        .offload(offload)
        .multi_queue(multi_queue);
    if let Some(name) = &config.name {
        builder = builder.name(name);
    }
    if let Some(queue) = config.queue {
        builder = builder.tx_queue_len(queue);
    }
    if config.up {
        builder = builder.enable(true);
    } else {
        builder = builder.inherit_enable_state();
    }
    builder.build_sync()
}

impl AsFd for TunDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice")
            .field("name", &self.name)
            .field("offload", &self.offload)
            .field("write_only", &self.write_only)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Io, TUN_READ};
    use crate::system::SystemIo;

    #[test]
    fn a_device_has_what_was_asked_for_and_gives_whole_packets() {
        // A namespace belongs to a thread, and goes with it.
        let tested = std::thread::spawn(|| {
            let allowed = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(std::io::Error::from)
                .and_then(|()| std::fs::OpenOptions::new().write(true).open("/dev/net/tun"));
            match allowed {
                Ok(_) => in_a_namespace(),
                // Past the test harness, which keeps what a passing test prints to itself.
                Err(error) => {
                    let line = format!("SKIPPED: the test of real TUN devices: {error}\n");
                    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
                }
            }
        });
        tested.join().expect("the device does what it should");
    }

    fn in_a_namespace() {
        for offload in [true, false] {
            let config = TunConfig {
                name: Some("kit-test%d".to_owned()),
                mtu: 1_300,
                offload,
                queue: Some(500),
                up: true,
            };
            let device = TunDevice::create(&config).expect("a device");
            assert!(device.name().starts_with("kit-test") && !device.name().contains('%'));
            assert_ne!(device.index(), 0);
            assert_eq!(device.offload().vnet_hdr, offload);
            let mtu = std::fs::read_to_string(format!("/sys/class/net/{}/mtu", device.name()));
            if let Ok(mtu) = mtu {
                assert_eq!(mtu.trim(), "1300");
            }
            let mut io = SystemIo::new();
            let port = io.add_tun(device);
            // A link that comes up says so by IPv6 router solicitations or MLD reports.
            let fds = crate::io::Descriptors::descriptor(&io, crate::Source::Port(port));
            let fd = fds.expect("a device has a descriptor");
            let mut fds = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            let patience = rustix::time::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            assert_eq!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1));
            let mut buffer = vec![0; TUN_READ];
            let (_, range) = io.try_read_tun(port, &mut buffer).expect("a packet");
            assert_eq!(buffer[range][0] >> 4, 6);
        }
    }
}
