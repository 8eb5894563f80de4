//! Endpoints of Services: which pods their traffic goes to (upstream `pkg/controller/endpointslice`,
//! `endpointslicemirroring` and `endpoint`).
//!
//! EndpointSlices are what the node's load balancing and DNS read; an Endpoints object of the Service's name is kept for
//! clients that know no slices. For a Service without a selector the user's own Endpoints are mirrored into slices, and
//! slices of the user's own are left alone.

mod plan;

use std::collections::BTreeMap;

use berth_api::kinds::{self, Kind};
use serde_json::Value;

use super::fields::{is_deleting, strings, text};
use super::{Again, Controller, is_closing};
use crate::store::{Event, Key, Object, Preconditions, Store, StoreError};

pub use plan::{MANAGED_BY, SERVICE_NAME};

/// Keeps EndpointSlices and Endpoints.
pub(crate) struct EndpointsController;

impl Controller for EndpointsController {
    const NAME: &'static str = "endpointslice-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[
            kinds::SERVICE,
            kinds::POD,
            kinds::ENDPOINT_SLICE,
            kinds::ENDPOINTS,
        ]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        if key.kind == kinds::SERVICE || key.kind == kinds::ENDPOINTS {
            return vec![Key::new(kinds::SERVICE, &key.namespace, &key.name)];
        }
        let versions = [Some(&event.object), event.previous.as_ref()];
        let versions: Vec<Value> = versions.into_iter().flatten().map(Object::value).collect();
        if key.kind == kinds::ENDPOINT_SLICE {
            let service = |slice: &Value| strings(slice, "/metadata/labels").remove(SERVICE_NAME);
            let names = versions.iter().filter_map(service);
            return names
                .map(|name| Key::new(kinds::SERVICE, &key.namespace, name))
                .collect();
        }
        let services = store.list(kinds::SERVICE, Some(&key.namespace)).items;
        let selects = |service: &&Object| {
            let service = service.value();
            versions.iter().any(|pod| plan::selects(&service, pod))
        };
        services
            .iter()
            .filter(selects)
            .map(|service| service.key().clone())
            .collect()
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let services = store.list(kinds::SERVICE, None).items;
        let mut keys: Vec<Key> = services.iter().map(|service| service.key().clone()).collect();
        // Those whose Service went while nobody watched.
        let left = store.list(kinds::ENDPOINTS, None).items;
        keys.extend(
            left.iter()
                .map(|e| Key::new(kinds::SERVICE, e.namespace(), e.name())),
        );
        keys.dedup();
        keys
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let endpoints_key = Key::new(kinds::ENDPOINTS, &key.namespace, &key.name);
        let endpoints = store.get(&endpoints_key)?;
        let service = store.get(key)?.map(|service| service.value());
        let Some(service) = service.filter(|service| !is_deleting(service)) else {
            // The slices go with their owner.
            if let Some(endpoints) = endpoints.filter(|e| plan::is_own_endpoints(&e.value())) {
                remove(store, &endpoints).await?;
            }
            return Ok(None);
        };
        if is_closing(store, &key.namespace)? {
            return Ok(None);
        }
        let endpoints = endpoints.map(|object| object.value());
        let slices = if plan::has_selector(&service) {
            let pods = store.list(kinds::POD, Some(&key.namespace)).items;
            let pods: Vec<Value> = pods
                .iter()
                .map(Object::value)
                .filter(|pod| plan::selects(&service, pod))
                .collect();
            let groups = plan::groups(&service, &pods);
            let wanted = plan::endpoints(&service, &groups);
            put(store, wanted, endpoints.as_ref()).await?;
            plan::slices(&service, &groups)
        } else {
            endpoints
                .map(|endpoints| plan::mirrored(&service, &endpoints))
                .unwrap_or_default()
        };
        apply(store, key, slices).await?;
        Ok(None)
    }
}

/// Makes the Service's slices what they should be. Those that somebody else keeps are not touched.
async fn apply(store: &Store, key: &Key, wanted: Vec<Value>) -> Result<(), StoreError> {
    let there = store.list(kinds::ENDPOINT_SLICE, Some(&key.namespace)).items;
    let mut there: BTreeMap<String, Object> = there
        .into_iter()
        .filter(|slice| {
            let slice = slice.value();
            let labels = strings(&slice, "/metadata/labels");
            labels.get(SERVICE_NAME) == Some(&key.name) && plan::is_own_slice(&slice)
        })
        .map(|slice| (slice.name().to_owned(), slice))
        .collect();
    // Removals come before additions: traffic never goes to a pod that has left.
    let kept = |name: &String| wanted.iter().any(|slice| text(slice, "/metadata/name") == name);
    let stale: Vec<String> = there.keys().filter(|name| !kept(name)).cloned().collect();
    for name in stale {
        if let Some(slice) = there.remove(&name) {
            remove(store, &slice).await?;
        }
    }
    for slice in wanted {
        let old = there.get(text(&slice, "/metadata/name")).map(Object::value);
        put(store, slice, old.as_ref()).await?;
    }
    Ok(())
}

async fn remove(store: &Store, object: &Object) -> Result<(), StoreError> {
    match store.delete(object.key(), Preconditions::uid(object.uid())).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Creates an object, or replaces what it says beside its identity.
async fn put(store: &Store, wanted: Value, old: Option<&Value>) -> Result<(), StoreError> {
    let Some(old) = old else {
        return store.create(wanted).await.map(|_| ());
    };
    let mut merged = wanted;
    for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
        if let Some(value) = old["metadata"].get(field) {
            merged["metadata"][field] = value.clone();
        }
    }
    store.update(merged).await.map(|_| ())
}
