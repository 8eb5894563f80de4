//! The node's own Services: `kubernetes` leads pods to the API, `kube-dns` to the DNS server (upstream
//! `pkg/controlplane/controller/kubernetesservice`, and the add-on that every cluster has).
//!
//! Neither has a selector: their Endpoints say where this berthd listens, and slices are made of those as of anybody's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use berth_api::defaults;
use berth_api::kinds::{self, Kind};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{Again, Controller, is_closing};
use crate::store::{Event, Key, Store, StoreError};

/// Namespace and name of the Service of the API.
pub(crate) const API: (&str, &str) = ("default", "kubernetes");
/// Namespace and name of the Service of the DNS server.
pub(crate) const DNS: (&str, &str) = ("kube-system", "kube-dns");
/// The tenth address of the network is the DNS server's, as kubeadm has it.
const DNS_NUMBER: u32 = 10;

/// The address of the API for pods: the first of the network.
pub fn api_address(network: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()) + 1)
}

/// The address of the DNS server for pods.
pub fn dns_address(network: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()) + DNS_NUMBER)
}

/// Where an API that listens at an address is reached by IPv4. `host` stands for all addresses.
pub fn reached(listen: SocketAddr, host: &str) -> Option<SocketAddrV4> {
    let address = match listen.ip() {
        IpAddr::V4(address) if !address.is_unspecified() => address,
        IpAddr::V6(address) if !address.is_unspecified() => address.to_ipv4_mapped()?,
        _ => host.parse().unwrap_or(Ipv4Addr::LOCALHOST),
    };
    Some(SocketAddrV4::new(address, listen.port()))
}

/// Keeps both Services.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Each with its Endpoints.
    pairs: Vec<(Value, Value)>,
}

impl Own {
    /// The Services as they are to be, with addresses of `network`, leading to the API's and the DNS server's sockets.
    pub fn new(network: Ipv4Net, api: Option<SocketAddrV4>, dns: Option<SocketAddrV4>) -> Own {
        let https = [("https", "TCP", 443, api.map_or(443, |api| api.port()))];
        // What the DNS server listens on changes from time to time; the Service does not.
        let domain = [("dns", "UDP", 53, 53), ("dns-tcp", "TCP", 53, 53)];
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let mut pairs = vec![pair(API, &labels, api_address(network), &https, api)];
        let labels = json!({"k8s-app": "kube-dns"});
        pairs.push(pair(DNS, &labels, dns_address(network), &domain, dns));
        Own { pairs }
    }

    /// Makes what is missing and mends what somebody has changed.
    ///
    /// # Errors
    /// The store's answer.
    pub async fn ensure(&self, store: &Store) -> Result<(), StoreError> {
        for (service, endpoints) in &self.pairs {
            put(
                store,
                service,
                &["clusterIP", "clusterIPs", "ports", "selector", "type"],
            )
            .await?;
            put(store, endpoints, &[]).await?;
        }
        Ok(())
    }
}

fn pair(
    (namespace, name): (&str, &str),
    labels: &Value,
    address: Ipv4Addr,
    ports: &[(&str, &str, u16, u16)],
    target: Option<SocketAddrV4>,
) -> (Value, Value) {
    let ours: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port, target)| {
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": target})
        })
        .collect();
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": address.to_string(), "clusterIPs": [address.to_string()],
            "ports": ours,
        },
    });
    defaults::apply(kinds::SERVICE, &mut service);
    let mut endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"namespace": namespace, "name": name},
    });
    if let Some(target) = target {
        let theirs: Vec<Value> = ports
            .iter()
            .map(|(name, protocol, ..)| json!({"name": name, "protocol": protocol, "port": target.port()}))
            .collect();
        endpoints["subsets"] = json!([{"addresses": [{"ip": target.ip().to_string()}], "ports": theirs}]);
    }
    (service, endpoints)
}

