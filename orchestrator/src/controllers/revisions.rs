//! The history of a template: what DaemonSets and StatefulSets keep in ControllerRevisions, so that `kubectl rollout
//! undo` can bring it back (upstream `pkg/controller/history`, `constructHistory`, `getStatefulSetRevisions`).

use berth_api::kinds;
use berth_api::selector::LabelSelector;
use serde_json::{Value, json};

use super::dependents::{self, NAME_LETTERS};
use super::fields::{is_deleting, name, number, strings, text, uid};
use super::is_closing;
use super::ownership::{controller_of, controller_reference};
use crate::store::{Deletion, Key, Object, Preconditions, Store, StoreError};

/// The label of a DaemonSet's revision, and of a pod: whose value names the pod's revision.
pub(super) const REVISION_HASH: &str = "controller-revision-hash";
/// The label of a StatefulSet's revision.
pub(super) const HASH: &str = "controller.kubernetes.io/hash";

/// What a revision keeps: the strategic merge patch that puts the template back. kubectl sends it as it is.
pub(super) fn patch(owner: &Value) -> Value {
    let mut template = owner["spec"]["template"].clone();
    template["$patch"] = json!("replace");
    json!({ "spec": { "template": template } })
}

/// An owner with the template that a revision kept.
pub(super) fn restored(owner: &Value, revision: &Value) -> Value {
    let mut owner = owner.clone();
    let mut template = revision
        .pointer("/data/spec/template")
        .cloned()
        .unwrap_or_default();
    if let Some(template) = template.as_object_mut() {
        template.remove("$patch");
    }
    owner["spec"]["template"] = template;
    owner
}

/// Orders revisions by age: the number, then the time, then the name.
fn age(revision: &Value) -> (i64, &str, &str) {
    (
        number(revision, "/revision"),
        text(revision, "/metadata/creationTimestamp"),
        name(revision),
    )
}

/// The revision of the present template, and whether it has to be written.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// It is the newest already.
    Known(Value),
    /// It was there before: a rollback, under a new number.
    Renumber(Value),
    /// There is none like it yet.
    New(Value),
}

/// PURE: finds the revision of the owner's template among those it has. `label` is where a new one has its hash.
pub(super) fn next(owner: &Value, revisions: &[Value], label: &str) -> Next {
    let data = patch(owner);
    let newest = revisions
        .iter()
        .map(|r| number(r, "/revision"))
        .max()
        .unwrap_or(0);
    let same = revisions.iter().filter(|revision| revision["data"] == data);
    match same.max_by_key(|revision| age(revision)) {
        Some(same) if number(same, "/revision") == newest => Next::Known(same.clone()),
        Some(same) => {
            let mut same = same.clone();
            same["revision"] = json!(newest + 1);
            Next::Renumber(same)
        }
        None => Next::New(new(owner, &data, newest + 1, label)),
    }
}

fn new(owner: &Value, data: &Value, number: i64, label: &str) -> Value {
    let hash = template_hash(owner);
    let mut labels = strings(owner, "/spec/template/metadata/labels");
    labels.insert(label.to_owned(), hash.clone());
    let mut revision = json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": format!("{}-{hash}", name(owner)),
            "namespace": owner["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [controller_reference(owner)],
        },
        "data": data,
        "revision": number,
    });
    let annotations = strings(owner, "/metadata/annotations");
    if !annotations.is_empty() {
        revision["metadata"]["annotations"] = json!(annotations);
    }
    revision
}

/// PURE: the revisions that are forgotten, oldest first: as many as there are too many of, but none that is in use.
pub(super) fn forgettable<'a>(
    revisions: impl IntoIterator<Item = &'a Value>,
    in_use: impl Fn(&Value) -> bool,
    too_many: i64,
) -> Vec<&'a Value> {
    let mut idle: Vec<&Value> = revisions
        .into_iter()
        .filter(|revision| !in_use(revision))
        .collect();
    idle.sort_by(|a, b| age(a).cmp(&age(b)));
    idle.truncate(usize::try_from(too_many).unwrap_or(0));
    idle
}

/// An owner's history, brought up to date.
pub(super) struct History {
    /// All revisions.
    pub(super) all: Vec<Value>,
    /// The one of the present template.
    pub(super) latest: Value,
}

/// Writes the revision of the present template. Nothing if the namespace takes no new objects.
pub(super) async fn settle(
    store: &Store,
    object: &Object,
    owner: &Value,
    selector: &LabelSelector,
    label: &str,
) -> Result<Option<History>, StoreError> {
    let kind = kinds::CONTROLLER_REVISION;
    let matches = |revision: &Value| selector.matches_object(revision);
    let mut all = dependents::claimed(store, kind, owner, matches, |_| {}).await?;
    let latest = match next(owner, &all, label) {
        Next::Known(revision) => revision,
        Next::Renumber(revision) => store.update(revision).await?.value(),
        Next::New(_) if is_deleting(owner) || is_closing(store, object.namespace())? => return Ok(None),
        Next::New(revision) => create(store, object, owner, revision).await?,
    };
    all.retain(|revision| uid(revision) != uid(&latest));
    all.push(latest.clone());
    Ok(Some(History { all, latest }))
}

