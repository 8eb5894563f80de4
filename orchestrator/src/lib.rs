//! The node daemon: Kubernetes API, controllers, node agent.

pub mod events;
pub mod store;
