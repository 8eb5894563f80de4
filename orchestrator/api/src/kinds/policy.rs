//! Limits and agreements: quotas, limit ranges, disruption budgets, leases; and the metrics, which are made when they
//! are asked for.

use super::{Kind, status_of};

/// core/v1 LimitRange.
pub const LIMIT_RANGE: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "LimitRange",
    plural: "limitranges",
    singular: "limitrange",
    short: &["limits"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// core/v1 ResourceQuota.
pub const RESOURCE_QUOTA: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short: &["quota"],
    namespaced: true,
    categories: &[],
    subresources: &[status_of("", "ResourceQuota")],
    writable: true,
    generations: false,
};

/// coordination.k8s.io/v1 Lease.
pub const LEASE: &Kind = &Kind {
    group: "coordination.k8s.io",
    version: "v1",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    short: &[],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// policy/v1 PodDisruptionBudget.
pub const POD_DISRUPTION_BUDGET: &Kind = &Kind {
    group: "policy",
    version: "v1",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short: &["pdb"],
    namespaced: true,
    categories: &[],
    subresources: &[status_of("policy", "PodDisruptionBudget")],
    writable: true,
    generations: true,
};

const METRICS: &str = "metrics.k8s.io";

/// metrics.k8s.io/v1beta1 NodeMetrics: measured when it is asked for.
pub const NODE_METRICS: &Kind = &Kind {
    group: METRICS,
    version: "v1beta1",
    kind: "NodeMetrics",
    plural: "nodes",
    singular: "",
    short: &[],
    namespaced: false,
    categories: &[],
    subresources: &[],
    writable: false,
    generations: false,
};

/// metrics.k8s.io/v1beta1 PodMetrics: measured when it is asked for.
pub const POD_METRICS: &Kind = &Kind {
    group: METRICS,
    version: "v1beta1",
    kind: "PodMetrics",
    plural: "pods",
    singular: "",
    short: &[],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: false,
    generations: false,
};

/// Kinds that are measured when they are asked for.
pub static MEASURED: &[&Kind] = &[NODE_METRICS, POD_METRICS];
