//! `berthctl net`: any conflist and any plugins from the command line, with cnitool's environment.

use std::{fs, path::Path, process::Command};

use harness::{Outcome, bin, need_root, run, skip};
use serde_json::{Value, json};

use crate::lab::{
    Container, HOST, Lab, OUTSIDE, Protocol as _, at, ip_of, parse, sh, tcp_ask, tcp_server, traces,
};

const REFERENCE: &str = "/usr/lib/cni";

fn net(lab: &Lab, arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    run(Command::new(bin("berthctl"))
        .arg("net")
        .args(arguments)
        .env("CNI_PATH", lab.plugins())
        .env("NETCONFPATH", lab.path().join("net.d"))
        .env_remove("CNI_IFNAME")
        .envs(environment.iter().copied()))
}

/// Writes the list of network `pods`.
fn configure(lab: &Lab, version: &str) -> Value {
    let list = json!({"cniVersion": version, "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "br-pods", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": lab.leases(), "ranges": [[{"subnet": "10.88.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"}]});
    fs::create_dir_all(lab.path().join("net.d")).unwrap();
    fs::write(lab.path().join("net.d/10-pods.conflist"), list.to_string()).unwrap();
    list
}

fn path(c: &Container) -> &str {
    c.netns.to_str().unwrap()
}

fn drives(lab: &Lab, version: &str) {
    let outside = lab.outside();
    configure(lab, version);
    let c = lab.container();
    let environment = [
        ("CNI_IFNAME", "net1"),
        ("CNI_ARGS", "IgnoreUnknown=1;IP=10.88.0.77;K8S_POD_NAME=x"),
        (
            "CAP_ARGS",
            r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#,
        ),
    ];
    let only_name = &environment[..1];
    net(lab, &["status", "pods"], &[]).success();
    let result = parse(&net(lab, &["add", "pods", path(&c)], &environment).success());
    let ip = ip_of(&result, true);
    assert_eq!(ip.to_string(), "10.88.0.77");
    tcp_server(&c.netns, at(ip, 80));
    assert_eq!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(), OUTSIDE);
    // libcni's cache, under cnitool's name.
    let digest = sh(&format!("printf %s {} | sha512sum | cut -c1-20", path(&c)));
    let record = format!("/var/lib/cni/results/pods-cnitool-{}-net1", digest.trim());
    assert!(Path::new(&record).exists(), "{record}");
    if version == "1.1.0" {
        // CHECK of the reference's portmap 1.1.1 wants IPv6 rules, also without an IPv6 address.
        net(lab, &["check", "pods", path(&c)], only_name).success();
    }
    let again = net(lab, &["add", "pods", path(&c)], only_name);
    assert!(again.err().contains("already"), "a second ADD is refused");
    assert!(
        tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_ok(),
        "and breaks nothing"
    );
    // Arguments and ports are remembered.
    net(lab, &["del", "pods", path(&c)], only_name).success();
    net(lab, &["del", "pods", path(&c)], only_name).success();
    assert!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_err());
    assert!(!Path::new(&record).exists());
    assert_eq!(lab.leased("pods").len(), 0);
    let missing = net(lab, &["check", "pods", path(&c)], only_name);
    assert_eq!(missing.code(), 1);
    assert!(missing.err().contains("run ADD first"));
}

#[test]
fn the_command_drives_berths_plugins() {
    need_root!();
    drives(&Lab::new(), "1.1.0");
}

#[test]
fn the_command_drives_the_reference_plugins() {
    need_root!();
    if !Path::new(REFERENCE).join("bridge").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    drives(&Lab::new().with_plugins(REFERENCE), "1.0.0");
}

#[test]
fn mistakes_are_named_and_leave_nothing() {
    need_root!();
    let lab = Lab::new();
    configure(&lab, "1.1.0");
    let (a, b) = (lab.container(), lab.container());
    net(
        &lab,
        &["add", "pods", path(&a)],
        &[(
            "CAP_ARGS",
            r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#,
        )],
    )
    .success();
    let before = traces();
    for (arguments, environment, part) in [
        (
            &["add", "nowhere", path(&b)][..],
            ("X", ""),
            "no CNI network nowhere",
        ),
        (&["add", "pods", path(&b)], ("CNI_PATH", "/nowhere"), "/nowhere"),
        (
            &["add", "pods", path(&b)],
            ("NETCONFPATH", "/nowhere"),
            "/nowhere",
        ),
        (&["add", "pods", "/run/netns/none"], ("X", ""), "/run/netns/none"),
        (
            &["add", "pods", path(&b)],
            ("CNI_IFNAME", "a/b"),
            "interface name",
        ),
        (&["add", "pods", path(&b)], ("CNI_ARGS", "IP"), "CNI_ARGS"),
        (&["add", "pods", path(&b)], ("CAP_ARGS", "[]"), "CAP_ARGS"),
        // The second plugin fails: the first is undone.
        (
            &["add", "pods", path(&b)],
            (
                "CAP_ARGS",
                r#"{"portMappings": [{"hostPort": 8080, "containerPort": 81, "protocol": "tcp"}]}"#,
            ),
            "8080/tcp is taken by container cnitool-",
        ),
        (
            &["add", "pods", path(&b), "--container", "a b"],
            ("X", ""),
            "container ID",
        ),
    ] {
        let outcome = net(&lab, arguments, &[environment]);
        assert_eq!(outcome.code(), 1, "{arguments:?} {environment:?}");
        let text = outcome.err();
        assert!(
            text.starts_with("error: ") && text.contains(part),
            "{part:?} is not in {text}"
        );
        assert_eq!(traces(), before, "{arguments:?} {environment:?}");
        assert_eq!(lab.leased("pods").len(), 1);
    }
    assert_eq!(
        net(&lab, &["add", "pods"], &[]).code(),
        2,
        "the command line is wrong"
    );
}

