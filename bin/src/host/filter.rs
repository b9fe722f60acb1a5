//! Packet filters: one nftables table per instance, always replaced whole in one transaction.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::journal::Change;
use super::nft::{self, Table};
use super::sysctl::{self, Dependents};
use super::{ClientFilter, GatewayAccess, HostError, HostNet, ServerNet};

const FORWARD_4: &str = "net/ipv4/ip_forward";
const FORWARD_6: &str = "net/ipv6/conf/all/forwarding";

/// Never reachable from the tunnel: link-local addresses, where clouds keep the credentials of their machines,
/// and the one such service outside them (fd00:ec2::254, in its own words).
const FORBIDDEN_4: &str = "169.254.0.0/16";
const FORBIDDEN_6: [&str; 2] = ["fe80::/10", "fd00:ec2::254/128"];

/// Packet filters and forwarding.
impl HostNet {
    /// Installs the client's packet filter, or replaces it in one step (call it again when the addresses
    /// change): packets to the tunnel's addresses that arrive elsewhere are dropped, and answers to the tunnel's own UDP
    /// packets get its mark, so that reverse path filtering lets them in.
    ///
    /// # Errors
    /// [`HostError::NftMissing`], [`HostError::Nft`], [`HostError::Permission`].
    pub fn install_client_filter(&mut self, filter: &ClientFilter) -> Result<(), HostError> {
        let doing = "installing the client's packet filter";
        nft::require(doing)?;
        self.journal.record(Change::Filter)?;
        let table = self.filter_table();
        match nft::load(doing, &client_table(&table, filter, Known::Socket)) {
            Err(HostError::Nft { .. }) => {
                nft::load(doing, &client_table(&table, filter, Known::Connection))
            }
            done => done,
        }
    }

    /// Installs what a server needs, or replaces it in one step: forwarding for the IP versions of the pools, and the packet
    /// filter. Link-local and metadata addresses are never reachable from the tunnel.
    ///
    /// Another firewall on this host that drops forwarded packets (Docker's, for one) keeps dropping them: one
    /// table cannot accept what another one refuses.
    ///
    /// # Errors
    /// [`HostError::NftMissing`], [`HostError::Nft`], [`HostError::Permission`], [`HostError::Sysctl`].
    pub fn install_server(&mut self, server: &ServerNet) -> Result<(), HostError> {
        let doing = "installing the server's packet filter";
        nft::require(doing)?;
        // The filter first: the host must not forward a packet that it would have refused.
        self.journal.record(Change::Filter)?;
        nft::load(doing, &server_table(&self.filter_table(), server))?;
        let pools: Vec<IpNet> = server.pools.iter().map(|pool| pool.to_ipnet()).collect();
        if pools.iter().any(|pool| matches!(pool, IpNet::V4(_))) {
            self.set_sysctl(FORWARD_4, "1", Dependents::Forward4)?;
        }
        if pools.iter().any(|pool| matches!(pool, IpNet::V6(_))) {
            self.keep_router_advertisements()?;
            self.set_sysctl(FORWARD_6, "1", Dependents::Forward6)?;
        }
        Ok(())
    }

    /// A host that forwards IPv6 stops listening to routers, and would lose its own default route, unless told
    /// otherwise per interface.
    fn keep_router_advertisements(&mut self) -> Result<(), HostError> {
        for link in self.links_with_router_advertisements()? {
            let key = format!("net/ipv6/conf/{link}/accept_ra");
            if sysctl::exists(&key) && sysctl::read(&key)? == "1" {
                self.set_sysctl(&key, "2", Dependents::None)?;
            }
        }
        Ok(())
    }

    pub(super) fn filter_table(&self) -> Table {
        Table::new(&self.instance)
    }

    pub(super) fn remove_filter(&mut self) -> Result<Option<String>, HostError> {
        let table = self.filter_table();
        nft::load("removing the packet filter", &table.removal())?;
        Ok(Some(format!("removed the packet filter {}", table.name())))
    }
}

/// By what the tunnel's own packets are known when they come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The socket they are for. Nobody need remember connections for this.
    Socket,
    /// The connection that packets going out were marked as, for kernels without `nft_socket`: every packet of
    /// the host is tracked for it, those inside the tunnel too.
    Connection,
}

fn client_table(table: &Table, filter: &ClientFilter, known: Known) -> Vec<Value> {
    let mut commands = table.replacement();
    let tun = filter.tun.as_str();
    let mark = filter.fwmark;

    commands.push(table.chain("preraw", "filter", "prerouting", -300));
    for (protocol, addresses) in by_version(&filter.addresses) {
        let hosts: Vec<Value> = addresses.iter().map(|net| json!(net.addr())).collect();
        commands.push(table.rule(
            "preraw",
            "tunnel addresses are reached through the tunnel only",
            vec![
                unequal(meta("iifname"), json!(tun)),
                equal(payload(protocol, "daddr"), json!({ "set": hosts })),
                unequal(
                    json!({ "fib": { "result": "type", "flags": ["saddr"] } }),
                    json!("local"),
                ),
                counter(),
                discard(),
            ],
        ));
    }

    commands.push(table.chain("premangle", "filter", "prerouting", -150));
    commands.push(table.rule(
        "premangle",
        "answers to the tunnel's own packets get their mark",
        vec![
            equal(meta("l4proto"), json!("udp")),
            match known {
                Known::Socket => equal(json!({ "socket": { "key": "mark" } }), json!(mark)),
                Known::Connection => equal(ct("mark"), json!(mark)),
            },
            set(meta("mark"), json!(mark)),
        ],
    ));
    if known == Known::Socket {
        return commands;
    }
    commands.push(table.chain("postmangle", "filter", "postrouting", -150));
    commands.push(table.rule(
        "postmangle",
        "the tunnel's own packets",
        vec![
            equal(meta("l4proto"), json!("udp")),
            equal(meta("mark"), json!(mark)),
            set(ct("mark"), json!(mark)),
        ],
    ));
    commands
}