/// Creates an object, or gives the stored one these fields of the specification; without any, all but the metadata.
async fn put(store: &Store, wanted: &Value, fields: &[&str]) -> Result<(), StoreError> {
    let key = Key::of(wanted)?;
    let Some(stored) = store.get(&key)? else {
        return match store.create(wanted.clone()).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        };
    };
    let mut value = stored.value();
    if fields.is_empty() {
        let metadata = value["metadata"].take();
        value = wanted.clone();
        value["metadata"] = metadata;
    }
    for field in fields {
        let Some(spec) = value["spec"].as_object_mut() else {
            break;
        };
        match wanted["spec"].get(field) {
            Some(wanted) => spec.insert((*field).to_owned(), wanted.clone()),
            None => spec.remove(*field),
        };
    }
    // Without a difference nothing is written.
    store.update(value).await.map(drop)
}

impl Controller for Own {
    const NAME: &'static str = "kubernetes-service-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::SERVICE, kinds::ENDPOINTS]
    }

    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        let place = (key.namespace.as_str(), key.name.as_str());
        let ours = place == API || place == DNS;
        if ours {
            self.key().into_iter().collect()
        } else {
            Vec::new()
        }
    }

    fn all(&mut self, _: &Store) -> Vec<Key> {
        self.key().into_iter().collect()
    }

    async fn sync(&mut self, store: &Store, _: &Key) -> Result<Again, StoreError> {
        for namespace in [API.0, DNS.0] {
            if is_closing(store, namespace)? {
                return Ok(None);
            }
        }
        self.ensure(store).await?;
        Ok(None)
    }
}

impl Own {
    /// One key stands for both: they are looked at together.
    fn key(&self) -> Option<Key> {
        self.pairs.first().and_then(|(service, _)| Key::of(service).ok())
    }
}

/// The port that the DNS server had before, of the stored Endpoints.
pub fn dns_port(store: &Store) -> Option<u16> {
    let stored = store
        .get(&Key::new(kinds::ENDPOINTS, DNS.0, DNS.1))
        .ok()
        .flatten()?;
    let port = stored.value().pointer("/subsets/0/ports/0/port")?.as_u64()?;
    u16::try_from(port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_reached_where_it_listens() {
        let at = |listen: &str| reached(listen.parse().unwrap(), "192.0.2.1").map(|at| at.to_string());
        assert_eq!(at("127.0.0.1:6443").as_deref(), Some("127.0.0.1:6443"));
        assert_eq!(at("0.0.0.0:6443").as_deref(), Some("192.0.2.1:6443"));
        assert_eq!(at("[::]:6443").as_deref(), Some("192.0.2.1:6443"));
        assert_eq!(at("[2001:db8::1]:6443"), None);
    }

    #[tokio::test]
    async fn what_is_deleted_or_changed_comes_back_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("objects.db")).unwrap();
        let at = Some("127.0.0.1:6443".parse().unwrap());
        let own = Own::new("10.96.0.0/16".parse().unwrap(), at, at);
        own.ensure(&store).await.unwrap();
        let version = store.resource_version();
        own.ensure(&store).await.unwrap();
        assert_eq!(store.resource_version(), version, "nothing was to be written");
        assert_eq!(dns_port(&store), Some(6443));
        let key = Key::new(kinds::SERVICE, API.0, API.1);
        let mut value = store.require(&key).unwrap().value();
        assert_eq!(value["spec"]["clusterIP"], "10.96.0.1");
        value["spec"]["selector"] = json!({"app": "mine"});
        value["metadata"]["labels"]["kept"] = json!("yes");
        store.update(value).await.unwrap();
        let endpoints = Key::new(kinds::ENDPOINTS, DNS.0, DNS.1);
        store
            .delete(&endpoints, crate::store::Preconditions::default())
            .await
            .unwrap();
        own.ensure(&store).await.unwrap();
        let value = store.require(&key).unwrap().value();
        assert_eq!(value["spec"].get("selector"), None);
        assert_eq!(value["metadata"]["labels"]["kept"], "yes");
        assert_eq!(dns_port(&store), Some(6443));
    }
}
