//! Tests of the runtime: what its command line does on the real kernel. Those that compare or conform also drive runc
//! where it is installed. `BERTH_TEST_RUNTIMES` (such as `runc` or `berth,runc`) narrows the choice.

mod alias;
mod annotations;
mod apparmor;
mod attributes;
mod bad_input;
#[macro_use]
mod checkpoint;
mod checkpoint_options;
mod containerd;
mod differential;
mod driver;
mod events;
mod examples;
mod exec;
mod features;
mod foreground;
mod hooks;
mod hostile;
mod leftovers;
mod limits;
mod logging;
mod mount_options;
mod mounts;
mod namespaces;
mod net_devices;
mod pause;
mod placement;
mod process;
mod ps;
mod rootless;
mod scheduling;
mod seccomp;
mod security;
mod sockets;
mod systemd;
mod unified;
mod update;
mod verbs;
