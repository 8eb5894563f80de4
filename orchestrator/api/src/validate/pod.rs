//! Validation of a pod's specification, in pods and in templates.

use std::collections::HashSet;

use serde_json::Value;

use super::Node;
use super::container;
use super::dns;
use super::field::{Errors, Path, each, text};
use super::{names, own_users, placement, volume};

pub(super) fn validate(at: &Path, spec: &Value, node: &Node, errors: &mut Errors) {
    content(at, spec, errors);
    placement::fits(at, spec, node, errors);
}

/// Checks all but whether the one node is among those that the pod asks for.
pub(super) fn content(at: &Path, spec: &Value, errors: &mut Errors) {
    let volumes = volume::validate(at, spec, errors);
    containers(at, spec, &volumes, errors);
    errors.one_of(
        &at.child("restartPolicy"),
        spec.get("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    dns::validate(at, spec, errors);
    errors.not_negative(
        &at.child("terminationGracePeriodSeconds"),
        spec.get("terminationGracePeriodSeconds"),
    );
    if let Some(deadline) = spec.get("activeDeadlineSeconds")
        && !deadline
            .as_i64()
            .is_some_and(|n| (1..=i64::from(i32::MAX)).contains(&n))
    {
        errors.invalid(
            &at.child("activeDeadlineSeconds"),
            deadline,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    for field in ["hostname", "subdomain"] {
        let value = text(spec, field);
        if !value.is_empty() {
            for wrong in names::dns_label(value) {
                errors.invalid_text(&at.child(field), value, &wrong);
            }
        }
    }
    let account = text(spec, "serviceAccountName");
    if !account.is_empty() {
        for wrong in names::dns_subdomain(account) {
            errors.invalid_text(&at.child("serviceAccountName"), account, &wrong);
        }
    }
    security(&at.child("securityContext"), spec.get("securityContext"), errors);
    if spec.get("shareProcessNamespace") == Some(&Value::Bool(true))
        && spec.get("hostPID") == Some(&Value::Bool(true))
    {
        errors.invalid(
            &at.child("shareProcessNamespace"),
            &Value::Bool(true),
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    own_users::validate(at, spec, errors);
    placement::form(at, spec, errors);
    names_of_host(at, spec, errors);
    proc_mounts(at, spec, errors);
    gates(at, spec, errors);
}

/// `setHostnameAsFQDN` and `hostnameOverride`.
fn names_of_host(at: &Path, spec: &Value, errors: &mut Errors) {
    let given = text(spec, "hostnameOverride");
    if given.is_empty() {
        return;
    }
    let at = at.child("hostnameOverride");
    if given.len() > 64 {
        errors.invalid_text(&at, given, "must be no more than 64 characters");
    }
    for wrong in names::dns_subdomain(given) {
        errors.invalid_text(&at, given, &wrong);
    }
    if spec.get("setHostnameAsFQDN") == Some(&Value::Bool(true)) {
        errors.invalid_text(&at, given, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        errors.invalid_text(&at, given, "may not be specified when hostNetwork is true");
    }
}

/// All of /proc is only for users that are nobody on the host.
fn proc_mounts(at: &Path, spec: &Value, errors: &mut Errors) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, one) in each(spec, list) {
            let Some(kind) = one.pointer("/securityContext/procMount") else {
                continue;
            };
            let at = at
                .child(list)
                .index(index)
                .child("securityContext")
                .child("procMount");
            errors.one_of(&at, Some(kind), &["Default", "Unmasked"]);
            if kind == "Unmasked" && spec.get("hostUsers") != Some(&Value::Bool(false)) {
                errors.invalid(&at, kind, "`hostUsers` must be false to use `Unmasked`");
            }
        }
    }
}

fn containers(at: &Path, spec: &Value, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let mut host_ports = HashSet::new();
    for list in ["initContainers", "containers"] {
        let at = at.child(list);
        if list == "containers" && each(spec, list).next().is_none() {
            errors.required(&at, "");
        }
        for (index, one) in each(spec, list) {
            let at = at.index(index);
            let name = text(one, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
            container::validate(&at, one, list == "initContainers", volumes, errors);
            container::host_ports(&at, one, &mut host_ports, errors);
        }
    }
}

/// Whether the ephemeral containers of `pod` may follow those of `old`: more may come, none may change or go.
pub(super) fn ephemeral(pod: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::root("spec").child("ephemeralContainers");
    let (null, spec) = (Value::Null, pod.get("spec").unwrap_or(&Value::Null));
    let volumes: HashSet<&str> = each(spec, "volumes").map(|(_, v)| text(v, "name")).collect();
    let before = old.get("spec").unwrap_or(&null);
    for (_, was) in each(before, "ephemeralContainers") {
        let now = each(spec, "ephemeralContainers").find(|(_, c)| text(c, "name") == text(was, "name"));
        match now {
            None => errors.forbidden(&at, "existing ephemeral containers may not be removed"),
            Some((index, now)) if now != was => {
                errors.forbidden(
                    &at.index(index),
                    "existing ephemeral containers may not be changed",
                );
            }
            Some(_) => {}
        }
    }
    let others = ["containers", "initContainers"];
    let mut names: HashSet<&str> = others
        .iter()
        .flat_map(|list| each(spec, list))
        .map(|(_, c)| text(c, "name"))
        .collect();
    for (index, one) in each(spec, "ephemeralContainers") {
        let at = at.index(index);
        let target = text(one, "targetContainerName");
        if !target.is_empty() && !each(spec, "containers").any(|(_, c)| text(c, "name") == target) {
            errors.not_found(&at.child("targetContainerName"), target);
        }
        if !text(one, "name").is_empty() && !names.insert(text(one, "name")) {
            errors.duplicate(&at.child("name"), text(one, "name"));
        }
        container::validate(&at, one, false, &volumes, errors);
    }
}

fn security(at: &Path, context: Option<&Value>, errors: &mut Errors) {
    let Some(context) = context else { return };
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        identity(&at.child(field), context.get(field), errors);
    }
    for (index, group) in each(context, "supplementalGroups") {
        identity(&at.child("supplementalGroups").index(index), Some(group), errors);
    }
    let mut seen = HashSet::new();
    for (index, sysctl) in each(context, "sysctls") {
        let at = at.child("sysctls").index(index).child("name");
        let name = text(sysctl, "name");
        if name.is_empty() {
            errors.required(&at, "");
        } else if !name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b))
        {
            errors.invalid_text(&at, name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if !seen.insert(name) {
            errors.duplicate(&at, name);
        }
    }
    if let Some(policy) = context.get("supplementalGroupsPolicy") {
        errors.one_of(
            &at.child("supplementalGroupsPolicy"),
            Some(policy),
            &["Merge", "Strict"],
        );
    }
    container::seccomp(&at.child("seccompProfile"), context.get("seccompProfile"), errors);
}

/// A user or group id.
pub(super) fn identity(at: &Path, value: Option<&Value>, errors: &mut Errors) {
    if let Some(value) = value
        && !value
            .as_i64()
            .is_some_and(|n| (0..=i64::from(i32::MAX)).contains(&n))
    {
        errors.invalid(at, value, "must be between 0 and 2147483647, inclusive");
    }
}

/// `schedulingGates`.
fn gates(at: &Path, spec: &Value, errors: &mut Errors) {
    let mut gates = HashSet::new();
    for (index, gate) in each(spec, "schedulingGates") {
        let (at, name) = (at.child("schedulingGates").index(index), text(gate, "name"));
        for wrong in names::qualified_name(name) {
            errors.invalid_text(&at, name, &wrong);
        }
        if !gates.insert(name) {
            errors.duplicate(&at, name);
        }
    }
}
