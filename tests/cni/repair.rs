//! CHECK that puts back: each plugin repairs what is its own on the host, and only what is broken.

use std::collections::BTreeMap;

use cni_plugins::exec::{Attachment, ExecError, Network, Repair, Runtime};
use harness::need_root;
use serde_json::json;

use crate::lab::{HOST, Lab, OUTSIDE, at, sh, tcp_ask, tcp_server, traces};

#[test]
fn every_part_on_the_host_comes_back() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    sh("nft add table ip filter
        nft add chain ip filter FORWARD '{ type filter hook forward priority filter; policy drop; }'");
    let list = json!({"cniVersion": "1.1.0", "name": "chain", "plugins": [
        {"type": "bridge", "bridge": "br-chain", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true, "macspoofchk": true,
         "ipam": {"type": "host-local", "dataDir": lab.leases(), "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]});
    let network = Network::from_bytes(list.to_string().as_bytes()).unwrap();
    let runtime = Runtime::new([lab.plugins().to_owned()], lab.path().join("cache"));
    let c = lab.container();
    let mut attachment = Attachment::new(&c.id, &c.netns, "eth0");
    attachment.capabilities = BTreeMap::from([
        (
            "portMappings".to_owned(),
            json!([{"hostPort": 8080, "containerPort": 80}]),
        ),
        (
            "bandwidth".to_owned(),
            json!({"ingressRate": 800_000_000, "ingressBurst": 8_000_000, "egressRate": 800_000_000, "egressBurst": 8_000_000}),
        ),
    ]);
    let result = runtime.add(&network, &attachment).unwrap().decode().unwrap();
    let veth = &result.interfaces[1].name;
    let ifb = &result.interfaces[3].name;
    tcp_server(&c.netns, at(result.ips[0].address.addr(), 80));
    let reached = || tcp_ask(Some(&outside.netns), at(HOST, 8080));
    assert_eq!(reached().unwrap(), OUTSIDE);
    let before = traces();
    assert_eq!(runtime.repair(&network, &attachment).unwrap(), Repair::Sound);
    assert_eq!(traces(), before);
    for damage in [
        "nft flush table inet berth".to_owned(),
        "nft delete table inet berth".to_owned(),
        "nft delete table bridge berth".to_owned(),
        "nft flush chain bridge berth spoofing".to_owned(),
        "nft flush chain ip filter FORWARD".to_owned(),
        "nft flush chain inet berth firewall-admin".to_owned(),
        "nft delete element inet berth masquerade6 '{ fd88::2 }'".to_owned(),
        "ip addr flush dev br-chain".to_owned(),
        format!("ip link set {veth} nomaster"),
        format!("ip link set {veth} down"),
        format!("tc qdisc del dev {veth} root"),
        format!("tc qdisc del dev {veth} ingress"),
        format!("ip link del {ifb}"),
        "ip link del br-chain".to_owned(),
    ] {
        sh(&damage);
        runtime.check(&network, &attachment).expect_err(&damage);
        let repaired = runtime.repair(&network, &attachment);
        assert_eq!(repaired.unwrap_or_else(|e| panic!("{damage}: {e}")), Repair::Done);
        runtime.check(&network, &attachment).unwrap();
        harness::wait_for(&damage, std::time::Duration::from_secs(10), || match reached() {
            Ok(from) if from == OUTSIDE => Ok(()),
            other => Err(other),
        });
    }
    sh(&format!("ip -n {} addr flush dev eth0", c.id));
    let error = runtime.repair(&network, &attachment).unwrap_err();
    assert!(
        matches!(&error, ExecError::Plugin { plugin, .. } if plugin == "bridge"),
        "{error}"
    );
    runtime.del(&network, &attachment).unwrap();
    let gone = runtime.repair(&network, &attachment).unwrap_err();
    assert!(matches!(gone, ExecError::NotAttached { .. }), "{gone}");
}

#[test]
fn point_to_point_links_are_repaired_too() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let list = json!({"cniVersion": "1.1.0", "name": "routed", "plugins": [
        {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "dataDir": lab.leases(),
         "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]});
    let network = Network::from_bytes(list.to_string().as_bytes()).unwrap();
    let runtime = Runtime::new([lab.plugins().to_owned()], lab.path().join("cache"));
    let c = lab.container();
    let attachment = Attachment::new(&c.id, &c.netns, "eth0");
    let result = runtime.add(&network, &attachment).unwrap().decode().unwrap();
    let veth = &result.interfaces[0].name;
    tcp_server(&outside.netns, at(OUTSIDE, 80));
    for damage in [
        "nft flush ruleset".to_owned(),
        format!("ip link set {veth} down"),
        format!("ip addr flush dev {veth}"),
        format!("ip route flush dev {veth}"),
    ] {
        sh(&damage);
        let repaired = runtime.repair(&network, &attachment);
        assert_eq!(repaired.unwrap_or_else(|e| panic!("{damage}: {e}")), Repair::Done);
        assert_eq!(
            tcp_ask(Some(&c.netns), at(OUTSIDE, 80)).unwrap(),
            HOST,
            "{damage}"
        );
    }
}
