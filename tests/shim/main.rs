//! The containerd shim, under containerd (Debian's, and version 2) and called directly.

mod direct;
mod failures;
mod life;
mod load;
mod mounts;
mod options;
mod pods;
mod protocol;
mod streams;
mod systemd;
mod terminal;
