//! `linux.devices`, and the devices and links that every container has (config-linux.md, "Default Devices").

use std::path::{Path, PathBuf};

use berth_spec::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType};
use berth_sys::raw::{S_IFBLK, S_IFCHR, S_IFIFO};

use super::mounts::clean;
use super::options::MountOptions;
use super::{Context, PlanError, path_text, text};
use crate::wire::InitStep;

/// Path, major and minor number.
const DEFAULT: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// What the link says, and where it is.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Plans devices and links, unless the engine binds a /dev of its own, which is complete then.
pub(super) fn all(context: &Context<'_>, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    if binds_dev(context) {
        return Ok(());
    }
    let bind = context.has(LinuxNamespaceType::User) || context.facts.in_user_namespace;
    let configured = context
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default();
    let paths: Vec<PathBuf> = configured.iter().map(|device| clean(device.path())).collect();
    for (path, major, minor) in DEFAULT {
        if paths.iter().any(|configured| configured == Path::new(path)) {
            continue;
        }
        init.push(InitStep::Device {
            path: text("linux.devices.path", path)?,
            mode: S_IFCHR | 0o666,
            major: *major,
            minor: *minor,
            uid: 0,
            gid: 0,
            bind,
        });
    }
    for (device, path) in configured.iter().zip(&paths) {
        // The one of the host's devpts, which Podman lists for privileged containers: the link to the container's own
        // instance takes its place.
        if path != Path::new("/dev/ptmx") {
            init.push(step(device, bind)?);
        }
    }
    for (target, path) in LINKS {
        init.push(InitStep::Link {
            target: text("linux.devices", target)?,
            path: text("linux.devices", path)?,
            existing: false,
        });
    }
    init.push(InitStep::Link {
        target: text("linux.devices", "/proc/kcore")?,
        path: text("linux.devices", "/dev/core")?,
        // Kernels may be built without it.
        existing: true,
    });
    Ok(())
}

fn step(device: &LinuxDevice, bind: bool) -> Result<InitStep, PlanError> {
    let kind = match device.typ() {
        LinuxDeviceType::B => S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => S_IFCHR,
        LinuxDeviceType::P => S_IFIFO,
        LinuxDeviceType::A => {
            return Err(PlanError::Unknown {
                field: "linux.devices.type",
                value: "a".to_owned(),
            });
        }
    };
    Ok(InitStep::Device {
        path: path_text("linux.devices.path", device.path())?,
        mode: kind | device.file_mode().unwrap_or(0o666) & 0o7777,
        major: device.major() as u32,
        minor: device.minor() as u32,
        uid: device.uid().unwrap_or_default(),
        gid: device.gid().unwrap_or_default(),
        // Anybody may make a pipe.
        bind: bind && kind != S_IFIFO,
    })
}

fn binds_dev(context: &Context<'_>) -> bool {
    context.spec.mounts().iter().flatten().any(|mount| {
        clean(mount.destination()) == Path::new("/dev")
            && (mount.typ().as_deref() == Some("bind")
                || MountOptions::parse(mount.options().as_deref().unwrap_or_default()).bind)
    })
}
