//! Services of type LoadBalancer: on one node the balancer is the node itself. Each gets the node's address, where its
//! ports are led to its pods by the rules of services (k3s does the same with a pod for each).
//!
//! A port of the node has one owner: the Service that asked first, a program of the host that listened there before, or
//! nobody. Whoever comes later stays pending, with an event that names the owner.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use berth_api::kinds::{self, Kind};
use serde_json::{Value, json};

use super::fields::{is_deleting, name, text};
use super::{Again, Controller};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Event, Key, Object, Store, StoreError};

/// When a Service whose port a program of the host has is looked at again.
const RETRY: Duration = Duration::from_secs(15);

/// Gives Services of type LoadBalancer their address.
#[derive(Debug, Default)]
pub(crate) struct LoadBalancer {
    /// Why Services are pending, as it was said last: once is enough.
    said: BTreeMap<Key, String>,
}

/// Protocol and port.
type Place = (String, u16);

impl Controller for LoadBalancer {
    const NAME: &'static str = "service-lb-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::SERVICE]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let versions = [Some(&event.object), event.previous.as_ref()];
        let concerns = versions.into_iter().flatten().any(|object| {
            let value = object.value();
            is_balanced(&value) || has_address(&value)
        });
        // What one gives up another may have waited for.
        if concerns { self.all(store) } else { Vec::new() }
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let services = store.list(kinds::SERVICE, None).items;
        let concerned = services.iter().filter(|service| {
            let value = service.value();
            is_balanced(&value) || has_address(&value)
        });
        concerned.map(|service| service.key().clone()).collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(stored) = store.get(key)? else {
            self.said.remove(key);
            return Ok(None);
        };
        let service = stored.value();
        let others: Vec<Value> = store
            .list(kinds::SERVICE, None)
            .items
            .iter()
            .filter(|other| other.key() != key)
            .map(Object::value)
            .collect();
        let host = crate::node::host_ip().parse().ok();
        let listening = if has_address(&service) {
            BTreeMap::new()
        } else {
            listening(host)
        };
        let wanted = decide(&service, &others, &listening);
        let address = host.filter(|_| is_balanced(&service) && wanted.is_ok());
        let ingress = address.map(|ip| json!([{"ip": ip.to_string(), "ipMode": "VIP"}]));
        let load_balancer = ingress.map_or_else(|| json!({}), |ingress| json!({"ingress": ingress}));
        let mut status = service.get("status").cloned().unwrap_or_else(|| json!({}));
        if status.get("loadBalancer").unwrap_or(&json!({})) != &load_balancer {
            status["loadBalancer"] = load_balancer;
            store.update_status(key, stored.uid(), status).await?;
        }
        let Some(why) = wanted.err().filter(|_| is_balanced(&service)) else {
            self.said.remove(key);
            return Ok(None);
        };
        if self.said.get(key) != Some(&why) {
            let about = ObjectRef::to(&stored);
            events::record(
                store,
                &about,
                Severity::Warning,
                "SyncLoadBalancerFailed",
                &why,
                Self::NAME,
            )
            .await?;
            self.said.insert(key.clone(), why);
        }
        Ok(Some(RETRY))
    }
}

/// Whether the node is the Service's balancer: one with a class of its own is somebody else's.
fn is_balanced(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer"
        && text(service, "/spec/loadBalancerClass").is_empty()
        && !is_deleting(service)
}

fn has_address(service: &Value) -> bool {
    let ingress = service
        .pointer("/status/loadBalancer/ingress")
        .and_then(Value::as_array);
    ingress.is_some_and(|ingress| !ingress.is_empty())
}

fn places(service: &Value) -> Vec<Place> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            Some((protocol, u16::try_from(port["port"].as_u64()?).ok()?))
        })
        .collect()
}

