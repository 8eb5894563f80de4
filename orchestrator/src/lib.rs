//! The node daemon: Kubernetes API, controllers, node agent.

pub mod controllers;
pub mod events;
pub mod node;
pub mod store;
