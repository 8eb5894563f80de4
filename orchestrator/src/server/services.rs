//! What a Service is given when it is stored: its address and its node ports.
//!
//! Source: `k8s.io/kubernetes/pkg/registry/core/service` (allocation, and what follows a change of type).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_api::kinds;
use berth_api::status::Cause;
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::store::Store;

/// Node ports are given from here, as upstream by default.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// The first addresses of the range are for the node's own services.
const RESERVED: u32 = 32;
/// How long something given to one Service is not given to another, whether it is stored already or not.
const PENDING: Duration = Duration::from_secs(10);

/// Something that only one Service may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Address(Ipv4Addr),
    NodePort(String, u16),
}

/// What was given and is perhaps not stored yet.
#[derive(Debug)]
struct Pending {
    claim: Claim,
    service: String,
    until: Instant,
}

/// Hands out addresses and node ports.
#[derive(Debug)]
pub struct Allocator {
    range: Ipv4Net,
    pending: Mutex<Vec<Pending>>,
}

/// One allocation under way: what all other Services have.
struct Taken<'a> {
    allocator: &'a Allocator,
    service: String,
    claims: BTreeSet<Claim>,
}

impl Allocator {
    /// Addresses come from `range`.
    pub fn new(range: Ipv4Net) -> Self {
        Self {
            range,
            pending: Mutex::new(Vec::new()),
        }
    }

    /// Gives a Service that was given its defaults what it lacks. `old` is what it replaces. What cannot be given is
    /// among the causes.
    pub(super) fn complete(&self, store: &Store, service: &mut Value, old: Option<&Value>) -> Vec<Cause> {
        if let Some(old) = old {
            inherit(service, old);
        }
        let kind = service["spec"]["type"].as_str().unwrap_or_default().to_owned();
        if kind == "ExternalName" {
            return Vec::new();
        }
        let mut taken = Taken::by_others(self, store, service);
        let mut causes = self.stolen(service);
        self.address(service, &mut taken, &mut causes);
        let wants_ports = kind == "NodePort"
            || (kind == "LoadBalancer" && service["spec"]["allocateLoadBalancerNodePorts"] != false);
        node_ports(service, wants_ports, &mut taken, &mut causes);
        causes
    }

    /// An address of another Service cannot be had by `externalIPs`.
    fn stolen(&self, service: &Value) -> Vec<Cause> {
        let asked = service["spec"]["externalIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate();
        asked
            .filter(|(_, ip)| {
                let parsed = ip.as_str().and_then(|ip| ip.parse::<Ipv4Addr>().ok());
                parsed.is_some_and(|ip| self.range.contains(&ip))
            })
            .map(|(index, ip)| {
                let why = format!(
                    "must not be an address of Services ({}): use clusterIP",
                    self.range
                );
                invalid(&format!("spec.externalIPs[{index}]"), ip, &why)
            })
            .collect()
    }

    fn address(&self, service: &mut Value, taken: &mut Taken<'_>, causes: &mut Vec<Cause>) {
        let asked = service["spec"]["clusterIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if asked == "None" {
            return;
        }
        let field = "spec.clusterIPs[0]";
        if let Ok(address) = asked.parse::<Ipv4Addr>() {
            if !self.range.contains(&address) {
                let why = format!(
                    "the provided IP ({asked}) is not in the valid range: {}",
                    self.range
                );
                causes.push(invalid(field, &json!(asked), &why));
            } else if !taken.claim(Claim::Address(address)) {
                causes.push(invalid(field, &json!(asked), "provided IP is already allocated"));
            }
            return;
        }
        if !asked.is_empty() {
            // Validation says what is wrong with it.
            return;
        }
        let size = 1u32 << (32 - u32::from(self.range.prefix_len()).min(31));
        let usable = size.saturating_sub(RESERVED + 1).max(1);
        let start = rand::random_range(0..usable);
        let first = u32::from(self.range.network());
        let found = (0..usable)
            .map(|n| Ipv4Addr::from(first + RESERVED + (start + n) % usable))
            .find(|address| taken.claim(Claim::Address(*address)));
        match found {
            Some(address) => {
                service["spec"]["clusterIP"] = json!(address.to_string());
                service["spec"]["clusterIPs"] = json!([address.to_string()]);
            }
            None => causes.push(invalid(
                field,
                &Value::Null,
                &format!("all addresses of {} are taken: delete Services, or start berthd with a larger --service-cidr", self.range),
            )),
        }
    }
}

impl<'a> Taken<'a> {
    fn by_others(allocator: &'a Allocator, store: &Store, service: &Value) -> Self {
        let identity = |value: &Value| {
            let meta = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
            format!("{}/{}", meta("namespace"), meta("name"))
        };
        let own = identity(service);
        let mut claims = BTreeSet::new();
        for other in store.list(kinds::SERVICE, None).items {
            let other = other.value();
            if identity(&other) != own {
                claims.extend(claims_of(&other));
            }
        }
        let now = Instant::now();
        let mut pending = allocator.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|p| p.until > now);
        claims.extend(
            pending
                .iter()
                .filter(|p| p.service != own)
                .map(|p| p.claim.clone()),
        );
        drop(pending);
        Self {
            allocator,
            service: own,
            claims,
        }
    }

