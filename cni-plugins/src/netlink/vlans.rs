//! VLANs of a bridge's ports (bridge(8), `bridge vlan`; include/uapi/linux/if_bridge.h).

use nix::errno::Errno;

use super::{Message, NetlinkError, Rtnl};
use crate::nft::wire::{Attributes, Writer};

const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
/// The length of struct ifinfomsg.
const IFINFOMSG: usize = 16;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
/// RTEXT_FILTER_BRVLAN: list the VLANs, one by one.
const LIST_VLANS: u32 = 1 << 1;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const PVID: u16 = 1 << 1;
const UNTAGGED: u16 = 1 << 2;
const RANGE_BEGIN: u16 = 1 << 3;
const RANGE_END: u16 = 1 << 4;

/// A VLAN that a port is a member of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortVlan {
    /// Its number.
    pub id: u16,
    /// What comes in without a tag belongs to it, and what goes out by it has none: an access port.
    pub access: bool,
}

/// struct ifinfomsg of family AF_BRIDGE.
fn header(index: u32) -> Writer {
    let mut bytes = vec![libc::AF_BRIDGE as u8, 0, 0, 0];
    bytes.extend_from_slice(&index.to_ne_bytes());
    bytes.resize(IFINFOMSG, 0);
    Writer(bytes)
}

/// struct bridge_vlan_info.
fn info(w: &mut Writer, flags: u16, id: u16) {
    let mut bytes = flags.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&id.to_ne_bytes());
    w.bytes(IFLA_BRIDGE_VLAN_INFO, &bytes);
}

impl Message {
    fn port_vlans(what: String, kind: u16, index: u32, body: impl FnOnce(&mut Writer)) -> Self {
        let mut w = header(index);
        w.nest(IFLA_AF_SPEC, body);
        Self {
            what,
            kind,
            flags: 0,
            body: w.0,
            tolerated: &[],
        }
    }

    /// Makes a port an access port of a VLAN.
    pub(crate) fn access_vlan(index: u32, on: &str, id: u16) -> Self {
        Self::port_vlans(format!("put {on} into VLAN {id}"), RTM_SETLINK, index, |w| {
            info(w, PVID | UNTAGGED, id);
        })
    }

    /// Lets tagged packets of a range of VLANs pass a port.
    pub(crate) fn trunk_vlans(index: u32, on: &str, first: u16, last: u16) -> Self {
        let what = format!("let VLANs {first} to {last} pass {on}");
        Self::port_vlans(what, RTM_SETLINK, index, |w| {
            if first == last {
                info(w, 0, first);
            } else {
                info(w, RANGE_BEGIN, first);
                info(w, RANGE_END, last);
            }
        })
    }

    /// Takes a port out of a VLAN; not being in it is fine.
    pub(crate) fn leave_vlan(index: u32, on: &str, id: u16) -> Self {
        Self::port_vlans(format!("take {on} out of VLAN {id}"), RTM_DELLINK, index, |w| {
            info(w, 0, id);
        })
        .tolerate(&[Errno::ENOENT])
    }
}

impl Rtnl {
    /// The VLANs of a port, in order.
    pub(crate) fn port_vlans(&mut self, index: u32) -> Result<Vec<PortVlan>, NetlinkError> {
        let mut body = header(0);
        body.bytes(IFLA_EXT_MASK, &LIST_VLANS.to_ne_bytes());
        let request = Message {
            what: "list the VLANs of bridge ports".into(),
            kind: RTM_GETLINK,
            flags: 0,
            body: body.0,
            tolerated: &[],
        };
        let mut found = Vec::new();
        self.channel.dump(&request, |answer| {
            let own = answer.body.get(4..8).and_then(|b| b.first_chunk::<4>());
            if own.is_none_or(|b| u32::from_ne_bytes(*b) != index) {
                return;
            }
            let attributes = Attributes::new(answer.body.get(IFINFOMSG..).unwrap_or_default());
            for (kind, value) in attributes.inner(IFLA_AF_SPEC).into_iter().flatten() {
                if kind == IFLA_BRIDGE_VLAN_INFO
                    && let [a, b, c, d] = value
                {
                    found.push(PortVlan {
                        id: u16::from_ne_bytes([*c, *d]),
                        access: u16::from_ne_bytes([*a, *b]) & PVID != 0,
                    });
                }
            }
        })?;
        found.sort();
        Ok(found)
    }
}
