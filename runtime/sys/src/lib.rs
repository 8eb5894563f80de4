//! The system calls Berth makes, and its only unsafe code.
//!
//! [`raw`] is what both sides of a container's start are made of; the other modules wrap it, and what else is
//! needed, in owned descriptors and [`std::io::Error`].

mod area;
pub mod bpf;
pub mod command;
pub mod files;
pub mod heap;
pub mod loopdev;
pub mod memory;
pub mod mount;
pub mod network;
pub mod pidfd;
pub mod process;
pub mod raw;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod start;
pub mod terminal;
