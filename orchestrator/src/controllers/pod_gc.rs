//! Pods that have ended and that nobody deletes (upstream `pkg/controller/podgc`).

use berth_api::kinds::{self, Kind};
use serde_json::Value;

use super::fields::{is_deleting, text, uid};
use super::{Again, Controller};
use crate::store::{Deletion, Event, Key, Object, Preconditions, Store, StoreError};

/// How many ended pods are kept for people to look at. Upstream keeps 12,500 for a whole cluster.
const KEPT: usize = 500;

/// Deletes the oldest ended pods.
pub(crate) struct PodCollector;

impl Controller for PodCollector {
    const NAME: &'static str = "pod-garbage-collector";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::POD]
    }

    /// There is one decision over all pods: the node's key stands for it.
    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let phase = |pod: &Object| text(&pod.value(), "/status/phase").to_owned();
        let was_ended = event.previous.as_ref().is_some_and(|pod| has_ended(&phase(pod)));
        if !was_ended && has_ended(&phase(&event.object)) {
            vec![everything()]
        } else {
            Vec::new()
        }
    }

    fn all(&mut self, _: &Store) -> Vec<Key> {
        vec![everything()]
    }

    async fn sync(&mut self, store: &Store, _: &Key) -> Result<Again, StoreError> {
        let pods = store
            .list(kinds::POD, None)
            .items
            .iter()
            .map(Object::value)
            .collect();
        for pod in surplus(pods, KEPT) {
            let deletion = Deletion {
                preconditions: Preconditions::uid(uid(&pod)),
                grace: Some(0),
                ..Deletion::default()
            };
            match store.begin_delete(&Key::of(&pod)?, deletion).await {
                Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn everything() -> Key {
    Key::new(kinds::NODE, "", "")
}

fn has_ended(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// PURE: the ended pods beyond the newest `kept`.
fn surplus(pods: Vec<Value>, kept: usize) -> Vec<Value> {
    let mut ended: Vec<Value> = pods
        .into_iter()
        .filter(|pod| has_ended(text(pod, "/status/phase")) && !is_deleting(pod))
        .collect();
    ended.sort_by(|a, b| {
        let created = |pod| text(pod, "/metadata/creationTimestamp");
        created(b).cmp(created(a))
    });
    ended.split_off(kept.min(ended.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_ended_pods_go() {
        let pod = |name: &str, phase: &str, day: u8| {
            json!({
                "metadata": { "name": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z") },
                "status": { "phase": phase },
            })
        };
        let pods = vec![
            pod("a", "Failed", 3),
            pod("b", "Running", 1),
            pod("c", "Succeeded", 2),
            pod("d", "Failed", 4),
        ];
        let names = |kept| {
            let gone = surplus(pods.clone(), kept);
            gone.iter()
                .map(|pod| text(pod, "/metadata/name").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(1), ["a", "c"]);
        assert_eq!(names(2), ["c"]);
        assert!(names(3).is_empty() && names(9).is_empty());
    }
}
