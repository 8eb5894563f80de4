//! Kinds of storage: claims, the volumes that they are bound to, and the classes that make volumes.

use super::{Kind, status_of};

/// core/v1 PersistentVolumeClaim: somebody's wish for storage.
pub const PERSISTENT_VOLUME_CLAIM: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short: &["pvc"],
    namespaced: true,
    categories: &[],
    subresources: &[status_of("", "PersistentVolumeClaim")],
    writable: true,
    generations: false,
};

/// core/v1 PersistentVolume: a folder that a claim can be bound to.
pub const PERSISTENT_VOLUME: &Kind = &Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short: &["pv"],
    namespaced: false,
    categories: &[],
    subresources: &[status_of("", "PersistentVolume")],
    writable: true,
    generations: false,
};

/// storage.k8s.io/v1 StorageClass: who makes volumes, and how.
pub const STORAGE_CLASS: &Kind = &Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short: &["sc"],
    namespaced: false,
    categories: &[],
    subresources: &[],
    writable: true,
    generations: false,
};
