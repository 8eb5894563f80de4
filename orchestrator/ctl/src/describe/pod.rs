//! Pods, and the templates they are made from.

use serde_json::Value;
use std::fmt::Write as _;

use super::fields::Fields;
use super::{age, conditions, meta};
use crate::output;
use crate::tree::{list, members, number, plain, text};

/// A pod's fields.
pub(super) fn describe(fields: &mut Fields, pod: &Value) {
    fields.put("Priority", &number(pod, "/spec/priority").to_string());
    fields.put("Node", text(pod, "/spec/nodeName"));
    fields.put("Start Time", text(pod, "/status/startTime"));
    meta(fields, pod);
    let deletion = text(pod, "/metadata/deletionTimestamp");
    if deletion.is_empty() {
        fields.put("Status", text(pod, "/status/phase"));
    } else {
        fields.put("Status", &format!("Terminating (until {deletion})"));
        fields.put(
            "Termination Grace Period",
            &format!("{}s", number(pod, "/metadata/deletionGracePeriodSeconds")),
        );
    }
    for (title, pointer) in [("Reason", "/status/reason"), ("Message", "/status/message")] {
        if !text(pod, pointer).is_empty() {
            fields.put(title, text(pod, pointer));
        }
    }
    fields.put("IP", text(pod, "/status/podIP"));
    if let Some(owner) = list(pod, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true)
    {
        fields.put(
            "Controlled By",
            &format!("{}/{}", text(owner, "/kind"), text(owner, "/name")),
        );
    }
    for (title, spec, status) in [
        (
            "Init Containers",
            "/spec/initContainers",
            "/status/initContainerStatuses",
        ),
        ("Containers", "/spec/containers", "/status/containerStatuses"),
    ] {
        let specs = list(pod, spec);
        if !specs.is_empty() {
            fields.text(&containers(title, specs, list(pod, status), ""));
        }
    }
    conditions(fields, pod);
    fields.text(&volumes(list(pod, "/spec/volumes"), ""));
    fields.put("QoS Class", text(pod, "/status/qosClass"));
    fields.map("Node-Selectors", members(pod, "/spec/nodeSelector"));
}

/// A pod template, as part of a deployment or a revision.
pub(crate) fn template(template: &Value) -> String {
    let mut out = "Pod Template:\n".to_owned();
    let labels: Vec<String> = members(template, "/metadata/labels")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    let mut rows = Vec::new();
    for (index, label) in labels.iter().enumerate() {
        rows.push(vec![
            if index == 0 {
                "  Labels:".to_owned()
            } else {
                String::new()
            },
            label.clone(),
        ]);
    }
    for (index, (key, value)) in members(template, "/metadata/annotations").enumerate() {
        let title = if index == 0 {
            "  Annotations:".to_owned()
        } else {
            String::new()
        };
        rows.push(vec![title, format!("{key}: {}", plain(value))]);
    }
    out.push_str(&output::table(&rows));
    let init = list(template, "/spec/initContainers");
    if !init.is_empty() {
        out.push_str(&containers("Init Containers", init, &[], "  "));
    }
    out.push_str(&containers(
        "Containers",
        list(template, "/spec/containers"),
        &[],
        "  ",
    ));
    out.push_str(&volumes(list(template, "/spec/volumes"), "  "));
    out
}

fn containers(title: &str, specs: &[Value], statuses: &[Value], indent: &str) -> String {
    let mut out = format!("{indent}{title}:\n");
    for spec in specs {
        let container = text(spec, "/name");
        let _ = writeln!(out, "{indent}  {container}:");
        let status = statuses.iter().find(|status| text(status, "/name") == container);
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut put = |name: &str, value: String| rows.push(vec![format!("{indent}    {name}:"), value]);
        if let Some(status) = status {
            put("Container ID", text(status, "/containerID").to_owned());
        }
        put("Image", text(spec, "/image").to_owned());
        if let Some(status) = status {
            put("Image ID", text(status, "/imageID").to_owned());
        }
        let ports: Vec<String> = list(spec, "/ports")
            .iter()
            .map(|port| {
                let protocol = text(port, "/protocol");
                let protocol = if protocol.is_empty() { "TCP" } else { protocol };
                format!("{}/{protocol}", number(port, "/containerPort"))
            })
            .collect();
        put(
            "Port",
            if ports.is_empty() {
                "<none>".to_owned()
            } else {
                ports.join(", ")
            },
        );
        for (title, pointer) in [("Command", "/command"), ("Args", "/args")] {
            let words: Vec<String> = list(spec, pointer).iter().map(plain).collect();
            if !words.is_empty() {
                put(title, words.join(" "));
            }
        }
        if let Some(status) = status {
            state(&mut put, "State", &status["state"]);
            if members(status, "/lastState").next().is_some() {
                state(&mut put, "Last State", &status["lastState"]);
            }
            put(
                "Ready",
                if status["ready"] == true { "True" } else { "False" }.to_owned(),
            );
            put("Restart Count", number(status, "/restartCount").to_string());
        }
        for (title, pointer) in [
            ("Limits", "/resources/limits"),
            ("Requests", "/resources/requests"),
        ] {
            let amounts: Vec<String> = members(spec, pointer)
                .map(|(key, value)| format!("{key}: {}", plain(value)))
                .collect();
            if !amounts.is_empty() {
                put(title, amounts.join(", "));
            }
        }
        for (title, pointer) in [
            ("Liveness", "/livenessProbe"),
            ("Readiness", "/readinessProbe"),
            ("Startup", "/startupProbe"),
        ] {
            if let Some(probe) = spec.pointer(pointer) {
                put(title, probe_text(probe));
            }
        }
        out.push_str(&output::table(&rows));
        out.push_str(&lists(spec, indent));
    }
    out
}

