//! PURE: a container's environment, from literal values, ConfigMaps, Secrets and fields of the pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::claims::Backing;
use super::pod::Pod;
use super::resources::thousandths;

/// What the environment refers to, as it is stored now.
pub trait Sources {
    /// Keys and values of a ConfigMap of the pod's namespace; None when it does not exist.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// Keys and values of a Secret of the pod's namespace; None when it does not exist.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// A token of the pod's ServiceAccount for an audience (the API's own, if it is empty), good for some seconds; None
    /// when the account does not exist.
    fn token(&self, pod: &Pod, audience: &str, seconds: i64) -> Option<String>;
    /// Where the volume of a claim of the pod's namespace is; None while it has none.
    fn backing(&self, claim: &str) -> Option<Backing>;
}

/// What only the node knows of a pod.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Name of the node.
    pub node: String,
    /// Address of the node.
    pub host_ip: String,
    /// Addresses of the pod.
    pub pod_ips: Vec<String>,
    /// CPUs of the node, in thousandths.
    pub cpu: i64,
    /// Memory of the node, in bytes.
    pub memory: i64,
}

/// Why an environment cannot be made; kubelet's texts, which people search for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap or Secret is missing.
    #[error("{kind} {name:?} not found: create it in namespace {namespace}")]
    NoObject {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The namespace it is looked for in.
        namespace: String,
    },
    /// It has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The key.
        key: String,
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
    /// The value is not text.
    #[error("key {key} of {kind} {name} is not UTF-8 text and cannot be an environment variable")]
    Binary {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The key.
        key: String,
        /// Its name.
        name: String,
    },
    /// A field path that is not served.
    #[error("env {name}: fieldPath {path:?} is not known")]
    Field {
        /// Name of the variable.
        name: String,
        /// The path.
        path: String,
    },
    /// A resource that is not served.
    #[error("env {name}: resourceFieldRef {resource:?} of container {container:?} cannot be resolved")]
    Resource {
        /// Name of the variable.
        name: String,
        /// The resource.
        resource: String,
        /// The container.
        container: String,
    },
    /// A source that is not served.
    #[error("env {name}: valueFrom has no source that this node serves")]
    Source {
        /// Name of the variable.
        name: String,
    },
}

/// The environment in order, after `links`; a later variable replaces an earlier one of the same name.
///
/// # Errors
/// [`EnvError`] naming the object and key that are missing.
pub fn environment(
    pod: &Pod,
    container: &api::Container,
    links: Vec<(String, String)>,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Env { list: links };
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => (Kind::ConfigMap, &r.name, r.optional),
            (None, Some(r)) => (Kind::Secret, &r.name, r.optional),
            (None, None) => continue,
        };
        let Some(data) = kind.load(sources, name) else {
            if optional == Some(true) {
                continue;
            }
            return Err(kind.missing(pod, name));
        };
        for (key, value) in data {
            // kubelet leaves out what cannot be a variable's name or value.
            if let Ok(value) = String::from_utf8(value)
                && is_name(&format!("{prefix}{key}"))
            {
                env.set(format!("{prefix}{key}"), value);
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), None) => Some(expand(value, |name| env.get(name))),
            (None, None) => Some(String::new()),
            (_, Some(from)) => resolve(pod, container, &var.name, from, facts, sources)?,
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    Ok(env.list)
}

/// Variables in order of their first appearance.
struct Env {
    list: Vec<(String, String)>,
}

impl Env {
    fn get(&self, name: &str) -> Option<String> {
        self.list
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    }

