//! Plain accepts in the chains of iptables: `accept` in one table does not beat a DROP policy in
//! another base chain, and many hosts (Docker, ufw) have that policy in `filter FORWARD`.
//!
//! Only forms that iptables-nft can show are used there: address, counter, accept.

use std::net::IpAddr;

use super::{
    Batch, Nft, Tag,
    expr::{Family, Program, Register, Verdict, octets},
};
use crate::protocol::Failure;

/// `ip filter FORWARD` or `ip6 filter FORWARD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NativeTable(pub Family);

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";

/// A rule found there that one of the plugins made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NativeRule {
    handle: u64,
    pub tag: Tag,
    /// `from ADDRESS` or `to ADDRESS`.
    pub what: String,
}

impl NativeTable {
    /// Whether the chain exists, and whether its policy drops.
    pub fn policy_drops(self, nft: &mut Nft) -> Result<Option<bool>, Failure> {
        Ok(nft.chain(self.0.number(), TABLE, CHAIN)?.map(|c| c.drops))
    }

    /// The rules that plugins made.
    pub fn rules(self, nft: &mut Nft) -> Result<Vec<NativeRule>, Failure> {
        let rules = nft.foreign_rules(self.0.number(), TABLE, Some(CHAIN))?;
        Ok(rules
            .into_iter()
            .filter(|r| r.chain == CHAIN)
            .filter_map(|r| {
                let (tag, what) = r.text.strip_prefix("berth ")?.split_once(": ")?;
                Some(NativeRule {
                    handle: r.handle,
                    tag: Tag::parse(tag)?,
                    what: what.to_owned(),
                })
            })
            .collect())
    }

    /// Adds the accepts for an address to `batch`.
    pub fn accept(self, batch: &mut Batch, tag: &Tag, address: IpAddr) {
        let program = |source: bool| {
            let load = Program::default();
            let load = if source {
                load.source(self.0, Register::FIRST)
            } else {
                load.destination(self.0, Register::FIRST)
            };
            load.compare(Register::FIRST, super::expr::Is::Equal, &octets(address))
                .counter()
                .verdict(&Verdict::Accept)
        };
        for (what, source) in [("to", false), ("from", true)] {
            let text = format!("berth {tag}: {what} {address}");
            batch.insert_foreign_rule(self.0.number(), TABLE, CHAIN, &text, &program(source));
        }
    }

    /// Adds the removal of a rule to `batch`.
    pub fn delete(self, batch: &mut Batch, rule: &NativeRule) {
        batch.delete_foreign_rule(self.0.number(), TABLE, CHAIN, rule.handle);
    }
}