    /// Takes something unless another Service has it.
    fn claim(&mut self, claim: Claim) -> bool {
        if !self.claims.insert(claim.clone()) {
            return false;
        }
        let mut pending = self
            .allocator
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        pending.push(Pending {
            claim,
            service: self.service.clone(),
            until: Instant::now() + PENDING,
        });
        true
    }
}

/// What a stored Service has.
fn claims_of(service: &Value) -> Vec<Claim> {
    let address = service["spec"]["clusterIP"]
        .as_str()
        .and_then(|ip| ip.parse().ok());
    let mut claims: Vec<Claim> = address.map(Claim::Address).into_iter().collect();
    for port in service["spec"]["ports"].as_array().into_iter().flatten() {
        if let Some(number) = port["nodePort"]
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n > 0)
        {
            claims.push(Claim::NodePort(protocol(port), number));
        }
    }
    claims
}

fn protocol(port: &Value) -> String {
    port["protocol"].as_str().unwrap_or("TCP").to_owned()
}

/// A change that leaves out what was allocated keeps it; what the new type cannot have goes.
fn inherit(service: &mut Value, old: &Value) {
    let is = |service: &Value, kinds: &[&str]| {
        kinds.contains(&service["spec"]["type"].as_str().unwrap_or_default())
    };
    let unset = |value: &Value| value.is_null() || value == "" || value == 0;
    let with_ports = ["NodePort", "LoadBalancer"];
    if is(service, &["ExternalName"]) {
        if !is(old, &["ExternalName"])
            && let Some(spec) = service["spec"].as_object_mut()
        {
            // As it was stored; a client that changes the type sends the rest back unchanged.
            for field in [
                "clusterIP",
                "clusterIPs",
                "ipFamilies",
                "ipFamilyPolicy",
                "internalTrafficPolicy",
            ] {
                if spec.get(field) == old["spec"].get(field) {
                    spec.remove(field);
                }
            }
        }
    } else if unset(&service["spec"]["clusterIP"])
        && !unset(&old["spec"]["clusterIP"])
        && !is(old, &["ExternalName"])
    {
        service["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
        service["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
    }
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let keeps = is(service, &with_ports) && is(old, &with_ports);
    let loses = !is(service, &with_ports) && is(old, &with_ports);
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let same = |p: &&Value| p["port"] == port["port"] && protocol(p) == protocol(port);
        let before = old_ports
            .iter()
            .find(same)
            .map(|p| p["nodePort"].clone())
            .unwrap_or_default();
        let Some(map) = port.as_object_mut() else { continue };
        let now = map.get("nodePort").cloned().unwrap_or_default();
        if keeps && unset(&now) && !unset(&before) {
            map.insert("nodePort".to_owned(), before);
        } else if loses && now == before {
            map.remove("nodePort");
        }
    }
    if loses && let Some(spec) = service["spec"].as_object_mut() {
        for field in ["externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
    }
}

fn node_ports(service: &mut Value, wanted: bool, taken: &mut Taken<'_>, causes: &mut Vec<Cause>) {
    // Those asked for first, so that none of them is handed out to another port.
    for (index, port) in service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let Some(number) = port["nodePort"].as_u64().filter(|n| *n > 0) else {
            continue;
        };
        let field = format!("spec.ports[{index}].nodePort");
        match u16::try_from(number).ok().filter(|n| NODE_PORTS.contains(n)) {
            None => causes.push(invalid(
                &field,
                &port["nodePort"],
                &format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                ),
            )),
            Some(number) => {
                if !taken.claim(Claim::NodePort(protocol(port), number)) {
                    causes.push(invalid(
                        &field,
                        &port["nodePort"],
                        "provided port is already allocated",
                    ));
                }
            }
        }
    }
    if !wanted {
        return;
    }
    for (index, port) in service["spec"]["ports"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if port["nodePort"].as_u64().is_some_and(|n| n > 0) {
            continue;
        }
        let count = u16::try_from(NODE_PORTS.len()).unwrap_or(1);
        let start = rand::random_range(0..count);
        let found = (0..count)
            .map(|n| NODE_PORTS.start() + (start + n) % count)
            .find(|number| taken.claim(Claim::NodePort(protocol(port), *number)));
        match found {
            Some(number) => port["nodePort"] = json!(number),
            None => causes.push(invalid(
                &format!("spec.ports[{index}].nodePort"),
                &Value::Null,
                "all node ports are taken",
            )),
        }
    }
}

