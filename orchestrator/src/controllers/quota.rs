//! The status of ResourceQuotas. What they allow is decided in the store, where nothing comes in between; this only
//! says how much is used.

use berth_api::kinds::{self, Kind};
use berth_api::quota;
use serde_json::Value;

use super::{Again, Controller};
use crate::store::{Event, Key, Object, Store, StoreError};

/// Keeps the status of quotas.
pub(crate) struct QuotaStatus;

impl Controller for QuotaStatus {
    const NAME: &'static str = "resourcequota-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        kinds::ALL
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        if !key.kind.namespaced || key.kind == kinds::EVENT || key.kind == kinds::LEASE {
            return Vec::new();
        }
        keys(store, Some(&key.namespace))
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        keys(store, None)
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(stored) = store.get(key)? else {
            return Ok(None);
        };
        let value = stored.value();
        let counted = counted(&value);
        let objects: Vec<(&'static Kind, Value)> = counted
            .into_iter()
            .flat_map(|kind| {
                let items = store.list(kind, Some(&key.namespace)).items;
                items.into_iter().map(move |o| (kind, o.value()))
            })
            .collect();
        let used = quota::used(&value, objects.iter().map(|(kind, value)| (*kind, value)));
        let status = quota::status(&value, &used);
        if value.get("status") != Some(&status) {
            store.update_status(key, stored.uid(), status).await?;
        }
        Ok(None)
    }
}

/// The kinds whose objects a quota counts.
pub(crate) fn counted(value: &Value) -> Vec<&'static Kind> {
    let hard = quota::hard(value);
    let is_counted = |kind: &&'static Kind| {
        let names = [format!("count/{}", kind.resource()), kind.plural.to_owned()];
        let sized = *kind == kinds::PERSISTENT_VOLUME_CLAIM
            && hard
                .keys()
                .any(|name| name == "requests.storage" || name.contains(quota::CLASS_SUFFIX));
        kind.namespaced && (*kind == kinds::POD || sized || names.iter().any(|n| hard.contains_key(n)))
    };
    kinds::ALL.iter().copied().filter(is_counted).collect()
}

fn keys(store: &Store, namespace: Option<&str>) -> Vec<Key> {
    let quotas = store.list(kinds::RESOURCE_QUOTA, namespace).items;
    quotas.iter().map(Object::key).cloned().collect()
}
