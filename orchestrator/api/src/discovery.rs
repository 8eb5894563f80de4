//! Discovery: which groups, versions and resources there are.
//!
//! Source: Kubernetes API concepts, "Discovery API"; the aggregated form is
//! `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.

use serde_json::{Value, json};

use crate::kinds::{self, Kind, Subresource};

/// Version of the Kubernetes API whose semantics are followed.
pub const KUBERNETES_MINOR: &str = "37";

/// `/version`. `own` is berthd's version.
pub fn version(own: &str) -> Value {
    json!({
        "major": "1",
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+berth-{own}"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub fn groups() -> Value {
    let groups: Vec<Value> = by_group()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(name, versions)| group_body(name, &versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, if it is served.
pub fn group(name: &str) -> Option<Value> {
    let (_, versions) = by_group()
        .into_iter()
        .find(|(g, _)| *g == name && !g.is_empty())?;
    let mut body = group_body(name, &versions);
    body["kind"] = json!("APIGroup");
    body["apiVersion"] = json!("v1");
    Some(body)
}

fn group_body(name: &str, versions: &[&str]) -> Value {
    let entries: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "versions": entries, "preferredVersion": entries.first()})
}

/// `/api/v1` or `/apis/GROUP/VERSION`, if it is served.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = of(group, version).collect();
    let first = kinds.first()?;
    let mut list = Vec::new();
    for kind in &kinds {
        let mut entry = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": kind.verbs(),
        });
        if !kind.short.is_empty() {
            entry["shortNames"] = json!(kind.short);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        list.extend(kind.subresources.iter().map(|s| subresource(kind, s)));
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": list,
    }))
}

fn subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if sub.group != kind.group || sub.version != kind.version {
        entry["group"] = json!(sub.group);
        entry["version"] = json!(sub.version);
    }
    entry
}

/// The aggregated form of `/api` (`core`) or `/apis`, for `v2` or `v2beta1`.
pub fn aggregated(core: bool, version: &str) -> Value {
    let items: Vec<Value> = by_group()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|api| {
                    let resources: Vec<Value> = of(group, api).map(aggregated_resource).collect();
                    json!({"version": api, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": kind.plural,
        "responseKind": response(kind.group, kind.version, kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs(),
    });
    if !kind.short.is_empty() {
        entry["shortNames"] = json!(kind.short);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": response(s.group, s.version, s.kind),
                    "verbs": s.verbs,
                })
            })
            .collect();
        entry["subresources"] = json!(subresources);
    }
    entry
}

/// Every served (group, version), in order.
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut all: Vec<_> = kinds::served().map(|k| (k.group, k.version)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Every served group with its versions, the preferred one first.
fn by_group() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (group, version) in group_versions() {
        match groups.last_mut() {
            // Later is newer: v1 comes before v2.
            Some((known, versions)) if *known == group => versions.insert(0, version),
            _ => groups.push((group, vec![version])),
        }
    }
    groups
}

/// The kinds of a group and version.
pub fn of<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    kinds::served().filter(move |k| k.group == group && k.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        assert_eq!(groups()["groups"][0]["name"], "apps");
        assert!(group_versions().contains(&("metrics.k8s.io", "v1beta1")));
        assert_eq!(
            group("apps").unwrap()["preferredVersion"]["groupVersion"],
            "apps/v1"
        );
        assert!(
            group("apiregistration.k8s.io").is_none()
                && group("").is_none()
                && resources("x", "v1").is_none()
        );
        let scaling = super::group("autoscaling").unwrap();
        assert_eq!(scaling["preferredVersion"]["version"], "v2");
        assert_eq!(scaling["versions"][1]["groupVersion"], "autoscaling/v1");
        for (core, group) in [(true, ""), (false, "apps")] {
            let plain = resources(group, "v1").unwrap();
            let plain: Vec<&str> = plain["resources"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|r| r["name"].as_str())
                .filter(|n| !n.contains('/'))
                .collect();
            let aggregated = aggregated(core, "v2");
            let listed: Vec<&str> = aggregated["items"][0]["versions"][0]["resources"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|r| r["resource"].as_str())
                .collect();
            assert_eq!(plain, listed);
        }
    }
}
