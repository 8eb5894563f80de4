//! Room on the disk: above the high threshold, images that no pod uses are removed, the one that
//! has not been used for longest first, until the low one is reached (kubelet's
//! `image-gc-high-threshold` and `image-gc-low-threshold`). Partial downloads go before images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use berth_image::{Digest, StoreError};
use nix::sys::statvfs::statvfs;

use super::Images;

/// How often the room is looked at; also after each pull. Looking writes nothing.
const PERIOD: Duration = Duration::from_mins(5);

/// When images were last seen in use, since this berthd started.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<Digest, Instant>);

/// What a look at the disk came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Relief {
    /// Percent in use before.
    pub(super) percent: u8,
    /// Bytes that were wanted, and bytes that were freed.
    pub(super) wanted: u64,
    pub(super) freed: u64,
}

/// Keeps room on the disk, and has pulled images written out, until shutdown. `report` is told
/// when there was not enough to remove.
pub async fn watch(images: Images, report: impl Fn(String)) {
    let mut shutdown = images.0.shutdown.clone();
    loop {
        let worker = images.clone();
        let done = tokio::task::spawn_blocking(move || {
            if let Err(error) = worker.store().settle() {
                tracing::warn!(error = super::chain(&error), "write pulled images out");
            }
            worker.relieve()
        });
        match done.await {
            Ok(Ok(Some(relief))) if relief.freed < relief.wanted => report(format!(
                "The disk of the images is {}% full. Wanted to free {} bytes, but only found {} bytes eligible to free.",
                relief.percent, relief.wanted, relief.freed
            )),
            Ok(Ok(Some(relief))) => {
                tracing::info!(
                    percent = relief.percent,
                    freed = relief.freed,
                    "removed images to make room"
                );
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => report(super::chain(&error)),
            Err(error) => tracing::error!(%error, "the look at the disk was cut off"),
        }
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = images.0.pulled.notified() => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

impl Images {
    /// Removes unused images if the disk is fuller than it should be. Blocks.
    pub(super) fn relieve(&self) -> Result<Option<Relief>, StoreError> {
        let in_use = self.in_use();
        let now = Instant::now();
        let candidates = self.candidates(&in_use, now);
        let config = &self.0.config;
        let folder = self.0.store.folder();
        let Some((capacity, available)) = room(folder) else {
            return Ok(None);
        };
        let percent = percent_used(capacity, available);
        // kubelet, too, takes 100 for never.
        if percent < config.gc_high || config.gc_high == 100 {
            return Ok(None);
        }
        let wanted = (capacity / 100 * u64::from(100 - config.gc_low)).saturating_sub(available);
        let freed = || room(folder).map_or(0, |(_, now)| now.saturating_sub(available));
        // What was cut off a moment ago is about to be gone on with.
        self.0
            .store
            .drop_partial(Duration::from_secs(config.gc_minimum_age))?;
        for manifest in candidates {
            if freed() >= wanted {
                break;
            }
            // A pod may have come meanwhile.
            self.0
                .store
                .delete_images(&BTreeSet::from([manifest]), &self.in_use())?;
        }
        Ok(Some(Relief {
            percent,
            wanted,
            freed: freed(),
        }))
    }

    /// Removes unused images, however young, until there is room enough. Blocks.
    pub fn remove_unused(&self, enough: &dyn Fn() -> bool) -> Result<(), StoreError> {
        if enough() {
            return Ok(());
        }
        self.0.store.drop_partial(Duration::ZERO)?;
        let in_use = self.in_use();
        for image in self.0.store.list() {
            if enough() {
                break;
            }
            if !in_use.contains(&image.id) {
                self.0
                    .store
                    .delete_images(&BTreeSet::from([image.manifest]), &self.in_use())?;
            }
        }
        Ok(())
    }

    /// Manifests that may go, the one that was unused for longest first.
    fn candidates(&self, in_use: &BTreeSet<Digest>, now: Instant) -> Vec<Digest> {
        let list = self.0.store.list();
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let present: BTreeSet<Digest> = list.iter().map(|image| image.id).collect();
        seen.0.retain(|id, _| present.contains(id));
        for image in list.iter().filter(|image| in_use.contains(&image.id)) {
            seen.0.insert(image.id, now);
        }
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let mut found: Vec<(Option<Instant>, u64, Digest)> = list
            .iter()
            .filter(|image| !in_use.contains(&image.id))
            // What has just come is about to be used by somebody.
            .filter(|image| clock.saturating_sub(image.imported) >= self.0.config.gc_minimum_age)
            .map(|image| (seen.0.get(&image.id).copied(), image.imported, image.manifest))
            .collect();
        found.sort();
        found.into_iter().map(|(_, _, manifest)| manifest).collect()
    }
}

/// Bytes of a file system that we could have at most, and those that are free for us, as df(1) counts:
/// what is reserved for others is in neither.
fn room(folder: &Path) -> Option<(u64, u64)> {
    let state = statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(state.fragment_size());
    let (free, available) = (bytes(state.blocks_free()), bytes(state.blocks_available()));
    Some((bytes(state.blocks()).saturating_sub(free) + available, available))
}

fn percent_used(capacity: u64, available: u64) -> u8 {
    if capacity == 0 {
        return 0;
    }
    (100 - (available.min(capacity) * 100 / capacity)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages() {
        assert_eq!(percent_used(1000, 1000), 0);
        assert_eq!(percent_used(1000, 149), 86);
        assert_eq!(percent_used(1000, 0), 100);
        assert_eq!(percent_used(0, 0), 0);
    }
}
