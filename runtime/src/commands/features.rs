//! `features`: what this runtime supports, as runtime-spec features.md lays it out.

use std::collections::BTreeMap;

use berth_spec::{
    Arch, LinuxNamespaceType, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    MemoryPolicyFlagType, MemoryPolicyModeType,
};
use clap::Args;
use serde::Serialize;

use super::ExitCode;
use crate::error::Error;
use crate::seccomp;
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
    namespaces: Vec<&'static str>,
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
    actions: Vec<&'static str>,
    operators: Vec<&'static str>,
    archs: Vec<&'static str>,
    known_flags: Vec<&'static str>,
    supported_flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct MemoryPolicyFeatures {
    modes: Vec<&'static str>,
    flags: Vec<&'static str>,
}

#[derive(Serialize)]
struct MountExtensions {
    idmap: Enabled,
}

const HOOKS: &[&str] = &[
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];
/// The words that the reader of config.json takes in a place, sorted: what is announced is what is accepted.
fn words<W: Copy>(all: impl IntoIterator<Item = W>, word: impl Fn(W) -> &'static str) -> Vec<&'static str> {
    let mut words: Vec<&'static str> = all.into_iter().map(word).collect();
    words.sort_unstable();
    words
}

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

/// Whether the running kernel knows a flag of seccomp(2).
fn kernel_takes(flag: LinuxSeccompFilterFlag) -> bool {
    berth_sys::process::knows_seccomp_flags(seccomp::kernel_flags(flag))
}

fn features() -> Features {
    let version =
        libseccomp::ScmpVersion::current().map_or_else(|_| String::new(), |version| version.to_string());
    let flags = LinuxSeccompFilterFlag::ALL.iter().copied();
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: OCI_VERSION,
        hooks: HOOKS,
        mount_options: KNOWN_MOUNT_OPTIONS,
        linux: LinuxFeatures {
            namespaces: words(
                LinuxNamespaceType::ALL.iter().copied(),
                LinuxNamespaceType::as_str,
            ),
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
                actions: words(
                    LinuxSeccompAction::ALL.iter().copied(),
                    LinuxSeccompAction::as_str,
                ),
                operators: words(
                    LinuxSeccompOperator::ALL.iter().copied(),
                    LinuxSeccompOperator::as_str,
                ),
                archs: words(seccomp::architectures(), Arch::as_str),
                known_flags: words(
                    LinuxSeccompFilterFlag::ALL.iter().copied(),
                    LinuxSeccompFilterFlag::as_str,
                ),
                supported_flags: words(
                    flags.filter(|flag| kernel_takes(*flag)),
                    LinuxSeccompFilterFlag::as_str,
                ),
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdtFeatures {
                enabled: true,
                schemata: true,
                monitoring: true,
            },
            memory_policy: MemoryPolicyFeatures {
                modes: words(
                    MemoryPolicyModeType::ALL.iter().copied(),
                    MemoryPolicyModeType::as_str,
                ),
                flags: words(
                    MemoryPolicyFlagType::ALL.iter().copied(),
                    MemoryPolicyFlagType::as_str,
                ),
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
