//! Plain accepts in the chains of iptables: `accept` in one table does not beat a DROP policy in
//! another base chain, and many hosts (Docker, ufw) have that policy in `filter FORWARD`.
//!
//! Before them there is a jump to the administrator's chain, as the reference plugin has it. Only forms
//! that iptables-nft can show are used there: address, counter, accept or jump.

use std::net::IpAddr;

use super::{
    Batch, Nft, Tag,
    batch::ForeignChain,
    expr::{Family, Is, Program, Register, Verdict, octets},
};
use crate::protocol::Failure;

/// `ip filter FORWARD` or `ip6 filter FORWARD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NativeTable(pub Family);

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const ADMIN: &str = "berth: rules of the administrator in ";

/// A rule found there that one of the plugins made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NativeRule {
    handle: u64,
    pub tag: Tag,
    /// `from ADDRESS` or `to ADDRESS`.
    pub what: String,
}

/// What the plugins have in the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NativeRules {
    /// The jumps to administrators' chains: handle and chain.
    jumps: Vec<(u64, String)>,
    pub accepts: Vec<NativeRule>,
}

impl NativeRules {
    /// Whether there is a jump to the administrator's chain.
    pub fn leads_to(&self, admin: &str) -> bool {
        self.jumps.iter().any(|(_, chain)| chain == admin)
    }
}

impl NativeTable {
    fn chain(self, name: &str) -> ForeignChain<'_> {
        ForeignChain {
            family: self.0.number(),
            table: TABLE,
            name,
        }
    }

    /// Whether the chain exists, and whether its policy drops.
    pub fn policy_drops(self, nft: &mut Nft) -> Result<Option<bool>, Failure> {
        Ok(nft.chain(self.0.number(), TABLE, CHAIN)?.map(|c| c.drops))
    }

    /// The rules that plugins made.
    pub fn rules(self, nft: &mut Nft) -> Result<NativeRules, Failure> {
        let mut found = NativeRules::default();
        for rule in nft.foreign_rules(self.0.number(), TABLE, Some(CHAIN))? {
            if rule.chain != CHAIN {
                continue;
            }
            if let Some(admin) = rule.text.strip_prefix(ADMIN) {
                found.jumps.push((rule.handle, admin.to_owned()));
            } else if let Some((tag, what)) =
                rule.text.strip_prefix("berth ").and_then(|t| t.split_once(": "))
                && let Some(tag) = Tag::parse(tag)
            {
                found.accepts.push(NativeRule {
                    handle: rule.handle,
                    tag,
                    what: what.to_owned(),
                });
            }
        }
        Ok(found)
    }

    /// Adds to `batch` the accepts for addresses of an attachment in place of those it has, and the jump to
    /// the administrator's chain before them.
    pub fn accept(
        self,
        nft: &mut Nft,
        batch: &mut Batch,
        there: &NativeRules,
        tag: &Tag,
        addresses: &[IpAddr],
        admin: &str,
    ) -> Result<(), Failure> {
        for rule in there.accepts.iter().filter(|r| r.tag == *tag) {
            self.delete(batch, rule);
        }
        let after = there.jumps.last().map(|(handle, _)| *handle);
        for address in addresses {
            for (what, source) in [("to", false), ("from", true)] {
                let text = format!("berth {tag}: {what} {address}");
                let program = self.accepting(*address, source);
                batch.insert_foreign_rule(&self.chain(CHAIN), after, &text, &program);
            }
        }
        if !there.leads_to(admin) {
            // To "create" one that is there is a change to the kernel, which the process's end then waits for.
            if nft.chain(self.0.number(), TABLE, admin)?.is_none() {
                batch.foreign_chain(&self.chain(admin));
            }
            let program = Program::default()
                .counter()
                .verdict(&Verdict::Jump(admin.to_owned()));
            batch.insert_foreign_rule(&self.chain(CHAIN), None, &format!("{ADMIN}{admin}"), &program);
        }
        Ok(())
    }

    fn accepting(self, address: IpAddr, source: bool) -> Program {
        let load = Program::default();
        let load = if source {
            load.source(self.0, Register::FIRST)
        } else {
            load.destination(self.0, Register::FIRST)
        };
        load.compare(Register::FIRST, Is::Equal, &octets(address))
            .counter()
            .verdict(&Verdict::Accept)
    }

    /// Adds the removal of a rule to `batch`.
    fn delete(self, batch: &mut Batch, rule: &NativeRule) {
        batch.delete_foreign_rule(&self.chain(CHAIN), rule.handle);
    }

    /// Adds to `batch` the removal of the accepts whose tag `remove` wants gone; with the last accept go the
    /// jumps, and administrators' chains that are empty.
    pub fn remove(
        self,
        nft: &mut Nft,
        batch: &mut Batch,
        remove: &dyn Fn(&Tag) -> bool,
    ) -> Result<(), Failure> {
        let there = self.rules(nft)?;
        let mut kept = false;
        for rule in &there.accepts {
            if remove(&rule.tag) {
                self.delete(batch, rule);
            } else {
                kept = true;
            }
        }
        if kept || there.accepts.is_empty() {
            return Ok(());
        }
        for (handle, admin) in &there.jumps {
            batch.delete_foreign_rule(&self.chain(CHAIN), *handle);
            // Its use count has its own rules and what leads to it: ours alone.
            if nft
                .chain(self.0.number(), TABLE, admin)?
                .is_some_and(|c| c.uses == 1)
            {
                batch.delete_foreign_chain(&self.chain(admin));
            }
        }
        Ok(())
    }
}
