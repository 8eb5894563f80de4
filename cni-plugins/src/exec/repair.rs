//! Putting back what somebody else took away: flushed firewall rules, most of all.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Attachment, ExecError, Network, Outcome, Runtime, runtime::needs};
use crate::protocol::Version;

/// What [`Runtime::repair`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Nothing was missing.
    Sound,
    /// Something was missing, and is there again.
    Done,
}

impl Runtime {
    /// CHECK, and when it fails, a CHECK that lets the plugins put back what is missing, and one more to see
    /// whether it helped.
    ///
    /// Berth's plugins put back what is theirs on the host: rules, queues, the bridge and its ports; the
    /// container's connections go on. Other plugins do not know the request: then the first failure is given.
    pub fn repair(&self, network: &Network, attachment: &Attachment) -> Result<Repair, ExecError> {
        attachment.check()?;
        needs(network, Version::V0_4_0, "CHECK")?;
        let _lock = self.locks.container(&network.name, &attachment.container)?;
        let Err(found) = self.check_locked(network, attachment, false) else {
            return Ok(Repair::Sound);
        };
        // Only an answer to CHECK tells that something is missing.
        if !matches!(found, ExecError::Plugin { .. }) {
            return Err(found);
        }
        self.check_locked(network, attachment, true)?;
        self.check_locked(network, attachment, false)?;
        Ok(Repair::Done)
    }

    /// DEL and ADD again, with the same arguments, and with the same addresses as far as the plugins let the
    /// runtime choose them. For plugins that cannot repair; the container's interface is made anew.
    ///
    /// The addresses are asked for by the capability `ips` where a plugin declares it, else by `IP` in
    /// CNI_ARGS if there is only one; the hardware address by the capability `mac`.
    pub fn reattach(&self, network: &Network, attachment: &Attachment) -> Result<Outcome, ExecError> {
        attachment.check()?;
        self.all_there(network)?;
        let _lock = self.locks.container(&network.name, &attachment.container)?;
        let cached = self.remembered(network, attachment)?;
        let mut again = super::runtime::completed(attachment, &cached);
        for (key, value) in &cached.capability_args {
            if let Ok(value) = serde_json::from_str(value.get()) {
                again.capabilities.entry(key.clone()).or_insert(value);
            }
        }
        let result = cached.result.as_ref().map_or("{}", |r| r.get());
        ask_for_the_same(
            network,
            &mut again,
            &serde_json::from_str(result).unwrap_or_default(),
        );
        // After a flush, DEL of some plugins fails for the very rules that are missing: what counts is the ADD.
        let detached = self.del_locked(network, attachment);
        self.add_locked(network, &again)
            .map_err(|error| detached.err().unwrap_or(error))
    }
}

fn ask_for_the_same(network: &Network, attachment: &mut Attachment, result: &Value) {
    let texts = |list: &str, field: &str| -> Vec<String> {
        result[list]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| item[field].as_str().map(str::to_owned))
            .collect()
    };
    let addresses = texts("ips", "address");
    if network.declares("ips") {
        attachment
            .capabilities
            .entry("ips".to_owned())
            .or_insert_with(|| json!(addresses));
    } else if let [only] = &addresses[..]
        && let Some(ip) = only.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok())
        && !attachment.args.iter().any(|(key, _)| key == "IP")
    {
        attachment.args.push(("IP".to_owned(), ip.to_string()));
        // Of a chain's plugins only the one with an IPAM knows it.
        if !attachment.args.iter().any(|(key, _)| key == "IgnoreUnknown") {
            attachment.args.push(("IgnoreUnknown".to_owned(), "1".to_owned()));
        }
    }
    let mac = result["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|i| {
            i["name"] == attachment.ifname.as_str() && i["sandbox"].as_str().is_some_and(|s| !s.is_empty())
        })
        .and_then(|i| i["mac"].as_str());
    if let Some(mac) = mac.filter(|_| network.declares("mac")) {
        attachment
            .capabilities
            .entry("mac".to_owned())
            .or_insert_with(|| json!(mac));
    }
}
