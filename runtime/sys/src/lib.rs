//! The system calls Berth makes, and its only unsafe code.

pub mod bpf;
pub mod pidfd;
pub mod terminal;
