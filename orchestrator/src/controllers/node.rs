//! The one node, as controllers see it.

use berth_api::kinds;
use berth_api::validate::Node;
use serde_json::Value;

use super::fields::strings;
use crate::config;
use crate::store::Store;

/// The node's name and labels; nothing before it has registered itself.
pub(super) fn find(store: &Store) -> Option<Node> {
    let nodes = store.list(kinds::NODE, None).items;
    nodes.first().map(|node| known(node.name(), &node.value()))
}

fn known(name: &str, object: &Value) -> Node {
    let mut labels: std::collections::BTreeMap<String, String> =
        config::node_labels(name).into_iter().collect();
    labels.extend(strings(object, "/metadata/labels"));
    Node {
        name: name.to_owned(),
        labels,
    }
}
