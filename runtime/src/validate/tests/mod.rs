//! Each check with the configurations it is for. A case changes one field of the default configuration.

mod confinement;
mod mounts;
mod namespaces;
mod process;

use serde_json::{Value, json};

use super::*;
use crate::host::tests::facts;
use crate::spec::default_document;

fn base() -> Value {
    serde_json::from_str(&default_document(true)).unwrap()
}

/// Puts `value` at a JSON pointer, making objects on the way. A null removes.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = document;
    for part in parent.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    match (value, key.parse::<usize>()) {
        (Value::Null, Err(_)) => drop(at.as_object_mut().unwrap().remove(key)),
        (value, Ok(index)) => at[index] = value,
        (value, Err(_)) => at[key] = value,
    }
}

fn check(changes: &[(&str, Value)], host: &HostFacts) -> Result<(), Invalid> {
    let mut document = base();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    let spec: Spec = berth_spec::read(document.to_string().as_bytes()).unwrap().value;
    validate(&spec, host)
}

#[track_caller]
fn refused(changes: &[(&str, Value)], field: &str, problem: &str) {
    refused_on(&facts(), changes, field, problem);
}

#[track_caller]
fn refused_on(host: &HostFacts, changes: &[(&str, Value)], field: &str, problem: &str) {
    let error = check(changes, host).expect_err("must be refused");
    assert_eq!(error.field, field, "{error}");
    assert!(error.problem.contains(problem), "{error}");
}

#[track_caller]
fn accepted(changes: &[(&str, Value)]) {
    check(changes, &facts()).unwrap();
}

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({"type": kind})).collect()
}

#[test]
fn the_default_configuration_is_valid() {
    accepted(&[]);
}

#[test]
fn document() {
    refused(&[("/ociVersion", json!("2.0.0"))], "ociVersion", "not supported");
    refused(&[("/ociVersion", json!("1.0"))], "ociVersion", "not a version");
    accepted(&[("/ociVersion", json!("1.0.2-dev"))]);
    refused(
        &[("/annotations", json!({"": "x"}))],
        "annotations",
        "key is empty",
    );
}

#[test]
fn hook_fields() {
    let hook = |value| [("/hooks", json!({"poststop": [value]}))];
    accepted(&hook(json!({"path": "/bin/true", "timeout": 1, "env": ["A=1"]})));
    refused(
        &hook(json!({"path": "true"})),
        "hooks.poststop[0].path",
        "absolute",
    );
    refused(
        &hook(json!({"path": "/bin/true", "timeout": 0})),
        "hooks.poststop[0].timeout",
        "above 0",
    );
    refused(
        &hook(json!({"path": "/bin/true", "env": ["A"]})),
        "hooks.poststop[0].env[0]",
        "missing '='",
    );
}

#[test]
fn known_options_are_sorted_and_capabilities_are_complete() {
    assert!(KNOWN_MOUNT_OPTIONS.is_sorted());
    for name in capability_names() {
        berth_spec::Capability::from_name(&name).unwrap();
    }
}
