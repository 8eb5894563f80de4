//! macspoofchk: a port of a bridge sends with its container's hardware address, and with no other.
//!
//! ```text
//! table bridge berth {
//!     chain spoofing {                        type filter hook prerouting priority -300
//!         iifname @checked-ports iifname . ether saddr != @hardware-addresses drop
//!     }
//! }
//! ```

use super::{
    BaseChain, Data, Element, Layout, Nft, Rule, Set, Tag, elements,
    expr::{Meta, Program, Register, Verdict},
    layout::{datatype, hook},
};
use crate::protocol::{Attachment, Failure};

const CHAIN: &str = "spoofing";
const PORTS: &str = "checked-ports";
const ADDRESSES: &str = "hardware-addresses";
const SETS: [&str; 2] = [PORTS, ADDRESSES];
/// IFNAMSIZ.
const NAME: u32 = 16;

fn layout() -> Layout {
    let program = Program::default()
        .meta(Meta::InputName, Register::FIRST)
        .lookup(PORTS, Register::FIRST, None)
        .source_hardware(Register::word(NAME / 4))
        .not_in(ADDRESSES, Register::FIRST)
        .verdict(&Verdict::Drop);
    Layout {
        chains: vec![BaseChain {
            name: CHAIN,
            kind: "filter",
            hook: hook::PREROUTING,
            priority: -300,
        }],
        sets: vec![
            Set {
                name: PORTS,
                key_type: datatype::INTERFACE_NAME,
                key_length: NAME,
                data: None,
            },
            Set {
                name: ADDRESSES,
                key_type: datatype::concat(datatype::INTERFACE_NAME, datatype::HARDWARE_ADDRESS),
                key_length: NAME + 8,
                data: None,
            },
        ],
        rules: vec![Rule {
            chain: CHAIN.to_owned(),
            text: format!("iifname @{PORTS} iifname . ether saddr != @{ADDRESSES} drop"),
            program,
        }],
    }
}

fn name_key(port: &str) -> Vec<u8> {
    let mut key = port.as_bytes().to_vec();
    key.resize(NAME as usize, 0);
    key
}

/// Lets a port send with this hardware address only.
pub(crate) fn add(nft: &mut Nft, tag: &Tag, port: &str, mac: [u8; 6]) -> Result<(), Failure> {
    let layout = layout();
    let element = |key| Element {
        key,
        data: Data::Nothing,
        comment: tag.to_string(),
    };
    let mut address = name_key(port);
    address.extend(mac);
    address.resize(NAME as usize + 8, 0);
    nft.change(&format!("check the hardware address of {tag}"), |nft, batch| {
        layout.require(nft, batch)?;
        // Of a killed ADD, or of an earlier address.
        elements::remove_in(nft, batch, &SETS, &|t| t == tag)?;
        batch.add_element(PORTS, &element(name_key(port)));
        batch.add_element(ADDRESSES, &element(address.clone()));
        Ok(())
    })
}

/// Removes what belongs to an attachment; `true` when there was something.
pub(crate) fn delete(nft: &mut Nft, tag: &Tag) -> Result<bool, Failure> {
    Ok(!elements::remove(nft, &SETS, &|t| t == tag)?.is_empty())
}

/// Removes what belongs to attachments of the network that are not to be kept.
pub(crate) fn collect(nft: &mut Nft, network: &str, keep: &[Attachment]) -> Result<bool, Failure> {
    Ok(!elements::remove(nft, &SETS, &|tag| tag.is_stale(network, keep))?.is_empty())
}

/// Fails if the port may send with any address, or with none.
pub(crate) fn check(nft: &mut Nft, tag: &Tag, port: &str) -> Result<(), Failure> {
    if let Some(missing) = layout().missing(nft)? {
        return Err(Failure::check(format!("macspoofchk: {missing} is missing")));
    }
    for set in SETS {
        let key = name_key(port);
        let there = nft.elements(set)?;
        if !there
            .iter()
            .any(|e| e.comment == tag.to_string() && e.key.starts_with(&key))
        {
            return Err(Failure::check(format!(
                "macspoofchk: the element of {tag} in set {set} of table {} is missing",
                nft.table()
            )));
        }
    }
    Ok(())
}
