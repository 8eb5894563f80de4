//! Kinds of the group `apps` whose pods have a revision: DaemonSet, StatefulSet and their history.

use super::{Kind, SCALE, status_of};

/// apps/v1 ControllerRevision: a former template of a DaemonSet or StatefulSet.
pub const CONTROLLER_REVISION: &Kind = &Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short: &[],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// apps/v1 DaemonSet.
pub const DAEMON_SET: &Kind = &Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short: &["ds"],
    namespaced: true,
    categories: &["all"],
    subresources: &[status_of("apps", "DaemonSet")],
    writable: true,
    generations: true,
};

/// apps/v1 StatefulSet.
pub const STATEFUL_SET: &Kind = &Kind {
    group: "apps",
    version: "v1",
    kind: "StatefulSet",
    plural: "statefulsets",
    singular: "statefulset",
    short: &["sts"],
    namespaced: true,
    categories: &["all"],
    subresources: &[SCALE, status_of("apps", "StatefulSet")],
    writable: true,
    generations: true,
};
