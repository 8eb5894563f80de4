//! The crate of the tiny init: see `mod.rs` for what it does and runtime/build.rs for how it is built.
#![no_std]
#![forbid(unsafe_code)]

extern crate berth_sys_raw as sys;

#[path = "mod.rs"]
mod init;
#[path = "../wire/mod.rs"]
mod wire;

pub use init::{Start, run};
