//! loopback: brings `lo` up.

use crate::{
    netlink::{Message, Rtnl},
    netns::NetNs,
    protocol::{AddResult, Address, Failure, Interface, Plugin, Reply, Request},
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "loopback",
    add,
    del,
    check,
    gc: Plugin::nothing,
    status: Plugin::nothing,
};

/// The interface, whatever CNI_IFNAME says, as in the reference.
const LO: &str = "lo";

fn add(request: &Request) -> Result<Reply, Failure> {
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    let mut rtnl = Rtnl::open_in(&netns)?;
    rtnl.run(&[Message::set_up(LO, true)])?;
    if let Some(previous) = &request.prev_result {
        return Ok(Reply::Result(previous.get().to_owned()));
    }
    let index = rtnl.link(LO)?.map_or(1, |link| link.index);
    let ips = rtnl
        .addresses(index)?
        .into_iter()
        .map(|a| Address {
            version: None,
            interface: Some(0),
            address: a.address,
            gateway: None,
        })
        .collect();
    let interface = Interface {
        name: LO.into(),
        mac: "00:00:00:00:00:00".into(),
        sandbox: netns.path().display().to_string(),
        ..Interface::default()
    };
    let result = AddResult {
        interfaces: vec![interface],
        ips,
        ..AddResult::default()
    };
    Ok(Reply::Result(result.to_json(request.version)))
}

fn del(request: &Request) -> Result<(), Failure> {
    let Some(path) = &request.netns else { return Ok(()) };
    let Some(netns) = NetNs::find(path)? else {
        return Ok(());
    };
    Rtnl::open_in(&netns)?.run(&[Message::set_up(LO, false)])?;
    Ok(())
}

fn check(request: &Request) -> Result<(), Failure> {
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    match Rtnl::open_in(&netns)?.link(LO)? {
        Some(link) if link.up => Ok(()),
        _ => Err(Failure::check("interface lo is not up")),
    }
}
