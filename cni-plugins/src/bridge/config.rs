//! The bridge plugin's configuration.

use std::net::IpAddr;

use crate::{
    netlink::BridgePort,
    protocol::{Failure, Fields, Request, valid_interface_name},
};

/// MTU limits of a veth (ETH_MIN_MTU, ETH_MAX_MTU).
const MTU: (u64, u64) = (68, 65535);
/// The last VLAN that can be used (IEEE 802.1Q; 4095 is reserved).
const LAST_VLAN: u64 = 4094;

/// The configuration, checked.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub bridge: String,
    pub gateway: bool,
    pub default_gateway: bool,
    pub force_address: bool,
    pub masquerade: bool,
    pub mtu: Option<u32>,
    pub port: BridgePort,
    pub promiscuous: bool,
    pub dad: bool,
    pub container_interface: bool,
    pub mac: Option<[u8; 6]>,
    pub vlans: Vlans,
    /// Packets with another source hardware address than the container's are dropped.
    pub spoof_check: bool,
}

/// Which VLANs the container's port is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vlans {
    /// An access port of this one: the container knows nothing of tags.
    pub access: Option<u16>,
    /// A trunk port of these ranges: the container sends and gets tags.
    pub trunk: Vec<(u16, u16)>,
    /// The port stays in VLAN 1, in which the kernel puts each new port.
    pub keep_default: bool,
}

impl Vlans {
    /// Whether the configuration speaks of VLANs at all.
    pub fn are_used(&self) -> bool {
        self.access.is_some() || !self.trunk.is_empty()
    }

    /// The field that asks for them, for messages.
    pub fn field(&self) -> &'static str {
        if self.access.is_some() {
            "vlan"
        } else {
            "vlanTrunk"
        }
    }

    fn read(fields: &Fields<'_>, bridge: &str, has_gateway: bool) -> Result<Self, Failure> {
        let access = fields
            .number("vlan", 0, LAST_VLAN)?
            .filter(|v| *v != 0)
            .map(|v| v as u16);
        let trunk = fields
            .objects("vlanTrunk")?
            .iter()
            .map(range)
            .collect::<Result<Vec<_>, Failure>>()?;
        if access.is_some() && !trunk.is_empty() {
            return Err(Failure::field(
                "vlanTrunk",
                "cannot be combined with vlan: a port is an access port or a trunk port",
            ));
        }
        if let Some(vlan) = access.filter(|_| has_gateway) {
            let name = vlan_interface(bridge, vlan);
            valid_interface_name(&name).map_err(|problem| {
                Failure::field(
                    "bridge",
                    format!("the gateway's interface {name:?} {problem}: shorten the bridge's name"),
                )
            })?;
        }
        Ok(Self {
            access,
            trunk,
            keep_default: fields.bool("preserveDefaultVlan")?,
        })
    }
}

/// The host's interface in a VLAN of a bridge, named as the reference names it.
pub(super) fn vlan_interface(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

/// One item of `vlanTrunk`: `id`, or `minID` and `maxID`.
fn range(item: &Fields<'_>) -> Result<(u16, u16), Failure> {
    let number = |name: &str| Ok::<_, Failure>(item.number(name, 1, LAST_VLAN)?.map(|v| v as u16));
    match (number("id")?, number("minID")?, number("maxID")?) {
        (Some(id), None, None) => Ok((id, id)),
        (None, Some(first), Some(last)) if first <= last => Ok((first, last)),
        (None, Some(first), Some(last)) => Err(Failure::field(
            &item.name("minID"),
            format!("{first} is greater than maxID {last}"),
        )),
        (None, Some(_), None) => Err(Failure::field(&item.name("maxID"), "missing: minID needs it")),
        (None, None, Some(_)) => Err(Failure::field(&item.name("minID"), "missing: maxID needs it")),
        (None, None, None) => Err(Failure::field(
            &item.name("id"),
            "missing: give id, or minID and maxID",
        )),
        (Some(_), ..) => Err(Failure::field(
            &item.name("id"),
            "cannot be combined with minID and maxID: use two items",
        )),
    }
}

impl Config {
    pub fn read(request: &Request) -> Result<Self, Failure> {
        let fields = request.fields();
        let default_gateway = fields.bool("isDefaultGateway")?;
        let gateway = fields.bool("isGateway")? || default_gateway;
        let bridge = fields.interface("bridge")?.unwrap_or("cni0");
        let config = Self {
            bridge: bridge.to_owned(),
            gateway,
            default_gateway,
            force_address: fields.bool("forceAddress")?,
            masquerade: masquerade(request)?,
            mtu: mtu(request)?,
            port: BridgePort {
                hairpin: fields.bool("hairpinMode")?,
                isolated: fields.bool("portIsolation")?,
            },
            promiscuous: fields.bool("promiscMode")?,
            dad: fields.bool("enabledad")?,
            container_interface: !fields.bool("disableContainerInterface")?,
            mac: request.asked_mac()?,
            vlans: Vlans::read(&fields, bridge, gateway)?,
            spoof_check: fields.bool("macspoofchk")?,
        };
        if config.port.hairpin && config.promiscuous {
            return Err(Failure::field(
                "hairpinMode",
                "cannot be combined with promiscMode: choose one",
            ));
        }
        let has_ipam = fields.object("ipam")?.text("type")?.is_some();
        if !config.container_interface && has_ipam {
            return Err(Failure::field(
                "disableContainerInterface",
                "an interface that stays down cannot have addresses: remove ipam",
            ));
        }
        Ok(config)
    }
}

/// `mtu`; 0 means the kernel's default, as in the reference.
pub(crate) fn mtu(request: &Request) -> Result<Option<u32>, Failure> {
    let mtu = request.fields().number("mtu", 0, MTU.1)?.filter(|m| *m != 0);
    if let Some(mtu) = mtu
        && mtu < MTU.0
    {
        return Err(Failure::field(
            "mtu",
            format!("{mtu} is out of range (allowed: {} to {})", MTU.0, MTU.1),
        ));
    }
    Ok(mtu.map(|m| m as u32))
}

/// `ipMasq` and its backend. Both backends of the reference mean the same here: nf_tables by netlink.
pub(crate) fn masquerade(request: &Request) -> Result<bool, Failure> {
    let fields = request.fields();
    match fields.text("ipMasqBackend")? {
        None | Some("iptables" | "nftables") => fields.bool("ipMasq"),
        Some(other) => Err(Failure::field(
            "ipMasqBackend",
            format!("{other:?} is unknown (allowed: iptables, nftables)"),
        )),
    }
}

/// The gateway of an address: its own, or its subnet's first address.
pub(super) fn gateway_of(ip: &crate::protocol::Address) -> IpAddr {
    ip.gateway.unwrap_or_else(|| match ip.address.network() {
        IpAddr::V4(network) => IpAddr::V4(u32::from(network).wrapping_add(1).into()),
        IpAddr::V6(network) => IpAddr::V6(u128::from(network).wrapping_add(1).into()),
    })
}
