//! The dependency directions between Berth's own packages, read from `cargo metadata`.

use harness::{repository_root, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Every edge that may be, a line a package; a package that is missing here may have none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("berth-sys", &[]),
    ("berth-api", &[]),
    ("berth-client", &[]),
    ("berth-spec", &[]),
    ("berth-cgroups", &["berth-sys", "berth-spec"]),
    ("berth-image", &["berth-sys"]),
    ("berth", &["berth-sys", "berth-spec", "berth-cgroups"]),
    ("berth-shim", &["berth-sys", "berth-cgroups", "berth-client"]),
    ("cni-plugins", &["berth-sys"]),
    ("berth-monitor", &["berth-sys", "berth-cgroups", "berth-client"]),
    (
        "berthd",
        &[
            "berth-api",
            "berth-image",
            "berth-sys",
            "berth-cgroups",
            "berth-client",
            "cni-plugins",
        ],
    ),
    // Of the plugins only `exec`: `berthctl net` drives any network, also without a node.
    ("berthctl", &["berth-api", "berth-client", "cni-plugins"]),
    ("user-service", &[]),
    ("berth-demo", &[]),
];

/// Tests may use any of them.
const TESTS: &str = "berth-tests";

fn metadata() -> Value {
    let text = run(Command::new(env!("CARGO")).current_dir(repository_root()).args([
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]))
    .ok();
    serde_json::from_str(&text).expect("cargo metadata prints JSON")
}

#[test]
fn packages_depend_only_on_what_the_architecture_allows() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages
        .iter()
        .filter_map(|p| p["name"].as_str())
        .filter(|name| *name != TESTS)
        .collect();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    assert_eq!(
        names,
        allowed.keys().copied().collect(),
        "the table and the workspace name the same packages"
    );
    for package in packages.iter().filter(|p| p["name"] != TESTS) {
        let name = package["name"].as_str().expect("name");
        let edges = package["dependencies"].as_array().expect("dependencies");
        for to in edges
            .iter()
            .filter(|d| d["kind"] != "dev")
            .filter_map(|d| d["name"].as_str())
        {
            assert!(
                !names.contains(to) || allowed[name].contains(&to),
                "{name} must not depend on {to}: see the table in tests/repository/edges.rs"
            );
        }
    }
}

#[test]
fn unsafe_code_stays_in_the_system_call_layer() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let manifest =
            std::fs::read_to_string(package["manifest_path"].as_str().expect("path")).expect("manifest");
        let own_rules = manifest.contains("[lints.rust]");
        let name = package["name"].as_str().expect("name");
        match name {
            "berth-sys" => {}
            "berth-tests" => assert!(manifest.contains("unsafe_code = \"forbid\""), "{name}"),
            _ => assert!(
                manifest.contains("[lints]\nworkspace = true") && !own_rules,
                "{name} takes the workspace's lints"
            ),
        }
    }
}