fn server_table(table: &Table, server: &ServerNet) -> Vec<Value> {
    let mut commands = table.replacement();
    let from_tun = || equal(meta("iifname"), json!(server.tun));
    let to_tun = || equal(meta("oifname"), json!(server.tun));
    commands.push(table.chain("forward", "filter", "forward", 0));
    let mut forward = |comment, rule| commands.push(table.rule("forward", comment, rule));
    let forbidden_6: Vec<Value> = FORBIDDEN_6.iter().copied().map(literal).collect();
    for (protocol, to) in [
        ("ip", literal(FORBIDDEN_4)),
        ("ip6", json!({ "set": forbidden_6 })),
    ] {
        forward(
            "no link-local and metadata addresses",
            vec![
                from_tun(),
                equal(payload(protocol, "daddr"), to),
                counter(),
                discard(),
            ],
        );
    }
    if !server.tun_to_tun {
        forward(
            "clients do not reach each other",
            vec![from_tun(), to_tun(), counter(), discard()],
        );
    }
    if !server.inbound {
        // Traffic between clients comes in on the tunnel, and was judged above.
        let elsewhere = unequal(meta("iifname"), json!(server.tun));
        let fresh = unequal(ct("state"), answers());
        forward(
            "only answers come in from outside",
            vec![elsewhere, to_tun(), fresh, counter(), discard()],
        );
    }
    if !server.egress.is_empty() {
        let mut allowed = server.egress.clone();
        allowed.push(server.tun.clone());
        forward(
            "clients leave by these interfaces only",
            vec![
                from_tun(),
                unequal(meta("oifname"), json!({ "set": allowed })),
                counter(),
                discard(),
            ],
        );
    }
    if server.clamp_mss {
        for through_tun in [from_tun(), to_tun()] {
            forward(
                "the MSS that the way carries",
                vec![
                    through_tun,
                    json!({ "match": {
                        "op": "in", "left": payload("tcp", "flags"), "right": "syn",
                    } }),
                    set(
                        json!({ "tcp option": { "name": "maxseg", "field": "size" } }),
                        json!({ "rt": { "key": "mtu" } }),
                    ),
                ],
            );
        }
    }

    if server.gateway != GatewayAccess::Open {
        commands.push(table.chain("input", "filter", "input", 0));
        let mut input = |comment, rule| commands.push(table.rule("input", comment, rule));
        input(
            "answers to the host itself",
            vec![from_tun(), equal(ct("state"), answers()), accept()],
        );
        if server.gateway == GatewayAccess::Ping {
            for protocol in ["icmp", "icmpv6"] {
                input(
                    "ping",
                    vec![
                        from_tun(),
                        equal(payload(protocol, "type"), json!("echo-request")),
                        accept(),
                    ],
                );
            }
        }
        input(
            "the host is closed to clients",
            vec![from_tun(), counter(), discard()],
        );
    }

    if server.nat {
        commands.push(table.chain("postrouting", "nat", "postrouting", 100));
        let pools: Vec<IpNet> = server.pools.iter().map(|pool| pool.to_ipnet()).collect();
        for (protocol, pools) in by_version(&pools) {
            // Intervals in one set must not overlap.
            let pools: Vec<Value> = IpNet::aggregate(&pools).into_iter().map(network).collect();
            commands.push(table.rule(
                "postrouting",
                "clients leave under the host's address",
                vec![
                    unequal(meta("oifname"), json!(server.tun)),
                    equal(payload(protocol, "saddr"), json!({ "set": pools })),
                    counter(),
                    json!({ "masquerade": null }),
                ],
            ));
        }
    }
    commands
}

/// A set, not a list: a list would be one value with both bits, which no packet has.
fn answers() -> Value {
    json!({ "set": ["established", "related"] })
}

/// The addresses of each IP version that occurs, with its name in nftables.
fn by_version(nets: &[IpNet]) -> Vec<(&'static str, Vec<IpNet>)> {
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        nets.iter().partition(|net| matches!(net, IpNet::V4(_)));
    let versions = [("ip", v4), ("ip6", v6)];
    versions
        .into_iter()
        .filter(|(_, nets)| !nets.is_empty())
        .collect()
}

fn literal(text: &str) -> Value {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    match length.parse::<u8>() {
        Ok(length) => json!({ "prefix": { "addr": address, "len": length } }),
        Err(_) => json!(address),
    }
}

fn network(net: IpNet) -> Value {
    json!({ "prefix": { "addr": net.network(), "len": net.prefix_len() } })
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn ct(key: &str) -> Value {
    json!({ "ct": { "key": key } })
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn equal(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn unequal(left: Value, right: Value) -> Value {
    json!({ "match": { "op": "!=", "left": left, "right": right } })
}

fn set(key: Value, value: Value) -> Value {
    json!({ "mangle": { "key": key, "value": value } })
}

fn counter() -> Value {
    json!({ "counter": null })
}

fn accept() -> Value {
    json!({ "accept": null })
}

fn discard() -> Value {
    json!({ "drop": null })
}
