//! What the server knows of the cluster: Services and slices, read from the store and kept up by its watches.
//!
//! The zone is brought up to date when it is asked, so that an answer is never older than the store, and a server that
//! nobody asks does nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use berth_api::kinds;
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::controllers::endpoints::SERVICE_NAME;
use crate::store::{Event, EventKind, Key, Object, Store, Watch, WatchError};

/// Namespace and name.
pub(super) type Id = (String, String);

/// A port of a Service or of its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// Its name; empty for a single port without one.
    pub name: String,
    /// In small letters.
    pub protocol: String,
    /// The number.
    pub number: u16,
}

/// Where a Service's name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// To its own address.
    Address(Ipv4Addr),
    /// To its endpoints.
    Headless,
    /// To another name.
    Alias(String),
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    /// Where its name leads.
    pub kind: Kind,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// One endpoint that is ready.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    /// Its name below the Service's: the host name it was given, else its address.
    pub label: String,
    /// Its address.
    pub address: IpAddr,
}

/// The endpoints of a slice that are ready.
#[derive(Debug, Clone, Default)]
pub(super) struct Slice {
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<Port>,
}

/// The zone.
pub(super) struct Zone {
    store: Store,
    /// The network of the Services' addresses.
    addresses: Ipv4Net,
    /// None before the first question, and after events were missed.
    watches: Option<[Watch; 2]>,
    services: BTreeMap<Id, Service>,
    /// By Service, then by the slice's name.
    slices: BTreeMap<Id, BTreeMap<String, Slice>>,
    /// The Service of each slice.
    owners: BTreeMap<Id, String>,
}

impl Zone {
    pub fn new(store: Store, addresses: Ipv4Net) -> Zone {
        Zone {
            store,
            addresses,
            watches: None,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            owners: BTreeMap::new(),
        }
    }

    /// Takes in what has happened since the last call.
    pub fn refresh(&mut self) {
        // A second round only where history is lost, and where the store is about to close.
        for _ in 0..2 {
            let Some(mut watches) = self.watches.take() else {
                self.read_all();
                continue;
            };
            match self.drain(&mut watches) {
                Ok(()) => {
                    self.watches = Some(watches);
                    return;
                }
                Err(WatchError::Expired) => {}
                Err(WatchError::Closed) => return,
            }
        }
    }

    fn drain(&mut self, watches: &mut [Watch]) -> Result<(), WatchError> {
        for watch in watches {
            while let Some(event) = watch.try_recv()? {
                self.take(&event);
            }
        }
        Ok(())
    }

    fn read_all(&mut self) {
        self.services.clear();
        self.slices.clear();
        self.owners.clear();
        // The watches begin before the lists are read: what falls between comes twice, which does no harm.
        let both = [kinds::SERVICE, kinds::ENDPOINT_SLICE].map(|kind| self.store.watch(kind, None, 0).ok());
        for object in self.store.list(kinds::SERVICE, None).items {
            self.put_service(&object);
        }
        for object in self.store.list(kinds::ENDPOINT_SLICE, None).items {
            self.put_slice(&object);
        }
        if let [Some(services), Some(slices)] = both {
            self.watches = Some([services, slices]);
        }
    }

    fn take(&mut self, event: &Event) {
        let object = &event.object;
        let id = (object.namespace().to_owned(), object.name().to_owned());
        match (
            object.key().kind == kinds::SERVICE,
            event.kind == EventKind::Deleted,
        ) {
            (true, true) => drop(self.services.remove(&id)),
            (true, false) => self.put_service(object),
            (false, true) => self.drop_slice(&id),
            (false, false) => self.put_slice(object),
        }
    }

    fn put_service(&mut self, object: &Object) {
        let id = (object.namespace().to_owned(), object.name().to_owned());
        match service(&object.value()) {
            Some(service) => self.services.insert(id, service),
            None => self.services.remove(&id),
        };
    }

    fn put_slice(&mut self, object: &Object) {
        let id = (object.namespace().to_owned(), object.name().to_owned());
        self.drop_slice(&id);
        let value = object.value();
        let Some(owner) = value["metadata"]["labels"][SERVICE_NAME].as_str() else {
            return;
        };
        self.owners.insert(id.clone(), owner.to_owned());
        let (namespace, name) = id;
        self.slices
            .entry((namespace, owner.to_owned()))
            .or_default()
            .insert(name, slice(&value));
    }

