//! Validation of probes and of lifecycle handlers.

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::names;

pub(super) fn validate(at: &Path, probe: &Value, container: &Value, which: &str, errors: &mut Errors) {
    handler(
        at,
        probe,
        container,
        &["exec", "httpGet", "tcpSocket", "grpc"],
        errors,
    );
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        errors.not_negative(&at.child(field), probe.get(field));
    }
    let must_be_one = which != "readinessProbe";
    if must_be_one
        && let Some(threshold) = probe.get("successThreshold")
        && *threshold != json!(1)
    {
        errors.invalid(&at.child("successThreshold"), threshold, "must be 1");
    }
    if let Some(grace) = probe.get("terminationGracePeriodSeconds") {
        if which == "readinessProbe" {
            errors.invalid(
                &at.child("terminationGracePeriodSeconds"),
                grace,
                "must not be set for readinessProbes",
            );
        } else if grace.as_i64().is_none_or(|n| n <= 0) {
            errors.invalid(
                &at.child("terminationGracePeriodSeconds"),
                grace,
                "must be greater than 0",
            );
        }
    }
}

/// Exactly one handler, and a good one.
pub(super) fn handler(at: &Path, value: &Value, container: &Value, known: &[&str], errors: &mut Errors) {
    let given: Vec<&str> = known
        .iter()
        .copied()
        .filter(|k| value.get(*k).is_some())
        .collect();
    let [one] = given.as_slice() else {
        if let Some(second) = given.get(1) {
            errors.forbidden(&at.child(second), "may not specify more than 1 handler type");
        } else {
            errors.required(at, "must specify a handler type");
        }
        return;
    };
    let at = at.child(one);
    let handler = &value[*one];
    match *one {
        "exec" if each(handler, "command").next().is_none() => errors.required(&at.child("command"), ""),
        "httpGet" => {
            if text(handler, "path").is_empty() {
                errors.required(&at.child("path"), "");
            }
            port(&at.child("port"), handler.get("port"), container, errors);
            errors.one_of(&at.child("scheme"), handler.get("scheme"), &["HTTP", "HTTPS"]);
            for (index, header) in each(handler, "httpHeaders") {
                let name = text(header, "name");
                let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
                if !good {
                    errors.invalid_text(&at.child("httpHeaders").index(index).child("name"), name, "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')");
                }
            }
        }
        "tcpSocket" => port(&at.child("port"), handler.get("port"), container, errors),
        "grpc" => {
            errors.port(&at.child("port"), handler.get("port"), true);
            if let Some(mode) = handler.get("mode") {
                errors.one_of(&at.child("mode"), Some(mode), &["Plaintext", "TLS"]);
            }
        }
        "sleep" => errors.not_negative(&at.child("seconds"), handler.get("seconds")),
        _ => {}
    }
}

/// A port by number, or by the name of one of the container's ports.
fn port(at: &Path, value: Option<&Value>, container: &Value, errors: &mut Errors) {
    match value {
        Some(Value::String(name)) => {
            for wrong in names::port_name(name) {
                errors.invalid_text(at, name, &wrong);
            }
            if !each(container, "ports").any(|(_, p)| text(p, "name") == name) {
                errors.invalid_text(
                    at,
                    name,
                    "names no port of this container: add it to ports, or use the number",
                );
            }
        }
        value => errors.port(at, value, true),
    }
}
