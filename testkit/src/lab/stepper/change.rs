//! What the one who steps does to a world.

use std::time::Duration;

use masque_core::endpoint::{Command, PortId, TunnelHandle};
use masque_core::wire::capsule::RouteAdvertisement;
use masque_core::wire::prefix::{AddressRange, IpPrefix};

use super::illegal;
use crate::crypto::null;
use crate::lab::{explain, quic};
use crate::packet;
use crate::world::{Fate, Input, NodeId, World, in_data_frame};

/// An intervention.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Drop,
    Delay(Duration),
    Edit {
        at: usize,
        bytes: Vec<u8>,
    },
    Packet {
        node: String,
        data: Vec<u8>,
    },
    Tell {
        node: String,
        what: Told,
    },
    /// What becomes of the next capsule a node sends.
    Capsule {
        node: String,
        fate: Fate,
    },
    /// Bytes on the stream of a node's first tunnel; its end after them.
    Raw {
        node: String,
        data: Vec<u8>,
        end: bool,
    },
}

/// What a node is told about its first tunnel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Assign(Vec<IpPrefix>),
    Request(Vec<IpPrefix>),
    Routes(RouteAdvertisement),
    Close,
}

impl Change {
    /// The change that these words ask for; `None` if they ask for none.
    pub(super) fn parse(command: &str, rest: &[&str]) -> Option<Result<Self, String>> {
        Some(match (command, rest) {
            ("drop", []) => Ok(Self::Drop),
            ("delay", [millis]) => number(millis).map(|ms| Self::Delay(Duration::from_millis(ms))),
            ("edit", [at, digits @ ..]) => number(at).and_then(|at| {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                hex(digits).map(|bytes| Self::Edit { at, bytes })
            }),
            ("packet", [node, digits @ ..]) => hex(digits).map(|data| Self::Packet {
                node: (*node).to_owned(),
                data,
            }),
            ("assign", [node, all @ ..]) => prefixes(all).map(|all| tell(node, Told::Assign(all))),
            ("request", [node, all @ ..]) => {
                prefixes(all).map(|all| tell(node, Told::Request(all)))
            }
            ("routes", [node, all @ ..]) => routes(all).map(|all| tell(node, Told::Routes(all))),
            ("close", [node]) => Ok(tell(node, Told::Close)),
            ("capsule", [node, "drop"]) => Ok(capsule(node, Fate::Drop)),
            ("capsule", [node, "delay", millis]) => number(millis)
                .map(|millis| capsule(node, Fate::Delay(Duration::from_millis(millis)))),
            ("capsule", [node, "edit", at, digits @ ..]) => number(at).and_then(|at| {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                hex(digits).map(|bytes| capsule(node, Fate::Edit { at, bytes }))
            }),
            ("capsule", [node, "replace", what @ ..]) => {
                illegal::bytes(what).map(|(bytes, _)| capsule(node, Fate::Replace(bytes)))
            }
            ("inject", [node, what @ ..]) => {
                illegal::bytes(what).map(|(bytes, end)| raw(node, in_data_frame(&bytes), end))
            }
            ("raw", [node, digits @ ..]) => hex(digits).map(|data| raw(node, data, false)),
            _ => return None,
        })
    }

