//! GC of networks (specification, section 3, "GC").

use serde_json::{Value, json};

use super::{Attachment, Cached, ExecError, Network, Runtime, runtime::Call};
use crate::protocol::{Command, Version};

impl Runtime {
    /// Removes whatever belongs to attachments of the network that are not in `valid` (container,
    /// interface). `valid` must be complete at the time of the call. Goes on after failures.
    ///
    /// Nothing is done when the network has `disableGC`.
    pub fn gc(&self, network: &Network, valid: &[(String, String)]) -> Result<(), ExecError> {
        self.gc_with(network, || valid.to_vec())
    }

    /// [`Runtime::gc`] with a list that is made when no ADD or DEL of the network is under way and none can
    /// begin: a caller who notes each container before its ADD cannot lose one that is being attached.
    pub fn gc_with(
        &self,
        network: &Network,
        valid: impl FnOnce() -> Vec<(String, String)>,
    ) -> Result<(), ExecError> {
        Self::gc_together(std::slice::from_ref(self), network, valid)
    }

    /// [`Runtime::gc_with`] for several record directories of one network, all held meanwhile. Plugins are
    /// asked once, by the first.
    pub fn gc_together(
        runtimes: &[Self],
        network: &Network,
        valid: impl FnOnce() -> Vec<(String, String)>,
    ) -> Result<(), ExecError> {
        if network.disable_gc {
            return Ok(());
        }
        let _locks = runtimes
            .iter()
            .map(|runtime| runtime.locks.network(&network.name))
            .collect::<Result<Vec<_>, _>>()?;
        let valid = valid();
        let mut failures = Vec::new();
        for runtime in runtimes {
            failures.extend(runtime.detach_all_but(network, &valid));
        }
        if let Some(first) = runtimes.first() {
            failures.extend(first.ask_plugins(network, &valid));
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(ExecError::Gc {
                network: network.name.clone(),
                failures,
            })
        }
    }

    /// GC of each plugin that knows it (1.1.0).
    fn ask_plugins(&self, network: &Network, valid: &[(String, String)]) -> Vec<ExecError> {
        if network.version < Version::V1_1_0 {
            return Vec::new();
        }
        let list: Value = valid
            .iter()
            .map(|(id, ifname)| json!({"containerID": id, "ifname": ifname}))
            .collect();
        let ask = |plugin| {
            let call = Call {
                valid: Some(list.clone()),
                ..Call::new(Command::Gc)
            };
            self.call(network, plugin, &call).err()
        };
        network.plugins.iter().filter_map(ask).collect()
    }

    /// DEL of what is remembered of the network and not valid.
    fn detach_all_but(&self, network: &Network, valid: &[(String, String)]) -> Vec<ExecError> {
        let is_valid = |c: &Cached| {
            valid
                .iter()
                .any(|(id, ifname)| *id == c.container_id && *ifname == c.if_name)
        };
        let mut failures = Vec::new();
        for cached in self
            .cache
            .all()
            .into_iter()
            .filter(|c| c.network_name == network.name && !is_valid(c))
        {
            // The list that the attachment was made with, if it can still be used.
            let old = cached
                .config_bytes()
                .and_then(|bytes| Network::from_bytes(&bytes).ok());
            let attachment = Attachment::remembered(&cached);
            let detached = self
                .locks
                .only_container(&attachment.container)
                .and_then(|_lock| self.del_locked(old.as_ref().unwrap_or(network), &attachment));
            failures.extend(detached.err());
        }
        failures
    }
}
