//! cgroups v2, hybrid and v1: placement, limits, devices, freezing, killing.
//!
//! A host shows its cgroups in one of three ways ([`Kind`]): one cgroup2 tree (unified), v1 hierarchies
//! with a cgroup2 tree beside them (hybrid), or v1 hierarchies alone (legacy). [`Layout`] finds out which,
//! [`Cgroup`] hides the difference: a container has one path ([`CgroupPath`]) in every hierarchy, and each
//! limit of the configuration is written where the host has its controller. A limit that no hierarchy can
//! enforce is an error that names the controller and the field.
//!
//! With [`systemd::Scope`], systemd makes the cgroup; everything else is the same.
//!
//! What a limit means in files is computed without I/O (`v1`, `v2`: one file a controller) and then
//! written in one pass.

mod create;
mod delete;
mod devices;
mod dir;
mod error;
mod freeze;
mod group;
mod kill;
mod layout;
mod oom;
mod path;
mod resources;
mod stats;
mod subtree;
pub mod systemd;
mod v1;
mod v2;
mod write;

pub use error::CgroupError;
pub use freeze::State;
pub use group::Cgroup;
pub use layout::{Hierarchy, Kind, Layout, LayoutError};
pub use oom::{Announced, OomWatch};
pub use path::{CgroupPath, PathError, SystemdPath};
pub use resources::Ignored;
pub use stats::{
    CpuStats, CpusetStats, HugetlbStats, IoEntry, IoStats, MemoryCounter, MemoryStats, PidsStats, Pressure,
    PressureLine, RdmaEntry, RdmaStats, Stats,
};
