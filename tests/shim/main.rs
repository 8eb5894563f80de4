//! The containerd shim, under Debian's containerd and called directly.

mod failures;
mod life;
mod load;
mod pods;
mod protocol;
mod streams;
