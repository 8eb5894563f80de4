//! Holds a pod's containers: stdio, logs, exit codes.

fn main() {}
