//! bridge and host-local: packets arrive, nothing leaks, every missing part is noticed.

use std::{net::IpAddr, path::Path, process::Command, time::Duration};

use harness::{need_root, wait_for};
use serde_json::{Value, json};

use crate::lab::{Lab, OUTSIDE, OUTSIDE6, Protocol as _, at, ip_of, sh, tcp_ask, tcp_server, traces, with};

#[test]
fn packets_arrive_and_masquerade_hides_the_container() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let config = lab.bridge("net", &["10.88.0.0/24", "fd88::/64"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    let (ra, rb) = (lab.add(&a, &config), lab.add(&b, &config));
    for (v4, world, host) in [(true, OUTSIDE, "192.0.2.1"), (false, OUTSIDE6, "2001:db8::1")] {
        let (ip_a, ip_b) = (ip_of(&ra, v4), ip_of(&rb, v4));
        // At once: no wait for duplicate address detection, neither of the address nor of the gateway.
        let gateway: IpAddr = if v4 {
            "10.88.0.1".parse()
        } else {
            "fd88::1".parse()
        }
        .unwrap();
        tcp_server(Path::new("/proc/thread-self/ns/net"), at(gateway, 70));
        tcp_server(&b.netns, at(ip_b, 80));
        tcp_server(&outside.netns, at(world, 80));
        assert_eq!(
            tcp_ask(Some(&a.netns), at(gateway, 70)).unwrap(),
            ip_a.to_string(),
            "the gateway sees the container"
        );
        assert_eq!(
            tcp_ask(Some(&a.netns), at(ip_b, 80)).unwrap(),
            ip_a.to_string(),
            "a neighbour sees the container"
        );
        assert_eq!(
            tcp_ask(None, at(ip_b, 80)).unwrap(),
            gateway.to_string(),
            "the host reaches the container"
        );
        assert_eq!(
            tcp_ask(Some(&a.netns), at(world, 80)).unwrap(),
            host,
            "the world sees the host"
        );
    }
}

/// Usable at once means that nothing is still being waited for: links run, the bridge's port forwards, no address is
/// being detected.
#[test]
fn interfaces_are_running_when_add_returns() {
    need_root!();
    let lab = Lab::new();
    let bridge = lab.bridge("net", &["10.88.0.0/24", "fd88::/64"], json!({"ipMasq": false}));
    let ptp = with(&bridge, json!({"name": "ptp", "type": "ptp"}));
    for config in [&bridge, &ptp] {
        for _ in 0..10 {
            let container = lab.container();
            let result = lab.add(&container, config);
            let interfaces = result["interfaces"].as_array().unwrap();
            let host = interfaces[interfaces.len() - 2]["name"].as_str().unwrap();
            let link = sh(&format!("ip -d -o link show dev {host}"));
            assert!(link.contains("state UP"), "{link}");
            assert!(
                !link.contains("bridge_slave") || link.contains("state forwarding"),
                "{link}"
            );
            let inside = sh(&format!("ip -n {} -o link show dev eth0", container.id));
            assert!(inside.contains("state UP"), "{inside}");
            let tentative = sh(&format!(
                "ip -6 addr show tentative; ip -n {} -6 addr show tentative",
                container.id
            ));
            assert!(
                !tentative.contains("scope global"),
                "no address is being detected: {tentative}"
            );
        }
    }
}

#[test]
fn without_masquerade_the_world_cannot_answer() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({"ipMasq": false}));
    let a = lab.container();
    lab.add(&a, &config);
    tcp_server(&outside.netns, at(OUTSIDE, 80));
    assert!(tcp_ask(Some(&a.netns), at(OUTSIDE, 80)).is_err());
    assert_eq!(sh("nft list ruleset"), "");
}

