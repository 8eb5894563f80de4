//! cgroup v2: loading and attaching the device program.

use std::io;
use std::os::fd::AsFd;

use berth_spec::LinuxDeviceCgroup;
use berth_sys::bpf;
use nix::errno::Errno;

use super::{effective, program};
use crate::CgroupError;
use crate::dir::Dir;

/// Puts the program for `devices` in place; the old one stays in force until then.
pub(crate) fn restrict(dir: &Dir, devices: &[LinuxDeviceCgroup], fresh: bool) -> Result<(), CgroupError> {
    let rules = effective(devices)?;
    let failed = |action| {
        move |error: io::Error| CgroupError::DeviceFilter {
            action,
            path: dir.path().to_owned(),
            source: error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        }
    };
    let cgroup = dir.fd().map_err(CgroupError::io("open cgroup", dir.path()))?;
    let present = if fresh {
        Vec::new()
    } else {
        bpf::device_programs(cgroup).map_err(failed("look for"))?
    };
    // A new cgroup and everything allowed: no program at all says the same.
    if present.is_empty() && rules.len() == 1 && rules[0].allow {
        return Ok(());
    }
    let loaded = bpf::load_device_program(&program::build(&rules)).map_err(failed("load"))?;
    if let [only] = present.as_slice()
        && bpf::attach_device_program(cgroup, loaded.as_fd(), Some(only.as_fd())).is_ok()
    {
        return Ok(());
    }
    bpf::attach_device_program(cgroup, loaded.as_fd(), None).map_err(failed("attach"))?;
    for old in &present {
        bpf::detach_device_program(cgroup, old.as_fd()).map_err(failed("detach the former"))?;
    }
    Ok(())
}
