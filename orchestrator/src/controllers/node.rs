//! The one node, as controllers see it.

use berth_api::kinds;
use berth_api::validate::Node;

use crate::admission;
use crate::store::Store;

/// The node's name and labels; nothing before it has registered itself.
pub(super) fn find(store: &Store) -> Option<Node> {
    let nodes = store.list(kinds::NODE, None).items;
    nodes.first().map(|node| admission::node(store, node.name()))
}
