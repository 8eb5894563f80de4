//! Device access: `linux.resources.devices`, enforced by an eBPF program in cgroup v2 and by the devices
//! controller in v1.
//!
//! Everything is denied at first; the rules apply in order, the last one that matches decides, for each kind
//! of access (read, write, mknod) on its own; then come the default devices, which no rule can take away.

mod program;
mod rules;
pub(crate) mod v1;
pub(crate) mod v2;

#[cfg(test)]
pub(crate) use rules::tests::rule;
pub(crate) use rules::{ALL, Class, MKNOD, READ, Rule, WRITE, effective};
