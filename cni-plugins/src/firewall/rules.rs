//! The rules of the firewall plugin.
//!
//! ```text
//! chain firewall {                            filter forward, before the host's own (priority -10)
//!     jump firewall-admin
//!     ct state established,related accept
//!     ip  daddr vmap @ingress4                policy of the container that the packet goes to
//!     ip6 daddr vmap @ingress6
//!     ip saddr @containers4 accept
//!     ct status dnat accept                   published ports
//!     ip daddr @guarded4 drop                 hosts whose FORWARD drops what is not allowed
//! }
//! chain firewall-admin   { jump CNI-ADMIN }   whatever iptablesAdminChainName says; the chain is the
//!                                             administrator's: a drop there is final
//! chain ingress-BRIDGE   { iifname BRIDGE return; ip saddr @containers4 drop; ip6 saddr @containers6 drop }
//! chain ingress-isolated {                        ip saddr @containers4 drop; ip6 saddr @containers6 drop }
//! ```
//!
//! `accept` here only ends this chain; what must be let through against a DROP policy of the host gets
//! plain accepts in `ip filter FORWARD` (nft/native.rs). Those let new connections in, too, so where
//! they are needed the state is looked at here: drop is final in every chain.

use ipnet::IpNet;

use crate::{
    nft::{
        BaseChain, Batch, Data, Element, Layout, Nft, Rule, Set, Tag, datatype,
        expr::{
            CT_STATE_ESTABLISHED, CT_STATE_RELATED, Ct, Family, Is, Meta, Program, Register, Verdict, octets,
        },
        hook,
    },
    protocol::Failure,
};

pub(super) const SETS: [&str; 6] = [
    "containers4",
    "containers6",
    "guarded4",
    "guarded6",
    "ingress4",
    "ingress6",
];
const CHAIN: &str = "firewall";
const ADMINS: &str = "firewall-admin";
const ISOLATED: &str = "ingress-isolated";

/// Who may open connections to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Policy {
    /// Everybody that the host lets through.
    Open,
    /// Containers of the same bridge, and everybody who is no container.
    SameBridge(String),
    /// No container.
    Isolated,
}

impl Policy {
    fn chain(&self) -> Option<String> {
        match self {
            Self::Open => None,
            Self::SameBridge(bridge) => Some(format!("ingress-{bridge}")),
            Self::Isolated => Some(ISOLATED.to_owned()),
        }
    }
}

fn containers(family: Family) -> &'static str {
    match family {
        Family::V4 => "containers4",
        Family::V6 => "containers6",
    }
}

fn guarded(family: Family) -> &'static str {
    match family {
        Family::V4 => "guarded4",
        Family::V6 => "guarded6",
    }
}

fn ingress(family: Family) -> &'static str {
    match family {
        Family::V4 => "ingress4",
        Family::V6 => "ingress6",
    }
}

pub(super) fn layout(policy: &Policy) -> Layout {
    let mut layout = Layout {
        chains: vec![BaseChain {
            name: CHAIN,
            kind: "filter",
            hook: hook::FORWARD,
            priority: -10,
        }],
        sets: Family::BOTH.into_iter().flat_map(sets).collect(),
        rules: Vec::new(),
    };
    let mut add = |text: String, program: Program| {
        layout.rules.push(Rule {
            chain: CHAIN.to_owned(),
            text,
            program,
        });
    };
    add(
        format!("jump {ADMINS}"),
        Program::default().verdict(&Verdict::Jump(ADMINS.to_owned())),
    );
    let states = CT_STATE_ESTABLISHED | CT_STATE_RELATED;
    add(
        "ct state established,related accept".into(),
        Program::default()
            .ct(Ct::State, Register::FIRST)
            .mask(Register::FIRST, &states.to_ne_bytes())
            .compare(Register::FIRST, Is::NotEqual, &0u32.to_ne_bytes())
            .verdict(&Verdict::Accept),
    );
    for family in Family::BOTH {
        add(
            format!("{} daddr vmap @{}", family.keyword(), ingress(family)),
            Program::default()
                .family(family)
                .destination(family, Register::FIRST)
                .lookup(ingress(family), Register::FIRST, Some(Register::VERDICT)),
        );
    }
    for family in Family::BOTH {
        add(
            format!("{} saddr @{} accept", family.keyword(), containers(family)),
            from_container(family).verdict(&Verdict::Accept),
        );
    }
    add(
        "ct status dnat accept".into(),
        crate::portmap::rules::translated().verdict(&Verdict::Accept),
    );
    for family in Family::BOTH {
        add(
            format!("{} daddr @{} drop", family.keyword(), guarded(family)),
            Program::default()
                .family(family)
                .destination(family, Register::FIRST)
                .lookup(guarded(family), Register::FIRST, None)
                .verdict(&Verdict::Drop),
        );
    }
    layout.rules.extend(policy_rules(policy));
    layout
}

