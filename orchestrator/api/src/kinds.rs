//! The table of served kinds: one row a kind.
//!
//! To add a kind: a constant and its place in [`ALL`] here, its root type in
//! `schema/generate.py`, and, where it needs them, files of its name in `defaults/`, `validate/`
//! and `table/`.

mod access;
mod apps;
mod autoscaling;
mod batch;
mod classes;
mod events;
mod networking;
mod policy;
mod storage;

pub use access::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, REVIEWS, ROLE, ROLE_BINDING};
pub use apps::{CONTROLLER_REVISION, DAEMON_SET, STATEFUL_SET};
pub use autoscaling::HORIZONTAL_POD_AUTOSCALER;
pub use batch::{CRON_JOB, JOB};
pub use classes::{PRIORITY_CLASS, RUNTIME_CLASS};
pub use networking::{INGRESS, NETWORK_POLICY};
pub use policy::{
    LEASE, LIMIT_RANGE, MEASURED, NODE_METRICS, POD_DISRUPTION_BUDGET, POD_METRICS, RESOURCE_QUOTA,
};
pub use storage::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS};

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde_json::Value;

use crate::status::Cause;

/// One served resource type and what discovery says about it.
#[derive(Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version inside the group, such as `v1`.
    pub version: &'static str,
    /// Kind in objects, such as `Deployment`.
    pub kind: &'static str,
    /// Plural resource name in paths, such as `deployments`.
    pub plural: &'static str,
    /// Singular name for clients, such as `deployment`.
    pub singular: &'static str,
    /// Short names for clients, such as `deploy`.
    pub short: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Discovery categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Subresources served under an object.
    pub subresources: &'static [Subresource],
    /// Whether users may create, change and delete objects, or only berthd may.
    pub writable: bool,
    /// Whether `metadata.generation` counts changes of the specification.
    pub generations: bool,
}

/// A subresource of a kind, as discovery lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subresource {
    /// Last path segment, such as `status`.
    pub name: &'static str,
    /// Group of the kind it speaks, when that differs from the parent's.
    pub group: &'static str,
    /// Version of the kind it speaks.
    pub version: &'static str,
    /// Kind it speaks, such as `Scale`.
    pub kind: &'static str,
    /// Verbs served.
    pub verbs: &'static [&'static str],
}

impl Kind {
    /// `v1` or `apps/v1`: the value of `apiVersion` in its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`: how messages name the resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Pod` or `Deployment.apps`: how validation messages name the kind.
    pub fn group_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// The type in the schema table that its objects follow.
    pub fn schema(&self) -> &'static str {
        alias(self).map_or(self.kind, |alias| alias.schema)
    }

    /// Whether a subresource is served.
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s.name == subresource)
    }

    /// Whether objects are kept; the others are answered or measured when they are asked for.
    pub fn is_stored(&self) -> bool {
        !REVIEWS.contains(&self) && !MEASURED.contains(&self)
    }

    /// Verbs of the main resource.
    pub fn verbs(&self) -> &'static [&'static str] {
        if REVIEWS.contains(&self) {
            &["create"]
        } else if MEASURED.contains(&self) {
            &["get", "list"]
        } else if self.writable {
            &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ]
        } else {
            &["get", "list", "patch", "update", "watch"]
        }
    }
}

/// A second version or group of a stored kind: clients see the same objects in another form.
#[derive(Debug)]
pub struct Alias {
    /// The kind as these clients name it.
    pub kind: &'static Kind,
    /// What is stored.
    pub stored: &'static Kind,
    /// The type in the schema table.
    pub schema: &'static str,
    /// Turns what clients send into what is stored.
    pub to_stored: fn(Value) -> Value,
    /// Turns what is stored into what clients see.
    pub from_stored: fn(Value) -> Value,
    /// Fields that can be selected on beside name and namespace, each with its name in what is stored.
    pub selectable: &'static [(&'static str, &'static str)],
    /// What must be true beside the stored kind's own rules, of a new object or of one that replaces another; both in
    /// the form that is stored.
    pub check: fn(&Value, Option<&Value>) -> Vec<Cause>,
}

/// Every such version.
pub static ALIASES: &[&Alias] = &[autoscaling::V1, events::V1];

/// The alias that a kind is the clients' side of. Version counts here, as it does not where kinds are compared.
pub fn alias(kind: &Kind) -> Option<&'static Alias> {
    ALIASES
        .iter()
        .copied()
        .find(|alias| alias.kind == kind && alias.kind.version == kind.version)
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.group == other.group && self.plural == other.plural
    }
}

impl Eq for Kind {}

impl PartialOrd for Kind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kind {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.group, self.plural).cmp(&(other.group, other.plural))
    }
}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.group.hash(state);
        self.plural.hash(state);
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource())
    }
}

const fn status_of(group: &'static str, kind: &'static str) -> Subresource {
    Subresource {
        name: "status",
        group,
        version: "v1",
        kind,
        verbs: &["get", "patch", "update"],
    }
}

/// A stream to a pod: GET by WebSocket, POST by SPDY.
const fn stream(name: &'static str, kind: &'static str) -> Subresource {
    Subresource {
        name,
        group: "",
        version: "v1",
        kind,
        verbs: &["create", "get"],
    }
}

const SCALE: Subresource = Subresource {
    name: "scale",
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    verbs: &["get", "patch", "update"],
};

/// core/v1 Namespace.
pub const NAMESPACE: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short: &["ns"],
    namespaced: false,
    categories: &[],
    subresources: &[
        Subresource {
            name: "finalize",
            group: "",
            version: "v1",
            kind: "Namespace",
            verbs: &["update"],
        },
        status_of("", "Namespace"),
    ],
    writable: true,
    generations: false,
};

