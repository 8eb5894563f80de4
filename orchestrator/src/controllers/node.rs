//! The one node, as controllers see it.

use std::time::Duration;

use berth_api::kinds;
use berth_api::validate::Node;

use crate::admission;
use crate::store::Store;

/// A node that has not registered itself does so within moments.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// The node's name; nothing before it has registered itself.
pub(super) fn name(store: &Store) -> Option<String> {
    let nodes = store.list(kinds::NODE, None).items;
    nodes.first().map(|node| node.name().to_owned())
}

/// The node's name and labels; nothing before it has registered itself.
pub(super) fn find(store: &Store) -> Option<Node> {
    name(store).map(|name| admission::node(store, &name))
}
