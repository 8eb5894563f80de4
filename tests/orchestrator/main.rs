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
mod names;
mod network;
mod own_users;
mod person;
mod pods;
mod policy;
mod processes;
mod registry;
mod resolver;
mod services;
mod streams;
