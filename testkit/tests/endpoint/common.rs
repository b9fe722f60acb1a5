use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use masque_core::endpoint::{
    CloseReason, Command, Counters, DropReason, Event, PortId, TunnelHandle, Usage,
};
use masque_core::wire::prefix::AddressRange;
use masque_core::wire::scope::Scope;
use masque_testkit::packet::{self, Packet};
use masque_testkit::scenario::{INNER_V4, INNER_V6, Options, Star, star};
use masque_testkit::world::{Input, NodeId, last_event};

/// Nobody sends anything of its own accord.
pub(crate) fn quiet() -> Options {
    Options {
        client_plan: None,
        server_plan: None,
        ..Options::default()
    }
}

/// A star whose clients are connected.
pub(crate) fn up(options: &Options) -> Star {
    let mut star = star(options).expect("valid");
    star.world.run_until(Duration::from_secs(2));
    for client in &star.clients {
        assert!(tunnel(&star, *client).is_some(), "every client connects");
    }
    star
}

pub(crate) fn run(star: &mut Star, millis: u64) {
    let until = star.world.now() + Duration::from_millis(millis);
    star.world.run_until(until);
}

pub(crate) fn counters(star: &Star, node: NodeId) -> &Counters {
    let endpoint = star.world.node(node).endpoint();
    endpoint.expect("running").counters()
}

pub(crate) fn dropped(star: &Star, node: NodeId, reason: DropReason) -> u64 {
    counters(star, node).dropped(reason)
}

/// Drops for any reason.
pub(crate) fn all_dropped(star: &Star, node: NodeId) -> u64 {
    counters(star, node).drops().map(|(_, count)| count).sum()
}

pub(crate) fn usage(star: &Star, node: NodeId) -> Usage {
    let endpoint = star.world.node(node).endpoint();
    endpoint.expect("running").usage()
}

pub(crate) fn tunnel(star: &Star, node: NodeId) -> Option<TunnelHandle> {
    star.world.node(node).endpoint()?.tunnels().last()
}

/// A client's address of one version.
pub(crate) fn address(star: &Star, node: NodeId, v4: bool) -> IpAddr {
    let endpoint = star.world.node(node).endpoint().expect("running");
    let info = endpoint.tunnel(tunnel(star, node).expect("up"));
    let addresses = info.expect("listed").addresses;
    let address = addresses
        .iter()
        .map(|prefix| prefix.address())
        .find(|address| address.is_ipv4() == v4);
    address.expect("one of each version")
}

pub(crate) fn inner(v4: bool) -> IpAddr {
    if v4 { INNER_V4 } else { INNER_V6 }
}

/// UDP that nobody answers: it ends up in `others` of whoever gets it.
pub(crate) fn datagram(source: IpAddr, destination: IpAddr, size: usize) -> Vec<u8> {
    let (from, to) = (
        SocketAddr::new(source, 4000),
        SocketAddr::new(destination, 9),
    );
    packet::udp(from, to, &vec![0x5a; size])
}

/// Writes the hop limit, mending the checksum.
pub(crate) fn with_hops(mut bytes: Vec<u8>, hops: u8) -> Vec<u8> {
    if bytes[0] >> 4 == 4 {
        bytes[8] = hops;
        mend(&mut bytes);
    } else {
        bytes[7] = hops;
    }
    bytes
}

/// Clears Don't Fragment.
pub(crate) fn may_fragment(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[6] &= 0xbf;
    mend(&mut bytes);
    bytes
}

