//! GSO, GRO and super-packets forced off, missing in the kernel, and failing while in use: the tunnel
//! carries the same, each end says once what it goes without, and counts it.

use std::path::PathBuf;
use std::process::Command;

use crate::namespace::{inside, say};
use crate::process::Binary::{self, Mio, Smol, Tokio};
use crate::process::{Ended, Process};
use crate::traffic::{self, Direction};
use crate::world::{Egress, INET, Underlay, World, ip};

/// Bytes each way, over IPv4 and again over IPv6.
const SOME: u64 = 1 << 20;
/// No fewer packets than that are needed for them, each way.
const PACKETS: u64 = 2 * SOME / 1472;

/// What an end goes without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Feature {
    Gso,
    Gro,
    VnetHdr,
}

use Feature::{Gro, Gso, VnetHdr};

impl Feature {
    /// Its name among the counters.
    const fn counter(self) -> &'static str {
        match self {
            Gso => "gso",
            Gro => "gro",
            VnetHdr => "vnet_hdr",
        }
    }

    /// What switches it off.
    const fn option(self) -> &'static str {
        match self {
            Gso => "transport.gso = false\n",
            Gro => "transport.gro = false\n",
            VnetHdr => "tun.offload = false\n",
        }
    }

    /// What the log says when it is missing, however that came.
    const fn words(self) -> &'static str {
        match self {
            Gso => "datagrams are sent one by one",
            Gro => "datagrams are received one by one",
            VnetHdr => "cross the TUN device one by one",
        }
    }

    /// The system calls there must be more of: one for each packet of a direction.
    const fn calls(self) -> &'static str {
        match self {
            Gso => "udp_sends",
            Gro => "udp_receives",
            VnetHdr => "tun_reads",
        }
    }
}

/// Ping and compared bytes over IPv4 and IPv6.
fn carry(world: &World) {
    world.client.run(|| {
        for to in INET.map(ip) {
            traffic::ping(to);
            for direction in [Direction::Up, Direction::Down] {
                traffic::transfer(direction, to, SOME);
            }
        }
    });
}

/// The tunnel carries between ends that lack `missing`.
fn carries_without(missing: &[Feature], start: impl Fn(&World, &str) -> Process) {
    let world = World::new(Egress::Routed);
    let server = start(&world, "server");
    server.wait_for("server ready");
    let client = start(&world, "client");
    client.wait_up();
    carry(&world);
    for end in [&client, &server] {
        for feature in missing {
            let lines = end.count(|text| text.contains(feature.words()));
            assert_eq!(lines, 1, "lines about {}", feature.counter());
        }
    }
    for end in [client.stop(), server.stop()] {
        for feature in missing {
            let counted = end.without(feature.counter());
            assert!(counted >= 1, "{}: {}", feature.counter(), end.totals);
            goes_one_by_one(&end, *feature);
        }
    }
}

/// What an end cannot batch takes a system call for each packet: both ends send and receive the
/// same amount.
fn goes_one_by_one(end: &Ended, feature: Feature) {
    let calls = end.totals[feature.calls()].as_u64().unwrap();
    assert!(calls >= PACKETS, "{}: {}", feature.counter(), end.totals);
}

/// Forced off by the configuration of both ends.
fn forced_off(binary: Binary, missing: &[Feature]) {
    let options: String = missing.iter().map(|feature| feature.option()).collect();
    carries_without(missing, |world, command| match command {
        "server" => world.start_server(binary, &options),
        _ => world.start_client(binary, Underlay::V4, &options),
    });
}

macro_rules! forced_off {
    ($($name:ident: $binary:expr, $missing:expr;)*) => {$(
        #[test]
        fn $name() {
            inside(|| forced_off($binary, &$missing));
        }
    )*};
}

forced_off! {
    tokio_carries_without_gso: Tokio, [Gso];
    tokio_carries_without_gro: Tokio, [Gro];
    tokio_carries_without_super_packets: Tokio, [VnetHdr];
    tokio_carries_without_any_offload: Tokio, [Gso, Gro, VnetHdr];
    smol_carries_without_gso: Smol, [Gso];
    smol_carries_without_gro: Smol, [Gro];
    smol_carries_without_super_packets: Smol, [VnetHdr];
    smol_carries_without_any_offload: Smol, [Gso, Gro, VnetHdr];
    mio_carries_without_gso: Mio, [Gso];
    mio_carries_without_gro: Mio, [Gro];
    mio_carries_without_super_packets: Mio, [VnetHdr];
    mio_carries_without_any_offload: Mio, [Gso, Gro, VnetHdr];
}

/// Stands between the binaries and the C library as a kernel that lacks what `MASQUE_TEST_LACKS` names:
/// `gso`, `gro`, `vnet_hdr`, and `sending` for a GSO that is there and fails.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int lacks(const char *what) {
    const char *all = getenv("MASQUE_TEST_LACKS");
    return all && strstr(all, what);
}

static int refuse(int error) {
    errno = error;
    return -1;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
    int (*next)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    if (level == 17 && ((name == 103 && lacks("gso")) || (name == 104 && lacks("gro"))))
        return refuse(ENOPROTOOPT);
    return next(fd, level, name, value, size);
}