fn invalid(field: &str, value: &Value, why: &str) -> Cause {
    Cause {
        reason: "FieldValueInvalid".into(),
        message: format!("Invalid value: {value}: {why}"),
        field: field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::defaults;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("objects.db")).unwrap();
        (dir, store)
    }

    #[allow(clippy::needless_pass_by_value)] // json!() where it is called
    fn service(name: &str, spec: Value) -> Value {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": name}, "spec": spec,
        });
        defaults::apply(kinds::SERVICE, &mut value);
        value
    }

    fn allocator(range: &str) -> Allocator {
        Allocator::new(range.parse().unwrap())
    }

    #[tokio::test]
    async fn nothing_is_given_twice_also_before_it_is_stored() {
        let (_dir, store) = store();
        let allocator = allocator("10.96.0.0/26");
        let mut seen = BTreeSet::new();
        // 64 addresses, 32 of them reserved, one for broadcast.
        for n in 0..31 {
            let mut one = service(
                &format!("s{n}"),
                json!({"type": "NodePort", "ports": [{"port": 80}]}),
            );
            assert_eq!(allocator.complete(&store, &mut one, None), []);
            assert!(seen.insert(one["spec"]["clusterIP"].to_string()));
            assert!(seen.insert(one["spec"]["ports"][0]["nodePort"].to_string()));
            if n % 2 == 0 {
                store.create(one).await.unwrap();
            }
        }
        let mut full = service("full", json!({"ports": [{"port": 80}]}));
        let causes = allocator.complete(&store, &mut full, None);
        assert!(causes[0].message.contains("--service-cidr"), "{causes:?}");
    }

    #[tokio::test]
    async fn what_is_asked_for_is_given_once_and_only_from_the_range() {
        let (_dir, store) = store();
        let allocator = allocator("10.96.0.0/16");
        let spec =
            json!({"type": "NodePort", "clusterIP": "10.96.7.7", "ports": [{"port": 80, "nodePort": 30080}]});
        let mut first = service("a", spec.clone());
        assert_eq!(allocator.complete(&store, &mut first, None), []);
        // The same Service may ask again.
        assert_eq!(allocator.complete(&store, &mut first.clone(), None), []);
        let causes = allocator.complete(&store, &mut service("b", spec), None);
        let fields: Vec<&str> = causes.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(fields, ["spec.clusterIPs[0]", "spec.ports[0].nodePort"]);
        let wrong =
            json!({"type": "NodePort", "clusterIP": "192.0.2.1", "ports": [{"port": 80, "nodePort": 80}]});
        let causes = allocator.complete(&store, &mut service("c", wrong), None);
        assert!(causes[0].message.contains("10.96.0.0/16"), "{causes:?}");
        assert!(causes[1].message.contains("30000-32767"), "{causes:?}");
    }

    #[tokio::test]
    async fn a_change_keeps_what_was_given_and_a_change_of_type_gives_it_back() {
        let (_dir, store) = store();
        let allocator = allocator("10.96.0.0/16");
        let mut old = service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(allocator.complete(&store, &mut old, None), []);
        let mut replaced = service("a", json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert_eq!(allocator.complete(&store, &mut replaced, Some(&old)), []);
        assert_eq!(replaced, old);
        let mut inner = old.clone();
        inner["spec"]["type"] = json!("ClusterIP");
        assert_eq!(allocator.complete(&store, &mut inner, Some(&old)), []);
        assert_eq!(inner["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert!(inner["spec"]["ports"][0].get("nodePort").is_none());
        assert!(inner["spec"].get("externalTrafficPolicy").is_none());
        let mut outer = old.clone();
        outer["spec"]["type"] = json!("ExternalName");
        outer["spec"]["externalName"] = json!("example.com");
        assert_eq!(allocator.complete(&store, &mut outer, Some(&old)), []);
        assert!(outer["spec"].get("clusterIP").is_none());
    }
}
