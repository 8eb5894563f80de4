//! portmap: published ports from everywhere, their conflicts, and their end.

use std::path::Path;

use harness::{need_root, run_with_input};
use serde_json::{Value, json};

use crate::lab::{
    Container, HOST, HOST6, Lab, Protocol as _, UdpClient, at, ip_of, parse, sh, tcp_ask, tcp_server,
    udp_server, with,
};

/// portmap's configuration after a bridge's result.
fn portmap(name: &str, result: &Value, ports: Value) -> Value {
    json!({"cniVersion": "1.1.0", "name": name, "type": "portmap", "prevResult": result,
        "runtimeConfig": {"portMappings": ports}})
}

fn port(host: u16, container: u16, protocol: &str) -> Value {
    json!({"hostPort": host, "containerPort": container, "protocol": protocol})
}

#[track_caller]
fn publish(lab: &Lab, c: &Container, config: &Value) -> Value {
    parse(&lab.call("ADD", Some(c), config).success())
}

#[test]
fn tcp_ports_are_reached_from_everywhere() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    sh("sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true");
    let bridge = lab.bridge(
        "net",
        &["10.88.0.0/24", "fd88::/64"],
        json!({"hairpinMode": true}),
    );
    let (a, b) = (lab.container(), lab.container());
    let (ra, _) = (lab.add(&a, &bridge), lab.add(&b, &bridge));
    for v4 in [true, false] {
        tcp_server(&a.netns, at(ip_of(&ra, v4), 80));
    }
    let config = portmap(
        "net",
        &ra,
        json!([port(8080, 80, "tcp"),
        {"hostPort": 8081, "containerPort": 80, "hostIP": HOST}, {"hostPort": 8081, "containerPort": 80, "hostIP": HOST6}]),
    );
    assert_eq!(publish(&lab, &a, &config), ra, "the result is passed on");
    lab.call("CHECK", Some(&a), &config).success();
    let gateway = "10.88.0.1";
    assert_eq!(
        tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(),
        "192.0.2.2",
        "outside, and its address is seen"
    );
    assert_eq!(
        tcp_ask(Some(&outside.netns), at(HOST6, 8080)).unwrap(),
        "2001:db8::2"
    );
    assert_eq!(
        tcp_ask(Some(&outside.netns), at(HOST, 8081)).unwrap(),
        "192.0.2.2",
        "published on one address"
    );
    assert_eq!(
        tcp_ask(Some(&outside.netns), at(HOST6, 8081)).unwrap(),
        "2001:db8::2"
    );
    assert!(
        tcp_ask(None, at("127.0.0.1", 8081)).is_err(),
        "and on that one only"
    );
    assert!(tcp_ask(None, at(HOST, 8080)).is_ok(), "host by address");
    assert_eq!(
        tcp_ask(None, at("127.0.0.1", 8080)).unwrap(),
        gateway,
        "host by 127.0.0.1"
    );
    assert_eq!(
        tcp_ask(Some(&a.netns), at(HOST, 8080)).unwrap(),
        gateway,
        "hairpin"
    );
    assert_eq!(
        tcp_ask(Some(&a.netns), at(HOST6, 8080)).unwrap(),
        "fd88::1",
        "hairpin"
    );
    assert_eq!(
        tcp_ask(Some(&b.netns), at(HOST, 8080)).unwrap(),
        gateway,
        "a neighbour"
    );
    assert_eq!(
        tcp_ask(Some(&b.netns), at(gateway, 8080)).unwrap(),
        gateway,
        "a neighbour, by the gateway"
    );
    assert!(tcp_ask(Some(&outside.netns), at(HOST, 8082)).is_err());
    // DEL without runtimeConfig and prevResult.
    let bare = json!({"cniVersion": "1.1.0", "name": "net", "type": "portmap"});
    lab.call_in("DEL", &a.id, "", "eth0", &bare).success();
    lab.call_in("DEL", &a.id, "", "eth0", &bare).success();
    assert!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_err());
    let rules = sh("nft list ruleset");
    assert!(
        !rules.contains("8080") && !rules.contains("hairpin-10.88"),
        "{rules}"
    );
}

#[test]
fn services_of_the_hosts_loopback_stay_closed_to_containers() {
    need_root!();
    let lab = Lab::new();
    let bridge = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let a = lab.container();
    let result = lab.add(&a, &bridge);
    publish(&lab, &a, &portmap("net", &result, json!([port(8080, 80, "tcp")])));
    tcp_server(Path::new("/proc/thread-self/ns/net"), at("127.0.0.1", 5000));
    assert_eq!(tcp_ask(None, at("127.0.0.1", 5000)).unwrap(), "127.0.0.1");
    sh(&format!(
        "ip netns exec {id} sysctl -qw net.ipv4.conf.all.route_localnet=1
         ip -n {id} addr del 127.0.0.1/8 dev lo 2>/dev/null; ip -n {id} route add 127.0.0.1/32 via 10.88.0.1 dev eth0 2>/dev/null; true",
        id = a.id
    ));
    assert!(tcp_ask(Some(&a.netns), at("127.0.0.1", 5000)).is_err());
}

