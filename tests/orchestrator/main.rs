//! Tests of the orchestrator: the monitor of a pod, and pods under the real `berthd`.

mod demo;
mod monitor;
