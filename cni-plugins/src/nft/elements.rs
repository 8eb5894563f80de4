//! Elements that belong to attachments: removal by tag, with the chains that only they led to.

use super::{Batch, Data, Element, Nft, Tag};
use crate::protocol::Failure;

/// Removes the elements whose tag `remove` wants gone, and the subnet chains that nothing leads to any more.
pub(crate) fn remove(
    nft: &mut Nft,
    sets: &[&str],
    remove: &dyn Fn(&Tag) -> bool,
) -> Result<Vec<Element>, Failure> {
    nft.change("remove the rules of an attachment", |nft, batch| {
        remove_in(nft, batch, sets, remove)
    })
}

/// As [`remove`], inside a change that has more to do.
pub(crate) fn remove_in(
    nft: &mut Nft,
    batch: &mut Batch,
    sets: &[&str],
    remove: &dyn Fn(&Tag) -> bool,
) -> Result<Vec<Element>, Failure> {
    let mut removed = Vec::new();
    let mut jumps: Vec<(String, u32)> = Vec::new();
    for set in sets {
        for element in nft.elements(set)? {
            if !Tag::parse(&element.comment).is_some_and(|tag| remove(&tag)) {
                continue;
            }
            batch.delete_element(set, &element);
            if let Data::Jump(chain) = &element.data {
                match jumps.iter_mut().find(|(name, _)| name == chain) {
                    Some((_, count)) => *count += 1,
                    None => jumps.push((chain.clone(), 1)),
                }
            }
            removed.push(element);
        }
    }
    delete_unused_chains(nft, batch, &jumps)?;
    Ok(removed)
}

fn delete_unused_chains(nft: &mut Nft, batch: &mut Batch, jumps: &[(String, u32)]) -> Result<(), Failure> {
    if jumps.is_empty() {
        return Ok(());
    }
    let rules = nft.rules()?;
    for (chain, released) in jumps {
        // A chain's use count has its own rules and everything that leads to it.
        let own = rules.iter().filter(|r| r.chain == *chain).count() as u32;
        let uses = nft.own_chain(chain)?.map_or(u32::MAX, |c| c.uses);
        if uses == own + released {
            batch.delete_chain(chain);
        }
    }
    Ok(())
}
