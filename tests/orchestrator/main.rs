//! Tests of the orchestrator: the monitor of a pod, and pods under the real `berthd`.

mod access;
mod api;
mod application;
mod connections;
mod credentials;
mod ctl;
mod demo;
mod deployments;
mod faults;
mod forms;
mod grpc;
mod images;
mod jobs;
mod monitor;
mod network;
mod person;
mod own_users;
mod pods;
mod policy;
mod processes;
mod registry;
mod services;
mod streams;
