//! Containers that get other resources while they run (`pods/resize`).
//!
//! What a container has is kept beside what its specification wants; the plan compares them. The runtime's `update` brings
//! the cgroup from one to the other, or the container is started again where its `resizePolicy` asks for that.
//!
//! Source: Kubernetes documentation "Resize CPU and Memory Resources assigned to Containers".

use std::collections::BTreeMap;

use berth_api::quota::{self, Amounts};
use berth_api::resize::RESIZABLE;
use berth_api::room;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backoff::after;
use super::execute::chain;
use super::observed::Unhealthy;
use super::pod::Pod;
use super::worker::Worker;
use super::{blocking, eviction, resources};
use crate::store::Key;

/// Seconds until a resize is tried again that has no room, or did not succeed.
const RETRY: i64 = 3;

/// Requests and limits of a container that can change while it runs, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// `requests`.
    pub requests: BTreeMap<String, String>,
    /// `limits`.
    pub limits: BTreeMap<String, String>,
}

impl Share {
    /// What the specification of a container wants.
    pub fn of(container: &api::Container) -> Share {
        let resources = container.resources.as_ref();
        let take = |list: Option<&BTreeMap<String, Quantity>>| {
            list.into_iter()
                .flatten()
                .filter(|(name, _)| RESIZABLE.contains(&name.as_str()))
                .map(|(name, amount)| (name.clone(), amount.0.clone()))
                .collect()
        };
        Share {
            requests: take(resources.and_then(|r| r.requests.as_ref())),
            limits: take(resources.and_then(|r| r.limits.as_ref())),
        }
    }

    /// Whether `name` differs from another's.
    fn differs(&self, other: &Share, name: &str) -> bool {
        self.requests.get(name) != other.requests.get(name) || self.limits.get(name) != other.limits.get(name)
    }
}

/// How far a resize has come that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// `Infeasible`, `Deferred`, or `Error` of one that is under way.
    pub reason: String,
    /// The text for it.
    pub message: String,
    /// The generation that asks for it.
    pub generation: i64,
    /// When it is tried again; never for one that is infeasible.
    pub retry: Option<Timestamp>,
}

/// PURE: names of running containers that have not what their specification wants, for the plan.
pub fn outdated<'a>(pod: &'a Pod, seen: &super::observed::Observed) -> Vec<&'a str> {
    pod.containers
        .iter()
        .filter(|c| {
            let one = seen.seen(&c.spec.name);
            let has = one.share.as_ref();
            one.running() && one.stop.is_none() && has.is_some_and(|has| *has != Share::of(&c.spec))
        })
        .map(|c| c.spec.name.as_str())
        .collect()
}

/// Whether a change of these resources needs a new start.
fn needs_restart(container: &api::Container, has: &Share, wanted: &Share) -> bool {
    container.resize_policy.iter().flatten().any(|policy| {
        policy.restart_policy == "RestartContainer" && has.differs(wanted, &policy.resource_name)
    })
}

impl Worker {
    /// Gives the containers what the specification wants, if the node has it.
    pub(super) async fn resize(&mut self) {
        let Some(pod) = self.pod.clone() else { return };
        let generation = pod.object.metadata.generation.unwrap_or(0);
        if let Some((reason, message)) = self.refusal(&pod) {
            let retry = (reason == "Deferred").then(|| after(Timestamp::now(), RETRY));
            self.hold(reason, message, generation, retry);
            return;
        }
        let names: Vec<String> = outdated(&pod, &self.seen)
            .into_iter()
            .map(str::to_owned)
            .collect();
        for name in names {
            let Some(definition) = pod.container(&name) else {
                continue;
            };
            let wanted = Share::of(&definition.spec);
            let seen = self.seen.seen(&name);
            let (Some(has), Some(id)) = (seen.share.clone(), seen.id().map(str::to_owned)) else {
                continue;
            };
            if needs_restart(&definition.spec, &has, &wanted) {
                let one = self.seen.seen_mut(&name);
                // It is the new run that has it.
                one.share = Some(wanted);
                one.unhealthy = Some(Unhealthy {
                    cause: format!("Container {name} resize requires restart"),
                    grace: None,
                });
                continue;
            }
            if let Err(message) = self.update(&name, id, &definition.spec, &has, &wanted).await {
                let retry = Some(after(Timestamp::now(), RETRY));
                return self.hold("Error", message, generation, retry);
            }
            self.seen.seen_mut(&name).share = Some(wanted.clone());
            let text = json!({"limits": wanted.limits, "requests": wanted.requests});
            self.event(
                Some(&name),
                false,
                "ResizeCompleted",
                &format!("Pod resize completed: {text}"),
            );
        }
        self.seen.resize = None;
    }

