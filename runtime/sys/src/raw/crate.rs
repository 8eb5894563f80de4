//! The raw system calls as a crate of their own, for the tiny init (see runtime/build.rs).
#![no_std]

#[path = "mod.rs"]
mod raw;
mod mem;

pub use raw::*;

