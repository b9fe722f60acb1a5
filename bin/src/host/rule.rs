//! Routing rules: how a client's packets find the tunnel, and the tunnel's own packets do not.

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::journal::{Change, Rule};
use super::netlink::Refused;
use super::sysctl::{self, Dependents};
use super::{HostError, HostNet, ROUTE_PROTOCOL, Table};

/// Where the search for two free neighbouring priorities begins; it goes down. Table main is looked up at 32766.
const HIGHEST_PRIORITY: u32 = 30_000;
const LOWEST_PRIORITY: u32 = 1_000;

const VALID_MARK: &str = "net/ipv4/conf/all/src_valid_mark";

/// Routing rules.
impl HostNet {
    /// Sends everything but packets marked `fwmark` through `table`, except where table main has a
    /// route more specific than the default one; for both IP versions (IPv6 is left out where the kernel has
    /// none). A default route in `table` therefore never catches the tunnel's own UDP packets.
    /// Called again, it replaces what it installed before.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] if `fwmark` or `table` is 0 or the table is the kernel's own,
    /// [`HostError::Permission`], [`HostError::Kernel`], [`HostError::Sysctl`].
    pub fn install_client_rules(&mut self, fwmark: u32, table: Table) -> Result<(), HostError> {
        let doing = format!("sending packets not marked {fwmark:#x} through table {table}");
        if fwmark == 0 || table.0 == 0 || (253..=255).contains(&table.0) {
            return Err(HostError::Unsupported {
                doing,
                reason: "the mark must not be 0, and the table must be one of its own".into(),
            });
        }
        let before = self.installed_rules();
        let wanted = |v6, priority| {
            let rule = |priority, table, not_mark| Rule {
                v6,
                priority,
                table,
                not_mark,
            };
            [
                rule(priority, Table::MAIN.0, None),
                rule(priority + 1, table.0, Some(fwmark)),
            ]
        };
        let priority = self.free_priorities()?;
        // Answers to the marked packets pass strict reverse path filtering only if it looks at the mark. Where the
        // setting cannot be written and nothing filters, nothing is lost.
        match self.set_sysctl(VALID_MARK, "1", Dependents::None) {
            Err(error) if sysctl::strict_reverse_path() => return Err(error),
            Err(error) => tracing::debug!(%error, "reverse path filtering ignores marks"),
            Ok(()) => {}
        }
        for v6 in [false, true] {
            for rule in wanted(v6, priority) {
                let change = Change::Rule(rule);
                self.journal.record(change.clone())?;
                let message = RouteNetlinkMessage::NewRule(message(rule));
                match self.netlink.change(message, NLM_F_CREATE | NLM_F_EXCL) {
                    Ok(()) => {}
                    Err(refused) if v6 && refused.is_unsupported() => {
                        self.journal.strike(&change)?;
                    }
                    Err(refused) => {
                        self.journal.strike(&change)?;
                        return Err(refused.doing(doing));
                    }
                }
            }
        }
        for rule in before {
            self.remove_rule(rule)?;
            self.journal.strike(&Change::Rule(rule))?;
        }
        Ok(())
    }

    pub(super) fn remove_rule(&mut self, rule: Rule) -> Result<Option<String>, HostError> {
        let version = if rule.v6 { "IPv6" } else { "IPv4" };
        let what = format!(
            "the {version} routing rule {} to table {}",
            rule.priority,
            Table(rule.table)
        );
        let message = RouteNetlinkMessage::DelRule(message(rule));
        match self.netlink.change(message, 0) {
            Ok(()) => Ok(Some(format!("removed {what}"))),
            Err(refused) if refused.is_absent() || refused.is_unsupported() => Ok(None),
            Err(refused) => Err(refused.doing(format!("removing {what}"))),
        }
    }

    fn installed_rules(&self) -> Vec<Rule> {
        let changes = self.journal.changes().iter();
        changes
            .filter_map(|change| match change {
                Change::Rule(rule) => Some(*rule),
                _ => None,
            })
            .collect()
    }

    /// The highest priority that, with the one after it, no rule of either IP version has.
    fn free_priorities(&mut self) -> Result<u32, HostError> {
        let mut used = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            match self.used_priorities(family) {
                Ok(priorities) => used.extend(priorities),
                Err(refused) if refused.is_unsupported() => {}
                Err(refused) => return Err(refused.doing("listing the routing rules")),
            }
        }
        (LOWEST_PRIORITY..=HIGHEST_PRIORITY)
            .rev()
            .step_by(2)
            .find(|priority| !used.contains(priority) && !used.contains(&(priority + 1)))
            .ok_or_else(|| HostError::Exists {
                doing: "choosing a priority for the routing rules".into(),
            })
    }

    fn used_priorities(&mut self, family: AddressFamily) -> Result<Vec<u32>, Refused> {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let replies = self.netlink.dump(&RouteNetlinkMessage::GetRule(request))?;
        Ok(replies
            .iter()
            .filter_map(|reply| match reply {
                RouteNetlinkMessage::NewRule(rule) => Some(rule),
                _ => None,
            })
            .flat_map(|rule| &rule.attributes)
            .filter_map(|attribute| match attribute {
                RuleAttribute::Priority(priority) => Some(*priority),
                _ => None,
            })
            .collect())
    }
}

fn message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    match rule.not_mark {
        Some(mark) => {
            message.header.flags = RuleFlags::Invert;
            message.attributes.push(RuleAttribute::FwMark(mark));
        }
        None => message.attributes.push(RuleAttribute::SuppressPrefixLen(0)),
    }
    message
}
