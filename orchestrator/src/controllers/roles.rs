//! ClusterRoles that are put together of others (upstream `clusterroleaggregation`).

use berth_api::kinds::{self, Kind};
use berth_api::rbac;
use serde_json::{Value, json};

use super::{Again, Controller};
use crate::store::{Event, Key, Store, StoreError};

/// Keeps the rules of aggregated ClusterRoles.
pub(crate) struct RoleAggregation;

impl Controller for RoleAggregation {
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        static KINDS: &[&Kind] = &[kinds::CLUSTER_ROLE];
        KINDS
    }

    fn concerned(&mut self, store: &Store, _: &Event) -> Vec<Key> {
        self.all(store)
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let roles = store.list(kinds::CLUSTER_ROLE, None).items;
        roles
            .iter()
            .filter(|role| role.json().contains("\"aggregationRule\""))
            .map(|role| role.key().clone())
            .collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(role) = store.get(key)? else {
            return Ok(None);
        };
        let all: Vec<Value> = store
            .list(kinds::CLUSTER_ROLE, None)
            .items
            .iter()
            .map(crate::store::Object::value)
            .collect();
        let mut value = role.value();
        let Some(rules) = rbac::aggregated(&value, &all) else {
            return Ok(None);
        };
        if rbac::rules(&value) != rules {
            value["rules"] = json!(rules);
            store.update(value).await?;
        }
        Ok(None)
    }
}