#[test]
fn the_rules_can_be_listed_and_loaded_again() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let config = lab.bridge("net", &["10.88.0.0/24", "fd88::/64"], json!({}));
    let a = lab.container();
    let result = lab.add(&a, &config);
    let rules = sh("nft list ruleset");
    std::fs::write(lab.path().join("rules"), &rules).unwrap();
    sh(&format!(
        "nft flush ruleset; nft -f {}",
        lab.path().join("rules").display()
    ));
    assert_eq!(sh("nft list ruleset"), rules);
    tcp_server(&outside.netns, at(OUTSIDE, 80));
    assert_eq!(tcp_ask(Some(&a.netns), at(OUTSIDE, 80)).unwrap(), "192.0.2.1");
    lab.check(&a, &config, &result).success();
}

#[test]
fn del_is_complete_and_may_be_repeated_whatever_is_gone() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24", "fd88::/64"], json!({}));
    let first = lab.container();
    lab.add(&first, &config);
    lab.del(&first, &config);
    let clean = traces();
    for case in [
        "present",
        "no CNI_NETNS",
        "netns deleted",
        "netns never there",
        "eth0 deleted",
        "rules flushed",
    ] {
        let c = lab.container();
        lab.add(&c, &config);
        assert_ne!(traces(), clean);
        let mut netns = c.netns.display().to_string();
        match case {
            "no CNI_NETNS" => netns.clear(),
            "netns deleted" => drop(sh(&format!("ip netns del {}", c.id))),
            "netns never there" => netns = "/run/netns/never".into(),
            "eth0 deleted" => drop(sh(&format!("ip -n {} link del eth0", c.id))),
            "rules flushed" => drop(sh("nft flush ruleset")),
            _ => {}
        }
        for _ in 0..2 {
            lab.call_in("DEL", &c.id, &netns, "eth0", &config).success();
            if case != "rules flushed" {
                wait_for(case, Duration::from_secs(5), || {
                    if traces() == clean { Ok(()) } else { Err(traces()) }
                });
            }
            assert_eq!(lab.leased("net"), Vec::<String>::new(), "{case}");
        }
        if case == "rules flushed" {
            lab.add(&first, &config);
            lab.del(&first, &config);
        }
    }
}

#[test]
fn check_notices_every_missing_part() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge(
        "net",
        &["10.88.0.0/24", "fd88::/64"],
        json!({"hairpinMode": true, "portIsolation": true, "ipam": {"routes": [{"dst": "198.51.100.0/24", "mtu": 1300, "advmss": 1200, "table": 100, "priority": 7}]}}),
    );
    for (part, damage) in [
        ("nothing", "true"),
        ("address", "ip -n ID addr del IP4/24 dev eth0"),
        ("address", "ip -n ID addr del IP6/64 dev eth0"),
        ("route", "ip -n ID route del default"),
        ("route", "ip -n ID -6 route del default"),
        ("route", "ip -n ID route del 198.51.100.0/24 table 100"),
        ("not up", "ip -n ID link set eth0 down"),
        (
            "hardware address",
            "ip -n ID link set eth0 address 02:00:00:00:00:09",
        ),
        ("is gone", "ip -n ID link del eth0"),
        ("not a port", "ip link set VETH nomaster"),
        ("not up", "ip link set VETH down"),
        ("hairpinMode", "bridge link set dev VETH hairpin off"),
        ("portIsolation", "bridge link set dev VETH isolated off"),
        ("gateway address", "ip addr del 10.88.0.1/24 dev br-net"),
        ("no bridge", "ip link del br-net"),
        ("ipMasq", "nft delete element inet berth masquerade4 '{ IP4 }'"),
        ("ipMasq", "nft flush chain inet berth ipmasq"),
        ("ipMasq", "nft flush chain inet berth ipmasq-10.88.0.0/24"),
        ("ipMasq", "nft flush ruleset"),
        ("lease", "rm LEASES/net/IP4"),
        ("lease", "printf 'x\\r\\neth0' > LEASES/net/IP6"),
    ] {
        let c = lab.container();
        let result = lab.add(&c, &config);
        let veth = result["interfaces"][1]["name"].as_str().unwrap();
        let damage = damage
            .replace("ID", &c.id)
            .replace("IP6", &ip_of(&result, false).to_string())
            .replace("IP4", &ip_of(&result, true).to_string())
            .replace("VETH", veth)
            .replace("LEASES", &lab.leases().display().to_string());
        sh(&damage);
        let outcome = lab.check(&c, &config, &result);
        if part == "nothing" {
            outcome.success();
        } else {
            let (code, msg) = outcome.failure();
            assert_eq!(code, 101, "{damage}: {msg}");
            assert!(msg.contains(part), "{damage}: {msg}");
        }
        lab.del(&c, &config);
        sh(&format!(
            "rm -f {}/net/[0-9f]*; ip netns del {}",
            lab.leases().display(),
            c.id
        ));
    }
}