int ioctl(int fd, unsigned long request, ...) {
    int (*next)(int, unsigned long, void *) = dlsym(RTLD_NEXT, "ioctl");
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    short flags = 0;
    if (request == 0x400454ca) /* TUNSETIFF: the flags follow the name. */
        memcpy(&flags, (char *)argument + 16, sizeof flags);
    if ((flags & 0x4000) && lacks("vnet_hdr"))
        return refuse(EINVAL);
    return next(fd, request, argument);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    ssize_t (*next)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    struct msghdr *copy = (struct msghdr *)message;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(copy); c; c = CMSG_NXTHDR(copy, c))
        if (c->cmsg_level == 17 && c->cmsg_type == 103 && lacks("sending"))
            return refuse(EIO);
    return next(fd, message, flags);
}
"#;

/// Whether there is a C compiler; it says so if not.
fn can_compile() -> bool {
    let found = Command::new("cc").arg("--version").output();
    if let Err(error) = &found {
        say(&format!(
            "SKIPPED: kernels without offloads: no cc: {error}"
        ));
    }
    found.is_ok()
}

/// The shim, compiled where it is not yet.
fn shim(world: &World) -> PathBuf {
    let library = world.path("shim.so");
    if library.exists() {
        return library;
    }
    let source = world.write("shim.c", SHIM);
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
    library
}

/// As on a kernel that lacks `lacks`, with the default configuration.
fn on_a_kernel_that_lacks(binary: Binary, lacks: &str, missing: &[Feature]) {
    with_server_on_a_kernel_that_lacks(binary, "", lacks, missing);
}

/// The same with `server` in the server's configuration.
fn with_server_on_a_kernel_that_lacks(
    binary: Binary,
    server: &str,
    lacks: &str,
    missing: &[Feature],
) {
    if !can_compile() {
        return;
    }
    carries_without(missing, |world, command| {
        let library = shim(world);
        let library = library.to_str().unwrap();
        let environment = [("LD_PRELOAD", library), ("MASQUE_TEST_LACKS", lacks)];
        let (namespace, config) = match command {
            "server" => (&world.server, world.server_config(server)),
            _ => (
                &world.client,
                world.client_config("alice", Underlay::V4, ""),
            ),
        };
        Process::start_with(namespace, binary, command, &config, &environment)
    });
}

#[test]
fn a_kernel_without_gso_carries() {
    inside(|| on_a_kernel_that_lacks(Tokio, "gso", &[Gso]));
}

#[test]
fn a_kernel_without_gro_carries() {
    inside(|| on_a_kernel_that_lacks(Tokio, "gro", &[Gro]));
}

#[test]
fn a_kernel_without_vnet_hdr_carries() {
    inside(|| on_a_kernel_that_lacks(Tokio, "vnet_hdr", &[VnetHdr]));
}

#[test]
fn gso_that_fails_in_use_is_given_up_and_tokio_carries() {
    inside(|| on_a_kernel_that_lacks(Tokio, "sending", &[Gso]));
}

#[test]
fn gso_that_fails_in_use_is_given_up_and_smol_carries() {
    inside(|| on_a_kernel_that_lacks(Smol, "sending", &[Gso]));
}

#[test]
fn gso_that_fails_in_use_is_given_up_and_mio_carries() {
    inside(|| on_a_kernel_that_lacks(Mio, "sending", &[Gso]));
}

#[test]
fn a_kernel_without_any_offload_carries_under_tokio() {
    inside(|| on_a_kernel_that_lacks(Tokio, "gso gro vnet_hdr", &[Gso, Gro, VnetHdr]));
}

#[test]
fn a_kernel_without_any_offload_carries_under_smol() {
    inside(|| on_a_kernel_that_lacks(Smol, "gso gro vnet_hdr", &[Gso, Gro, VnetHdr]));
}

#[test]
fn a_kernel_without_any_offload_carries_under_mio() {
    inside(|| on_a_kernel_that_lacks(Mio, "gso gro vnet_hdr", &[Gso, Gro, VnetHdr]));
}

#[test]
fn shards_say_once_what_all_of_them_go_without() {
    let all = [Gso, Gro, VnetHdr];
    inside(|| {
        with_server_on_a_kernel_that_lacks(Tokio, "shards = 2", "gso gro vnet_hdr", &all);
    });
}

#[test]
fn what_is_switched_off_may_be_missing_as_well() {
    inside(|| {
        if !can_compile() {
            return;
        }
        let world = World::new(Egress::Routed);
        let library = shim(&world);
        let environment = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("MASQUE_TEST_LACKS", "gso gro vnet_hdr"),
        ];
        let options: String = [Gso, Gro, VnetHdr].map(Feature::option).concat();
        let config = world.server_config(&options);
        let server = Process::start_with(&world.server, Tokio, "server", &config, &environment);
        server.wait_for("server ready");
        let config = world.client_config("alice", Underlay::V4, &options);
        let client = Process::start_with(&world.client, Tokio, "client", &config, &environment);
        client.wait_up();
        world.client.run(|| traffic::ping(ip(INET[0])));
        client.stop();
        server.stop();
    });
}

/// What the tests above count would otherwise be less.
#[test]
fn with_every_offload_a_system_call_carries_several_packets() {
    inside(|| {
        let world = World::new(Egress::Routed);
        let server = world.start_server(Tokio, "");
        let client = world.start_client(Tokio, Underlay::V4, "");
        client.wait_up();
        carry(&world);
        for end in [client.stop(), server.stop()] {
            for feature in [Gso, Gro, VnetHdr] {
                let calls = end.totals[feature.calls()].as_u64().unwrap();
                let missing = end.without(feature.counter()) > 0;
                assert!(missing || calls < PACKETS / 2, "{}", end.totals);
            }
        }
    });
}
