//! PodDisruptionBudgets: what they come to, for their status and for evictions.

use std::collections::BTreeMap;

use berth_api::disruption::{self, Budget};
use berth_api::kinds::{self, Kind};
use jiff::Timestamp;
use serde_json::Value;

use super::{Again, Controller};
use crate::store::prepare::rfc3339;
use crate::store::{Event, Key, Object, Store, StoreError};

/// Keeps the status of budgets.
pub(crate) struct Disruption;

impl Controller for Disruption {
    const NAME: &'static str = "disruption-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        static KINDS: &[&Kind] = &[
            kinds::POD_DISRUPTION_BUDGET,
            kinds::POD,
            kinds::REPLICA_SET,
            kinds::DEPLOYMENT,
            kinds::STATEFUL_SET,
        ];
        KINDS
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        keys(store, Some(event.object.namespace()))
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        keys(store, None)
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(stored) = store.get(key)? else {
            return Ok(None);
        };
        let value = stored.value();
        let status = disruption::status(
            &value,
            come_to(store, &key.namespace, &value),
            &rfc3339(Timestamp::now()),
        );
        if value.get("status") != Some(&status) {
            store.update_status(key, stored.uid(), status).await?;
        }
        Ok(None)
    }
}

fn keys(store: &Store, namespace: Option<&str>) -> Vec<Key> {
    let budgets = store.list(kinds::POD_DISRUPTION_BUDGET, namespace).items;
    budgets.iter().map(Object::key).cloned().collect()
}

/// What a budget comes to now.
pub(crate) fn come_to(store: &Store, namespace: &str, budget: &Value) -> Budget {
    let pods: Vec<Value> = store
        .list(kinds::POD, Some(namespace))
        .items
        .iter()
        .map(Object::value)
        .filter(|pod| disruption::covers(budget, pod))
        .collect();
    disruption::budget(budget, &pods, expected(store, namespace, &pods))
}

/// How many pods the owners of these want together; one without an owner counts as itself.
fn expected(store: &Store, namespace: &str, pods: &[Value]) -> i64 {
    let mut alone = 0;
    let mut owners: BTreeMap<String, i64> = BTreeMap::new();
    for pod in pods.iter().filter(|p| disruption::is_live(p)) {
        match scale(store, namespace, pod) {
            Some((uid, replicas)) => {
                owners.insert(uid, replicas);
            }
            None => alone += 1,
        }
    }
    alone + owners.values().sum::<i64>()
}

/// The outermost owner that has replicas: uid and how many.
fn scale(store: &Store, namespace: &str, object: &Value) -> Option<(String, i64)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|o| o["controller"] == true)?;
    let text = |field: &str| owner[field].as_str().unwrap_or_default();
    let kind = kinds::by_api_version(text("apiVersion"), text("kind"))?;
    let stored = store.get(&Key::new(kind, namespace, text("name"))).ok()??;
    let value = stored.value();
    scale(store, namespace, &value).or_else(|| {
        let replicas = value.pointer("/spec/replicas")?.as_i64()?;
        Some((stored.uid().to_owned(), replicas))
    })
}
