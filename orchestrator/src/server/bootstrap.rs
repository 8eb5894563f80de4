//! What must be in the store before the first request: the namespaces, classes, roles and bindings that every cluster has.

use berth_api::rbac::{self, Rule};
use berth_api::{defaults, kinds, rbac::builtins, storage};
use serde_json::{Value, json};

use crate::store::{Key, Store, StoreError};

/// Why the first objects could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make {what}")]
pub struct BootstrapError {
    /// Kind and name.
    pub what: String,
    /// The store's answer.
    #[source]
    pub source: StoreError,
}

/// Says whether the built-in roles follow the program; users may set it to `false`.
const AUTOUPDATE: &str = "/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate";

/// Makes the namespaces `default` and `kube-system` and the system's PriorityClasses unless they are there, a StorageClass
/// unless there is any, and brings the built-in roles up to date.
pub async fn bootstrap(store: &Store) -> Result<(), BootstrapError> {
    for name in ["default", "kube-system"] {
        let mut namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        defaults::apply(kinds::NAMESPACE, &mut namespace);
        create(store, namespace).await?;
    }
    for class in berth_api::priority::system_classes() {
        create(store, class).await?;
    }
    for builtin in builtins() {
        reconcile(store, builtin.object).await?;
    }
    if store.list(kinds::STORAGE_CLASS, None).items.is_empty() {
        create(store, standard_class()).await?;
    }
    Ok(())
}

/// The class of claims that name none. On one node nothing is gained by waiting for the first pod: any folder will do.
fn standard_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": storage::STANDARD_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": storage::PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": true,
    })
}

fn failed(object: &Value) -> impl FnOnce(StoreError) -> BootstrapError + use<> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let what = format!("{} {}", text("/kind"), text("/metadata/name"));
    move |source| BootstrapError { what, source }
}

async fn create(store: &Store, object: Value) -> Result<(), BootstrapError> {
    let fail = failed(&object);
    match store.create(object).await {
        Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(source) => Err(fail(source)),
    }
}

/// Adds to a stored role or binding what it lacks; makes it if it is not there.
async fn reconcile(store: &Store, wanted: Value) -> Result<(), BootstrapError> {
    let key = Key::of(&wanted).map_err(failed(&wanted))?;
    let Some(stored) = store.get(&key).map_err(failed(&wanted))? else {
        return create(store, wanted).await;
    };
    let mut value = stored.value();
    if value.pointer(AUTOUPDATE) != Some(&json!("true")) {
        return Ok(());
    }
    if wanted.get("aggregationRule").is_none() && key.kind == kinds::CLUSTER_ROLE {
        let mut rules = rbac::rules(&value);
        let missing: Vec<Rule> = rbac::uncovered(&rules, &rbac::rules(&wanted));
        rules.extend(missing);
        value["rules"] = json!(rules);
    }
    for subject in wanted["subjects"].as_array().into_iter().flatten() {
        let subjects = value["subjects"].as_array_mut();
        match subjects {
            Some(list) if list.contains(subject) => {}
            Some(list) => list.push(subject.clone()),
            None => value["subjects"] = json!([subject]),
        }
    }
    let fail = failed(&wanted);
    // Without a difference nothing is written.
    store.update(value).await.map(drop).map_err(fail)
}
