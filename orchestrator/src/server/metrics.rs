//! metrics.k8s.io: what containers and the node use, measured when it is asked for.
//!
//! Processor time is a difference: two looks at the counters, a second apart.

use std::time::{Duration, Instant};

use axum::response::Response;
use berth_api::kinds;
use berth_api::selector::LabelSelector;
use berth_api::status::ApiError;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::request::{Query, Target};
use super::{Api, respond, store_error};
use crate::store::prepare::rfc3339;
use crate::store::{Key, Object};
use crate::usage::{Look, Place, looks, places};

/// Between the two looks.
const WINDOW: Duration = Duration::from_secs(1);

/// `usage` of a metrics object: a look, with an earlier one.
fn usage_of(look: Look, before: Look) -> Value {
    json!({"cpu": format!("{}n", look.cores(before)), "memory": format!("{}Ki", look.memory / 1024)})
}

impl Api {
    /// GET of metrics.
    pub(super) async fn measure(
        &self,
        target: &Target,
        query: &Query,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        respond::form(headers, query)?;
        let labels = LabelSelector::parse(query.text("labelSelector").unwrap_or_default())
            .map_err(|e| ApiError::bad_request(e.to_string()))?;
        if target.kind == kinds::NODE_METRICS {
            let key = Key::new(kinds::NODE, "", self.node_name.as_str());
            let node = self.store.require(&key).map_err(store_error)?;
            if target.name.as_ref().is_some_and(|name| *name != self.node_name) {
                let name = target.name.as_deref().unwrap_or_default();
                return Err(ApiError::not_found(target.kind, name));
            }
            let mut items = Vec::new();
            if labels.matches_object(&node.value()) {
                items.push(self.node_metrics(&node).await?);
            }
            return Ok(answer(target, items));
        }
        let pods: Vec<Object> = match &target.name {
            Some(name) => {
                let key = Key::new(
                    kinds::POD,
                    target.namespace.clone().unwrap_or_default(),
                    name.as_str(),
                );
                vec![
                    self.store
                        .require(&key)
                        .map_err(|_| ApiError::not_found(target.kind, name))?,
                ]
            }
            None => self.store.list(kinds::POD, target.namespace.as_deref()).items,
        };
        let pods = pods
            .into_iter()
            .filter(|pod| labels.matches_object(&pod.value()))
            .collect();
        let items = self.pod_metrics(pods).await?;
        if let (Some(name), true) = (&target.name, items.is_empty()) {
            return Err(ApiError::not_found(target.kind, name));
        }
        Ok(answer(target, items))
    }

    async fn node_metrics(&self, node: &Object) -> Result<Value, ApiError> {
        let look = || node_look().ok_or_else(|| ApiError::internal("read /proc/stat and /proc/meminfo"));
        let before = look()?;
        tokio::time::sleep(WINDOW).await;
        let usage = usage_of(look()?, before);
        let mut metrics = item(node, "NodeMetrics");
        metrics["usage"] = usage;
        Ok(metrics)
    }

    async fn pod_metrics(&self, pods: Vec<Object>) -> Result<Vec<Value>, ApiError> {
        let places: Vec<(Object, Vec<Place>)> = pods
            .into_iter()
            .map(|pod| {
                let places = places(&self.cgroup_parent, &pod);
                (pod, places)
            })
            .filter(|(_, places)| !places.is_empty())
            .collect();
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let failed = |_| ApiError::internal("the measurement was cut off");
        let (places, before) = tokio::task::spawn_blocking(move || {
            let looks = looks(&places);
            (places, looks)
        })
        .await
        .map_err(failed)?;
        tokio::time::sleep(WINDOW).await;
        let (places, after) = tokio::task::spawn_blocking(move || {
            let looks = looks(&places);
            (places, looks)
        })
        .await
        .map_err(failed)?;
        let mut items = Vec::new();
        for (((pod, places), before), after) in places.iter().zip(before).zip(after) {
            let containers: Vec<Value> = places
                .iter()
                .zip(before.into_iter().zip(after))
                .filter_map(|(place, (before, after))| {
                    Some(json!({"name": place.name, "usage": usage_of(after?, before?)}))
                })
                .collect();
            if !containers.is_empty() {
                let mut metrics = item(pod, "PodMetrics");
                metrics["containers"] = json!(containers);
                items.push(metrics);
            }
        }
        Ok(items)
    }
}

/// The whole node's counters (proc(5)).
fn node_look() -> Option<Look> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system, then irq, softirq and steal; not idle and iowait.
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(n, _)| !matches!(n, 3 | 4))
        .map(|(_, t)| t)
        .sum();
    let second = u64::try_from(nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??).ok()?;
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = meminfo
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let used = field("MemTotal")?.saturating_sub(field("MemAvailable")?);
    Some(Look {
        cpu: busy.saturating_mul(1_000_000_000 / second.max(1)),
        memory: used * 1024,
        at: Instant::now(),
    })
}

fn item(object: &Object, kind: &str) -> Value {
    let value = object.value();
    let mut metadata = json!({
        "name": object.name(),
        "creationTimestamp": value.pointer("/metadata/creationTimestamp"),
    });
    if !object.namespace().is_empty() {
        metadata["namespace"] = json!(object.namespace());
    }
    if let Some(labels) = value.pointer("/metadata/labels") {
        metadata["labels"] = labels.clone();
    }
    json!({
        "kind": kind,
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": metadata,
        "timestamp": rfc3339(Timestamp::now()),
        "window": "1s",
    })
}

fn answer(target: &Target, mut items: Vec<Value>) -> Response {
    let value = match (&target.name, items.pop()) {
        (Some(_), Some(one)) => one,
        (_, last) => {
            items.extend(last);
            json!({
                "kind": format!("{}List", target.kind.kind),
                "apiVersion": target.kind.api_version(),
                "metadata": {},
                "items": items,
            })
        }
    };
    respond::json(StatusCode::OK, &value)
}