#[test]
fn fifty_parallel_first_adds() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24", "fd88::/64"], json!({}));
    let containers: Vec<_> = (0..50).map(|_| lab.container()).collect();
    // Started from this thread, so that all are in the lab's namespaces.
    let input = lab.path().join("config");
    std::fs::write(&input, config.to_string()).unwrap();
    let start = |verb: &str| -> Vec<std::process::Child> {
        containers
            .iter()
            .map(|c| {
                Command::new(lab.plugins().join("bridge"))
                    .env("CNI_COMMAND", verb)
                    .env("CNI_CONTAINERID", &c.id)
                    .env("CNI_NETNS", &c.netns)
                    .env("CNI_IFNAME", "eth0")
                    .env("CNI_PATH", lab.plugins())
                    .stdin(std::fs::File::open(&input).unwrap())
                    .stdout(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect()
    };
    let results: Vec<Value> = start("ADD")
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stdout)
            );
            serde_json::from_slice(&output.stdout).unwrap()
        })
        .collect();
    let mut addresses: Vec<String> = results
        .iter()
        .flat_map(|r| {
            r["ips"]
                .as_array()
                .unwrap()
                .iter()
                .map(|i| i["address"].to_string())
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 100, "no address twice");
    let mut bridges: Vec<String> = results.iter().map(|r| r["interfaces"][0].to_string()).collect();
    bridges.dedup();
    assert_eq!(bridges.len(), 1, "all results tell the same bridge: {bridges:?}");
    for (container, result) in containers.iter().zip(&results) {
        lab.check(container, &config, result).success();
    }
    let (first, last) = (&containers[0], &results[49]);
    tcp_server(&containers[49].netns, at(ip_of(last, true), 80));
    assert_eq!(
        tcp_ask(Some(&first.netns), at(ip_of(last, true), 80)).unwrap(),
        ip_of(&results[0], true).to_string()
    );
    for child in start("DEL") {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(lab.leased("net").len(), 0);
    assert!(!sh("nft list ruleset").contains("eth0"), "no element is left");
    assert!(!sh("ip link").contains("veth"));
}

#[test]
fn exhausted_ranges_fail_add_and_status_and_leave_nothing() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["fd88::/64", "10.88.0.0/30"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    lab.call("STATUS", None, &config).success();
    lab.add(&a, &config);
    let before = traces();
    let (code, msg) = lab.call("ADD", Some(&b), &config).failure();
    assert_eq!(code, 11, "{msg}");
    assert!(
        msg.contains("net") && msg.contains("10.88.0.1-10.88.0.2"),
        "{msg}"
    );
    assert_eq!(traces(), before, "nothing half-made is left");
    assert_eq!(
        lab.leased("net").len(),
        2,
        "the IPv6 lease that was taken before is given back"
    );
    assert!(!sh(&format!("ip -n {} link", b.id)).contains("eth0"));
    let (code, msg) = lab.call("STATUS", None, &config).failure();
    assert_eq!(code, 50, "{msg}");
    lab.del(&a, &config);
    lab.call("STATUS", None, &config).success();
    lab.add(&b, &config);
}

#[test]
fn add_undoes_itself_when_a_later_step_fails() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    lab.add(&a, &config);
    let before = traces();
    // The route cannot be installed: its gateway is not reachable.
    let bad = with(
        &config,
        json!({"ipam": {"routes": [{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]}}),
    );
    let (code, msg) = lab.call("ADD", Some(&b), &bad).failure();
    assert_eq!(code, 100);
    assert!(msg.contains("198.51.100.0/24 via 203.0.113.1"), "{msg}");
    assert_eq!(traces(), before);
    assert_eq!(lab.leased("net").len(), 1);
    // The interface is there already: the earlier attachment must survive.
    let before = traces();
    let (code, msg) = lab.call("ADD", Some(&a), &config).failure();
    assert_eq!(code, 102, "{msg}");
    assert_eq!(traces(), before);
    assert_eq!(lab.leased("net").len(), 1);
    sh(&format!("ip -n {} link add eth0 type veth peer name other", b.id));
    let (code, msg) = lab.call("ADD", Some(&b), &config).failure();
    assert_eq!(code, 102);
    assert!(msg.contains("CNI_IFNAME: eth0 exists already"), "{msg}");
    assert_eq!(traces(), before);
    assert_eq!(lab.leased("net").len(), 1);
}

#[test]
fn gc_removes_what_is_not_listed_and_only_that() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24", "fd88::/64"], json!({}));
    let other = lab.bridge("other", &["10.99.0.0/24"], json!({}));
    let (keep, dead, foreign) = (lab.container(), lab.container(), lab.container());
    let kept = lab.add(&keep, &config);
    let others = lab.add(&foreign, &other);
    let wanted = traces();
    lab.add(&dead, &config);
    sh(&format!("ip netns del {}", dead.id));
    let list = json!({"cni.dev/valid-attachments": [{"containerID": keep.id, "ifname": "eth0"}]});
    lab.call("GC", None, &with(&config, list)).success();
    wait_for(
        "the dead container's traces to go",
        Duration::from_secs(5),
        || {
            if traces() == wanted { Ok(()) } else { Err(traces()) }
        },
    );
    assert_eq!(lab.leased("net").len(), 2);
    lab.check(&keep, &config, &kept).success();
    // An empty list means: nothing of this network is to stay.
    lab.call(
        "GC",
        None,
        &with(&config, json!({"cni.dev/valid-attachments": []})),
    )
    .success();
    assert_eq!(lab.leased("net").len(), 0);
    assert!(
        !sh("nft list ruleset").contains("net c"),
        "{}",
        sh("nft list ruleset")
    );
    lab.check(&foreign, &other, &others).success();
    let (code, msg) = lab.call("GC", None, &config).failure();
    assert_eq!(code, 7);
    assert!(msg.contains("valid-attachments"), "{msg}");
}

