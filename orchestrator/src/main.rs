//! The node daemon: Kubernetes API, controllers, node agent.

fn main() {}
