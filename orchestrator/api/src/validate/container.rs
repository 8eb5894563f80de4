//! Validation of one container.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::{names, pod, probe};
use crate::quantity::Quantity;

pub(super) fn validate(at: &Path, one: &Value, init: bool, volumes: &HashSet<&str>, errors: &mut Errors) {
    let name = text(one, "name");
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    } else {
        for wrong in names::dns_label(name) {
            errors.invalid_text(&at.child("name"), name, &wrong);
        }
    }
    let image = text(one, "image");
    if image.is_empty() {
        errors.required(&at.child("image"), "");
    } else if image.trim() != image {
        errors.invalid_text(
            &at.child("image"),
            image,
            "must not have leading or trailing whitespace",
        );
    }
    errors.one_of(
        &at.child("imagePullPolicy"),
        one.get("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    errors.one_of(
        &at.child("terminationMessagePolicy"),
        one.get("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
    );
    ports(at, one, errors);
    environment(at, one, errors);
    mounts(at, one, volumes, errors);
    resources(
        &at.child("resources"),
        one.get("resources").unwrap_or(&Value::Null),
        errors,
    );
    resize_policy(&at.child("resizePolicy"), one, errors);
    security(&at.child("securityContext"), one.get("securityContext"), errors);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = one.get(field) else { continue };
        // A sidecar (restartPolicy Always) may have them; other init containers run to their end.
        if init && text(one, "restartPolicy") != "Always" {
            errors.forbidden(
                &at.child(field),
                "may not be set for init containers without restartPolicy=Always",
            );
        } else {
            probe::validate(&at.child(field), value, one, field, errors);
        }
    }
    let policy = text(one, "restartPolicy");
    let sidecar = init && policy == "Always";
    if !policy.is_empty() {
        let known = ["Always", "Never", "OnFailure"];
        errors.one_of(&at.child("restartPolicy"), one.get("restartPolicy"), &known);
    }
    restart_rules(at, one, policy, errors);
    if let Some(lifecycle) = one.get("lifecycle") {
        let signal = text(lifecycle, "stopSignal");
        if !signal.is_empty() && !is_signal(signal) {
            let detail = "must be the name of a signal, such as SIGUSR1";
            errors.invalid_text(&at.child("lifecycle").child("stopSignal"), signal, detail);
        }
        if init && !sidecar {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&at.child("lifecycle"), detail);
        }
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get(hook) {
                probe::handler(
                    &at.child("lifecycle").child(hook),
                    handler,
                    one,
                    &["exec", "httpGet", "tcpSocket", "sleep"],
                    errors,
                );
            }
        }
    }
}

/// `restartPolicyRules`: exceptions from the container's own policy.
fn restart_rules(at: &Path, one: &Value, policy: &str, errors: &mut Errors) {
    let rules = each(one, "restartPolicyRules").count();
    let root = at.child("restartPolicyRules");
    if rules > 0 && policy.is_empty() {
        errors.required(
            &at.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        );
    }
    if rules > 20 {
        errors.invalid(&root, &json!(rules), "must have at most 20 items");
    }
    for (index, rule) in each(one, "restartPolicyRules") {
        let at = root.index(index);
        errors.one_of(&at.child("action"), rule.get("action"), &["Restart"]);
        let Some(codes) = rule.get("exitCodes").filter(|c| !c.is_null()) else {
            errors.required(&at.child("exitCodes"), "must be specified");
            continue;
        };
        let at = at.child("exitCodes");
        errors.one_of(&at.child("operator"), codes.get("operator"), &["In", "NotIn"]);
        let values = each(codes, "values").count();
        if values == 0 || values > 255 {
            errors.invalid(&at.child("values"), &json!(values), "must have 1 to 255 items");
        }
    }
}

/// Whether a signal has that name (signal(7)); real-time signals are counted from both ends.
fn is_signal(name: &str) -> bool {
    const NAMES: [&str; 31] = [
        "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
        "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
        "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM",
    ];
    let Some(short) = name.strip_prefix("SIG") else {
        return false;
    };
    let counted = |prefix: &str| {
        let number = short.strip_prefix(prefix).and_then(|n| n.parse::<u8>().ok());
        number.is_some_and(|n| (1..=15).contains(&n))
    };
    NAMES.contains(&short)
        || matches!(short, "WINCH" | "XCPU" | "XFSZ" | "RTMIN" | "RTMAX")
        || counted("RTMIN+")
        || counted("RTMAX-")
}