#[test]
fn gc_keeps_what_lives_and_what_is_named() {
    need_root!();
    let lab = Lab::new();
    configure(&lab, "1.1.0");
    let (live, dead, foreign) = (lab.container(), lab.container(), lab.container());
    for c in [&live, &dead] {
        net(&lab, &["add", "pods", path(c)], &[]).success();
    }
    // Attached by somebody whose records are elsewhere.
    let other = lab.path().join("other");
    let other = other.to_str().unwrap();
    net(
        &lab,
        &[
            "add",
            "pods",
            path(&foreign),
            "--container",
            "foreign",
            "--cache-dir",
            other,
        ],
        &[],
    )
    .success();
    sh(&format!("ip netns del {}", dead.id));
    net(&lab, &["gc", "pods", "--keep", "foreign/eth0"], &[]).success();
    assert_eq!(lab.leased("pods").len(), 2);
    net(&lab, &["check", "pods", path(&live)], &[]).success();
    net(
        &lab,
        &[
            "check",
            "pods",
            path(&foreign),
            "--container",
            "foreign",
            "--cache-dir",
            other,
        ],
        &[],
    )
    .success();
    net(&lab, &["gc", "pods"], &[]).success();
    assert_eq!(lab.leased("pods").len(), 1);
    net(&lab, &["gc", "pods", "--all"], &[]).success();
    assert_eq!(lab.leased("pods").len(), 0);
    assert!(!sh("nft list ruleset").contains("eth0"));
}

#[test]
fn repair_puts_back_what_was_flushed() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    configure(&lab, "1.1.0");
    let (a, b) = (lab.container(), lab.container());
    let ports = (
        "CAP_ARGS",
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#,
    );
    let result = parse(&net(&lab, &["add", "pods", path(&a)], &[ports]).success());
    net(&lab, &["add", "pods", path(&b)], &[]).success();
    tcp_server(&a.netns, at(ip_of(&result, true), 80));
    let before = traces();
    assert_eq!(
        net(&lab, &["repair"], &[]).success().matches(": sound\n").count(),
        2
    );
    assert_eq!(traces(), before);
    sh("nft flush ruleset");
    assert!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_err());
    assert_eq!(net(&lab, &["repair", "nowhere"], &[]).success(), "");
    assert_eq!(
        net(&lab, &["repair", "pods"], &[])
            .success()
            .matches(": repaired\n")
            .count(),
        2
    );
    assert_eq!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(), OUTSIDE);
    sh(&format!("ip netns del {}", b.id));
    let text = net(&lab, &["repair"], &[]).success();
    assert!(
        text.contains("namespace is gone") && text.contains(": sound\n"),
        "{text}"
    );
    // What the container has done to itself is its own: said, not undone.
    sh(&format!("ip -n {} route del default", a.id));
    let outcome = net(&lab, &["repair"], &[]);
    assert_eq!(outcome.code(), 1);
    assert!(outcome.err().contains("no route to 0.0.0.0/0"));
    assert!(
        net(&lab, &["repair", "--reattach"], &[])
            .success()
            .contains("attached anew")
    );
    assert_eq!(
        tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(),
        OUTSIDE,
        "the same address and ports"
    );
}

#[test]
fn the_reference_plugins_are_attached_anew_with_the_same_address() {
    need_root!();
    if !Path::new(REFERENCE).join("bridge").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    let lab = Lab::new().with_plugins(REFERENCE);
    let outside = lab.outside();
    configure(&lab, "1.0.0");
    let a = lab.container();
    let ports = (
        "CAP_ARGS",
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}"#,
    );
    let result = parse(&net(&lab, &["add", "pods", path(&a)], &[ports]).success());
    tcp_server(&a.netns, at(ip_of(&result, true), 80));
    assert_eq!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(), OUTSIDE);
    sh("nft flush ruleset");
    let outcome = net(&lab, &["repair"], &[]);
    assert_eq!(outcome.code(), 1, "they cannot repair in place");
    assert!(
        net(&lab, &["repair", "--reattach"], &[])
            .success()
            .contains("attached anew")
    );
    assert_eq!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(), OUTSIDE);
}
