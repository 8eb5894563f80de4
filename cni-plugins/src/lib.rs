//! CNI plugins over netlink, and the runtime side of CNI.
//!
//! `protocol` and `exec` are for programs that run plugins, `services` balances load with the same rules; the rest is
//! the plugins. See DESIGN.md.

pub mod exec;
pub mod protocol;
pub mod services;

pub mod ipam;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod sysctl;

pub mod bandwidth;
pub mod bridge;
pub mod firewall;
pub mod loopback;
pub mod macvlan;
pub mod portmap;
pub mod ptp;
pub mod tuning;

mod attach;

use protocol::Plugin;

/// The plugins of this program.
pub const PLUGINS: &[&Plugin] = &[
    &bandwidth::PLUGIN,
    &bridge::PLUGIN,
    &firewall::PLUGIN,
    &ipam::host_local::PLUGIN,
    &loopback::PLUGIN,
    &macvlan::PLUGIN,
    &portmap::PLUGIN,
    &ptp::PLUGIN,
    &ipam::static_addresses::PLUGIN,
    &tuning::PLUGIN,
];
