//! static: the addresses that the configuration or the runtime names.

use std::net::IpAddr;

use super::host_local::routes;
use crate::protocol::{
    AddResult, Address, Failure, Plugin, Reply, Request, code, configured_dns, parse_cidr, parse_ip,
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "static",
    add,
    del: Plugin::nothing,
    check,
    gc: Plugin::nothing,
    status,
};

/// `ipam.addresses` with those of CNI_ARGS added; or `args.cni.ips`, or `runtimeConfig.ips` instead.
fn addresses(request: &Request) -> Result<Vec<Address>, Failure> {
    let fields = request.fields();
    let address = |field: &str, text: &str, gateway| -> Result<Address, Failure> {
        Ok(Address {
            version: None,
            interface: None,
            address: parse_cidr(field, text.trim())?,
            gateway,
        })
    };
    for place in [
        fields.object("runtimeConfig")?,
        fields.object("args")?.object("cni")?,
    ] {
        let asked = place.texts("ips")?;
        if !asked.is_empty() {
            return asked
                .iter()
                .map(|(field, text)| address(field, text, None))
                .collect();
        }
    }
    let mut found = Vec::new();
    for item in fields.object("ipam")?.objects("addresses")? {
        let field = item.name("address");
        let text = item.text("address")?.ok_or_else(|| {
            Failure::field(
                &field,
                "missing: give an address with prefix length, like 10.1.0.5/16",
            )
        })?;
        found.push(address(&field, text, item.ip("gateway")?)?);
    }
    for text in request
        .args
        .get("IP")
        .into_iter()
        .flat_map(|t| t.split(','))
        .filter(|t| !t.is_empty())
    {
        found.push(address("CNI_ARGS IP", text, None)?);
    }
    for text in request
        .args
        .get("GATEWAY")
        .into_iter()
        .flat_map(|t| t.split(','))
        .filter(|t| !t.is_empty())
    {
        let gateway: IpAddr = parse_ip("CNI_ARGS GATEWAY", text.trim())?;
        for address in found.iter_mut().filter(|a| a.address.contains(&gateway)) {
            address.gateway = Some(gateway);
        }
    }
    Ok(found)
}

fn checked(request: &Request) -> Result<Vec<Address>, Failure> {
    let addresses = addresses(request)?;
    if addresses.is_empty() {
        return Err(Failure::field(
            "ipam.addresses",
            "missing: static needs at least one address",
        ));
    }
    Ok(addresses)
}

fn add(request: &Request) -> Result<Reply, Failure> {
    let ipam = request.fields().object("ipam")?;
    let result = AddResult {
        ips: checked(request)?,
        routes: routes(&ipam)?,
        dns: configured_dns(&ipam)?,
        ..AddResult::default()
    };
    Ok(Reply::Result(result.to_json(request.version)))
}

fn check(request: &Request) -> Result<(), Failure> {
    let result = request.required_prev("static")?;
    for wanted in checked(request)? {
        let found = result
            .ips
            .iter()
            .find(|ip| ip.address.addr() == wanted.address.addr());
        if found.is_none_or(|ip| wanted.gateway.is_some() && ip.gateway != wanted.gateway) {
            return Err(Failure::new(
                code::CHECK_FAILED,
                format!("address {} is not in prevResult", wanted.address),
            ));
        }
    }
    Ok(())
}

/// Addresses may come only with the request, so none is no mistake here.
fn status(request: &Request) -> Result<(), Failure> {
    addresses(request).map(drop)
}