fn mend(bytes: &mut [u8]) {
    bytes[10..12].fill(0);
    let words = bytes[..20]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded");
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// A packet from a node's TUN, now; the world then goes on for a while.
pub(crate) fn send(star: &mut Star, node: NodeId, data: Vec<u8>) {
    send_later(star, node, data);
    run(star, 300);
}

/// A packet from a node's TUN, now; nothing happens yet.
pub(crate) fn send_later(star: &mut Star, node: NodeId, data: Vec<u8>) {
    let port = PortId(0);
    let input = Input::Packet { node, port, data };
    star.world.schedule_in(Duration::ZERO, input);
}

pub(crate) fn command(star: &mut Star, node: NodeId, command: Command) {
    let input = Input::Command { node, command };
    star.world.schedule_in(Duration::ZERO, input);
}

/// What a node got from its TUN that was no echo, since the last call.
pub(crate) fn received(star: &mut Star, node: NodeId) -> Vec<Vec<u8>> {
    let host = star.world.node_mut(node);
    let host = host.host_mut::<masque_testkit::world::InnerHost>();
    std::mem::take(&mut host.expect("every node of a star has one").others)
}

/// Type, code and second word of an undamaged ICMP error, and whom it is from.
pub(crate) fn icmp_error(bytes: &[u8]) -> Option<(u8, u8, u32, IpAddr)> {
    let packet = Packet::parse(bytes)?;
    let is_icmp = [packet::ICMP, packet::ICMP6].contains(&packet.protocol);
    let head = packet.payload.first_chunk::<8>().filter(|_| is_icmp)?;
    let word = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    Some((head[0], head[1], word, packet.source))
}

/// The one ICMP error a node got: type and code.
pub(crate) fn told(star: &mut Star, node: NodeId) -> Option<(u8, u8)> {
    let all = received(star, node);
    assert!(all.len() <= 1, "at most one packet comes back");
    let (ty, code, _, _) = icmp_error(all.first()?).expect("an ICMP error");
    Some((ty, code))
}

pub(crate) fn count(star: &Star, node: NodeId, matches: impl Fn(&Event) -> bool) -> usize {
    let events = star.world.node(node).events().iter();
    events.filter(|(_, event)| matches(event)).count()
}

pub(crate) fn closed(star: &Star, node: NodeId) -> Option<CloseReason> {
    last_event(star.world.node(node), |event| match event {
        Event::ConnectionClosed { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

/// A client connects (again).
pub(crate) fn connect(star: &mut Star, index: usize) {
    let input = Input::Connect {
        node: star.clients[index],
        target: Box::new(star.targets[index].clone()),
    };
    star.world.schedule_in(Duration::ZERO, input);
}

/// All that a client has is closed by it.
pub(crate) fn disconnect(star: &mut Star, node: NodeId) {
    let endpoint = star.world.node(node).endpoint().expect("running");
    for conn in endpoint.connections().collect::<Vec<_>>() {
        let code = masque_core::H3Code::NO_ERROR;
        command(star, node, Command::CloseConnection { conn, code });
    }
}

/// RFC 791's model of reassembly.
pub(crate) fn reassemble(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut parts: Vec<_> = parts.to_vec();
    parts.sort_by_key(|part| u16::from_be_bytes([part[6], part[7]]) & 0x1fff);
    for part in &parts {
        let at = usize::from(u16::from_be_bytes([part[6], part[7]]) & 0x1fff) * 8;
        assert_eq!(at, payload.len(), "no gap");
        payload.extend_from_slice(&part[20..]);
    }
    let last = parts.last().expect("at least one");
    assert_eq!(last[6] & 0x20, 0, "the last has no More Fragments");
    payload
}

/// The only client of a star leaves, and comes back for a tunnel of this scope.
pub(crate) fn ask_for(star: &mut Star, scope: Scope) {
    let client = star.client();
    disconnect(star, client);
    run(star, 500);
    let mut target = star.targets[0].clone();
    target.scope = scope;
    let input = Input::Connect {
        node: client,
        target: Box::new(target),
    };
    star.world.schedule_in(Duration::ZERO, input);
    run(star, 1000);
}

/// The last list of routes a node was told of, as text.
pub(crate) fn told_routes(star: &Star, node: NodeId) -> Option<Vec<String>> {
    last_event(star.world.node(node), |event| match event {
        Event::Routes { routes, .. } => {
            let text = |range: &AddressRange| {
                format!("{}-{} {}", range.start(), range.end(), range.protocol())
            };
            Some(routes.ranges().iter().map(text).collect())
        }
        _ => None,
    })
}

/// Status and `proxy-status` of the last refusal.
pub(crate) fn refused(star: &Star, node: NodeId) -> Option<(u16, String)> {
    last_event(star.world.node(node), |event| match event {
        Event::TunnelRefused {
            status,
            proxy_status,
            ..
        } => Some((*status, proxy_status.clone().unwrap_or_default())),
        _ => None,
    })
}
