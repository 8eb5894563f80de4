//! Which images pods use.

use std::collections::BTreeSet;

use berth_api::kinds;
use berth_image::{Digest, ImageStore};
use serde_json::Value;

use crate::store::{Object, Store};

/// Ids of the images that pods use: what their containers were started from, and what the
/// containers of pods that have not ended will be started from.
pub(super) fn in_use(objects: &Store, images: &ImageStore) -> BTreeSet<Digest> {
    let mut used = BTreeSet::new();
    for pod in objects.list(kinds::POD, None).items.iter().map(Object::value) {
        let texts = |pointer: &str, field: &str| -> Vec<String> {
            let list = pod.pointer(pointer).and_then(Value::as_array);
            list.into_iter()
                .flatten()
                .filter_map(|item| Some(item[field].as_str()?.to_owned()))
                .collect()
        };
        for list in ["/status/containerStatuses", "/status/initContainerStatuses"] {
            used.extend(
                texts(list, "imageID")
                    .iter()
                    .filter_map(|id| id.parse::<Digest>().ok()),
            );
        }
        let phase = pod.pointer("/status/phase").and_then(Value::as_str);
        if matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        for list in ["/spec/containers", "/spec/initContainers"] {
            for name in texts(list, "image") {
                used.extend(images.resolve(&name).ok().flatten().map(|image| image.id));
            }
        }
    }
    used
}