/// Makes a revision. If its name is taken by another template's, or by another owner's, the hashes collided: the count
/// goes up, and with it the next name is another.
async fn create(store: &Store, object: &Object, owner: &Value, revision: Value) -> Result<Value, StoreError> {
    let key = Key::of(&revision)?;
    let data = revision["data"].clone();
    match store.create(revision).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        made => return made.map(|made| made.value()),
    }
    let taken = store.require(&key)?.value();
    let mine = controller_of(&taken).is_some_and(|owner| owner["uid"] == object.uid());
    if mine && taken["data"] == data {
        return Ok(taken);
    }
    let mut status = owner["status"].clone();
    status["collisionCount"] = json!(number(&status, "/collisionCount") + 1);
    store.update_status(object.key(), object.uid(), status).await?;
    Err(StoreError::Conflict {
        kind: key.kind,
        name: key.name,
        why: "the name is taken by another revision".to_owned(),
    })
}

/// Deletes revisions.
pub(super) async fn forget(store: &Store, revisions: Vec<&Value>) -> Result<(), StoreError> {
    for revision in revisions {
        let deletion = Deletion {
            preconditions: Preconditions::uid(uid(revision)),
            ..Deletion::default()
        };
        match store.begin_delete(&Key::of(revision)?, deletion).await {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A short name for an owner's template: FNV-1a of its JSON (whose keys are in order) and of the collision
/// count, written in the letters that names are made of.
pub(super) fn template_hash(owner: &Value) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let mut eat = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
    };
    eat(canonical(&owner["spec"]["template"]).as_bytes());
    let collisions = number(owner, "/status/collisionCount");
    if collisions > 0 {
        eat(&collisions.to_le_bytes());
    }
    let digits = hash.to_string();
    digits
        .bytes()
        .map(|digit| char::from(NAME_LETTERS[usize::from(digit) % NAME_LETTERS.len()]))
        .collect()
}

/// JSON with the keys in order, whatever map the JSON library is built with.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let fields: Vec<String> = keys
                .into_iter()
                .map(|key| format!("{key:?}:{}", canonical(&map[key])))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(image: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {
                "name": "agent", "namespace": "default", "uid": "o",
                "annotations": { "kubernetes.io/change-cause": "because" },
            },
            "spec": { "template": { "metadata": { "labels": { "app": "a" } }, "spec": { "image": image } } },
        })
    }

    /// What the history comes to when these templates follow each other.
    fn history(images: &[&str]) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        for image in images {
            match next(&owner(image), &all, REVISION_HASH) {
                Next::Known(_) => {}
                Next::New(mut revision) => {
                    revision["metadata"]["uid"] = revision["metadata"]["name"].clone();
                    all.push(revision);
                }
                Next::Renumber(revision) => {
                    all.retain(|known| uid(known) != uid(&revision));
                    all.push(revision);
                }
            }
        }
        all
    }

    fn told(revisions: &[Value]) -> Vec<(i64, &str)> {
        revisions
            .iter()
            .map(|r| (number(r, "/revision"), text(r, "/data/spec/template/spec/image")))
            .collect()
    }

    #[test]
    fn an_equal_template_is_found_again_under_a_new_number() {
        assert_eq!(told(&history(&["a", "a"])), [(1, "a")]);
        assert_eq!(told(&history(&["a", "b", "b"])), [(1, "a"), (2, "b")]);
        assert_eq!(told(&history(&["a", "b", "a"])), [(2, "b"), (3, "a")]);
        assert_eq!(
            told(&history(&["a", "b", "c", "a", "b"])),
            [(3, "c"), (4, "a"), (5, "b")]
        );
    }

    #[test]
    fn a_revision_is_the_patch_that_kubectl_sends_to_undo() {
        let (old, new) = (owner("a"), owner("b"));
        let Next::New(revision) = next(&old, &[], REVISION_HASH) else {
            panic!("there is no revision yet");
        };
        let hash = template_hash(&old);
        assert_eq!(name(&revision), format!("agent-{hash}"));
        assert_eq!(
            revision["metadata"]["labels"],
            json!({ "app": "a", REVISION_HASH: hash })
        );
        assert_eq!(
            revision["metadata"]["annotations"],
            old["metadata"]["annotations"]
        );
        assert_eq!(controller_of(&revision).unwrap()["uid"], "o");
        assert_eq!(restored(&new, &revision), old);
        let mut patched = new;
        let of = berth_api::schema::Type::named("DaemonSet").unwrap();
        berth_api::patch::strategic(of, &mut patched, &revision["data"]).unwrap();
        assert_eq!(patched, old);
    }

    #[test]
    fn a_hash_is_in_letters_of_names_and_differs_by_the_collisions() {
        let mut owner = owner("a");
        let hash = template_hash(&owner);
        assert!(hash.bytes().all(|letter| NAME_LETTERS.contains(&letter)));
        owner["status"] = json!({ "collisionCount": 1 });
        assert_ne!(template_hash(&owner), hash);
    }

    #[test]
    fn the_oldest_that_nobody_uses_are_forgotten() {
        let all = history(&["a", "b", "c", "d"]);
        let forgotten = |used: &str, too_many: i64| {
            let in_use = |revision: &Value| text(revision, "/data/spec/template/spec/image") == used;
            let gone = forgettable(&all, in_use, too_many);
            gone.iter().map(|r| number(r, "/revision")).collect::<Vec<_>>()
        };
        assert_eq!(forgotten("d", 2), [1, 2]);
        assert_eq!(forgotten("a", 2), [2, 3]);
        assert_eq!(forgotten("a", 9), [2, 3, 4]);
        assert!(forgotten("a", 0).is_empty() && forgotten("a", -1).is_empty());
    }
}
