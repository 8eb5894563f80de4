//! Mistakes: each gets its code, names its field, and leaves nothing.

use harness::need_root;
use serde_json::{Value, json};

use crate::lab::{Lab, Protocol as _, traces, with};

/// Configuration (merged into a good one), code, what the message must name.
fn mistakes() -> Vec<(Value, u64, &'static str)> {
    vec![
        (json!({"name": null}), 7, "name"),
        (json!({"name": "no/slash"}), 7, "name"),
        (json!({"cniVersion": "9.9.9"}), 1, "cniVersion"),
        (json!({"cniVersion": null}), 1, "cniVersion"),
        (json!({"bridge": "a-name-that-is-too-long"}), 7, "bridge"),
        (json!({"bridge": "lo"}), 7, "bridge"),
        (json!({"bridge": 5}), 7, "bridge"),
        (json!({"isGateway": "yes"}), 7, "isGateway"),
        (json!({"mtu": 70000}), 7, "mtu"),
        (json!({"mtu": 10}), 7, "mtu"),
        (json!({"mtu": "big"}), 7, "mtu"),
        (
            json!({"hairpinMode": true, "promiscMode": true}),
            7,
            "hairpinMode",
        ),
        (
            json!({"disableContainerInterface": true}),
            7,
            "disableContainerInterface",
        ),
        (json!({"vlan": 5000}), 7, "vlan"),
        (json!({"vlan": 4000, "bridge": "twelve-chars"}), 7, "bridge"),
        (json!({"vlan": 5, "vlanTrunk": [{"id": 6}]}), 7, "vlanTrunk"),
        (json!({"vlanTrunk": {"id": 6}}), 7, "vlanTrunk"),
        (json!({"vlanTrunk": [{"id": 4095}]}), 7, "vlanTrunk[0].id"),
        (json!({"vlanTrunk": [{"id": 6}, {}]}), 7, "vlanTrunk[1].id"),
        (json!({"vlanTrunk": [{"minID": 6}]}), 7, "vlanTrunk[0].maxID"),
        (json!({"vlanTrunk": [{"maxID": 6}]}), 7, "vlanTrunk[0].minID"),
        (
            json!({"vlanTrunk": [{"minID": 7, "maxID": 6}]}),
            7,
            "vlanTrunk[0].minID",
        ),
        (
            json!({"vlanTrunk": [{"id": 1, "minID": 7, "maxID": 9}]}),
            7,
            "vlanTrunk[0].id",
        ),
        (json!({"macspoofchk": 1}), 7, "macspoofchk"),
        (json!({"ipMasqBackend": "pf"}), 7, "ipMasqBackend"),
        (json!({"runtimeConfig": {"mac": "zz"}}), 7, "runtimeConfig.mac"),
        (
            json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}),
            7,
            "runtimeConfig.mac",
        ),
        (json!({"runtimeConfig": {"ips": [7]}}), 7, "runtimeConfig.ips[0]"),
        (
            json!({"runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/8"}]]}}),
            7,
            "ipam.ranges[0]",
        ),
        (json!({"ipam": {"type": "nothere"}}), 7, "ipam.type"),
        (json!({"ipam": {"type": "../bridge"}}), 7, "ipam.type"),
        (json!({"ipam": []}), 7, "ipam"),
        (json!({"ipam": {"ranges": null}}), 7, "ipam.ranges"),
        (
            json!({"ipam": {"ranges": [{"subnet": "10.1.0.0/24"}]}}),
            7,
            "ipam.ranges[0]",
        ),
        (json!({"ipam": {"ranges": [[]]}}), 7, "ipam.ranges[0]"),
        (
            json!({"ipam": {"ranges": [[{"subnet": "10.1.0.7/24"}]]}}),
            7,
            "ipam.ranges[0][0].subnet",
        ),
        (
            json!({"ipam": {"ranges": [[{"subnet": "10.1.0.0/31"}]]}}),
            7,
            "ipam.ranges[0][0].subnet",
        ),
        (
            json!({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.9"}]]}}),
            7,
            "ipam.ranges[0][0].rangeEnd",
        ),
        (
            json!({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24", "gateway": "x"}]]}}),
            7,
            "ipam.ranges[0][0].gateway",
        ),
        (
            json!({"ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]}}),
            7,
            "ipam.ranges[0]",
        ),
        (
            json!({"ipam": {"routes": [{"gw": "10.1.0.1"}]}}),
            7,
            "ipam.routes[0].dst",
        ),
        (
            json!({"ipam": {"routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}]}}),
            7,
            "ipam.routes[0].gw",
        ),
        (
            json!({"ipam": {"resolvConf": "/nowhere/resolv.conf"}}),
            5,
            "ipam.resolvConf",
        ),
        (json!({"type": "ptp", "ipam": null}), 7, "ipam.type"),
        (json!({"type": "macvlan", "mode": "wrong"}), 7, "mode"),
        (
            json!({"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]}}),
            7,
            "portMappings[0].hostPort",
        ),
        (
            json!({"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 80}]}}),
            7,
            "portMappings[0].containerPort",
        ),
        (
            json!({"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "xyz"}]}}),
            7,
            "portMappings[0].protocol",
        ),
        (
            json!({"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "::1"}]}}),
            7,
            "portMappings[0].hostIP",
        ),
        (
            json!({"type": "portmap", "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "2001:db8::1"}]}}),
            7,
            "portMappings[0].hostIP",
        ),
        (json!({"type": "portmap", "markMasqBit": 32}), 7, "markMasqBit"),
        (json!({"type": "portmap", "backend": "pf"}), 7, "backend"),
        (
            json!({"type": "portmap", "conditionsV4": ["-s", "10.0.0.0/8"]}),
            2,
            "conditionsV4",
        ),
        (
            json!({"type": "firewall", "ingressPolicy": "closed"}),
            7,
            "ingressPolicy",
        ),
        (json!({"type": "firewall", "backend": "firewalld"}), 2, "backend"),
        (
            json!({"type": "firewall", "iptablesAdminChainName": "two words"}),
            7,
            "iptablesAdminChainName",
        ),
        (
            json!({"type": "firewall", "iptablesAdminChainName": "FORWARD"}),
            7,
            "iptablesAdminChainName",
        ),
        (
            json!({"type": "firewall", "iptablesAdminChainName": "firewall"}),
            7,
            "iptablesAdminChainName",
        ),
        (
            json!({"type": "bandwidth", "ingressRate": 1000}),
            7,
            "ingressBurst",
        ),
        (
            json!({"type": "bandwidth", "egressBurst": 100_000}),
            7,
            "egressRate",
        ),
        (
            json!({"type": "bandwidth", "ingressRate": 1000, "ingressBurst": 8}),
            7,
            "ingressBurst",
        ),
        (
            json!({"type": "tuning", "sysctl": {"kernel.hostname": "x"}}),
            7,
            "sysctl.kernel.hostname",
        ),
        (
            json!({"type": "tuning", "sysctl": {"net/../kernel/hostname": "x"}}),
            7,
            "sysctl.net",
        ),
        (
            json!({"type": "tuning", "sysctl": {"net.core.somaxconn": 5}}),
            7,
            "sysctl.net.core.somaxconn",
        ),
        (json!({"type": "tuning", "txQLen": -1}), 7, "txQLen"),
    ]
}

#[test]
fn every_mistake_names_its_field_and_leaves_nothing() {
    need_root!();
    let lab = Lab::new();
    let good = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    let chained = json!({"prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c0"}],
        "ips": [{"interface": 0, "address": "10.88.0.2/24"}]}});
    let c = lab.container();
    let clean = traces();
    for (mistake, code, field) in mistakes() {
        let config = with(&with(&good, chained.clone()), mistake.clone());
        let (got, msg) = lab.call("ADD", Some(&c), &config).failure();
        assert_eq!(got, code, "{mistake}: {msg}");
        assert!(msg.contains(field), "{mistake}: {msg}");
        assert!(!msg.contains('\n'), "{msg}");
        assert_eq!(traces(), clean, "{mistake}");
        assert_eq!(lab.leased("net"), Vec::<String>::new(), "{mistake}");
    }
}

#[test]
fn the_environment_is_checked_first() {
    need_root!();
    let lab = Lab::new();
    let good = lab.bridge("net", &["10.88.0.0/24"], json!({}));
    for (verb, id, netns, ifname, part) in [
        ("BOGUS", "c", "/x", "eth0", "CNI_COMMAND"),
        ("ADD", "", "/x", "eth0", "CNI_CONTAINERID"),
        ("ADD", "../c", "/x", "eth0", "CNI_CONTAINERID"),
        ("ADD", "c", "", "eth0", "CNI_NETNS"),
        ("ADD", "c", "/x", "", "CNI_IFNAME"),
        ("ADD", "c", "/x", "a/b", "CNI_IFNAME"),
        ("DEL", "c", "/x", "sixteen-chars-xx", "CNI_IFNAME"),
        ("CHECK", "", "", "", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
    ] {
        let (code, msg) = lab.call_in(verb, id, netns, ifname, &good).failure();
        assert_eq!(code, 4, "{msg}");
        assert!(msg.contains(part), "{msg}");
    }
    let (code, msg) = lab.call_in("ADD", "c", "/nowhere", "eth0", &good).failure();
    assert!(code == 3 && msg.contains("/nowhere"), "{msg}");
    let old = with(&good, json!({"cniVersion": "0.3.1"}));
    let c = lab.container();
    assert_eq!(lab.call("CHECK", Some(&c), &old).failure().0, 1);
    let old = with(&good, json!({"cniVersion": "1.0.0"}));
    assert_eq!(lab.call("STATUS", None, &old).failure().0, 1);
    assert_eq!(lab.call("GC", None, &old).failure().0, 1);
    let mut command = std::process::Command::new(lab.plugins().join("bridge"));
    command.envs([
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", "/x"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/"),
    ]);
    assert_eq!(harness::run_with_input(&mut command, b"{nonsense").failure().0, 6);
    command.env("CNI_ARGS", "WHAT=1");
    let (code, msg) = harness::run_with_input(&mut command, good.to_string().as_bytes()).failure();
    assert!(code == 4 && msg.contains("WHAT"), "{msg}");
    // Started by hand, a plugin says what it is.
    let mut command = std::process::Command::new(lab.plugins().join("bridge"));
    command.env_remove("CNI_COMMAND");
    let outcome = harness::run(&mut command);
    assert!(
        outcome.status.success() && outcome.stderr.contains("CNI bridge plugin"),
        "{outcome:?}"
    );
}