/// PURE: whether the node's ports are the Service's; if not, who has one of them.
fn decide(service: &Value, others: &[Value], listening: &BTreeMap<Place, String>) -> Result<(), String> {
    let asked = |service: &Value| {
        let meta = |field: &str| service["metadata"][field].as_str().unwrap_or_default().to_owned();
        // One that has the ports keeps them; else the older one gets them.
        (
            !has_address(service),
            meta("creationTimestamp"),
            meta("namespace"),
            meta("name"),
        )
    };
    let own = asked(service);
    let earlier = others
        .iter()
        .filter(|other| is_balanced(other) && asked(other) < own);
    let mut taken = listening.clone();
    for other in earlier {
        let owner = format!("Service {}/{}", text(other, "/metadata/namespace"), name(other));
        taken.extend(places(other).into_iter().map(|place| (place, owner.clone())));
    }
    for place in places(service) {
        if let Some(owner) = taken.get(&place) {
            let (protocol, port) = place;
            return Err(format!(
                "port {port}/{protocol} of the node is taken by {owner}: choose another port, or type NodePort"
            ));
        }
    }
    Ok(())
}

/// The ports that programs of the host listen at, on all its addresses or on this one (proc(5): /proc/net/tcp).
fn listening(host: Option<Ipv4Addr>) -> BTreeMap<Place, String> {
    let mut found = BTreeMap::new();
    for (file, protocol, state) in [
        ("tcp", "TCP", "0A"),
        ("tcp6", "TCP", "0A"),
        ("udp", "UDP", "07"),
        ("udp6", "UDP", "07"),
    ] {
        let table = std::fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
        let ports = table
            .lines()
            .skip(1)
            .filter_map(|line| listener(line, state, host));
        found.extend(ports.map(|port| {
            let owner = "a program of the host that listens there".to_owned();
            ((protocol.to_owned(), port), owner)
        }));
    }
    found
}

/// The port of a line of /proc/net/tcp, if it is in a state and reached by the host's address.
fn listener(line: &str, wanted: &str, host: Option<Ipv4Addr>) -> Option<u16> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    let state = words.nth(1)?;
    let reached = match address.len() {
        8 => {
            let bytes = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
            let address = Ipv4Addr::from(bytes);
            address.is_unspecified() || Some(address) == host
        }
        // Of IPv6 only those on all addresses take connections by IPv4, too.
        _ => address.bytes().all(|byte| byte == b'0'),
    };
    (state == wanted && reached).then(|| u16::from_str_radix(port, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, created: &str, port: u16) -> Value {
        json!({"metadata": {"namespace": "default", "name": name, "creationTimestamp": created},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port, "protocol": "TCP"}]}})
    }

    #[test]
    fn a_port_has_one_owner() {
        let (one, two) = (
            service("one", "2026-01-01T00:00:00Z", 80),
            service("two", "2026-01-02T00:00:00Z", 80),
        );
        let none = BTreeMap::new();
        assert_eq!(decide(&one, std::slice::from_ref(&two), &none), Ok(()));
        assert!(
            decide(&two, std::slice::from_ref(&one), &none)
                .unwrap_err()
                .contains("80/TCP of the node is taken by Service default/one")
        );
        // Whoever has it keeps it.
        let mut has = two.clone();
        has["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.1"}]);
        assert_eq!(decide(&has, std::slice::from_ref(&one), &none), Ok(()));
        assert!(decide(&one, &[has], &none).is_err());
        let other = service("three", "2026-01-03T00:00:00Z", 81);
        assert_eq!(decide(&other, &[one, two], &none), Ok(()));
        let program = BTreeMap::from([(("TCP".to_owned(), 81), "a program".to_owned())]);
        assert!(decide(&other, &[], &program).is_err());
    }

    #[test]
    fn listeners_of_the_host() {
        let host = Some(Ipv4Addr::new(192, 0, 2, 1));
        let line = |address: u32, state: &str| {
            format!("   0: {address:08X}:0050 00000000:0000 {state} 00000000:0 0")
        };
        let of = |address: [u8; 4]| u32::from_ne_bytes(address);
        assert_eq!(listener(&line(0, "0A"), "0A", host), Some(80));
        assert_eq!(listener(&line(of([192, 0, 2, 1]), "0A"), "0A", host), Some(80));
        assert_eq!(listener(&line(of([127, 0, 0, 1]), "0A"), "0A", host), None);
        assert_eq!(listener(&line(0, "01"), "0A", host), None);
        let six = format!("   0: {}:01BB {}:0000 0A", "0".repeat(32), "0".repeat(32));
        assert_eq!(listener(&six, "0A", host), Some(443));
    }
}
