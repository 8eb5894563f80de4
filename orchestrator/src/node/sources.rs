//! ConfigMaps and Secrets of a namespace, as they are stored now.

use std::collections::BTreeMap;

use berth_api::kinds::{self, Kind};
use k8s_openapi::api::core::v1 as api;
use serde::de::DeserializeOwned;

use super::env::Sources;
use crate::store::{Key, Store};

/// Reads from the store on demand.
pub struct Stored {
    /// The store.
    pub store: Store,
    /// The pod's namespace.
    pub namespace: String,
}

impl Stored {
    fn load<T: DeserializeOwned>(&self, kind: &'static Kind, name: &str) -> Option<T> {
        let key = Key::new(kind, &self.namespace, name);
        let object = self.store.get(&key).ok().flatten()?;
        match object.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(%key, %error, "read an object of the store");
                None
            }
        }
    }
}

impl Sources for Stored {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let map: api::ConfigMap = self.load(kinds::CONFIG_MAP, name)?;
        let text = map
            .data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.into_bytes()));
        let binary = map
            .binary_data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.0));
        Some(text.chain(binary).collect())
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let secret: api::Secret = self.load(kinds::SECRET, name)?;
        let data = secret
            .data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.0));
        let text = secret
            .string_data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.into_bytes()));
        Some(data.chain(text).collect())
    }
}