    fn set(&mut self, name: String, value: String) {
        match self.list.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => self.list.push((name, value)),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    fn load(self, sources: &dyn Sources, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        match self {
            Kind::ConfigMap => sources.config_map(name),
            Kind::Secret => sources.secret(name),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
        }
    }

    fn missing(self, pod: &Pod, name: &str) -> EnvError {
        let kind = match self {
            Kind::ConfigMap => "configmap",
            Kind::Secret => "secret",
        };
        EnvError::NoObject {
            kind,
            name: name.to_owned(),
            namespace: pod.namespace.clone(),
        }
    }
}

/// The value of a `valueFrom`; None when it is optional and missing.
fn resolve(
    pod: &Pod,
    container: &api::Container,
    name: &str,
    from: &api::EnvVarSource,
    facts: &Facts,
    sources: &dyn Sources,
) -> Result<Option<String>, EnvError> {
    if let Some(r) = &from.config_map_key_ref {
        return key(pod, Kind::ConfigMap, &r.name, &r.key, r.optional, sources);
    }
    if let Some(r) = &from.secret_key_ref {
        return key(pod, Kind::Secret, &r.name, &r.key, r.optional, sources);
    }
    if let Some(r) = &from.field_ref {
        let error = || EnvError::Field {
            name: name.to_owned(),
            path: r.field_path.clone(),
        };
        return field(pod, &r.field_path, facts).map(Some).ok_or_else(error);
    }
    if let Some(r) = &from.resource_field_ref {
        let of = r
            .container_name
            .as_deref()
            .filter(|n| !n.is_empty())
            .unwrap_or(&container.name);
        let error = || EnvError::Resource {
            name: name.to_owned(),
            resource: r.resource.clone(),
            container: of.to_owned(),
        };
        let spec = &pod.container(of).ok_or_else(error)?.spec;
        let divisor = r.divisor.as_ref().map(|d| d.0.as_str());
        return resource(spec, &r.resource, divisor, facts)
            .map(Some)
            .ok_or_else(error);
    }
    Err(EnvError::Source {
        name: name.to_owned(),
    })
}

fn key(
    pod: &Pod,
    kind: Kind,
    name: &str,
    key: &str,
    optional: Option<bool>,
    sources: &dyn Sources,
) -> Result<Option<String>, EnvError> {
    let optional = optional == Some(true);
    let Some(mut data) = kind.load(sources, name) else {
        return if optional {
            Ok(None)
        } else {
            Err(kind.missing(pod, name))
        };
    };
    let Some(value) = data.remove(key) else {
        return if optional {
            Ok(None)
        } else {
            Err(EnvError::NoKey {
                kind: kind.title(),
                key: key.to_owned(),
                name: name.to_owned(),
                namespace: pod.namespace.clone(),
            })
        };
    };
    String::from_utf8(value).map(Some).map_err(|_| EnvError::Binary {
        kind: kind.title(),
        key: key.to_owned(),
        name: name.to_owned(),
    })
}

/// A field of the pod by its path (Kubernetes documentation, "Downward API").
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Option<String> {
    let meta = &pod.object.metadata;
    let member = |prefix: &str| -> Option<String> {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
            .map(str::to_owned)
    };
    if let Some(key) = member("metadata.labels") {
        return Some(
            meta.labels
                .as_ref()
                .and_then(|m| m.get(&key))
                .cloned()
                .unwrap_or_default(),
        );
    }
    if let Some(key) = member("metadata.annotations") {
        return Some(
            meta.annotations
                .as_ref()
                .and_then(|m| m.get(&key))
                .cloned()
                .unwrap_or_default(),
        );
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        map.into_iter()
            .flatten()
            .map(|(k, v)| format!("{k}={v:?}"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    Some(match path {
        "metadata.name" => pod.name.clone(),
        "metadata.namespace" => pod.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => pod.spec().node_name.clone().unwrap_or_else(|| facts.node.clone()),
        "spec.serviceAccountName" => pod
            .spec()
            .service_account_name
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return None,
    })
}

/// A request or limit of a container in units of the divisor, rounded up; what is not set is the node's.
pub fn resource(
    container: &api::Container,
    resource: &str,
    divisor: Option<&str>,
    facts: &Facts,
) -> Option<String> {
    let (list, name) = resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let of = |list: Option<&BTreeMap<String, _>>| -> Option<i128> {
        let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity = list?.get(name)?;
        thousandths(&quantity.0)
    };
    let limits = || of(resources.and_then(|r| r.limits.as_ref()));
    let given = match list {
        "limits" => limits(),
        "requests" => of(resources.and_then(|r| r.requests.as_ref())).or_else(limits),
        _ => return None,
    };
    let whole = match name {
        "cpu" => i128::from(facts.cpu),
        "memory" => i128::from(facts.memory) * 1000,
        _ => return given.map(|n| ((n + 999) / 1000).to_string()),
    };
    let value = match (given, list) {
        (Some(value), _) => value,
        (None, "limits") => whole,
        (None, _) => 0,
    };
    let divisor = match divisor.filter(|d| !d.is_empty() && *d != "0") {
        Some(divisor) => thousandths(divisor)?,
        None => 1000,
    };
    (divisor > 0).then(|| ((value + divisor - 1) / divisor).to_string())
}

/// `$(NAME)` becomes the variable's value; `$$(NAME)` becomes `$(NAME)`; an unknown name stays as it is.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if let Some(value) = lookup(name) {
                out.push_str(&value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
