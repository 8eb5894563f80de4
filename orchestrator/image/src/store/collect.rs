//! Removing images, and everything that no image needs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Collected, ImageStore, Removed, find};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::Named;
use crate::reference::Reference;

impl ImageStore {
    /// Takes a name away from an image, and deletes the image with its last name (by id: all its
    /// names). An image whose id is in `in_use` keeps its last name.
    pub fn remove(&self, name: &str, in_use: &BTreeSet<Digest>) -> Result<Removed, StoreError> {
        let _alone = self.gate_alone();
        let mut images = self.images();
        let manifest = find(&images, name)?.ok_or_else(|| StoreError::NotFound {
            name: name.to_owned(),
        })?;
        let id = images.known.get(&manifest).map(|parsed| parsed.id);
        let mut index = images.index.clone();
        let Some(named) = index.get_mut(&manifest) else {
            return Err(StoreError::NotFound {
                name: name.to_owned(),
            });
        };
        let reference = name
            .parse::<Reference>()
            .ok()
            .filter(|reference| named.names.contains(reference));
        let untagged: Vec<Reference> = match reference {
            Some(reference) => {
                named.names.retain(|other| *other != reference);
                vec![reference]
            }
            None => std::mem::take(&mut named.names),
        };
        // What may be said of repositories that it had names in is over with the last of them.
        if !named.names.is_empty() {
            let kept: Vec<String> = named.names.iter().map(Reference::repository).collect();
            named.digests.retain(|digest| kept.contains(&digest.repository()));
        }
        let last = named.names.is_empty();
        if last {
            if let Some(id) = id.filter(|id| in_use.contains(id)) {
                return Err(StoreError::InUse {
                    name: name.to_owned(),
                    id,
                });
            }
            index.remove(&manifest);
        }
        self.replace_index(&mut images, index)?;
        drop(images);
        let collected = if last { self.sweep()? } else { Collected::default() };
        Ok(Removed {
            untagged,
            deleted: id.filter(|_| last),
            collected,
        })
    }

    /// Deletes images without a name whose id is not in `in_use`, and everything no image needs.
    pub fn gc(&self, in_use: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        self.collect(in_use, |_, named| named.names.is_empty())
    }

    /// Deletes all images whose id is not in `in_use`, partial downloads, and everything no image
    /// needs.
    pub fn prune_all(&self, in_use: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        let mut collected = self.collect(in_use, |_, _| true)?;
        collected.bytes += self.0.downloads.sweep(|_, _| true)?;
        Ok(collected)
    }

    /// Deletes these images, with all their names, except those whose id is in `in_use`.
    pub fn delete_images(
        &self,
        manifests: &BTreeSet<Digest>,
        in_use: &BTreeSet<Digest>,
    ) -> Result<Collected, StoreError> {
        self.collect(in_use, |manifest, _| manifests.contains(manifest))
    }

    /// Deletes downloads that nobody has gone on with for longer than `age`.
    pub fn drop_partial(&self, age: Duration) -> Result<u64, StoreError> {
        self.0.downloads.sweep(|_, idle| idle > age)
    }

    fn collect(
        &self,
        in_use: &BTreeSet<Digest>,
        doomed: impl Fn(&Digest, &Named) -> bool,
    ) -> Result<Collected, StoreError> {
        let _alone = self.gate_alone();
        let mut images = self.images();
        let mut index = images.index.clone();
        let before = index.len();
        index.retain(|manifest, named| {
            let used = images
                .known
                .get(manifest)
                .is_none_or(|parsed| in_use.contains(&parsed.id));
            used || !doomed(manifest, named)
        });
        let removed = (before - index.len()) as u64;
        if removed > 0 {
            self.replace_index(&mut images, index)?;
        }
        drop(images);
        let mut collected = self.sweep()?;
        collected.images = removed;
        Ok(collected)
    }

    /// Blobs that no image needs when the store is opened are mostly those of a pull that was killed:
    /// they become partial downloads, so that the next pull need not transfer them again.
    pub(super) fn keep_unfinished(&self) -> Result<(), StoreError> {
        let images = self.images();
        if !images.damaged.is_empty() {
            return Ok(());
        }
        let mut needed = BTreeSet::new();
        for (manifest, parsed) in &images.known {
            needed.extend([*manifest, parsed.id]);
            needed.extend(parsed.layers.iter().map(|layer| layer.blob));
        }
        drop(images);
        for blob in self.0.blobs.list()? {
            if !needed.contains(&blob) {
                self.0.downloads.adopt(&blob, &self.0.blobs.path(&blob))?;
            }
        }
        Ok(())
    }

    /// Deletes blobs and layers that no image of the index needs. The gate is held alone.
    pub(super) fn sweep(&self) -> Result<Collected, StoreError> {
        let images = self.images();
        if !images.damaged.is_empty() {
            // What a damaged image needs is not known.
            return Ok(Collected::default());
        }
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for (manifest, parsed) in &images.known {
            blobs.extend([*manifest, parsed.id]);
            blobs.extend(parsed.layers.iter().map(|layer| layer.blob));
            layers.extend(parsed.layers.iter().map(|layer| layer.chain));
        }
        drop(images);
        let pins = self.pins();
        blobs.extend(pins.blobs.keys());
        layers.extend(pins.chains.keys());
        drop(pins);
        let mut collected = Collected::default();
        for layer in self
            .0
            .layers
            .list()
            .iter()
            .filter(|layer| !layers.contains(layer))
        {
            collected.bytes += self.0.layers.delete(layer, &self.0.blobs)?;
            collected.layers += 1;
        }
        for blob in self.0.blobs.list()?.iter().filter(|blob| !blobs.contains(blob)) {
            collected.bytes += self.0.blobs.delete(blob)?;
            collected.blobs += 1;
        }
        Ok(collected)
    }
}