#[test]
fn plugins_killed_at_any_moment_leave_nothing_that_gc_does_not_find() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let first = lab.container();
    lab.add(&first, &config);
    lab.del(&first, &config);
    let clean = traces();
    let input = lab.path().join("config");
    std::fs::write(&input, config.to_string()).unwrap();
    for round in 0..25u64 {
        let c = lab.container();
        let mut child = Command::new(lab.plugins().join("bridge"))
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", &c.id)
            .env("CNI_NETNS", &c.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", lab.plugins())
            .stdin(std::fs::File::open(&input).unwrap())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(round * 300));
        let _ = child.kill();
        child.wait().unwrap();
    }
    lab.call(
        "GC",
        None,
        &with(&config, json!({"cni.dev/valid-attachments": []})),
    )
    .success();
    assert_eq!(lab.leased("net").len(), 0);
    wait_for("all traces to go", Duration::from_secs(5), || {
        if traces() == clean { Ok(()) } else { Err(traces()) }
    });
    // And the network still works.
    let result = lab.add(&first, &config);
    lab.check(&first, &config, &result).success();
}

#[test]
fn options_of_the_bridge_do_what_they_say() {
    need_root!();
    let lab = Lab::new();
    let options = json!({"mtu": 1400, "hairpinMode": true, "portIsolation": true, "isDefaultGateway": false,
        "isGateway": true, "ipMasq": false, "runtimeConfig": {"mac": "0a:00:00:00:00:07"},
        "dns": {"nameservers": ["10.88.0.1"], "search": ["x.test"]}});
    let config = lab.bridge("net", &["10.88.0.0/24"], options);
    let (a, b) = (lab.container(), lab.container());
    let result = lab.add(&a, &config);
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["10.88.0.1"], "search": ["x.test"]})
    );
    assert_eq!(result["interfaces"][2]["mac"], "0a:00:00:00:00:07");
    let link = sh(&format!("ip -n {} -d link show eth0", a.id));
    assert!(
        link.contains("mtu 1400") && link.contains("0a:00:00:00:00:07"),
        "{link}"
    );
    assert!(!sh(&format!("ip -n {} route", a.id)).contains("default"));
    let port = sh(&format!(
        "ip -d link show {}",
        result["interfaces"][1]["name"].as_str().unwrap()
    ));
    assert!(
        port.contains("hairpin on") && port.contains("isolated on") && port.contains("master br-net"),
        "{port}"
    );
    let second = lab.add(&b, &with(&config, json!({"runtimeConfig": null})));
    tcp_server(&b.netns, at(ip_of(&second, true), 80));
    assert!(
        tcp_ask(Some(&a.netns), at(ip_of(&second, true), 80)).is_err(),
        "isolated ports do not talk"
    );
    assert!(
        tcp_ask(None, at(ip_of(&second, true), 80)).is_ok(),
        "the host does"
    );
    // Another network on the same bridge: the address is taken, unless it is to be replaced.
    let other = lab.bridge("other", &["10.99.0.0/24"], json!({"bridge": "br-net"}));
    let c = lab.container();
    let (code, msg) = lab.call("ADD", Some(&c), &other).failure();
    assert_eq!(code, 7);
    assert!(msg.contains("forceAddress"), "{msg}");
    assert_eq!(lab.leased("other").len(), 0);
    lab.add(&c, &with(&other, json!({"forceAddress": true})));
    let addresses = sh("ip addr show br-net");
    assert!(
        addresses.contains("10.99.0.1/24") && !addresses.contains("10.88.0.1/24"),
        "{addresses}"
    );
    // Layer 2 only.
    let d = lab.container();
    let result = lab.add(&d, &with(&config, json!({"ipam": null, "isGateway": false})));
    assert!(result.get("ips").is_none());
    assert!(sh(&format!("ip -n {} link show eth0", d.id)).contains("state UP"));
}

