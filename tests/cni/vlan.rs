//! VLANs of bridge ports, and the check of source hardware addresses.

use harness::{need_root, run, skip};
use serde_json::{Value, json};
use std::process::Command;

use crate::lab::{Container, Lab, Protocol as _, at, ip_of, sh, tcp_ask, tcp_server, traces, with};

/// Whether bridges of this kernel look at VLAN tags.
fn filters() -> bool {
    sh(
        "ip link add name probe type bridge && ip link add name p0 type veth peer name p1 && ip link set p0 master probe",
    );
    let able = run(Command::new("bridge").args(["vlan", "add", "dev", "p0", "vid", "5"]))
        .status
        .success();
    sh("ip link del p0; ip link del probe");
    able
}

fn config(lab: &Lab, name: &str, subnet: &str, extra: Value) -> Value {
    with(
        &lab.bridge(name, &[subnet], json!({"bridge": "br-shared"})),
        extra,
    )
}

fn reaches(from: &Container, to: &Value) -> bool {
    tcp_ask(Some(&from.netns), at(ip_of(to, true), 80)).is_ok()
}

#[test]
fn vlans_keep_networks_of_one_bridge_apart() {
    need_root!();
    let lab = Lab::new();
    if !filters() {
        skip!("this kernel's bridges have no VLAN filtering");
    }
    let red = config(&lab, "red", "10.10.0.0/24", json!({"vlan": 10}));
    let blue = config(&lab, "blue", "10.20.0.0/24", json!({"vlan": 20}));
    let (a, b, c) = (lab.container(), lab.container(), lab.container());
    let (ra, rb, rc) = (lab.add(&a, &red), lab.add(&b, &red), lab.add(&c, &blue));
    assert_eq!(ra["interfaces"][3]["name"], "br-shared.10");
    assert_eq!(
        ra["interfaces"][3], rb["interfaces"][3],
        "one interface of the host a VLAN"
    );
    for (container, result) in [(&a, &ra), (&b, &rb), (&c, &rc)] {
        tcp_server(&container.netns, at(ip_of(result, true), 80));
    }
    assert!(reaches(&a, &rb), "within the VLAN");
    assert!(
        tcp_ask(None, at(ip_of(&ra, true), 80)).is_ok(),
        "from the host, by its interface in the VLAN"
    );
    // The same subnet in another VLAN: nothing comes over on the bridge.
    sh(&format!("ip -n {} addr add 10.10.0.99/24 dev eth0", c.id));
    assert!(!reaches(&c, &ra), "not from another VLAN");
    let port = |result: &Value| {
        sh(&format!(
            "bridge vlan show dev {}",
            result["interfaces"][1]["name"].as_str().unwrap()
        ))
    };
    let shown = port(&ra);
    assert!(
        shown.contains("10 PVID Egress Untagged") && !shown.contains(" 1 "),
        "{shown}"
    );
    lab.check(&a, &red, &ra).success();
    let veth = ra["interfaces"][1]["name"].as_str().unwrap();
    for (damage, undo) in [
        (
            format!("bridge vlan del dev {veth} vid 10"),
            format!("bridge vlan add dev {veth} vid 10 pvid untagged"),
        ),
        (
            format!("bridge vlan add dev {veth} vid 20"),
            format!("bridge vlan del dev {veth} vid 20"),
        ),
        (
            "ip addr del 10.10.0.1/24 dev br-shared.10".to_owned(),
            "ip addr add 10.10.0.1/24 dev br-shared.10".to_owned(),
        ),
    ] {
        sh(&damage);
        let (code, msg) = lab.check(&a, &red, &ra).failure();
        assert_eq!(code, 101, "{damage}: {msg}");
        let repair = with(&red, json!({"prevResult": ra, "berth.dev/repair": true}));
        if damage.contains("vlan add") {
            sh(&undo);
        } else {
            lab.call("CHECK", Some(&a), &repair).success();
        }
        lab.check(&a, &red, &ra).success();
    }
    for (container, network) in [(&a, &red), (&b, &red), (&c, &blue)] {
        lab.del(container, network);
        lab.del(container, network);
    }
    assert!(!sh("ip -o link").contains(veth));
    // A trunk: the container sends tags.
    let trunk = config(
        &lab,
        "trunk",
        "10.30.0.0/24",
        json!({"vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 204}], "preserveDefaultVlan": true}),
    );
    let t = lab.container();
    let rt = lab.add(&t, &trunk);
    let shown = port(&rt);
    for vid in ["1 PVID", "101", "200", "204"] {
        assert!(shown.contains(vid), "{vid} in {shown}");
    }
    lab.check(&t, &trunk, &rt).success();
    let strict = with(&trunk, json!({"preserveDefaultVlan": false}));
    let (code, msg) = lab.check(&t, &strict, &rt).failure();
    assert!(code == 101 && msg.contains("VLAN 1"), "{msg}");
    lab.del(&t, &trunk);
    let rt = lab.add(&t, &strict);
    assert!(!port(&rt).contains("1 PVID"));
    lab.del(&t, &strict);
}

#[test]
fn without_vlan_filtering_the_field_is_refused_and_nothing_left() {
    need_root!();
    let lab = Lab::new();
    if filters() {
        skip!("this kernel's bridges have VLAN filtering");
    }
    let c = lab.container();
    for (extra, field) in [
        (json!({"vlan": 10}), "vlan"),
        (
            json!({"vlanTrunk": [{"id": 10}], "isDefaultGateway": false, "ipMasq": false}),
            "vlanTrunk",
        ),
    ] {
        let config = config(&lab, "net", "10.10.0.0/24", extra);
        let (code, msg) = lab.call("ADD", Some(&c), &config).failure();
        assert_eq!(code, 2, "{msg}");
        assert!(
            msg.starts_with(field) && msg.contains("CONFIG_BRIDGE_VLAN_FILTERING"),
            "{msg}"
        );
        assert_eq!(lab.leased("net").len(), 0);
        assert!(!traces().contains("veth"), "{}", traces());
    }
}

#[test]
fn a_port_sends_with_its_own_hardware_address_only() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({"macspoofchk": true}));
    let (a, b) = (lab.container(), lab.container());
    let (ra, rb) = (lab.add(&a, &config), lab.add(&b, &config));
    tcp_server(&b.netns, at(ip_of(&rb, true), 80));
    assert!(reaches(&a, &rb));
    lab.check(&a, &config, &ra).success();
    let own = ra["interfaces"][2]["mac"].as_str().unwrap();
    let mac = |mac: &str| sh(&format!("ip -n {} link set eth0 address {mac}", a.id));
    // As another container, and as nobody.
    for false_one in [rb["interfaces"][2]["mac"].as_str().unwrap(), "02:00:00:00:00:77"] {
        mac(false_one);
        assert!(!reaches(&a, &rb), "{false_one}");
    }
    mac(own);
    sh(&format!(
        "ip -n {} route add default via 10.88.0.1 2>/dev/null || true",
        a.id
    ));
    assert!(reaches(&a, &rb));
    for damage in [
        "nft flush chain bridge berth spoofing",
        "nft flush set bridge berth hardware-addresses",
        "nft delete table bridge berth",
    ] {
        sh(damage);
        let (code, msg) = lab.check(&a, &config, &ra).failure();
        assert!(code == 101 && msg.starts_with("macspoofchk"), "{damage}: {msg}");
        for (c, r) in [(&a, &ra), (&b, &rb)] {
            let repair = with(&config, json!({"prevResult": r, "berth.dev/repair": true}));
            lab.call("CHECK", Some(c), &repair).success();
            lab.check(c, &config, r).success();
        }
        assert!(reaches(&a, &rb), "{damage}");
    }
    // nft(8) shows the table and can load it again.
    let listed = sh("nft list table bridge berth");
    assert!(listed.contains(own) && listed.contains("net c0 eth0"), "{listed}");
    std::fs::write(
        lab.path().join("rules"),
        format!("delete table bridge berth\n{listed}"),
    )
    .unwrap();
    sh(&format!("nft -f {}", lab.path().join("rules").display()));
    lab.check(&a, &config, &ra).success();
    lab.del(&a, &config);
    lab.call(
        "GC",
        None,
        &with(&config, json!({"cni.dev/valid-attachments": []})),
    )
    .success();
    assert!(!sh("nft list ruleset").contains("eth0"));
}
