//! Tests of the orchestrator: the monitor of a pod, and pods under the real `berthd`.

mod api;
mod demo;
mod monitor;
mod pods;