/// Environment and mounts, a line each.
fn lists(spec: &Value, indent: &str) -> String {
    let mut out = format!("{indent}    Environment:");
    let variables: Vec<Vec<String>> = list(spec, "/env")
        .iter()
        .map(|variable| {
            vec![
                format!("{indent}      {}:", text(variable, "/name")),
                variable_text(variable),
            ]
        })
        .collect();
    let sources: Vec<Vec<String>> = list(spec, "/envFrom")
        .iter()
        .flat_map(|source| {
            let prefix = text(source, "/prefix");
            [("configMapRef", "ConfigMap"), ("secretRef", "Secret")]
                .into_iter()
                .filter_map(move |(field, title)| {
                    let of = source.get(field)?;
                    Some(vec![
                        format!("{indent}      all of {}:", text(of, "/name")),
                        format!(
                            "{title}{}",
                            if prefix.is_empty() {
                                String::new()
                            } else {
                                format!(" with prefix {prefix}")
                            }
                        ),
                    ])
                })
        })
        .collect();
    if variables.is_empty() && sources.is_empty() {
        out.push_str("  <none>\n");
    } else {
        out.push('\n');
        out.push_str(&output::table(&[sources, variables].concat()));
    }
    let mounts = list(spec, "/volumeMounts");
    let _ = write!(out, "{indent}    Mounts:");
    if mounts.is_empty() {
        out.push_str("  <none>\n");
    } else {
        out.push('\n');
        for mount in mounts {
            let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
            let _ = writeln!(
                out,
                "{indent}      {} from {} ({mode})",
                text(mount, "/mountPath"),
                text(mount, "/name")
            );
        }
    }
    out
}

fn variable_text(variable: &Value) -> String {
    let from = |kind: &str, title: &str| {
        let of = variable.pointer(&format!("/valueFrom/{kind}"))?;
        let optional = of["optional"] == true;
        Some(format!(
            "<set to the key '{}' in {title} '{}'>  Optional: {optional}",
            text(of, "/key"),
            text(of, "/name")
        ))
    };
    from("secretKeyRef", "secret")
        .or_else(|| from("configMapKeyRef", "of config map"))
        .or_else(|| {
            let of = variable.pointer("/valueFrom/fieldRef")?;
            Some(format!(
                "  ({}:{})",
                text(of, "/apiVersion"),
                text(of, "/fieldPath")
            ))
        })
        .or_else(|| {
            let of = variable.pointer("/valueFrom/resourceFieldRef")?;
            Some(format!(
                "{} ({})",
                text(of, "/resource"),
                text(of, "/containerName")
            ))
        })
        .unwrap_or_else(|| text(variable, "/value").to_owned())
}

fn state(put: &mut impl FnMut(&str, String), title: &str, state: &Value) {
    let Some((kind, detail)) = members(state, "").next() else {
        put(title, "Waiting".to_owned());
        return;
    };
    let mut letters = kind.chars();
    let word: String = letters
        .next()
        .map(|first| first.to_ascii_uppercase())
        .into_iter()
        .chain(letters)
        .collect();
    put(title, word);
    for (name, pointer) in [
        ("  Reason", "/reason"),
        ("  Message", "/message"),
        ("  Started", "/startedAt"),
        ("  Finished", "/finishedAt"),
    ] {
        if !text(detail, pointer).is_empty() {
            put(name, text(detail, pointer).to_owned());
        }
    }
    if kind == "terminated" {
        put("  Exit Code", number(detail, "/exitCode").to_string());
        if number(detail, "/signal") > 0 {
            put("  Signal", number(detail, "/signal").to_string());
        }
    } else if kind == "running" {
        put("  For", age(text(detail, "/startedAt")));
    }
}

fn probe_text(probe: &Value) -> String {
    let what = if let Some(get) = probe.get("httpGet") {
        let scheme = text(get, "/scheme").to_lowercase();
        format!(
            "http-get {}://:{}{}",
            if scheme.is_empty() { "http" } else { &scheme },
            plain(&get["port"]),
            text(get, "/path")
        )
    } else if let Some(socket) = probe.get("tcpSocket") {
        format!("tcp-socket :{}", plain(&socket["port"]))
    } else if let Some(exec) = probe.get("exec") {
        format!(
            "exec [{}]",
            list(exec, "/command")
                .iter()
                .map(plain)
                .collect::<Vec<_>>()
                .join(" ")
        )
    } else {
        "unknown".to_owned()
    };
    let seconds = |field: &str| number(probe, &format!("/{field}"));
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        seconds("initialDelaySeconds"),
        seconds("timeoutSeconds"),
        seconds("periodSeconds"),
        seconds("successThreshold"),
        seconds("failureThreshold")
    )
}

fn volumes(volumes: &[Value], indent: &str) -> String {
    if volumes.is_empty() {
        return format!("{indent}Volumes:  <none>\n");
    }
    let mut out = format!("{indent}Volumes:\n");
    for volume in volumes {
        let _ = writeln!(out, "{indent}  {}:", text(volume, "/name"));
        for (kind, detail) in members(volume, "").filter(|(key, _)| *key != "name") {
            let mut rows = vec![vec![format!("{indent}    Type:"), kind.clone()]];
            for (key, value) in members(detail, "") {
                if !value.is_array() && !value.is_object() {
                    rows.push(vec![format!("{indent}    {key}:"), plain(value)]);
                }
            }
            out.push_str(&output::table(&rows));
        }
    }
    out
}
