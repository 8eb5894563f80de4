//! What must be in the store before the first request: the namespaces that every cluster has.

use berth_api::{defaults, kinds};
use serde_json::json;

use crate::store::{Store, StoreError};

/// Why the first objects could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make namespace {name}")]
pub struct BootstrapError {
    /// The namespace.
    pub name: &'static str,
    /// The store's answer.
    #[source]
    pub source: StoreError,
}

/// Makes the namespaces `default` and `kube-system` unless they are there.
pub async fn bootstrap(store: &Store) -> Result<(), BootstrapError> {
    for name in ["default", "kube-system"] {
        let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        defaults::apply(kinds::NAMESPACE, &mut namespace);
        match store.create(namespace).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(source) => return Err(BootstrapError { name, source }),
        }
    }
    Ok(())
}
