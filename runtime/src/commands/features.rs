//! `features`: what this runtime supports, as runtime-spec features.md lays it out.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::ExitCode;
use crate::error::Error;
use crate::spec::OCI_VERSION;
use crate::validate::KNOWN_MOUNT_OPTIONS;

/// Show the enabled features
///
/// The result is JSON:
/// see <https://github.com/opencontainers/runtime-spec/blob/main/features.md> for its definition.
#[derive(Debug, Args)]
pub(super) struct FeaturesArgs {
    #[arg(hide = true)]
    arguments: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Features {
    oci_version_min: &'static str,
    oci_version_max: &'static str,
    hooks: &'static [&'static str],
    mount_options: &'static [&'static str],
    linux: LinuxFeatures,
    annotations: BTreeMap<&'static str, String>,
    potentially_unsafe_config_annotations: &'static [&'static str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LinuxFeatures {
    namespaces: &'static [&'static str],
    capabilities: Vec<String>,
    cgroup: CgroupFeatures,
    seccomp: SeccompFeatures,
    apparmor: Enabled,
    selinux: Enabled,
    intel_rdt: IntelRdtFeatures,
    memory_policy: MemoryPolicyFeatures,
    mount_extensions: MountExtensions,
    net_devices: Enabled,
}

#[derive(Serialize)]
struct Enabled {
    enabled: bool,
}

#[derive(Serialize)]
struct IntelRdtFeatures {
    enabled: bool,
    schemata: bool,
    monitoring: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CgroupFeatures {
    v1: bool,
    v2: bool,
    systemd: bool,
    systemd_user: bool,
    rdma: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SeccompFeatures {
    enabled: bool,
    actions: &'static [&'static str],
    operators: &'static [&'static str],
    archs: &'static [&'static str],
    known_flags: &'static [&'static str],
    supported_flags: &'static [&'static str],
}

#[derive(Serialize)]
struct MemoryPolicyFeatures {
    modes: &'static [&'static str],
    flags: &'static [&'static str],
}

#[derive(Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];
const HOOKS: &[&str] = &[
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
const ARCHITECTURES: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
const MEMORY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MEMORY_FLAGS: &[&str] = &[
    "MPOL_F_NUMA_BALANCING",
    "MPOL_F_RELATIVE_NODES",
    "MPOL_F_STATIC_NODES",
];

pub(super) fn run(args: &FeaturesArgs) -> Result<ExitCode, Error> {
    super::exactly("features", &args.arguments, 0)?;
    let mut text = Vec::new();
    let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
    features()
        .serialize(&mut serializer)
        .map_err(|source| Error::Json { source })?;
    text.push(b'\n');
    super::print(&text)
}

fn features() -> Features {
    let version =
        libseccomp::ScmpVersion::current().map_or_else(|_| String::new(), |version| version.to_string());
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: OCI_VERSION,
        hooks: HOOKS,
        mount_options: KNOWN_MOUNT_OPTIONS,
        linux: LinuxFeatures {
            namespaces: NAMESPACES,
            capabilities: crate::validate::capability_names(),
            cgroup: CgroupFeatures {
                v1: true,
                v2: true,
                systemd: true,
                systemd_user: true,
                rdma: true,
            },
            seccomp: SeccompFeatures {
                enabled: true,
                actions: ACTIONS,
                operators: OPERATORS,
                archs: ARCHITECTURES,
                known_flags: FLAGS,
                supported_flags: FLAGS,
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdtFeatures {
                enabled: true,
                schemata: true,
                monitoring: true,
            },
            memory_policy: MemoryPolicyFeatures {
                modes: MEMORY_MODES,
                flags: MEMORY_FLAGS,
            },
            mount_extensions: MountExtensions {
                idmap: Enabled { enabled: true },
            },
            net_devices: Enabled { enabled: true },
        },
        annotations: BTreeMap::from([
            ("dev.berth.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("io.github.seccomp.libseccomp.version", version),
        ]),
        // Those that name files and sockets of the host, or properties of its units; a dot ends a prefix.
        potentially_unsafe_config_annotations: &[
            "bundle",
            "org.criu.config",
            "org.systemd.property.",
            "run.oci.",
        ],
    }
}
