//! `linux.resources`: values that no kernel takes. Whether this host has the controller shows when the cgroup is made.

use berth_spec::{LinuxResources, Spec};

use super::{Invalid, is_number_list, linux};
use crate::host::HostFacts;

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    linux(spec)?.resources().as_ref()
}

fn field(name: &str) -> String {
    format!("linux.resources.{name}")
}

/// config-linux.md "Memory". -1 is no limit.
pub(super) fn memory(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(memory) = resources(spec).and_then(|all| all.memory().as_ref()) else {
        return Ok(());
    };
    let given = [
        ("limit", memory.limit()),
        ("reservation", memory.reservation()),
        ("swap", memory.swap()),
    ];
    for (name, value) in given {
        if let Some(value) = value.filter(|value| *value < -1) {
            let problem = format!("{value} is not a size: use bytes, or -1 for no limit");
            return Err(Invalid::new(field(&format!("memory.{name}")), problem));
        }
    }
    if let Some(swap) = memory.swap().filter(|swap| *swap > 0) {
        match memory.limit() {
            None | Some(0) => {
                let problem =
                    "unable to set swap limit without memory limit: set linux.resources.memory.limit";
                return Err(Invalid::new(field("memory.swap"), problem));
            }
            Some(limit) if limit > swap => {
                let problem = format!("memory+swap limit {swap} should be >= memory limit {limit}: raise it");
                return Err(Invalid::new(field("memory.swap"), problem));
            }
            Some(_) => {}
        }
    }
    if let Some(value) = memory.swappiness().filter(|value| *value > 100) {
        let problem = format!("{value} is out of range: use 0 to 100");
        return Err(Invalid::new(field("memory.swappiness"), problem));
    }
    Ok(())
}

/// config-linux.md "CPU"; the kernel's bounds are those of kernel/sched/core.c (tg_set_cfs_bandwidth): microseconds.
pub(super) fn cpu(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(cpu) = resources(spec).and_then(|all| all.cpu().as_ref()) else {
        return Ok(());
    };
    if let Some(period) = cpu
        .period()
        .filter(|period| *period != 0 && !(1_000..=1_000_000).contains(period))
    {
        let problem = format!("{period} is out of range: use 1000 to 1000000 microseconds");
        return Err(Invalid::new(field("cpu.period"), problem));
    }
    if let Some(quota) = cpu
        .quota()
        .filter(|quota| *quota < -1 || (1..1_000).contains(quota))
    {
        let problem = format!("{quota} is out of range: use at least 1000 microseconds, or -1 for no limit");
        return Err(Invalid::new(field("cpu.quota"), problem));
    }
    if let (Some(burst), Some(quota)) = (cpu.burst(), cpu.quota().filter(|quota| *quota > 0))
        && i64::try_from(burst).is_ok_and(|burst| burst > quota)
    {
        let problem = format!("{burst} is above the quota {quota}: lower it");
        return Err(Invalid::new(field("cpu.burst"), problem));
    }
    if let Some(idle) = cpu.idle().filter(|idle| ![0, 1].contains(idle)) {
        return Err(Invalid::new(
            field("cpu.idle"),
            format_args!("{idle} is out of range: use 0 or 1"),
        ));
    }
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        if let Some(list) = list
            .as_deref()
            .map(str::trim)
            .filter(|list| !list.is_empty() && !is_number_list(list))
        {
            let problem = format!("{list:?} is not a list of numbers: write it as \"0-3,7\"");
            return Err(Invalid::new(field(&format!("cpu.{name}")), problem));
        }
    }
    Ok(())
}

/// config-linux.md "Block IO": weights are 10 to 1000, 0 is unset.
pub(super) fn block_io(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(io) = resources(spec).and_then(|all| all.block_io().as_ref()) else {
        return Ok(());
    };
    let check = |name: String, weight: Option<u16>| match weight {
        Some(weight) if weight != 0 && !(10..=1000).contains(&weight) => Err(Invalid::new(
            field(&name),
            format_args!("{weight} is out of range: use 10 to 1000"),
        )),
        _ => Ok(()),
    };
    check("blockIO.weight".to_owned(), io.weight())?;
    check("blockIO.leafWeight".to_owned(), io.leaf_weight())?;
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        check(format!("blockIO.weightDevice[{index}].weight"), device.weight())?;
        check(
            format!("blockIO.weightDevice[{index}].leafWeight"),
            device.leaf_weight(),
        )?;
    }
    Ok(())
}

/// config-linux.md "Huge page limits": `<size><unit>B` with units K, M, G.
pub(super) fn huge_pages(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let limits = resources(spec)
        .and_then(|all| all.hugepage_limits().as_deref())
        .unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        let at = field(&format!("hugepageLimits[{index}].pageSize"));
        let size = limit.page_size();
        let number = size
            .strip_suffix("KB")
            .or(size.strip_suffix("MB"))
            .or(size.strip_suffix("GB"));
        if !number.is_some_and(|number| number.parse::<u64>().is_ok_and(|number| number > 0)) {
            return Err(Invalid::new(
                at,
                format_args!("{size:?} is not a page size: write it as \"2MB\" or \"1GB\""),
            ));
        }
        if limits[..index].iter().any(|earlier| earlier.page_size() == size) {
            return Err(Invalid::new(at, format_args!("{size} is given twice: keep one")));
        }
    }
    Ok(())
}

/// config-linux.md "Unified": names of files in one directory.
pub(super) fn unified(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(unified) = resources(spec).and_then(|all| all.unified().as_ref()) else {
        return Ok(());
    };
    if unified.is_empty() {
        return Ok(());
    }
    if !host.unified_cgroups() {
        let problem =
            "invalid configuration: cannot use unified on cgroup v1: use the fields of linux.resources";
        return Err(Invalid::new(field("unified"), problem));
    }
    match unified.keys().find(|key| key.contains('/') || !key.contains('.')) {
        Some(key) => {
            let problem =
                format!("unified resource {key:?} must be a file name (no slashes) with a controller");
            Err(Invalid::new(field("unified"), problem))
        }
        None => Ok(()),
    }
}

/// Fields that mean nothing to today's kernels; runc passes over them, too.
pub(super) fn ignored(spec: &Spec) -> Vec<String> {
    let Some(memory) = resources(spec).and_then(|all| all.memory().as_ref()) else {
        return Vec::new();
    };
    let given = [("kernel", memory.kernel()), ("kernelTCP", memory.kernel_tcp())];
    let set = given
        .iter()
        .filter(|(_, value)| value.is_some_and(|value| value != 0));
    set.map(|(name, _)| {
        format!("linux.resources.memory.{name}: ignored: kernel memory has no limit of its own any more")
    })
    .collect()
}
