//! Side by side with the reference plugins: the same result shapes, and files that both understand.

use harness::{need_root, skip};
use serde_json::{Value, json};

use crate::lab::{Container, Lab, Protocol as _, parse, sh, with};

const REFERENCE: &str = "/usr/lib/cni";

/// The reference's newest version here may be older than 1.1.0.
fn versions() -> Vec<String> {
    let outcome =
        harness::run(std::process::Command::new(format!("{REFERENCE}/bridge")).env("CNI_COMMAND", "VERSION"));
    let known = parse(&outcome.ok());
    ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]
        .into_iter()
        .filter(|v| {
            known["supportedVersions"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(v)))
        })
        .map(str::to_owned)
        .collect()
}

/// What may differ is replaced by its kind.
fn shape(value: &Value) -> Value {
    let mut value = value.clone();
    for interface in value["interfaces"].as_array_mut().into_iter().flatten() {
        let fields = interface.as_object_mut().unwrap();
        fields.remove("mtu");
        if fields.contains_key("mac") {
            fields.insert("mac".into(), json!("MAC"));
        }
        if fields["name"].as_str().is_some_and(|n| n.starts_with("veth")) {
            fields.insert("name".into(), json!("veth"));
        }
    }
    value
}

/// Runs the same in a fresh network for each set of plugins.
fn both(work: impl Fn(&Lab, &Container) -> Value + Send + Sync + Copy + 'static) -> (Value, Value) {
    let run = |reference: bool| {
        std::thread::spawn(move || {
            let lab = Lab::new();
            let lab = if reference {
                lab.with_plugins(REFERENCE)
            } else {
                lab
            };
            let c = lab.container();
            work(&lab, &c)
        })
        .join()
        .expect("run")
    };
    (run(false), run(true))
}

#[test]
fn results_have_the_references_shape_in_every_version() {
    need_root!();
    if !std::path::Path::new(REFERENCE).join("bridge").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    for version in versions() {
        // The reference's loopback forgets ips[].version, which 0.3.1 and 0.4.0 require.
        let old = version.starts_with("0.");
        for kind in if old {
            &["bridge", "ptp"][..]
        } else {
            &["bridge", "ptp", "loopback"]
        } {
            let version = version.clone();
            let version: &'static str = version.leak();
            let (ours, theirs) = both(move |lab, c| {
                let mut config = lab.bridge(
                    "net",
                    &["10.88.0.0/24", "fd88::/64"],
                    json!({"ipMasq": false, "type": kind, "isDefaultGateway": null, "isGateway": true}),
                );
                config["cniVersion"] = json!(version);
                config["ipam"]["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
                let result = lab.add(c, &config);
                lab.call("DEL", Some(c), &config).success();
                result
            });
            assert_eq!(shape(&ours), shape(&theirs), "{kind} {version}");
        }
    }
}

#[test]
fn the_lease_directory_is_shared_with_the_reference() {
    need_root!();
    if !std::path::Path::new(REFERENCE).join("host-local").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    let lab = Lab::new();
    let config = with(
        &lab.bridge("net", &["10.88.0.0/24"], json!({"type": "host-local"})),
        json!({"cniVersion": "1.0.0"}),
    );
    let reference = |verb: &str, id: &str| {
        let mut command = std::process::Command::new(format!("{REFERENCE}/host-local"));
        command.envs([
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", "/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", REFERENCE),
        ]);
        harness::run_with_input(&mut command, config.to_string().as_bytes()).success()
    };
    reference("ADD", "old");
    let ours = parse(&lab.call_in("ADD", "new", "/x", "eth0", &config).success());
    assert_eq!(
        ours["ips"][0]["address"], "10.88.0.3/24",
        "goes on after the reference's last address"
    );
    reference("ADD", "third");
    assert_eq!(lab.leased("net"), ["10.88.0.2", "10.88.0.3", "10.88.0.4"]);
    lab.call_in("DEL", "old", "/x", "eth0", &config).success();
    reference("DEL", "new");
    assert_eq!(lab.leased("net"), ["10.88.0.4"]);
}

#[test]
fn a_bridge_of_the_reference_is_taken_over_with_its_containers() {
    need_root!();
    if !std::path::Path::new(REFERENCE).join("bridge").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    let lab = Lab::new();
    let config = with(
        &lab.bridge("net", &["10.88.0.0/24"], json!({"ipMasq": false})),
        json!({"cniVersion": "1.0.0"}),
    );
    let (old, new) = (lab.container(), lab.container());
    let mut command = std::process::Command::new(format!("{REFERENCE}/bridge"));
    command
        .envs([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", &old.id),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", REFERENCE),
        ])
        .env("CNI_NETNS", &old.netns);
    let result = parse(&harness::run_with_input(&mut command, config.to_string().as_bytes()).success());
    lab.check(&old, &config, &result).success();
    let fresh = lab.add(&new, &config);
    lab.check(&new, &config, &fresh).success();
    lab.check(&old, &config, &result).success();
    lab.del(&old, &config);
    assert!(!sh(&format!("ip -n {} link", old.id)).contains("eth0"));
    assert_eq!(lab.leased("net").len(), 1);
}
