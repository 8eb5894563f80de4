//! Tests of the CNI plugins and of the runtime side, by the protocol alone, with real packets.

mod bridge;
mod chained;
mod config;
mod interfaces;
mod lab;
mod ports;
mod reference;
mod runtime;
mod services;
