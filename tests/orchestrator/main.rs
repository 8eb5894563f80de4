//! Tests of the orchestrator: the monitor of a pod, and pods under the real `berthd`.

mod api;
mod application;
mod ctl;
mod demo;
mod deployments;
mod images;
mod monitor;
mod pods;
mod registry;
mod services;
