//! PURE: changing the sizes of sets.

use super::rollout::{Change, Work};
use super::sets::{self, Set, active_or_latest, new_set_size, old_by_age, proportional, total};
use crate::controllers::fields::annotation;

impl Work {
    /// Gives a set another size, and says whether that is one.
    pub(super) fn scale(&mut self, index: usize, size: i64) -> bool {
        let (wanted, set) = (self.wanted, &mut self.sets[index]);
        let before = set.replicas;
        if before == size {
            return false;
        }
        set.set_replicas(size);
        set.note_size(wanted.replicas, wanted.most());
        let direction = if before < size { "up" } else { "down" };
        let message = format!(
            "Scaled {direction} replica set {} from {before} to {size}",
            set.name()
        );
        self.events.push(Change::Event {
            reason: "ScalingReplicaSet",
            message,
        });
        true
    }

    /// Whether somebody changed the deployment's size: an active set was made for another.
    pub(super) fn was_resized(&self) -> bool {
        sets::active(&self.sets).any(|set| {
            annotation(&set.value, super::revision::DESIRED_REPLICAS)
                .and_then(|desired| desired.parse::<i64>().ok())
                .is_some_and(|desired| desired != self.wanted.replicas)
        })
    }

    /// Brings the sets to the deployment's new size, outside the rollout's own steps.
    pub(super) fn resize(&mut self) {
        if let Some(only) = active_or_latest(&self.sets, self.new) {
            self.scale(only, self.wanted.replicas);
            self.sets[only].note_size(self.wanted.replicas, self.wanted.most());
            return;
        }
        if self.is_saturated() {
            for old in old_by_age(&self.sets, self.new) {
                self.scale(old, 0);
            }
            return;
        }
        let sizes = if self.wanted.rolling {
            proportional(&self.sets, &self.wanted)
        } else {
            self.sets.iter().map(|set| set.replicas).collect()
        };
        for (index, size) in sizes.into_iter().enumerate() {
            if self.sets[index].replicas > 0 {
                self.scale(index, size);
                self.sets[index].note_size(self.wanted.replicas, self.wanted.most());
            }
        }
    }

    /// Whether the new set alone is all that is wanted, and available.
    fn is_saturated(&self) -> bool {
        let Some(new) = self.new.map(|index| &self.sets[index]) else {
            return false;
        };
        let desired = annotation(&new.value, super::revision::DESIRED_REPLICAS)
            .and_then(|desired| desired.parse::<i64>().ok());
        let wanted = self.wanted.replicas;
        new.replicas == wanted && desired == Some(wanted) && new.available() == wanted
    }

    /// Grows (or, after a change of mind, shrinks) the new set as far as the surge allows.
    pub(super) fn grow_new(&mut self, new: usize) -> bool {
        let size = self.sets[new].replicas;
        let target = if size > self.wanted.replicas {
            self.wanted.replicas
        } else {
            new_set_size(&self.wanted, total(&self.sets, Set::present), size)
        };
        self.scale(new, target)
    }

    /// Shrinks the old sets as far as availability allows: pods that are not available anyway
    /// first, then available ones, as many as the new set's make up for.
    pub(super) fn shrink_old(&mut self, new: usize) -> bool {
        let old = old_by_age(&self.sets, Some(new));
        if old.iter().all(|index| self.sets[*index].replicas == 0) {
            return false;
        }
        let new_unavailable = self.sets[new].replicas - self.sets[new].lasting();
        let all = total(&self.sets, |set| set.replicas);
        let most = all - self.wanted.least_available() - new_unavailable;
        if most <= 0 {
            return false;
        }
        let cleaned = self.drop_unavailable(&old, most);
        let scaled = self.drop_available(&old);
        cleaned || scaled
    }

    fn drop_unavailable(&mut self, old: &[usize], most: i64) -> bool {
        let mut left = most;
        for &index in old {
            let set = &self.sets[index];
            let drop = (set.replicas - set.lasting()).clamp(0, left);
            let size = set.replicas - drop;
            self.scale(index, size);
            left -= drop;
        }
        left < most
    }

    fn drop_available(&mut self, old: &[usize]) -> bool {
        let available = total(&self.sets, Set::lasting);
        let surplus = available - self.wanted.least_available();
        let mut left = surplus;
        for &index in old {
            if left <= 0 {
                break;
            }
            let drop = self.sets[index].replicas.min(left);
            let size = self.sets[index].replicas - drop;
            self.scale(index, size);
            left -= drop;
        }
        left < surplus
    }
}