    /// Does it; says what was done, or why it cannot be.
    pub(super) fn apply(&self, world: &mut World) -> Result<String, String> {
        match self {
            Self::Drop => {
                moving(world)?;
                let gone = world.drop_next();
                Ok(format!("dropped, {} inputs wait", world.waiting()))
                    .and_then(|words| gone.map(|_| words).ok_or_else(|| "nothing waits".into()))
            }
            Self::Delay(by) => {
                moving(world)?;
                let (at, input) = world.drop_next().ok_or("nothing waits")?;
                world.schedule(at + *by, input);
                Ok(format!("delayed to {} us", (at + *by).as_micros()))
            }
            Self::Edit { at, bytes } => {
                let readable = world.secrets().is_none();
                let mut done = Err("the next input is neither a datagram nor a packet".to_owned());
                world.edit_next(|input| {
                    done = match input {
                        Input::Datagram { data, .. } => edit(data, *at, bytes).map(|()| {
                            if readable {
                                seal(data);
                            }
                        }),
                        Input::Packet { data, .. } => edit(data, *at, bytes),
                        _ => return,
                    };
                });
                done.map(|()| format!("{} bytes changed from byte {at} on", bytes.len()))
            }
            Self::Packet { node, data } => {
                let node = find(world, node)?;
                let words = packet::summary(data);
                let (port, data) = (PortId(0), data.clone());
                world.schedule_in(Duration::ZERO, Input::Packet { node, port, data });
                Ok(format!("now: {words}"))
            }
            Self::Tell { node, what } => {
                let node = find(world, node)?;
                let endpoint = world.node(node).endpoint().ok_or("the node is stopped")?;
                let tunnel = endpoint.tunnels().next();
                let command = what.command(tunnel.ok_or("the node has no tunnel")?);
                world.schedule_in(Duration::ZERO, Input::Command { node, command });
                Ok("now".to_owned())
            }
            Self::Capsule { node, fate } => {
                let id = find(world, node)?;
                world.decide(id, fate.clone());
                Ok(format!("the next capsule of {node}: {fate}"))
            }
            Self::Raw { node, data, end } => {
                let node = find(world, node)?;
                let endpoint = world.node(node).endpoint().ok_or("the node is stopped")?;
                let tunnel = endpoint.tunnels().next().ok_or("the node has no tunnel")?;
                let words = format!("now: {} bytes", data.len());
                let data = data.clone();
                world.schedule_in(Duration::ZERO, Input::Raw { node, tunnel, data });
                if *end {
                    let command = Command::CloseTunnel { tunnel };
                    world.schedule_in(Duration::ZERO, Input::Command { node, command });
                }
                Ok(words)
            }
        }
    }
}

impl Told {
    fn command(&self, tunnel: TunnelHandle) -> Command {
        match self.clone() {
            Self::Assign(addresses) => Command::AssignAddresses { tunnel, addresses },
            Self::Request(prefixes) => Command::RequestAddresses { tunnel, prefixes },
            Self::Routes(routes) => Command::AdvertiseRoutes { tunnel, routes },
            Self::Close => Command::CloseTunnel { tunnel },
        }
    }
}

/// Only what moves can be stopped: a deadline or a host is where it is.
fn moving(world: &World) -> Result<(), String> {
    match world.peek() {
        Some(Input::Datagram { .. } | Input::Packet { .. } | Input::Mail { .. }) => Ok(()),
        _ => Err("the next input is neither a datagram nor a packet".to_owned()),
    }
}

fn edit(data: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), String> {
    let length = data.len();
    let place = at
        .checked_add(bytes.len())
        .and_then(|end| data.get_mut(at..end));
    let place = place.ok_or_else(|| format!("there are {length} bytes"))?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// Puts checksums on the packets of a datagram that its receiver takes for good.
fn seal(data: &mut [u8]) {
    let Ok(packets) = quic::read(data) else {
        return;
    };
    for packet in packets.iter().filter(|packet| packet.has_frames()) {
        let end = packet.end - null::TAG_LEN;
        let header = &data[packet.start..packet.payload];
        let tag = null::forged_tag(header, &data[packet.payload..end]);
        data[end..packet.end].copy_from_slice(&tag);
    }
}

fn find(world: &World, name: &str) -> Result<NodeId, String> {
    let found = world.nodes().find(|id| world.node(*id).name() == name);
    found.ok_or_else(|| format!("no node is called {name}"))
}

fn tell(node: &str, what: Told) -> Change {
    let node = node.to_owned();
    Change::Tell { node, what }
}

fn capsule(node: &str, fate: Fate) -> Change {
    let node = node.to_owned();
    Change::Capsule { node, fate }
}

fn raw(node: &str, data: Vec<u8>, end: bool) -> Change {
    let node = node.to_owned();
    Change::Raw { node, data, end }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("not a number: {word}"))
}

pub(super) fn hex(digits: &[&str]) -> Result<Vec<u8>, String> {
    explain::hex(&digits.concat()).ok_or_else(|| "no hexadecimal digits".to_owned())
}

fn prefixes(words: &[&str]) -> Result<Vec<IpPrefix>, String> {
    let one = |word: &&str| word.parse().map_err(|_| format!("not a prefix: {word}"));
    words.iter().map(one).collect()
}

fn routes(words: &[&str]) -> Result<RouteAdvertisement, String> {
    let one = |word: &&str| {
        let wrong = || format!("not a range of addresses: {word}");
        let (from, to) = word.split_once('-').ok_or_else(wrong)?;
        let ends = (from.parse().ok()).zip(to.parse().ok());
        let range = ends.and_then(|(from, to)| AddressRange::new(from, to, 0).ok());
        range.ok_or_else(wrong)
    };
    let ranges: Result<Vec<_>, _> = words.iter().map(one).collect();
    RouteAdvertisement::new(ranges?).map_err(|kind| kind.to_string())
}