fn ports(at: &Path, one: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, port) in each(one, "ports") {
        let at = at.child("ports").index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            for wrong in names::port_name(name) {
                errors.invalid_text(&at.child("name"), name, &wrong);
            }
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        errors.port(&at.child("containerPort"), port.get("containerPort"), true);
        if port.get("hostPort").is_some_and(|p| *p != json!(0)) {
            errors.port(&at.child("hostPort"), port.get("hostPort"), false);
        }
        errors.one_of(
            &at.child("protocol"),
            port.get("protocol"),
            &["SCTP", "TCP", "UDP"],
        );
    }
}

/// Two containers of a pod cannot have the same port of the host.
pub(super) fn host_ports(
    at: &Path,
    one: &Value,
    seen: &mut HashSet<(String, String, i64)>,
    errors: &mut Errors,
) {
    for (index, port) in each(one, "ports") {
        let Some(number) = port.get("hostPort").and_then(Value::as_i64).filter(|n| *n != 0) else {
            continue;
        };
        let (protocol, address) = (text(port, "protocol"), text(port, "hostIP"));
        if !seen.insert((protocol.to_owned(), address.to_owned(), number)) {
            let shown = format!("{protocol}/{address}/{number}");
            errors.duplicate(&at.child("ports").index(index).child("hostPort"), &shown);
        }
    }
}