#[test]
fn udp_clients_follow_the_port_to_its_new_place() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let bridge = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    let (ra, rb) = (lab.add(&a, &bridge), lab.add(&b, &bridge));
    udp_server(&a.netns, at(ip_of(&ra, true), 53), "a ");
    udp_server(&b.netns, at(ip_of(&rb, true), 53), "b ");
    let client = UdpClient::new(&outside.netns, at(HOST, 5353));
    // Before the port is published, connection tracking learns that it leads to the host itself.
    assert!(client.ask().is_err());
    let config = |r| portmap("net", r, json!([port(5353, 53, "udp")]));
    publish(&lab, &a, &config(&ra));
    assert_eq!(client.ask().unwrap(), "a 192.0.2.2");
    lab.call("DEL", Some(&a), &config(&ra)).success();
    assert!(client.ask().is_err(), "after DEL, nothing leads to the container");
    publish(&lab, &b, &config(&rb));
    assert_eq!(client.ask().unwrap(), "b 192.0.2.2");
}

#[test]
fn a_taken_port_is_refused_with_its_holder() {
    need_root!();
    let lab = Lab::new();
    let bridge = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    let (ra, rb) = (lab.add(&a, &bridge), lab.add(&b, &bridge));
    publish(
        &lab,
        &a,
        &portmap("net", &ra, json!([port(8080, 80, "tcp"), port(8080, 80, "udp")])),
    );
    let before = sh("nft list ruleset");
    for taken in [
        json!([port(9000, 80, "tcp"), port(8080, 80, "tcp")]),
        json!([port(8080, 81, "udp")]),
        json!([{"hostPort": 8080, "containerPort": 80, "hostIP": "192.0.2.9"}]),
    ] {
        let (code, msg) = lab.call("ADD", Some(&b), &portmap("net", &rb, taken)).failure();
        assert_eq!(code, 102);
        assert!(
            msg.contains("8080/") && msg.contains("container c0 interface eth0 in network net"),
            "{msg}"
        );
        assert_eq!(sh("nft list ruleset"), before);
    }
    publish(
        &lab,
        &b,
        &portmap(
            "net",
            &rb,
            json!([{"hostPort": 9090, "containerPort": 80, "hostIP": "192.0.2.9"}]),
        ),
    );
    let (code, _) = lab
        .call(
            "ADD",
            Some(&a),
            &portmap("net", &ra, json!([port(9090, 80, "tcp")])),
        )
        .failure();
    assert_eq!(code, 102);
}

#[test]
fn two_networks_of_one_container_do_not_touch_each_others_ports() {
    need_root!();
    let lab = Lab::new();
    let a = lab.container();
    let (one, two) = (
        lab.bridge("one", &["10.88.0.0/24"], json!({})),
        lab.bridge(
            "two",
            &["10.99.0.0/24"],
            json!({"isDefaultGateway": false, "isGateway": true}),
        ),
    );
    let first = lab.add(&a, &one);
    let netns = a.netns.display().to_string();
    let second = parse(&lab.call_in("ADD", &a.id, &netns, "eth1", &two).success());
    publish(&lab, &a, &portmap("one", &first, json!([port(8080, 80, "tcp")])));
    let other = portmap("two", &second, json!([port(9090, 80, "tcp")]));
    lab.call_in("ADD", &a.id, &netns, "eth1", &other).success();
    lab.call_in("DEL", &a.id, &netns, "eth1", &other).success();
    let rules = sh("nft list ruleset");
    assert!(rules.contains("8080") && !rules.contains("9090"), "{rules}");
    lab.call(
        "CHECK",
        Some(&a),
        &portmap("one", &first, json!([port(8080, 80, "tcp")])),
    )
    .success();
    // GC of one network leaves the other alone, too.
    let list = json!({"cni.dev/valid-attachments": []});
    lab.call(
        "GC",
        None,
        &with(
            &json!({"cniVersion": "1.1.0", "name": "two", "type": "portmap"}),
            list.clone(),
        ),
    )
    .success();
    assert!(sh("nft list ruleset").contains("8080"));
    lab.call(
        "GC",
        None,
        &with(
            &json!({"cniVersion": "1.1.0", "name": "one", "type": "portmap"}),
            list,
        ),
    )
    .success();
    assert!(!sh("nft list ruleset").contains("8080"));
}

