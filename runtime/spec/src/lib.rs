//! The configuration of a container as the OCI runtime specification 1.3 defines it: what `config.json` says, read
//! into plain types.
//!
//! All of the specification that concerns Linux is here, with the names of the `oci-spec` crate; what belongs to other
//! systems is skipped like any unknown field. Values are only read, not judged: that is the validation's matter.
//! runtime/DESIGN.md has the measured reason for a reader of our own.
//!
//! ```
//! let text = br#"{"ociVersion": "1.3.0", "root": {"path": "rootfs"}, "linux": {"namespaces": [{"type": "pid"}]}}"#;
//! let spec = berth_spec::read::<berth_spec::Spec>(text).unwrap().value;
//! assert_eq!(spec.root().as_ref().unwrap().path(), std::path::Path::new("rootfs"));
//!
//! let mistake = berth_spec::read::<berth_spec::Spec>(br#"{"linux": {"namespaces": [{"type": "pit"}]}}"#).unwrap_err();
//! assert_eq!(mistake.field, "linux.namespaces[0].type");
//! ```

mod capability;
mod config;
mod linux;
mod process;
mod reader;
mod resources;
mod seccomp;
mod value;

pub use capability::{Capabilities, Capability, CapabilityIter};
pub use config::{Hook, Hooks, Mount, Root, Spec};
pub use linux::{
    Linux, LinuxDevice, LinuxDeviceType, LinuxIdMapping, LinuxIntelRdt, LinuxMemoryPolicy, LinuxNamespace,
    LinuxNamespaceType, LinuxNetDevice, LinuxPersonality, LinuxPersonalityDomain, LinuxTimeOffset,
    MemoryPolicyFlagType, MemoryPolicyModeType,
};
pub use process::{
    ConsoleSize, ExecCPUAffinity, IOPriorityClass, LinuxCapabilities, LinuxIOPriority, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimit, PosixRlimitType, Process, Scheduler, User,
};
pub use reader::{Document, Failed, Mistake, Reader, Value, read};
pub use resources::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxHugepageLimit, LinuxInterfacePriority, LinuxMemory,
    LinuxNetwork, LinuxPids, LinuxRdma, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};
pub use seccomp::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