fn environment(at: &Path, one: &Value, errors: &mut Errors) {
    for (index, variable) in each(one, "env") {
        let at = at.child("env").index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for wrong in names::env_name(name) {
                errors.invalid_text(&at.child("name"), name, &wrong);
            }
        }
        if let Some(source) = variable.get("valueFrom") {
            value_from(
                &at.child("valueFrom"),
                source,
                !text(variable, "value").is_empty(),
                errors,
            );
        }
    }
    for (index, source) in each(one, "envFrom") {
        let at = at.child("envFrom").index(index);
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|s| source.get(*s).is_some())
            .collect();
        match given.as_slice() {
            [] => errors.invalid_text(&at, "", "must specify one of: `configMapRef` or `secretRef`"),
            [one] => {
                if text(&source[*one], "name").is_empty() {
                    errors.required(&at.child(one).child("name"), "");
                }
            }
            _ => errors.invalid_text(&at, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(at: &Path, source: &Value, has_value: bool, errors: &mut Errors) {
    let known = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ];
    let given: Vec<&str> = known.into_iter().filter(|k| source.get(*k).is_some()).collect();
    match given.as_slice() {
        [] => errors.invalid_text(
            at,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ),
        [_] if has_value => errors.invalid_text(at, "", "may not be specified when `value` is not empty"),
        [one] => reference(&at.child(one), one, &source[*one], errors),
        _ => errors.invalid_text(at, "", "may not have more than one field specified at a time"),
    }
}

fn reference(at: &Path, which: &str, source: &Value, errors: &mut Errors) {
    match which {
        "configMapKeyRef" | "secretKeyRef" => {
            if text(source, "name").is_empty() {
                errors.required(&at.child("name"), "");
            }
            let key = text(source, "key");
            if key.is_empty() {
                errors.required(&at.child("key"), "");
            } else {
                for wrong in names::config_key(key) {
                    errors.invalid_text(&at.child("key"), key, &wrong);
                }
            }
        }
        "fieldRef" => field_ref(at, source, FIELDS_IN_ENV, errors),
        "resourceFieldRef" => {
            let resource = text(source, "resource");
            let allowed = [
                "limits.cpu",
                "limits.ephemeral-storage",
                "limits.memory",
                "requests.cpu",
                "requests.ephemeral-storage",
                "requests.memory",
            ];
            if resource.is_empty() {
                errors.required(&at.child("resource"), "");
            } else if !allowed.contains(&resource) {
                errors.unsupported(&at.child("resource"), resource, &allowed);
            }
        }
        _ => {}
    }
}

/// Pod fields that an environment variable can show.
const FIELDS_IN_ENV: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Checks a reference to a field of the pod; `metadata.labels['x']` and annotations work anywhere.
pub(super) fn field_ref(at: &Path, source: &Value, allowed: &[&str], errors: &mut Errors) {
    let path = text(source, "fieldPath");
    if path.is_empty() {
        errors.required(&at.child("fieldPath"), "");
        return;
    }
    let keyed = ["metadata.labels['", "metadata.annotations['"]
        .iter()
        .any(|prefix| {
            path.strip_prefix(prefix)
                .is_some_and(|rest| rest.ends_with("']") && rest.len() > 2)
        });
    if !keyed && !allowed.contains(&path) {
        errors.unsupported(&at.child("fieldPath"), path, allowed);
    }
}

fn mounts(at: &Path, one: &Value, volumes: &HashSet<&str>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, mount) in each(one, "volumeMounts") {
        let at = at.child("volumeMounts").index(index);
        let name = text(mount, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !volumes.contains(name) {
            errors.not_found(&at.child("name"), name);
        }
        let path = text(mount, "mountPath");
        if path.is_empty() {
            errors.required(&at.child("mountPath"), "");
        } else if !seen.insert(path) {
            errors.invalid_text(&at.child("mountPath"), path, "must be unique");
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            errors.invalid_text(&at.child("subPath"), sub, "must be a relative path");
        } else if sub.split('/').any(|part| part == "..") {
            errors.invalid_text(&at.child("subPath"), sub, "must not contain '..'");
        }
        recursive(&at, mount, errors);
        if let Some(propagation) = mount.get("mountPropagation") {
            let allowed = ["Bidirectional", "HostToContainer", "None"];
            errors.one_of(&at.child("mountPropagation"), Some(propagation), &allowed);
            let privileged = one.pointer("/securityContext/privileged") == Some(&Value::Bool(true));
            if propagation == "Bidirectional" && !privileged {
                errors.forbidden(
                    &at.child("mountPropagation"),
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
    }
}

/// `recursiveReadOnly`: also what is mounted inside the volume.
fn recursive(at: &Path, mount: &Value, errors: &mut Errors) {
    let recursive = text(mount, "recursiveReadOnly");
    if recursive.is_empty() {
        return;
    }
    let at = at.child("recursiveReadOnly");
    let known = ["Disabled", "Enabled", "IfPossible"];
    errors.one_of(&at, mount.get("recursiveReadOnly"), &known);
    if recursive == "Disabled" {
        return;
    }
    if mount.get("readOnly") != Some(&Value::Bool(true)) {
        errors.forbidden(&at, "may only be specified when readOnly is true");
    }
    if !matches!(text(mount, "mountPropagation"), "" | "None") {
        let why = "may only be specified when mountPropagation is None or not specified";
        errors.forbidden(&at, why);
    }
}

/// `resizePolicy`: one for each of cpu and memory at most.
fn resize_policy(at: &Path, container: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, policy) in each(container, "resizePolicy") {
        let at = at.index(index);
        let resource = text(policy, "resourceName");
        errors.one_of(
            &at.child("resourceName"),
            policy.get("resourceName"),
            &["cpu", "memory"],
        );
        errors.one_of(
            &at.child("restartPolicy"),
            policy.get("restartPolicy"),
            &["NotRequired", "RestartContainer"],
        );
        if !seen.insert(resource) {
            errors.duplicate(&at.child("resourceName"), resource);
        }
    }
}

pub(super) fn resources(at: &Path, resources: &Value, errors: &mut Errors) {
    for which in ["limits", "requests"] {
        for (name, value) in resources
            .get(which)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let at = at.child(which).key(name);
            let known = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("hugepages-");
            if !known && !name.contains('/') {
                errors.invalid_text(&at, name, "must be a standard resource for containers");
            }
            let Some(quantity) = quantity(Some(value)) else {
                continue;
            };
            if quantity.is_negative() {
                errors.invalid(&at, value, "must be greater than or equal to 0");
            }
            if name == "cpu" && quantity.milli() == 0 && quantity > Quantity::ZERO {
                errors.invalid(&at, value, "must be at least 1m");
            }
        }
    }
    hugepages(at, resources, errors);
    for (name, request) in resources
        .get("requests")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let limit = resources.get("limits").and_then(|l| l.get(name));
        if let (Some(request_amount), Some(limit_amount)) = (quantity(Some(request)), quantity(limit))
            && request_amount > limit_amount
        {
            let limit = limit.and_then(Value::as_str).unwrap_or_default();
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(&at.child("requests"), request, &detail);
        }
    }
}

/// Huge pages cannot be had beyond what was asked for, nor without a processor or memory.
fn hugepages(at: &Path, resources: &Value, errors: &mut Errors) {
    let none = serde_json::Map::new();
    let list = |which: &str| resources.get(which).and_then(Value::as_object).unwrap_or(&none);
    let (limits, requests) = (list("limits"), list("requests"));
    let mut any = false;
    for name in limits
        .keys()
        .chain(requests.keys())
        .filter(|n| n.starts_with("hugepages-"))
    {
        any = true;
        let size: Option<Quantity> = name.strip_prefix("hugepages-").and_then(|s| s.parse().ok());
        match (limits.get(name), requests.get(name)) {
            (None, Some(_)) => errors.required(
                &at.child("limits").key(name),
                "Limit must be set for non overcommitable resources",
            ),
            (Some(limit), Some(request)) if quantity(Some(limit)) != quantity(Some(request)) => {
                errors.invalid(
                    &at.child("requests").key(name),
                    request,
                    &format!("must be equal to {name} limit"),
                );
            }
            _ => {}
        }
        let (Some(size), Some(amount)) = (size, quantity(limits.get(name))) else {
            continue;
        };
        if size.ceil() <= 0 || amount.ceil() % size.ceil() != 0 {
            let limit = limits.get(name).unwrap_or(&Value::Null);
            errors.invalid(
                &at.child("limits").key(name),
                limit,
                &format!("must be a multiple of the page size of {name}"),
            );
        }
    }
    let has = |name: &str| limits.contains_key(name) || requests.contains_key(name);
    if any && !has("cpu") && !has("memory") {
        errors.forbidden(at, "HugePages require cpu or memory");
    }
}

fn quantity(value: Option<&Value>) -> Option<Quantity> {
    value?.as_str()?.parse().ok()
}

fn security(at: &Path, context: Option<&Value>, errors: &mut Errors) {
    let Some(context) = context else { return };
    pod::identity(&at.child("runAsUser"), context.get("runAsUser"), errors);
    pod::identity(&at.child("runAsGroup"), context.get("runAsGroup"), errors);
    seccomp(&at.child("seccompProfile"), context.get("seccompProfile"), errors);
    let privileged = context.get("privileged") == Some(&Value::Bool(true));
    if privileged && context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        errors.invalid(
            at,
            context,
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        );
    }
    let admin = context
        .pointer("/capabilities/add")
        .and_then(Value::as_array)
        .is_some_and(|add| add.iter().any(|c| c == "CAP_SYS_ADMIN"));
    if admin && context.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
        errors.invalid(
            at,
            context,
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        );
    }
}

/// Checks a seccomp profile.
pub(super) fn seccomp(at: &Path, profile: Option<&Value>, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let kind = text(profile, "type");
    let local = text(profile, "localhostProfile");
    match kind {
        "" => errors.required(&at.child("type"), "type is required when seccompProfile is set"),
        "Localhost" if local.is_empty() => {
            errors.required(
                &at.child("localhostProfile"),
                "must be set when seccomp type is Localhost",
            );
        }
        "Localhost" => {
            if local.starts_with('/') || local.split('/').any(|part| part == "..") {
                errors.invalid_text(
                    &at.child("localhostProfile"),
                    local,
                    "must be a relative path without '..'",
                );
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if !local.is_empty() {
                errors.invalid_text(
                    &at.child("localhostProfile"),
                    local,
                    "can only be set when seccomp type is Localhost",
                );
            }
        }
        other => errors.unsupported(
            &at.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}