/// Whether a chain of this name is one of the plugins' own.
pub(super) fn is_own_chain(name: &str) -> bool {
    ["firewall", "ingress", "ipmasq", "ports", "hairpin"]
        .iter()
        .any(|own| name == *own || name.strip_prefix(own).is_some_and(|rest| rest.starts_with('-')))
}

fn jump(admin: &str) -> String {
    format!("jump {admin}")
}

fn leads_to(nft: &mut Nft, admin: &str) -> Result<bool, Failure> {
    let text = jump(admin);
    Ok(nft.rules()?.iter().any(|r| r.chain == ADMINS && r.text == text))
}

/// Adds to `batch` the administrator's chain and the jump to it, unless they are there. What is in that
/// chain is never touched.
pub(super) fn require_admin(nft: &mut Nft, batch: &mut Batch, admin: &str) -> Result<(), Failure> {
    if leads_to(nft, admin)? {
        return Ok(());
    }
    batch.table();
    batch.chain(admin);
    batch.chain(ADMINS);
    let program = Program::default().verdict(&Verdict::Jump(admin.to_owned()));
    batch.rule(ADMINS, &jump(admin), &program);
    Ok(())
}

/// The jump to the administrator's chain, if it is missing.
pub(super) fn missing_admin(nft: &mut Nft, admin: &str) -> Result<Option<String>, Failure> {
    let found = leads_to(nft, admin)?;
    Ok((!found).then(|| {
        format!(
            "rule {:?} of chain {ADMINS} in table {}",
            jump(admin),
            nft.table()
        )
    }))
}

fn from_container(family: Family) -> Program {
    Program::default()
        .family(family)
        .source(family, Register::FIRST)
        .lookup(containers(family), Register::FIRST, None)
}

fn policy_rules(policy: &Policy) -> Vec<Rule> {
    let Some(chain) = policy.chain() else {
        return Vec::new();
    };
    let mut rules = Vec::new();
    if let Policy::SameBridge(bridge) = policy {
        let mut name = bridge.as_bytes().to_vec();
        name.resize(16, 0);
        rules.push(Rule {
            chain: chain.clone(),
            text: format!("iifname {bridge} return"),
            program: Program::default()
                .meta(Meta::InputName, Register::FIRST)
                .compare(Register::FIRST, Is::Equal, &name)
                .verdict(&Verdict::Return),
        });
    }
    for family in Family::BOTH {
        rules.push(Rule {
            chain: chain.clone(),
            text: format!("{} saddr @{} drop", family.keyword(), containers(family)),
            program: from_container(family).verdict(&Verdict::Drop),
        });
    }
    rules
}

fn sets(family: Family) -> [Set; 3] {
    let set = |name, data| Set {
        name,
        key_type: datatype::address(family),
        key_length: family.width(),
        data,
    };
    [
        set(containers(family), None),
        set(guarded(family), None),
        set(ingress(family), Some((datatype::VERDICT, 0))),
    ]
}

/// Every element that the attachment needs, with its set. `guarded_families`: those whose FORWARD drops.
pub(super) fn elements(
    tag: &Tag,
    addresses: &[IpNet],
    policy: &Policy,
    guarded_families: &[Family],
) -> Vec<(&'static str, Element)> {
    let mut elements = Vec::new();
    for net in addresses {
        let family = Family::of(net.addr());
        let element = |data| Element {
            key: octets(net.addr()),
            data,
            comment: tag.to_string(),
        };
        elements.push((containers(family), element(Data::Nothing)));
        if guarded_families.contains(&family) {
            elements.push((guarded(family), element(Data::Nothing)));
        }
        if let Some(chain) = policy.chain() {
            elements.push((ingress(family), element(Data::Jump(chain))));
        }
    }
    elements
}
