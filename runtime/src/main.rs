//! Low-level OCI runtime with runc's command line.

#![no_main]

berth_sys::program!(berth::commands::main);
