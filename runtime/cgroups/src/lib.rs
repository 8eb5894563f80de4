//! cgroups v2, hybrid and v1: placement, limits, devices, freezing, killing.
