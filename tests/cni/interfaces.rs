//! ptp, macvlan, static, loopback.

use std::time::Duration;

use harness::{need_root, wait_for};
use serde_json::{Value, json};

use crate::lab::{
    Lab, OUTSIDE, OUTSIDE6, Protocol as _, at, ip_of, parse, sh, tcp_ask, tcp_server, traces, with,
};

#[test]
fn ptp_connects_masquerades_and_goes() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let config = with(
        &lab.bridge(
            "net",
            &["10.77.0.0/24", "fd77::/64"],
            json!({"bridge": null, "isDefaultGateway": null}),
        ),
        json!({"type": "ptp", "ipam": {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}),
    );
    let (first, a, b) = (lab.container(), lab.container(), lab.container());
    lab.add(&first, &config);
    lab.del(&first, &config);
    let clean = traces();
    let (ra, rb) = (lab.add(&a, &config), lab.add(&b, &config));
    assert_eq!(ra["ips"][0]["interface"], 1);
    for (v4, world, seen) in [(true, OUTSIDE, "192.0.2.1"), (false, OUTSIDE6, "2001:db8::1")] {
        tcp_server(&b.netns, at(ip_of(&rb, v4), 80));
        tcp_server(&outside.netns, at(world, 80));
        assert_eq!(
            tcp_ask(Some(&a.netns), at(ip_of(&rb, v4), 80)).unwrap(),
            ip_of(&ra, v4).to_string()
        );
        assert!(tcp_ask(None, at(ip_of(&rb, v4), 80)).is_ok());
        assert_eq!(tcp_ask(Some(&a.netns), at(world, 80)).unwrap(), seen);
    }
    lab.check(&a, &config, &ra).success();
    // A later step fails: the address is masqueraded for another network already.
    let before = traces();
    let other = with(&config, json!({"name": "other"}));
    let c = lab.container();
    let asked = json!({"runtimeConfig": {"ips": [ip_of(&ra, true)]}});
    let (code, msg) = lab.call("ADD", Some(&c), &with(&other, asked)).failure();
    assert!(
        code == 102 && msg.contains("network net (container c1 eth0)"),
        "{msg}"
    );
    assert_eq!(traces(), before);
    assert_eq!(lab.leased("other").len(), 0);
    let veth = ra["interfaces"][0]["name"].as_str().unwrap();
    sh(&format!("ip route del {} dev {veth}", ip_of(&ra, true)));
    let (code, msg) = lab.check(&a, &config, &ra).failure();
    assert!(code == 101 && msg.contains("no route to"), "{msg}");
    sh(&format!("ip netns del {}", a.id));
    lab.call_in("DEL", &a.id, "", "eth0", &config).success();
    lab.call(
        "GC",
        None,
        &with(&config, json!({"cni.dev/valid-attachments": []})),
    )
    .success();
    wait_for("all traces to go", Duration::from_secs(5), || {
        if traces() == clean { Ok(()) } else { Err(traces()) }
    });
    assert_eq!(lab.leased("net").len(), 0);
    lab.call("STATUS", None, &config).success();
}

#[test]
fn macvlan_gives_an_address_on_the_parents_network() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let config = json!({"cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "out0", "mode": "bridge", "mtu": 1400,
        "ipam": {"type": "static", "addresses": [{"address": "192.0.2.50/24", "gateway": "192.0.2.2"}], "routes": [{"dst": "0.0.0.0/0"}]}});
    let a = lab.container();
    lab.call("STATUS", None, &config).success();
    let result = lab.add(&a, &config);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
    assert_eq!(result["interfaces"][0]["mtu"], 1400);
    tcp_server(&outside.netns, at(OUTSIDE, 80));
    assert_eq!(tcp_ask(Some(&a.netns), at(OUTSIDE, 80)).unwrap(), "192.0.2.50");
    lab.check(&a, &config, &result).success();
    let (code, _) = lab.call("ADD", Some(&a), &config).failure();
    assert_eq!(code, 102);
    lab.check(&a, &config, &result).success();
    lab.del(&a, &config);
    lab.del(&a, &config);
    assert!(!sh(&format!("ip -n {} link", a.id)).contains("eth0"));
    let (code, msg) = lab
        .call("ADD", Some(&a), &with(&config, json!({"master": "nothere"})))
        .failure();
    assert!(code == 7 && msg.starts_with("master: "), "{msg}");
    let (code, msg) = lab
        .call("ADD", Some(&a), &with(&config, json!({"mtu": 9000})))
        .failure();
    assert!(code == 7 && msg.starts_with("mtu: "), "{msg}");
    // An IPAM that fails leaves no interface.
    let (code, _) = lab
        .call(
            "ADD",
            Some(&a),
            &with(&config, json!({"ipam": {"addresses": []}})),
        )
        .failure();
    assert_eq!(code, 7);
    assert!(!sh(&format!("ip -n {} link", a.id)).contains("eth0"));
}

