//! What a feature needs in the table: hooked chains, sets, rules. Made when missing, also when
//! somebody flushed a part of it.

use ipnet::IpNet;

use super::{
    Batch, Nft,
    expr::{Family, Program},
};
use crate::protocol::Failure;

/// nft(8)'s numbers of data types (libnftables datatype.h), which it stores with a set to print it.
pub(crate) mod datatype {
    use super::Family;

    pub const INTEGER: u32 = 4;
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const HARDWARE_ADDRESS: u32 = 9;
    pub const PROTOCOL: u32 = 12;
    pub const PORT: u32 = 13;
    pub const INTERFACE_NAME: u32 = 41;
    /// NFT_DATA_VERDICT.
    pub const VERDICT: u32 = 0xffff_ff00;

    /// The type of an address.
    pub fn address(family: Family) -> u32 {
        match family {
            Family::V4 => IPV4,
            Family::V6 => IPV6,
        }
    }

    /// A concatenation of types.
    pub const fn concat(a: u32, b: u32) -> u32 {
        a << 6 | b
    }
}

/// Netfilter hooks (NF_INET_…).
pub(crate) mod hook {
    pub const PREROUTING: u32 = 0;
    pub const FORWARD: u32 = 2;
    pub const OUTPUT: u32 = 3;
    pub const POSTROUTING: u32 = 4;
}

/// A chain that a hook runs.
#[derive(Debug, Clone)]
pub(crate) struct BaseChain {
    pub name: &'static str,
    /// `nat` or `filter`.
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

/// A set, or a map when it has data.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub name: &'static str,
    pub key_type: u32,
    pub key_length: u32,
    /// A map's data type and length in bytes (0 for verdicts).
    pub data: Option<(u32, u32)>,
}

impl Set {
    pub(super) fn flags(&self) -> u32 {
        const MAP: u32 = 8;
        // Hash sets take concatenated keys as they are; NFT_SET_CONCAT is for ranges.
        if self.data.is_some() { MAP } else { 0 }
    }
}

/// A rule with its text, by which it is recognised.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub chain: String,
    pub text: String,
    pub program: Program,
}

/// What a feature needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    pub chains: Vec<BaseChain>,
    pub sets: Vec<Set>,
    /// Grouped by chain, in order.
    pub rules: Vec<Rule>,
}

impl Layout {
    /// The names of the chains that have rules, each once.
    fn ruled_chains(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for rule in &self.rules {
            if names.last() != Some(&rule.chain.as_str()) {
                names.push(&rule.chain);
            }
        }
        names
    }

    fn expected(&self, chain: &str) -> Vec<&str> {
        self.rules
            .iter()
            .filter(|r| r.chain == chain)
            .map(|r| r.text.as_str())
            .collect()
    }

    /// Adds to `batch` whatever of this is missing.
    pub fn require(&self, nft: &mut Nft, batch: &mut Batch) -> Result<(), Failure> {
        let there = nft.rules()?;
        let texts = |chain: &str| -> Vec<&str> {
            there
                .iter()
                .filter(|r| r.chain == chain)
                .map(|r| r.text.as_str())
                .collect()
        };
        let broken: Vec<&str> = self
            .ruled_chains()
            .into_iter()
            .filter(|c| texts(c) != self.expected(c))
            .collect();
        if broken.is_empty() {
            return Ok(());
        }
        batch.table();
        for chain in self.chains.iter().filter(|c| broken.contains(&c.name)) {
            batch.base_chain(chain);
        }
        for name in &broken {
            if !self.chains.iter().any(|c| c.name == *name) {
                batch.chain(name);
            }
            if !texts(name).is_empty() {
                batch.flush_chain(name);
            }
        }
        for set in &self.sets {
            batch.set(set);
        }
        for rule in self.rules.iter().filter(|r| broken.contains(&r.chain.as_str())) {
            batch.rule(&rule.chain, &rule.text, &rule.program);
        }
        Ok(())
    }

    /// The first part that is missing, for CHECK.
    pub fn missing(&self, nft: &mut Nft) -> Result<Option<String>, Failure> {
        let there = nft.rules()?;
        let table = nft.table();
        Ok(self
            .rules
            .iter()
            .find(|rule| !there.iter().any(|r| r.chain == rule.chain && r.text == rule.text))
            .map(|rule| format!("rule {:?} of chain {} in table {table}", rule.text, rule.chain)))
    }
}

/// The name of a chain for a subnet. A colon is not part of nft's words.
pub(crate) fn subnet_chain(prefix: &str, subnet: &IpNet) -> String {
    format!("{prefix}-{}", subnet.trunc()).replace(':', "-")
}
