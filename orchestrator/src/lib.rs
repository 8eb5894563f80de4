//! The node daemon: Kubernetes API, controllers, node agent.

pub mod admission;
pub mod config;
pub mod controllers;
pub mod dns;
pub mod events;
mod fault;
pub mod images;
pub mod node;
pub mod pki;
pub mod proxy;
pub mod scheduler;
pub mod server;
pub mod service;
pub mod store;
mod usage;
