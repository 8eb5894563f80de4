//! Entering images, and what keeps their content until then and after a power cut.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use super::{ImageStore, parse};
use crate::digest::{ChainId, Digest};
use crate::error::StoreError;
use crate::index::Named;
use crate::layer::Wanted;
use crate::reference::Reference;

impl ImageStore {
    /// Keeps blobs and layers from being collected for as long as the guard lives.
    pub(crate) fn pin(&self, blobs: Vec<Digest>, chains: Vec<ChainId>) -> Pinned {
        let _shared = self.gate_shared();
        let mut pins = self.pins();
        for blob in &blobs {
            *pins.blobs.entry(*blob).or_default() += 1;
        }
        for chain in &chains {
            *pins.chains.entry(*chain).or_default() += 1;
        }
        drop(pins);
        Pinned {
            store: self.clone(),
            blobs,
            chains,
        }
    }

    /// Whether the index has an image of this manifest.
    pub(crate) fn has_manifest(&self, manifest: &Digest) -> bool {
        self.images().index.contains_key(manifest)
    }

    /// Enters an image whose blobs and layers are in place, under its names, which it takes over
    /// from whichever image had them.
    pub(crate) fn enter(&self, entry: &Entry<'_>) -> Result<(), StoreError> {
        let parsed = parse(&self.0.blobs, &entry.manifest)?;
        if entry.settled {
            self.0.blobs.sync()?;
        }
        let mut images = self.images();
        let mut index = images.index.clone();
        for named in index.values_mut() {
            named.names.retain(|name| !entry.names.contains(name));
        }
        let named = index.entry(entry.manifest).or_insert_with(|| Named {
            media_type: entry.media_type.to_owned(),
            size: entry.size,
            names: Vec::new(),
            imported: entry.now,
            digests: Vec::new(),
            unsettled: (!entry.settled).then(|| self.0.boot.clone()),
        });
        if entry.settled {
            named.unsettled = None;
        }
        named.imported = entry.now;
        named.names.extend_from_slice(entry.names);
        named.names.sort();
        named.digests.extend_from_slice(entry.digests);
        named.digests.sort();
        named.digests.dedup();
        self.replace_index(&mut images, index)?;
        images.damaged.remove(&entry.manifest);
        images.known.insert(entry.manifest, Arc::new(parsed));
        Ok(())
    }

    /// Has everything written out that images were entered without waiting for. May take as long
    /// as the disk does; pulled images can be used meanwhile.
    pub fn settle(&self) -> Result<(), StoreError> {
        let waiting: Vec<Digest> = {
            let images = self.images();
            let unsettled = images.index.iter().filter(|(_, named)| named.unsettled.is_some());
            unsettled.map(|(manifest, _)| *manifest).collect()
        };
        if waiting.is_empty() {
            return Ok(());
        }
        self.0.blobs.sync()?;
        let mut images = self.images();
        let mut index = images.index.clone();
        for manifest in waiting {
            if let Some(named) = index.get_mut(&manifest) {
                named.unsettled = None;
            }
        }
        self.replace_index(&mut images, index)
    }

    /// Deletes what is not sound of a damaged image's content, so that a pull brings it anew.
    pub(crate) fn drop_damaged(&self, layers: impl Iterator<Item = Wanted>) -> Result<(), StoreError> {
        for layer in layers {
            if self.0.blobs.has(&layer.blob) && !self.0.blobs.is_sound(&layer.blob)? {
                self.0.blobs.delete(&layer.blob)?;
            }
        }
        Ok(())
    }

    /// Looks again at images whose content was not known to be on the disk when the power failed.
    pub(super) fn recheck(&self) -> Result<(), StoreError> {
        let mut images = self.images();
        let suspects: Vec<Digest> = images
            .index
            .iter()
            .filter(|(_, named)| named.unsettled.as_ref().is_some_and(|boot| *boot != self.0.boot))
            .map(|(manifest, _)| *manifest)
            .collect();
        for manifest in &suspects {
            let Some(parsed) = images.known.get(manifest).cloned() else {
                continue;
            };
            let sound = parsed
                .layers
                .iter()
                .all(|layer| self.0.blobs.is_sound(&layer.blob).unwrap_or(false));
            for layer in &parsed.layers {
                self.0.layers.distrust(&layer.chain, &self.0.blobs)?;
            }
            if !sound {
                images.known.remove(manifest);
                images.damaged.insert(*manifest);
            }
        }
        if suspects.is_empty() {
            return Ok(());
        }
        // A damaged image stays suspect until it is pulled again.
        let mut index = images.index.clone();
        for manifest in suspects {
            if !images.damaged.contains(&manifest)
                && let Some(named) = index.get_mut(&manifest)
            {
                named.unsettled = None;
            }
        }
        self.replace_index(&mut images, index)
    }
}

/// An image to be entered.
pub(crate) struct Entry<'a> {
    pub(crate) manifest: Digest,
    pub(crate) media_type: &'a str,
    pub(crate) size: u64,
    pub(crate) names: &'a [Reference],
    pub(crate) digests: &'a [Reference],
    /// Seconds since the epoch.
    pub(crate) now: u64,
    /// Its content is to be on the disk before its entry is.
    pub(crate) settled: bool,
}

/// Keeps content from being collected, see [`ImageStore::pin`].
pub(crate) struct Pinned {
    store: ImageStore,
    blobs: Vec<Digest>,
    chains: Vec<ChainId>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.store.pins();
        for blob in &self.blobs {
            release(&mut pins.blobs, blob);
        }
        for chain in &self.chains {
            release(&mut pins.chains, chain);
        }
    }
}

fn release<K: Ord>(pins: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = pins.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            pins.remove(key);
        }
    }
}

/// Id of this boot of the kernel (random(4)); another one each time.
pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}