    /// Notes why a resize is not done yet; says it once.
    fn hold(&mut self, reason: &str, message: String, generation: i64, retry: Option<Timestamp>) {
        let known = self.seen.resize.as_ref();
        if !known.is_some_and(|p| p.reason == reason && p.message == message) {
            self.event(None, true, &format!("Resize{reason}"), &message);
        }
        self.seen.resize = Some(Pending {
            reason: reason.to_owned(),
            message,
            generation,
            retry,
        });
    }

    /// Why the node cannot give what is wanted: ever, or now.
    fn refusal(&self, pod: &Pod) -> Option<(&'static str, String)> {
        let store = &self.node.store;
        let node = store
            .get(&Key::new(
                berth_api::kinds::NODE,
                "",
                self.node.config.name.as_str(),
            ))
            .ok()??;
        let allocatable = room::allocatable(&node.value())?;
        let own = store.get(&self.key()).ok()??;
        let needs = room::needs(&own.value());
        let has = self.has(pod);
        let mut used = Amounts::new();
        for other in store.list(berth_api::kinds::POD, None).items {
            let value = other.value();
            if other.uid() != self.seen.uid && room::is_bound(&value) && room::is_live(&value) {
                quota::add(&mut used, &room::needs(&value));
            }
        }
        RESIZABLE.into_iter().find_map(|name| {
            let zero = berth_api::quantity::Quantity::ZERO;
            let of = |amounts: &Amounts| amounts.get(name).copied().unwrap_or(zero);
            let (wanted, capacity, used) = (of(&needs), of(&allocatable), of(&used));
            // Less can always be given.
            if wanted <= of(&has) {
                None
            } else if wanted > capacity {
                Some(("Infeasible", format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}")))
            } else if used.plus(wanted) > capacity {
                Some(("Deferred", format!("Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}")))
            } else {
                None
            }
        })
    }

    /// What the pod has now, with the words of its specification.
    fn has(&self, pod: &Pod) -> Amounts {
        let mut value = serde_json::to_value(&*pod.object).unwrap_or_default();
        for list in ["containers", "initContainers"] {
            for container in value["spec"]
                .get_mut(list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                let name = container["name"].as_str().unwrap_or_default();
                if let Some(share) = self.seen.containers.get(name).and_then(|c| c.share.as_ref()) {
                    container["resources"] = json!({"requests": share.requests, "limits": share.limits});
                }
            }
        }
        room::needs(&value)
    }

    /// Has the runtime change the container's cgroup.
    async fn update(
        &self,
        name: &str,
        id: String,
        container: &api::Container,
        has: &Share,
        wanted: &Share,
    ) -> Result<(), String> {
        let amounts = resources::Amounts::of(container);
        if has.differs(wanted, "memory")
            && let Some(limit) = amounts.memory_limit
        {
            // The kernel would kill the program at once.
            let node = std::sync::Arc::clone(&self.node);
            let cgroup = self.cgroup(name);
            let used = blocking(move || eviction::container_usage(&node.layout, &cgroup).0).await;
            let used = used.unwrap_or(0).cast_signed();
            if used > limit {
                return Err(format!(
                    "container {name}: attempting to set its memory limit ({limit} bytes) below what it uses ({used} bytes)"
                ));
            }
        }
        let (program, root) = self.runtime();
        let runtime = berth_client::Runtime::new(program)
            .with_root(root)
            .with_log_dir(&self.paths.run);
        let mut values = amounts.oci();
        resources::protect(&mut values, container, self.node.layout.is_unified());
        let text = values.to_string();
        match blocking(move || runtime.update(&id, text.into_bytes()).run()).await {
            Some(Ok(_)) => {
                self.protect().await;
                Ok(())
            }
            Some(Err(error)) => Err(format!("container {name}: {}", chain(&error))),
            None => Err(format!("container {name}: the update was cut off")),
        }
    }
}
