//! Interfaces: their state, and the ones made for the demo and for tests.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::journal::{Change, LinkRef};
use super::netlink::Refused;
use super::{HostError, HostNet, Link};

/// Bytes in an interface name (`IFNAMSIZ` without its end).
const NAME_LENGTH: usize = 15;

/// Links.
impl HostNet {
    /// All interfaces.
    ///
    /// # Errors
    /// [`HostError::Netlink`].
    pub fn links(&mut self) -> Result<Vec<Link>, HostError> {
        let replies = self
            .netlink
            .dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(|refused| refused.doing("listing the network interfaces"))?;
        Ok(replies.iter().filter_map(parse).collect())
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`].
    pub fn link(&mut self, name: &str) -> Result<Link, HostError> {
        let doing = format!("looking up the interface {name}");
        let missing = |doing| HostError::NoSuchLink {
            doing,
            link: name.to_owned(),
        };
        if name.is_empty() || name.len() > NAME_LENGTH {
            return Err(missing(doing));
        }
        match self.netlink.get(RouteNetlinkMessage::GetLink(named(name))) {
            Ok(reply) => parse(&reply).ok_or_else(|| missing(doing)),
            Err(refused) if refused.is_absent() => Err(missing(doing)),
            Err(refused) => Err(refused.doing(doing)),
        }
    }

    /// The kernel's number for the interface of this name.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`].
    pub fn link_index(&mut self, name: &str) -> Result<u32, HostError> {
        Ok(self.link(name)?.index)
    }

    /// Takes the interface up, with this MTU in bytes if one is given.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`], [`HostError::Kernel`] for an MTU out of range.
    pub fn set_up(&mut self, name: &str, mtu: Option<u32>) -> Result<(), HostError> {
        self.set_link(name, true, mtu)
    }