#[test]
fn static_addresses_come_from_all_their_places() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &[], json!({"isDefaultGateway": false, "ipMasq": false}));
    let ipam = json!({"ipam": {"type": "static", "dataDir": null, "ranges": null,
        "addresses": [{"address": "10.55.0.5/24", "gateway": "10.55.0.1"}, {"address": "fd55::5/64"}],
        "routes": [{"dst": "198.51.100.0/24"}], "dns": {"nameservers": ["10.55.0.1"]}}});
    let config = with(&config, ipam);
    let a = lab.container();
    let result = lab.add(&a, &config);
    assert_eq!(result["ips"][0]["address"], "10.55.0.5/24");
    assert_eq!(result["dns"]["nameservers"], json!(["10.55.0.1"]));
    assert!(sh(&format!("ip -n {} route", a.id)).contains("198.51.100.0/24 via 10.55.0.1"));
    lab.check(&a, &config, &result).success();
    lab.del(&a, &config);
    let asked = with(
        &config,
        json!({"runtimeConfig": {"ips": ["10.55.0.9/24"]}, "ipam": {"routes": null}}),
    );
    assert_eq!(ip_of(&lab.add(&a, &asked), true).to_string(), "10.55.0.9");
    lab.del(&a, &asked);
}

#[test]
fn loopback_comes_up_also_in_the_callers_own_namespace() {
    need_root!();
    let lab = Lab::new();
    let a = lab.container();
    let config = json!({"cniVersion": "1.0.0", "name": "lo", "type": "loopback"});
    let result = lab.add(&a, &config);
    assert_eq!(result["interfaces"][0]["name"], "lo");
    assert_eq!(result["ips"][0]["address"], "127.0.0.1/8");
    assert!(sh(&format!("ip -n {} link show lo", a.id)).contains("UP"));
    lab.call("CHECK", Some(&a), &with(&config, json!({"prevResult": result})))
        .success();
    lab.del(&a, &config);
    lab.call_in("DEL", &a.id, "", "eth0", &config).success();
    let (code, _) = lab
        .call("CHECK", Some(&a), &with(&config, json!({"prevResult": result})))
        .failure();
    assert_eq!(code, 101);
    sh("ip link set lo down");
    let own = "/proc/thread-self/ns/net";
    let (code, msg) = lab.call_in("ADD", "demo", own, "lo", &config).failure();
    assert_eq!(code, 8, "{msg}");
    let mut command = std::process::Command::new(harness::bin("cni-plugins"));
    command.arg("loopback").envs([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "demo"),
        ("CNI_NETNS", own),
        ("CNI_IFNAME", "lo"),
        ("CNI_PATH", "/"),
        ("CNI_NETNS_OVERRIDE", "1"),
    ]);
    let outcome = harness::run_with_input(&mut command, config.to_string().as_bytes());
    let _: Value = parse(&outcome.success());
    assert!(sh("ip link show lo").contains("UP"));
}

#[test]
fn a_second_network_may_bring_a_second_default_route() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let c = lab.container();
    let one = lab.bridge("one", &["10.88.0.0/24", "fd88::/64"], json!({}));
    let two = lab.bridge("two", &["10.99.0.0/24", "fd99::/64"], json!({}));
    let first = lab.add(&c, &one);
    let netns = c.netns.display().to_string();
    let second = parse(&lab.call_in("ADD", &c.id, &netns, "net1", &two).success());
    let routes = sh(&format!("ip -n {} route", c.id));
    assert!(
        routes.starts_with("default via 10.99.0.1 dev net1"),
        "the later one is used: {routes}"
    );
    assert!(routes.contains("default via 10.88.0.1 dev eth0"), "{routes}");
    tcp_server(&outside.netns, at(OUTSIDE, 80));
    assert!(tcp_ask(Some(&c.netns), at(OUTSIDE, 80)).is_ok());
    lab.check(&c, &one, &first).success();
    let check = with(&two, json!({"prevResult": second}));
    lab.call_in("CHECK", &c.id, &netns, "net1", &check).success();
    lab.call_in("DEL", &c.id, &netns, "net1", &two).success();
    assert!(tcp_ask(Some(&c.netns), at(OUTSIDE, 80)).is_ok());
}
