//! The Kubernetes API of one node as pure data: kinds, defaults, validation, patches, tables.
