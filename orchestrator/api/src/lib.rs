//! The Kubernetes API of one node as pure data.
//!
//! Nothing here touches a file, a socket or a clock: every function maps values to values, so that
//! the rules of the API (kinds, defaults, validation, patches, tables, selectors, errors) can be
//! read and tested without a server. `berthd` supplies time, identity and storage.

pub mod apply;
pub mod base64;
pub mod convert;
pub mod defaults;
pub mod discovery;
pub mod disruption;
pub mod indexes;
pub mod kinds;
pub mod limits;
pub mod openapi;
pub mod parse;
pub mod patch;
pub mod placement;
pub mod priority;
pub mod protobuf;
pub mod qos;
pub mod quantity;
pub mod quota;
pub mod rbac;
pub mod resize;
pub mod room;
pub mod runtime_class;
pub mod schedule;
pub mod schema;
pub mod selector;
pub mod status;
pub mod storage;
pub mod support;
pub mod table;
pub mod validate;
