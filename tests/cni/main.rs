//! Tests of the CNI plugins and of the runtime side, by the protocol alone, with real packets.

mod bridge;
mod chained;
mod command;
mod config;
mod differences;
mod engines;
mod interfaces;
mod lab;
mod ports;
mod protocol;
mod reference;
mod repair;
mod runtime;
mod services;
mod vlan;
