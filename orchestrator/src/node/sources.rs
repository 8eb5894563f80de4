//! ConfigMaps, Secrets and claims of a namespace, as they are stored now, and tokens of its ServiceAccounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_api::kinds::{self, Kind};
use k8s_openapi::api::core::v1 as api;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::claims::Backing;
use super::env::Sources;
use super::pod::Pod;
use crate::controllers::own;
use crate::pki::Tokens;
use crate::pki::tokens::{Bound, Claims, ISSUER, Private};
use crate::store::{Key, Object, Store};

/// Reads from the store on demand.
pub struct Stored {
    /// The store.
    pub store: Store,
    /// The pod's namespace.
    pub namespace: String,
    /// Makes tokens.
    pub tokens: Arc<Tokens>,
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

impl Stored {
    /// The Services of the namespace, and that of the API.
    pub fn services(&self) -> Vec<Value> {
        let own = self.store.list(kinds::SERVICE, Some(&self.namespace)).items;
        let (namespace, name) = own::API;
        let api = Key::new(kinds::SERVICE, namespace, name);
        let api = self
            .store
            .get(&api)
            .ok()
            .flatten()
            .filter(|_| namespace != self.namespace);
        own.iter().chain(&api).map(Object::value).collect()
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

    fn backing(&self, claim: &str) -> Option<Backing> {
        super::claims::backing(&self.store, &self.namespace, claim)
    }

    fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Option<String> {
        let name = pod.spec().service_account_name.as_deref().unwrap_or("default");
        let account = self
            .store
            .get(&Key::new(kinds::SERVICE_ACCOUNT, &self.namespace, name));
        let account = account.ok().flatten()?;
        let private = Private {
            namespace: self.namespace.clone(),
            serviceaccount: Bound {
                name: name.to_owned(),
                uid: account.uid().to_owned(),
            },
            pod: Some(Bound {
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            }),
            secret: None,
            node: None,
        };
        let audience = if audience.is_empty() { ISSUER } else { audience };
        let claims = Claims::new(
            private,
            vec![audience.to_owned()],
            seconds,
            jiff::Timestamp::now(),
        );
        self.tokens.sign(&claims).ok()
    }
}