/// core/v1 Node: exactly one object, kept by berthd.
pub const NODE: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short: &["no"],
    namespaced: false,
    categories: &[],
    subresources: &[status_of("", "Node")],
    writable: false,
    generations: false,
};

/// core/v1 Pod.
pub const POD: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short: &["po"],
    namespaced: true,
    categories: &["all"],
    subresources: &[
        stream("attach", "PodAttachOptions"),
        Subresource {
            name: "ephemeralcontainers",
            group: "",
            version: "v1",
            kind: "Pod",
            verbs: &["get", "patch", "update"],
        },
        Subresource {
            name: "eviction",
            group: "policy",
            version: "v1",
            kind: "Eviction",
            verbs: &["create"],
        },
        stream("exec", "PodExecOptions"),
        Subresource {
            name: "log",
            group: "",
            version: "v1",
            kind: "Pod",
            verbs: &["get"],
        },
        stream("portforward", "PodPortForwardOptions"),
        Subresource {
            name: "resize",
            group: "",
            version: "v1",
            kind: "Pod",
            verbs: &["get", "patch", "update"],
        },
        status_of("", "Pod"),
    ],
    writable: true,
    generations: true,
};

/// core/v1 ConfigMap.
pub const CONFIG_MAP: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short: &["cm"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// core/v1 Secret.
pub const SECRET: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short: &[],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// core/v1 Event.
pub const EVENT: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Event",
    plural: "events",
    singular: "event",
    short: &["ev"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// core/v1 ServiceAccount.
pub const SERVICE_ACCOUNT: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short: &["sa"],
    namespaced: true,
    categories: &[],
    subresources: &[access::TOKEN],
    writable: true,
    generations: false,
};

/// core/v1 Service.
pub const SERVICE: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short: &["svc"],
    namespaced: true,
    categories: &["all"],
    subresources: &[status_of("", "Service")],
    writable: true,
    generations: false,
};

/// core/v1 Endpoints: what clients older than EndpointSlice read, kept beside it.
pub const ENDPOINTS: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short: &["ep"],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};

/// discovery.k8s.io/v1 EndpointSlice: where a Service's traffic goes.
pub const ENDPOINT_SLICE: &Kind = &Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short: &[],
    namespaced: true,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: true,
};

/// apps/v1 Deployment.
pub const DEPLOYMENT: &Kind = &Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short: &["deploy"],
    namespaced: true,
    categories: &["all"],
    subresources: &[SCALE, status_of("apps", "Deployment")],
    writable: true,
    generations: true,
};

/// apps/v1 ReplicaSet.
pub const REPLICA_SET: &Kind = &Kind {
    group: "apps",
    version: "v1",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short: &["rs"],
    namespaced: true,
    categories: &["all"],
    subresources: &[SCALE, status_of("apps", "ReplicaSet")],
    writable: true,
    generations: true,
};

/// Every kind that is stored, in the order of discovery (group, then plural name).
pub static ALL: &[&Kind] = &[
    CONFIG_MAP,
    ENDPOINTS,
    EVENT,
    LIMIT_RANGE,
    NAMESPACE,
    NODE,
    PERSISTENT_VOLUME_CLAIM,
    PERSISTENT_VOLUME,
    POD,
    RESOURCE_QUOTA,
    SECRET,
    SERVICE_ACCOUNT,
    SERVICE,
    CONTROLLER_REVISION,
    DAEMON_SET,
    DEPLOYMENT,
    REPLICA_SET,
    STATEFUL_SET,
    HORIZONTAL_POD_AUTOSCALER,
    CRON_JOB,
    JOB,
    LEASE,
    ENDPOINT_SLICE,
    INGRESS,
    NETWORK_POLICY,
    RUNTIME_CLASS,
    POD_DISRUPTION_BUDGET,
    CLUSTER_ROLE_BINDING,
    CLUSTER_ROLE,
    ROLE_BINDING,
    ROLE,
    PRIORITY_CLASS,
    STORAGE_CLASS,
];

/// Every kind that is served: the stored ones, their other versions, then those that are answered or measured.
pub fn served() -> impl Iterator<Item = &'static Kind> {
    let aliases = ALIASES.iter().map(|alias| alias.kind);
    let answered = REVIEWS.iter().chain(MEASURED).copied();
    ALL.iter().copied().chain(aliases).chain(answered)
}

/// Finds a kind by the `apiVersion` and `kind` of an object as clients write it, in any version.
pub fn written(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = split_api_version(api_version);
    served().find(|k| k.group == group && k.version == version && k.kind == kind && k.is_stored())
}

/// Finds a kind by what a request path names.
pub fn lookup(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    served().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// Finds a kind by group, version and kind.
pub fn by_gvk(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter()
        .copied()
        .find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// Finds a kind by the `apiVersion` and `kind` of an object.
pub fn by_api_version(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = split_api_version(api_version);
    by_gvk(group, version, kind)
}

/// Splits `apps/v1` into (`apps`, `v1`), and `v1` into (empty, `v1`).
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_kinds_both_ways() {
        assert_eq!(lookup("", "v1", "pods"), Some(POD));
        assert_eq!(lookup("apps", "v1", "pods"), None);
        assert_eq!(by_api_version("apps/v1", "Deployment"), Some(DEPLOYMENT));
        assert_eq!(DEPLOYMENT.api_version(), "apps/v1");
        assert_eq!(DEPLOYMENT.resource(), "deployments.apps");
        assert_eq!(POD.group_kind(), "Pod");
    }

    #[test]
    fn table_is_ordered_and_unique() {
        for pair in ALL.windows(2) {
            assert!(pair[0] < pair[1], "{} before {}", pair[0], pair[1]);
        }
    }
}