#[test]
fn a_port_of_two_networks_of_one_container_outlives_the_first() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let (a, b) = (lab.container(), lab.container());
    let (one, two) = (
        lab.bridge("one", &["10.88.0.0/24", "fd88::/64"], json!({})),
        lab.bridge("two", &["10.99.0.0/24", "fd99::/64"], json!({})),
    );
    let netns = a.netns.display().to_string();
    let first = lab.add(&a, &one);
    let second = parse(&lab.call_in("ADD", &a.id, &netns, "net1", &two).success());
    for (result, v4) in [(&first, true), (&first, false), (&second, true), (&second, false)] {
        tcp_server(&a.netns, at(ip_of(result, v4), 80));
    }
    let ports = json!([port(8080, 80, "tcp"), {"hostPort": 8081, "containerPort": 80, "hostIP": HOST}, port(5353, 53, "udp")]);
    let (by_one, by_two) = (
        portmap("one", &first, ports.clone()),
        portmap("two", &second, ports.clone()),
    );
    publish(&lab, &a, &by_one);
    lab.call_in("ADD", &a.id, &netns, "net1", &by_two).success();
    lab.call_in("ADD", &a.id, &netns, "net1", &by_two).success();
    let check = || {
        lab.call_in("CHECK", &a.id, &netns, "net1", &by_two).success();
        for (to, port) in [(HOST, 8080), (HOST, 8081), (HOST6, 8080)] {
            assert!(tcp_ask(Some(&outside.netns), at(to, port)).is_ok(), "{to} {port}");
        }
    };
    lab.call("CHECK", Some(&a), &by_one).success();
    check();
    // Another container gets none of them.
    let other = portmap("one", &lab.add(&b, &one), json!([port(8080, 80, "tcp")]));
    assert_eq!(lab.call("ADD", Some(&b), &other).failure().0, 102);
    sh("nft flush set inet berth ports-waiting4");
    assert_eq!(
        lab.call_in("CHECK", &a.id, &netns, "net1", &by_two).failure().0,
        101
    );
    lab.call_in("ADD", &a.id, &netns, "net1", &by_two).success();
    lab.call("DEL", Some(&a), &by_one).success();
    lab.del(&a, &one);
    check();
    assert!(!sh("nft list ruleset").contains("one c0"));
    lab.call_in("DEL", &a.id, &netns, "net1", &by_two).success();
    let rules = sh("nft list ruleset");
    assert!(
        !rules.contains("two c0 net1\" : 10.99") && !rules.contains("8080"),
        "{rules}"
    );
    publish(&lab, &b, &other);
}

#[test]
fn check_notices_missing_rules_and_the_next_add_repairs_them() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let bridge = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    let (ra, rb) = (lab.add(&a, &bridge), lab.add(&b, &bridge));
    tcp_server(&a.netns, at(ip_of(&ra, true), 80));
    let config = portmap("net", &ra, json!([port(8080, 80, "tcp")]));
    publish(&lab, &a, &config);
    for damage in [
        "nft delete element inet berth ports4 '{ tcp . 8080 }'",
        "nft flush chain inet berth ports",
        "nft flush chain inet berth ports-prerouting",
        "nft delete element inet berth hairpin4 '{ 10.88.0.2 }'",
        "nft flush ruleset",
    ] {
        sh(damage);
        let (code, msg) = lab.call("CHECK", Some(&a), &config).failure();
        assert_eq!(code, 101, "{damage}: {msg}");
        assert!(msg.contains("portMappings"), "{msg}");
        publish(&lab, &a, &config);
        lab.call("CHECK", Some(&a), &config).success();
        assert!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_ok(), "{damage}");
    }
    // Flushed rules, kept elements: somebody else's ADD repairs them for all.
    sh("nft flush table inet berth");
    publish(&lab, &b, &portmap("net", &rb, json!([port(8081, 80, "tcp")])));
    assert!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_ok());
}

#[test]
fn other_versions_and_callers() {
    need_root!();
    let lab = Lab::new();
    // Called by its name as first argument, without links.
    let mut command = std::process::Command::new(harness::bin("cni-plugins"));
    command.arg("portmap").env("CNI_COMMAND", "VERSION");
    let outcome = run_with_input(&mut command, br#"{"cniVersion": "0.4.0"}"#);
    let versions = parse(&outcome.success());
    assert_eq!(versions["cniVersion"], "0.4.0", "the request's version is echoed");
    assert!(
        versions["supportedVersions"]
            .as_array()
            .unwrap()
            .contains(&json!("1.1.0"))
    );
    let c = lab.container();
    let bare = json!({"cniVersion": "1.1.0", "name": "net", "type": "portmap"});
    let (code, msg) = lab.call("ADD", Some(&c), &bare).failure();
    assert_eq!(code, 7);
    assert!(msg.contains("prevResult"), "{msg}");
}