#[test]
fn addresses_asked_for_are_given_and_taken_ones_refused() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let (a, b) = (lab.container(), lab.container());
    let asked = with(&config, json!({"runtimeConfig": {"ips": ["10.88.0.77/24"]}}));
    assert_eq!(ip_of(&lab.add(&a, &asked), true).to_string(), "10.88.0.77");
    let (code, msg) = lab.call("ADD", Some(&b), &asked).failure();
    assert_eq!(code, 102);
    assert!(msg.contains("10.88.0.77 is taken by container c0"), "{msg}");
    for (ip, part) in [
        ("10.88.0.1", "gateway"),
        ("10.77.0.1", "no range"),
        ("nonsense", "not an IP address"),
    ] {
        let bad = with(&config, json!({"runtimeConfig": {"ips": [ip]}}));
        let (code, msg) = lab.call("ADD", Some(&b), &bad).failure();
        assert_eq!(code, 7, "{msg}");
        assert!(
            msg.contains("runtimeConfig.ips[0]") && msg.contains(part),
            "{msg}"
        );
        assert_eq!(lab.leased("net"), ["10.88.0.77"]);
    }
    let ranges = with(
        &config,
        json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.66.0.0/24"}]]}}),
    );
    let result = lab.add(&b, &ranges);
    assert_eq!(result["ips"][0]["address"], "10.66.0.2/24");
}

#[test]
fn an_empty_path_is_enough() {
    need_root!();
    let lab = Lab::new();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let c = lab.container();
    let mut command = Command::new(lab.plugins().join("bridge"));
    command
        .env_clear()
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", &c.id)
        .env("CNI_NETNS", &c.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", lab.plugins());
    harness::run_with_input(&mut command, config.to_string().as_bytes()).success();
}
