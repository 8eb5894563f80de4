//! The bridge plugin's configuration.

use std::net::IpAddr;

use crate::{
    netlink::BridgePort,
    protocol::{Failure, Request},
};

/// MTU limits of a veth (ETH_MIN_MTU, ETH_MAX_MTU).
const MTU: (u64, u64) = (68, 65535);

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
}

impl Config {
    pub fn read(request: &Request) -> Result<Self, Failure> {
        let fields = request.fields();
        let default_gateway = fields.bool("isDefaultGateway")?;
        let config = Self {
            bridge: fields.interface("bridge")?.unwrap_or("cni0").to_owned(),
            gateway: fields.bool("isGateway")? || default_gateway,
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
        };
        refuse_vlans(&fields)?;
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

/// VLANs and the check of source hardware addresses are not there; better no container than one that is
/// thought to be kept apart.
fn refuse_vlans(fields: &crate::protocol::Fields<'_>) -> Result<(), Failure> {
    if fields.number("vlan", 0, 4094)?.is_some_and(|v| v != 0) {
        return Err(Failure::unsupported(
            "vlan",
            "VLANs are not supported: use a bridge a network",
        ));
    }
    if !fields.list("vlanTrunk")?.is_empty() {
        return Err(Failure::unsupported(
            "vlanTrunk",
            "VLANs are not supported: use a bridge a network",
        ));
    }
    fields.bool("preserveDefaultVlan")?;
    if fields.bool("macspoofchk")? {
        return Err(Failure::unsupported(
            "macspoofchk",
            "is not supported: use portIsolation or leave it out",
        ));
    }
    Ok(())
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
