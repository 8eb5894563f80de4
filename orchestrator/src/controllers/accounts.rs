//! What every namespace has: the ServiceAccount `default`, and the certificate of the node's authority in the ConfigMap
//! `kube-root-ca.crt` (upstream `serviceaccounts_controller`, `rootcacertpublisher`).

use berth_api::kinds::{self, Kind};
use serde_json::json;

use super::{Again, Controller, is_closing};
use crate::store::{Event, Key, Store, StoreError};

/// Name of the account that pods run as unless they name another.
const ACCOUNT: &str = "default";
/// Name of the ConfigMap with the authority's certificate.
pub(crate) const AUTHORITY: &str = "kube-root-ca.crt";

/// Keeps both in every namespace.
pub(crate) struct Accounts {
    /// The authority's certificate, PEM.
    pub authority: String,
}

impl Controller for Accounts {
    const NAME: &'static str = "serviceaccount-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        static KINDS: &[&Kind] = &[kinds::NAMESPACE, kinds::SERVICE_ACCOUNT, kinds::CONFIG_MAP];
        KINDS
    }

    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        let namespace = match (key.kind == kinds::NAMESPACE, key.name.as_str()) {
            (true, name) => name,
            (false, ACCOUNT | AUTHORITY) => key.namespace.as_str(),
            _ => return Vec::new(),
        };
        vec![Key::new(kinds::NAMESPACE, "", namespace)]
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let namespaces = store.list(kinds::NAMESPACE, None).items;
        namespaces.iter().map(|object| object.key().clone()).collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let namespace = key.name.as_str();
        if is_closing(store, namespace)? {
            return Ok(None);
        }
        let metadata = |name: &str| json!({"name": name, "namespace": namespace});
        if store
            .get(&Key::new(kinds::SERVICE_ACCOUNT, namespace, ACCOUNT))?
            .is_none()
        {
            let account =
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ACCOUNT)});
            made(store.create(account).await)?;
        }
        let data = json!({"ca.crt": self.authority});
        match store.get(&Key::new(kinds::CONFIG_MAP, namespace, AUTHORITY))? {
            None => {
                let map = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": AUTHORITY,
                        "namespace": namespace,
                        "annotations": {"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver."},
                    },
                    "data": data,
                });
                made(store.create(map).await)?;
            }
            Some(stored) => {
                let mut value = stored.value();
                if value.get("data") != Some(&data) {
                    value["data"] = data;
                    store.update(value).await?;
                }
            }
        }
        Ok(None)
    }
}

fn made<T>(result: Result<T, StoreError>) -> Result<(), StoreError> {
    match result {
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
