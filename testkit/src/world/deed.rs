//! Commands whose objects are found when their time comes.

use std::time::Duration;

use masque_core::H3Code;
use masque_core::endpoint::{Command, Endpoint, Identity, TunnelHandle};
use masque_core::wire::capsule::RouteAdvertisement;
use masque_core::wire::prefix::IpPrefix;

use super::{NodeId, World};

/// What a node is told about whatever it has when it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// The newest tunnel of a client gets addresses (server).
    Assign {
        /// Whose.
        identity: Identity,
        /// The addresses.
        addresses: Vec<IpPrefix>,
        /// Whether those it has stay.
        keep: bool,
    },
    /// All tunnels of a client end (server).
    CloseTunnelsOf(Identity),
    /// All tunnels end.
    CloseTunnels,
    /// All connections are closed.
    CloseConnections,
    /// The newest tunnel asks for addresses.
    Request(Vec<IpPrefix>),
    /// All tunnels advertise these routes.
    Advertise(RouteAdvertisement),
    /// The node shuts down.
    ShutDown(Duration),
}

impl Deed {
    fn commands(&self, endpoint: &Endpoint) -> Vec<Command> {
        let of = |identity: &Identity| {
            let mut tunnels: Vec<TunnelHandle> = endpoint.tunnels().collect();
            tunnels.retain(|tunnel| {
                let info = endpoint.connection(tunnel.conn);
                info.is_some_and(|info| info.identity.as_ref() == Some(identity))
            });
            tunnels
        };
        match self {
            Self::Assign {
                identity,
                addresses,
                keep,
            } => {
                let newest = of(identity).pop();
                let assign = |tunnel| {
                    let mut addresses = addresses.clone();
                    if *keep && let Some(info) = endpoint.tunnel(tunnel) {
                        let old = info.addresses.into_iter();
                        let more: Vec<_> = old.filter(|old| !addresses.contains(old)).collect();
                        addresses.extend(more);
                    }
                    Command::AssignAddresses { tunnel, addresses }
                };
                newest.map(assign).into_iter().collect()
            }
            Self::CloseTunnelsOf(identity) => {
                let close = |tunnel| Command::CloseTunnel { tunnel };
                of(identity).into_iter().map(close).collect()
            }
            Self::CloseTunnels => {
                let close = |tunnel| Command::CloseTunnel { tunnel };
                endpoint.tunnels().map(close).collect()
            }
            Self::CloseConnections => {
                let code = H3Code::NO_ERROR;
                let close = |conn| Command::CloseConnection { conn, code };
                endpoint.connections().map(close).collect()
            }
            Self::Request(prefixes) => {
                let prefixes = prefixes.clone();
                let ask = |tunnel| Command::RequestAddresses { tunnel, prefixes };
                endpoint.tunnels().last().map(ask).into_iter().collect()
            }
            Self::Advertise(routes) => {
                let advertise = |tunnel| Command::AdvertiseRoutes {
                    tunnel,
                    routes: routes.clone(),
                };
                endpoint.tunnels().map(advertise).collect()
            }
            Self::ShutDown(grace) => vec![Command::Shutdown { grace: *grace }],
        }
    }
}

impl World {
    pub(super) fn perform(&mut self, node: NodeId, deed: &Deed, words: &str) {
        let endpoint = self.nodes[node.0].endpoint.as_ref();
        let commands = endpoint.map(|endpoint| deed.commands(endpoint));
        self.tell(node, words, |_, _| None);
        for command in commands.unwrap_or_default() {
            let words = format!("<- command {command:?}");
            self.tell(node, &words, |endpoint, now| {
                let result = endpoint.handle_command(now, command);
                result.err().map(|error| error.to_string())
            });
        }
    }
}
