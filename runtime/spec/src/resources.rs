//! `linux.resources` (runtime-spec config-linux.md "Control groups").

use std::collections::BTreeMap;

use crate::{LinuxDeviceType, object};

object! {
    /// Limits.
    pub struct LinuxResources {
        /// Which devices may be used.
        devices: by_ref Option<Vec<LinuxDeviceCgroup>> = "devices",
        /// Memory.
        memory: by_ref Option<LinuxMemory> = "memory",
        /// Processor time.
        cpu: by_ref Option<LinuxCpu> = "cpu",
        /// Processes.
        pids: by_ref Option<LinuxPids> = "pids",
        /// Block devices.
        block_io: by_ref Option<LinuxBlockIo> = "blockIO",
        /// Huge pages, by their size.
        hugepage_limits: by_ref Option<Vec<LinuxHugepageLimit>> = "hugepageLimits",
        /// Network class and priorities.
        network: by_ref Option<LinuxNetwork> = "network",
        /// Remote direct memory access, by device.
        rdma: by_ref Option<BTreeMap<String, LinuxRdma>> = "rdma",
        /// Files of cgroup v2 and their values.
        unified: by_ref Option<BTreeMap<String, String>> = "unified",
    }
}

object! {
    /// A rule for devices.
    pub struct LinuxDeviceCgroup {
        /// Whether it allows or denies.
        allow: copy bool = "allow",
        /// Of what kind; none for all.
        typ: copy Option<LinuxDeviceType> = "type",
        /// Major number; none for all.
        major: copy Option<i64> = "major",
        /// Minor number; none for all.
        minor: copy Option<i64> = "minor",
        /// Letters of `rwm`: read, write, mknod.
        access: by_ref Option<String> = "access",
    }
}

object! {
    /// Limits of memory, in bytes; -1 is unlimited.
    #[derive(Copy)]
    pub struct LinuxMemory {
        /// What may be used.
        limit: copy Option<i64> = "limit",
        /// What is kept when memory is short.
        reservation: copy Option<i64> = "reservation",
        /// Memory and swap together.
        swap: copy Option<i64> = "swap",
        /// Kernel memory, obsolete.
        kernel: copy Option<i64> = "kernel",
        /// Kernel memory for TCP, obsolete.
        kernel_tcp: copy Option<i64> = "kernelTCP",
        /// How eagerly memory is swapped out, 0 to 100.
        swappiness: copy Option<u64> = "swappiness",
        /// Whether processes wait instead of being killed.
        disable_oom_killer: copy Option<bool> = "disableOOMKiller",
        /// Whether children count.
        use_hierarchy: copy Option<bool> = "useHierarchy",
        /// Whether a limit below what is in use is refused.
        check_before_update: copy Option<bool> = "checkBeforeUpdate",
    }
}

object! {
    /// Limits of processor time.
    pub struct LinuxCpu {
        /// Relative weight.
        shares: copy Option<u64> = "shares",
        /// Microseconds in a period.
        quota: copy Option<i64> = "quota",
        /// Whether it only runs on idle processors.
        idle: copy Option<i64> = "idle",
        /// Microseconds that can be saved up for a burst.
        burst: copy Option<u64> = "burst",
        /// Length of a period in microseconds.
        period: copy Option<u64> = "period",
        /// Microseconds of real-time scheduling in a period.
        realtime_runtime: copy Option<i64> = "realtimeRuntime",
        /// Length of a real-time period in microseconds.
        realtime_period: copy Option<u64> = "realtimePeriod",
        /// Processors, as a list such as `0-3`.
        cpus: by_ref Option<String> = "cpus",
        /// Memory nodes, as a list.
        mems: by_ref Option<String> = "mems",
    }
}

object! {
    /// A limit of processes.
    #[derive(Copy)]
    pub struct LinuxPids {
        /// How many; -1 is unlimited. Without it no limit is asked for.
        limit: copy Option<i64> = "limit",
    }
}

object! {
    /// Limits of block devices.
    pub struct LinuxBlockIo {
        /// Relative weight, 10 to 1000.
        weight: copy Option<u16> = "weight",
        /// Weight against child cgroups.
        leaf_weight: copy Option<u16> = "leafWeight",
        /// Weights for a device.
        weight_device: by_ref Option<Vec<LinuxWeightDevice>> = "weightDevice",
        /// Bytes read a second.
        throttle_read_bps_device: by_ref Option<Vec<LinuxThrottleDevice>> = "throttleReadBpsDevice",
        /// Bytes written a second.
        throttle_write_bps_device: by_ref Option<Vec<LinuxThrottleDevice>> = "throttleWriteBpsDevice",
        /// Reads a second.
        throttle_read_iops_device: by_ref Option<Vec<LinuxThrottleDevice>> = "throttleReadIOPSDevice",
        /// Writes a second.
        throttle_write_iops_device: by_ref Option<Vec<LinuxThrottleDevice>> = "throttleWriteIOPSDevice",
    }
}

object! {
    /// A device's weight.
    #[derive(Copy)]
    pub struct LinuxWeightDevice {
        /// Major number.
        major: copy i64 = "major",
        /// Minor number.
        minor: copy i64 = "minor",
        /// Relative weight, 10 to 1000.
        weight: copy Option<u16> = "weight",
        /// Weight against child cgroups.
        leaf_weight: copy Option<u16> = "leafWeight",
    }
}

object! {
    /// A device's limit.
    #[derive(Copy)]
    pub struct LinuxThrottleDevice {
        /// Major number.
        major: copy i64 = "major",
        /// Minor number.
        minor: copy i64 = "minor",
        /// Bytes or operations a second.
        rate: copy u64 = "rate",
    }
}

object! {
    /// A limit of huge pages.
    pub struct LinuxHugepageLimit {
        /// Their size, such as `2MB`.
        page_size: by_ref String = "pageSize",
        /// Bytes.
        limit: copy i64 = "limit",
    }
}

object! {
    /// Network class and priorities (cgroup v1).
    pub struct LinuxNetwork {
        /// Class of outgoing packets.
        class_id: copy Option<u32> = "classID",
        /// Priorities by interface.
        priorities: by_ref Option<Vec<LinuxInterfacePriority>> = "priorities",
    }
}

object! {
    /// Priority of packets that leave by an interface.
    pub struct LinuxInterfacePriority {
        /// The interface.
        name: by_ref String = "name",
        /// The priority.
        priority: copy u32 = "priority",
    }
}

object! {
    /// Limits of remote direct memory access.
    #[derive(Copy)]
    pub struct LinuxRdma {
        /// Handles.
        hca_handles: copy Option<u32> = "hcaHandles",
        /// Objects.
        hca_objects: copy Option<u32> = "hcaObjects",
    }
}