    fn drop_slice(&mut self, id: &Id) {
        let Some(owner) = self.owners.remove(id) else {
            return;
        };
        let owner = (id.0.clone(), owner);
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(&id.1);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
    }

    /// Version of the store: the zone's serial number.
    pub fn serial(&self) -> u32 {
        self.store.resource_version() as u32
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        let key = Key::new(kinds::NAMESPACE, "", name);
        self.store.get(&key).is_ok_and(|found| found.is_some())
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The slices of a Service.
    pub fn slices(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Slice> {
        let found = self.slices.get(&(namespace.to_owned(), name.to_owned()));
        found.into_iter().flat_map(BTreeMap::values)
    }

    /// Whether an address is one that only Services have.
    pub fn is_of_services(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if self.addresses.contains(&address))
    }

    /// The Service with an address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Id> {
        let has =
            |service: &Service| matches!(service.kind, Kind::Address(own) if IpAddr::V4(own) == address);
        self.services
            .iter()
            .find(|(_, service)| has(service))
            .map(|(id, _)| id)
    }

    /// The Services with an endpoint at an address, with its name below theirs.
    pub fn endpoints_at(&self, address: IpAddr) -> Vec<(&Id, &str)> {
        let mut found = Vec::new();
        for (id, slices) in &self.slices {
            let all = slices.values().flat_map(|slice| &slice.endpoints);
            let here = all.filter(|endpoint| endpoint.address == address);
            found.extend(here.map(|endpoint| (id, endpoint.label.as_str())));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The namespaces of the pods with an address, of all or of one namespace. Pods in the host's network have the
    /// host's address, which is no pod's.
    pub fn pods_at(&self, address: IpAddr, namespace: Option<&str>) -> Vec<String> {
        // Most pods are passed over without being parsed.
        let mark = format!("\"podIP\":\"{address}\"");
        let pods = self.store.list(kinds::POD, namespace).items;
        let mut found: Vec<String> = pods
            .iter()
            .filter(|pod| pod.json().contains(&mark))
            .filter(|pod| {
                let pod = pod.value();
                let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
                pod["status"]["podIP"] == address.to_string().as_str()
                    && !ended
                    && pod["spec"]["hostNetwork"] != true
            })
            .map(|pod| pod.namespace().to_owned())
            .collect();
        found.dedup();
        found
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn service(value: &Value) -> Option<Service> {
    let spec = &value["spec"];
    let kind = match (text(spec, "type"), text(spec, "clusterIP")) {
        ("ExternalName", _) => Kind::Alias(text(spec, "externalName").trim_end_matches('.').to_lowercase()),
        (_, "None") => Kind::Headless,
        (_, address) => Kind::Address(address.parse().ok()?),
    };
    Some(Service {
        kind,
        ports: ports(spec),
    })
}

fn ports(value: &Value) -> Vec<Port> {
    let list = value["ports"].as_array().into_iter().flatten();
    list.filter_map(|port| {
        Some(Port {
            name: text(port, "name").to_owned(),
            protocol: port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
            number: port["port"].as_u64().and_then(|n| u16::try_from(n).ok())?,
        })
    })
    .collect()
}

fn slice(value: &Value) -> Slice {
    let endpoints = value["endpoints"].as_array().into_iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"].as_bool().unwrap_or(true));
    let endpoints = ready.flat_map(|endpoint| {
        let hostname = text(endpoint, "hostname").to_lowercase();
        let addresses = endpoint["addresses"].as_array().into_iter().flatten();
        addresses.filter_map(move |address| {
            let address: IpAddr = address.as_str()?.parse().ok()?;
            let label = if hostname.is_empty() {
                dashed(address)
            } else {
                hostname.clone()
            };
            Some(Endpoint { label, address })
        })
    });
    Slice {
        endpoints: endpoints.collect(),
        ports: ports(value),
    }
}

/// An address as a label: `10-90-0-5`.
pub(super) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a label means.
pub(super) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    // "::" at an end leaves a dash there, which some write with a zero before or after it.
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}
