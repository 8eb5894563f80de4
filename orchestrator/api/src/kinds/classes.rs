//! Classes of pods: by which runtime they run, and how much they matter.

use super::Kind;

/// node.k8s.io/v1 RuntimeClass.
pub const RUNTIME_CLASS: &Kind = &Kind {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
    singular: "runtimeclass",
    short: &[],
    namespaced: false,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// scheduling.k8s.io/v1 PriorityClass.
pub const PRIORITY_CLASS: &Kind = &Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short: &["pc"],
    namespaced: false,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: true,
};
