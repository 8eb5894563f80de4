//! Checking the whole store, and counting what it holds.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::{ChainId, Digest};
use crate::error::StoreError;
use crate::store::ImageStore;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Blob, layer, image.
    pub what: String,
    /// What is wrong with it, and what helps.
    pub why: String,
}

/// What [`ImageStore::check`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Images.
    pub images: u64,
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Layers that were counted.
    pub layers: u64,
    /// Downloads that can be gone on with, and their bytes.
    pub partial: (u64, u64),
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Images that were found damaged: names where they have some, otherwise ids.
    pub damaged: Vec<String>,
}

/// What the store holds, in bytes on the disk as far as that is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Images.
    pub images: u64,
    /// Blobs, and their bytes.
    pub blobs: (u64, u64),
    /// Unpacked layers, and the bytes of their files.
    pub layers: (u64, u64),
    /// Partial downloads, and their bytes.
    pub partial: (u64, u64),
    /// Bytes that would be free if everything unused were removed.
    pub reclaimable: u64,
}

/// How [`ImageStore::check`] looks.
#[derive(Debug, Clone, Default)]
pub struct Check {
    /// Delete damaged blobs and layers, so that the next pull or start brings them anew.
    pub repair: bool,
    /// Unpack every layer once more, and compare file by file: takes as long as unpacking, and room for one layer.
    pub deep: bool,
    /// Ids of the images whose layers are mounted: these are not deleted.
    pub in_use: BTreeSet<Digest>,
}

impl ImageStore {
    /// Hashes every blob, looks whether every image has what it needs, and does what else [`Check`] asks for.
    pub fn check(&self, how: &Check) -> Result<Checked, StoreError> {
        let repair = how.repair;
        let mut checked = Checked::default();
        let mut bad_blobs: BTreeMap<Digest, &'static str> = BTreeMap::new();
        let present: BTreeSet<Digest> = self.blobs().list()?.into_iter().collect();
        for blob in &present {
            checked.blobs += 1;
            match self.blobs().is_sound(blob) {
                Ok(true) => {}
                Ok(false) => drop(bad_blobs.insert(*blob, "has another content than its name")),
                // It was collected meanwhile.
                Err(_) if !self.blobs().has(blob) => {}
                Err(_) => drop(bad_blobs.insert(*blob, "cannot be read")),
            }
        }
        let problem = |what: String, why: &str| Problem {
            what,
            why: why.to_owned(),
        };
        for (blob, why) in &bad_blobs {
            checked.problems.push(problem(format!("blob {blob}"), why));
        }
        let mut ready: BTreeSet<ChainId> = self.layers().list().into_iter().collect();
        for chain in ready.clone() {
            checked.layers += 1;
            if !self.layers().is_present(&chain) {
                ready.remove(&chain);
                checked.problems.push(problem(
                    format!("layer {chain}"),
                    "is unpacked no more: it will be again when it is wanted",
                ));
                if repair {
                    self.layers().distrust(&chain, self.blobs())?;
                }
            }
        }
        for manifest in self.damaged() {
            checked.damaged.push(manifest.to_string());
            checked.problems.push(problem(
                format!("image {manifest}"),
                "has no readable manifest or config: pull or import it again, or remove it",
            ));
        }
        for (manifest, names, layers) in self.needs() {
            checked.images += 1;
            let name = names
                .first()
                .map_or_else(|| manifest.to_string(), crate::Reference::familiar);
            let lacking: Vec<Digest> = layers
                .into_iter()
                .filter(|blob| !present.contains(blob) || bad_blobs.contains_key(blob))
                .collect();
            if let Some(blob) = lacking.first() {
                checked.damaged.push(name.clone());
                checked.problems.push(problem(
                    format!("image {name}"),
                    &format!("lacks blob {blob}: pull or import it again"),
                ));
            }
        }
        if how.deep {
            self.check_files(how, &bad_blobs, &mut checked)?;
        }
        if repair {
            for blob in bad_blobs.keys() {
                self.blobs().delete(blob)?;
            }
        }
        let partial = self.downloads().idle()?;
        checked.partial = (partial.len() as u64, partial.iter().map(|(_, bytes)| bytes).sum());
        Ok(checked)
    }

    /// Compares every unpacked layer with its blob, where both are there.
    fn check_files(
        &self,
        how: &Check,
        bad_blobs: &BTreeMap<Digest, &'static str>,
        checked: &mut Checked,
    ) -> Result<(), StoreError> {
        let mut mounted = BTreeSet::new();
        for image in self.list().iter().filter(|image| how.in_use.contains(&image.id)) {
            mounted.extend(self.chains(&image.manifest));
        }
        let mut done = BTreeSet::new();
        for stack in self.stacks() {
            for top in 1..=stack.len() {
                let layer = &stack[top - 1];
                let sound = self.blobs().has(&layer.blob) && !bad_blobs.contains_key(&layer.blob);
                let below_ready = stack[..top].iter().all(|layer| {
                    self.layers().is_ready(&layer.chain) && self.layers().is_present(&layer.chain)
                });
                if !sound || !below_ready || !done.insert(layer.chain) {
                    continue;
                }
                let why = match self.layers().verify(&stack[..top], self.blobs()) {
                    Ok(None) => continue,
                    Ok(Some((path, wrong))) => format!("/{} {wrong}", path.display()),
                    Err(error) => format!("cannot be compared with its blob: {}", with_sources(&error)),
                };
                let help = if mounted.contains(&layer.chain) {
                    ": a pod uses it: delete the pod, then repair"
                } else if how.repair {
                    self.layers().distrust(&layer.chain, self.blobs())?;
                    ": it is unpacked again when it is wanted"
                } else {
                    ""
                };
                checked.problems.push(Problem {
                    what: format!("layer {}", layer.chain),
                    why: format!("is damaged: {why}{help}"),
                });
            }
        }
        Ok(())
    }

    /// Counts what the store holds. `in_use` are the ids of images that must stay.
    pub fn usage(&self, in_use: &BTreeSet<Digest>) -> Result<Usage, StoreError> {
        let mut usage = Usage::default();
        for blob in self.blobs().list()? {
            usage.blobs.0 += 1;
            usage.blobs.1 += self.blobs().size(&blob).unwrap_or(0);
        }
        for chain in self.layers().list() {
            usage.layers.0 += 1;
            usage.layers.1 += self.layers().bytes(&chain);
        }
        for (_, bytes) in self.downloads().idle()? {
            usage.partial.0 += 1;
            usage.partial.1 += bytes;
        }
        let (mut kept_blobs, mut kept_layers) = (BTreeSet::new(), BTreeSet::new());
        for summary in self.list() {
            usage.images += 1;
            if in_use.contains(&summary.id) {
                let (_, blobs) = self.contents(&summary.manifest)?;
                kept_blobs.extend(blobs);
                kept_blobs.extend([summary.id, summary.manifest]);
                kept_layers.extend(self.chains(&summary.manifest));
            }
        }
        let kept: u64 = kept_blobs
            .iter()
            .map(|blob| self.blobs().size(blob).unwrap_or(0))
            .chain(kept_layers.iter().map(|chain| self.layers().bytes(chain)))
            .sum();
        usage.reclaimable = (usage.blobs.1 + usage.layers.1 + usage.partial.1).saturating_sub(kept);
        Ok(usage)
    }
}

/// The whole chain of causes in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