    /// Sets the interface's MTU in bytes. Under 1,280 the kernel switches IPv6 off on it and forgets its
    /// IPv6 addresses and routes; [`Self::replace_addresses`] and [`Self::replace_routes`] bring them back
    /// once the MTU allows it.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), HostError> {
        self.set_link(name, false, Some(mtu))
    }

    fn set_link(&mut self, name: &str, up: bool, mtu: Option<u32>) -> Result<(), HostError> {
        let link = self.link(name)?;
        let up = up && !link.up;
        let mtu = mtu.filter(|&mtu| mtu != link.mtu);
        if !up && mtu.is_none() {
            return Ok(());
        }
        let reference = link.reference();
        let known = self.journal.changes().iter().any(|change| {
            matches!(change, Change::Link { link, .. } if *link == reference)
                || matches!(change, Change::Created { index, .. } if *index == Some(link.index))
        });
        if !known {
            self.journal.record(Change::Link {
                link: reference,
                up: link.up,
                mtu: link.mtu,
            })?;
        }
        let doing = match mtu {
            Some(mtu) => format!("setting the MTU of {name} to {mtu} bytes"),
            None => format!("taking {name} up"),
        };
        self.write_link(link.index, up.then_some(true), mtu)
            .map_err(|refused| refused.doing(doing))
    }

    fn write_link(
        &mut self,
        index: u32,
        up: Option<bool>,
        mtu: Option<u32>,
    ) -> Result<(), Refused> {
        let mut message = numbered(index);
        if let Some(up) = up {
            message.header.change_mask = LinkFlags::Up;
            if up {
                message.header.flags = LinkFlags::Up;
            }
        }
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.netlink
            .change(RouteNetlinkMessage::SetLink(message), 0)
    }

    pub(super) fn restore_link(
        &mut self,
        link: &LinkRef,
        up: bool,
        mtu: u32,
    ) -> Result<Option<String>, HostError> {
        let Some(now) = self.surviving(link)? else {
            return Ok(None);
        };
        if now.up == up && now.mtu == mtu {
            return Ok(None);
        }
        self.write_link(
            now.index,
            (now.up != up).then_some(up),
            (now.mtu != mtu).then_some(mtu),
        )
        .map_err(|refused| refused.doing(format!("restoring the state of {}", link.name)))?;
        let state = if up { "up" } else { "down" };
        Ok(Some(format!(
            "set {} back to {state}, MTU {mtu}",
            link.name
        )))
    }

    /// The link, if it is still the one that was changed.
    pub(super) fn surviving(&mut self, link: &LinkRef) -> Result<Option<Link>, HostError> {
        match self.link(&link.name) {
            Ok(now) if now.index == link.index => Ok(Some(now)),
            Ok(_) | Err(HostError::NoSuchLink { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Links made here, for the demo and for tests. They are removed again by [`Self::undo_all`].
impl HostNet {
    /// Makes a pair of connected Ethernet interfaces.
    ///
    /// # Errors
    /// [`HostError::Exists`], [`HostError::Permission`].
    pub fn create_veth(&mut self, name: &str, peer: &str) -> Result<(), HostError> {
        let info = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(named(peer)))),
        ];
        self.create(
            &[name, peer],
            info,
            &format!("making the pair of interfaces {name} and {peer}"),
        )
    }

    fn create(
        &mut self,
        names: &[&str],
        info: Vec<LinkInfo>,
        doing: &str,
    ) -> Result<(), HostError> {
        for name in names {
            match self.link(name) {
                Err(HostError::NoSuchLink { .. }) => {}
                Ok(_) => {
                    return Err(HostError::Exists {
                        doing: doing.to_owned(),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        let pending = |name: &&str| Change::Created {
            name: (*name).to_owned(),
            index: None,
        };
        for change in names.iter().map(pending) {
            self.journal.record(change)?;
        }
        let mut message = named(names[0]);
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let made = self.netlink.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        for name in names {
            if made.is_ok() {
                let index = Some(self.link_index(name)?);
                let name = (*name).to_owned();
                self.journal.record(Change::Created { name, index })?;
            }
            self.journal.strike(&pending(name))?;
        }
        made.map_err(|refused| refused.doing(doing))
    }

    /// Removes an interface.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::Permission`].
    pub fn delete_link(&mut self, name: &str) -> Result<(), HostError> {
        let index = self.link_index(name)?;
        self.netlink
            .change(RouteNetlinkMessage::DelLink(numbered(index)), 0)
            .map_err(|refused| refused.doing(format!("removing the interface {name}")))?;
        self.journal.strike(&Change::Created {
            name: name.to_owned(),
            index: Some(index),
        })
    }

    pub(super) fn remove_created(
        &mut self,
        name: &str,
        index: Option<u32>,
    ) -> Result<Option<String>, HostError> {
        match self.link(name) {
            Ok(link) if index.is_none_or(|index| index == link.index) => {
                self.delete_link(name)?;
                Ok(Some(format!("removed the interface {name}")))
            }
            Ok(_) | Err(HostError::NoSuchLink { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves an interface to the network namespace of a process.
    ///
    /// # Errors
    /// [`HostError::NoSuchLink`], [`HostError::NotFound`] if there is no such process,
    /// [`HostError::Permission`].
    pub fn move_to_process(&mut self, name: &str, pid: u32) -> Result<(), HostError> {
        self.relocate(
            name,
            LinkAttribute::NetNsPid(pid),
            &format!("moving {name} to the network namespace of process {pid}"),
        )
    }

    /// Moves an interface to the network namespace behind an open `/proc/<pid>/ns/net`.
    ///
    /// # Errors
    /// As [`Self::move_to_process`].
    pub fn move_to_namespace(
        &mut self,
        name: &str,
        namespace: BorrowedFd<'_>,
    ) -> Result<(), HostError> {
        self.relocate(
            name,
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
            &format!("moving {name} to another network namespace"),
        )
    }

    fn relocate(&mut self, name: &str, to: LinkAttribute, doing: &str) -> Result<(), HostError> {
        let mut message = numbered(self.link_index(name)?);
        message.attributes.push(to);
        self.netlink
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .map_err(|refused| refused.doing(doing))
    }
}

impl Link {
    pub(super) fn reference(&self) -> LinkRef {
        LinkRef {
            index: self.index,
            name: self.name.clone(),
        }
    }
}

fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn numbered(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn parse(reply: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = reply else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}
