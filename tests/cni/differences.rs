//! Where Berth's plugins and the reference plugins differ, as lists: each line is run on both.

use std::path::Path;
use std::process::Command;

use harness::{need_root, run_with_input, skip};
use serde_json::{Value, json};

use crate::lab::{Lab, Protocol as _, ip_of, parse, sh, with};

const REFERENCE: &str = "/usr/lib/cni";

/// What a user gains: true where the plugins do it.
type Gain = (&'static str, fn(&Lab) -> bool);

const BETTER_HERE: &[Gain] = &[
    (
        "DEL removes masquerading when the namespace is gone",
        masquerade_goes,
    ),
    ("DEL of portmap needs no runtimeConfig", ports_go),
    ("DEL of firewall needs no prevResult", accepts_go),
    ("a port of the host that is taken is refused", taken_port),
    (
        "an ADD that fails leaves no interface in the container",
        failed_add,
    ),
    ("a bad configuration has code 7 and its field's name", bad_field),
    ("an error says its cniVersion", versioned_error),
    ("VERSION echoes the request's cniVersion", echo),
    ("no program is needed, PATH may be empty", empty_path),
    ("the IPv6 gateway is usable at once", no_detection),
    ("CHECK of bandwidth notices a missing queue", missing_queue),
    ("GC and STATUS (CNI 1.1.0) are served", newest_verbs),
    (
        "who gets the address next gets its hardware address, too",
        same_hardware_address,
    ),
];

/// What the reference can do and Berth's plugins refuse with code 2, each with what to do instead.
const NOT_HERE: &[(&str, &str, &str)] = &[
    ("portmap", "conditionsV4", r#"["-s", "10.0.0.0/8"]"#),
    ("portmap", "conditionsV6", r#"["-s", "fd00::/8"]"#),
    ("firewall", "backend", r#""firewalld""#),
];

fn bridge(lab: &Lab) -> Value {
    with(
        &lab.bridge("net", &["10.88.0.0/24"], json!({})),
        json!({"cniVersion": "1.0.0"}),
    )
}

fn chained(kind: &str, result: &Value, extra: Value) -> Value {
    with(
        &json!({"cniVersion": "1.0.0", "name": "net", "type": kind, "prevResult": result}),
        extra,
    )
}

fn published() -> Value {
    json!({"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}})
}

fn masquerade_goes(lab: &Lab) -> bool {
    let (c, config) = (lab.container(), bridge(lab));
    let result = lab.add(&c, &config);
    sh(&format!("ip netns del {}", c.id));
    lab.call_in("DEL", &c.id, "", "eth0", &config).success();
    !sh("nft list ruleset").contains(&ip_of(&result, true).to_string())
}

fn ports_go(lab: &Lab) -> bool {
    let c = lab.container();
    let result = lab.add(&c, &with(&bridge(lab), json!({"ipMasq": false})));
    lab.call("ADD", Some(&c), &chained("portmap", &result, published()))
        .success();
    let bare = json!({"cniVersion": "1.0.0", "name": "net", "type": "portmap"});
    lab.call("DEL", Some(&c), &bare).success();
    !sh("nft list ruleset").contains("8080")
}

fn accepts_go(lab: &Lab) -> bool {
    let c = lab.container();
    let result = lab.add(&c, &with(&bridge(lab), json!({"ipMasq": false})));
    lab.call("ADD", Some(&c), &chained("firewall", &result, json!({})))
        .success();
    let bare = json!({"cniVersion": "1.0.0", "name": "net", "type": "firewall"});
    lab.call("DEL", Some(&c), &bare).success();
    !sh("nft list ruleset").contains(&ip_of(&result, true).to_string())
}

fn taken_port(lab: &Lab) -> bool {
    let (a, b, config) = (lab.container(), lab.container(), bridge(lab));
    let (ra, rb) = (lab.add(&a, &config), lab.add(&b, &config));
    lab.call("ADD", Some(&a), &chained("portmap", &ra, published()))
        .success();
    !lab.call("ADD", Some(&b), &chained("portmap", &rb, published()))
        .status
        .success()
}

fn failed_add(lab: &Lab) -> bool {
    let (a, b) = (lab.container(), lab.container());
    let config = with(
        &bridge(lab),
        json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/30"}]]}}),
    );
    lab.add(&a, &config);
    lab.call("ADD", Some(&b), &config).failure_of_any();
    !sh(&format!("ip -n {} link", b.id)).contains("eth0")
}

fn bad_field(lab: &Lab) -> bool {
    let config = with(
        &bridge(lab),
        json!({"ipam": {"ranges": [[{"subnet": "10.88.0.0/31"}]]}}),
    );
    let error = lab.call("ADD", Some(&lab.container()), &config).failure_of_any();
    error["code"] == 7
        && error["msg"]
            .as_str()
            .is_some_and(|m| m.contains("ranges[0][0].subnet"))
}

fn versioned_error(lab: &Lab) -> bool {
    let config = with(&bridge(lab), json!({"vlan": 5000}));
    let error = lab.call("ADD", Some(&lab.container()), &config).failure_of_any();
    error["cniVersion"] == "1.0.0"
}

fn echo(lab: &Lab) -> bool {
    let mut command = Command::new(lab.plugins().join("bridge"));
    command.env("CNI_COMMAND", "VERSION");
    let answer = run_with_input(&mut command, br#"{"cniVersion": "0.4.0"}"#).ok();
    parse(&answer)["cniVersion"] == "0.4.0"
}

fn empty_path(lab: &Lab) -> bool {
    let c = lab.container();
    let mut command = Command::new(lab.plugins().join("bridge"));
    command
        .env_clear()
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", &c.id)
        .env("CNI_NETNS", &c.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", lab.plugins());
    run_with_input(&mut command, bridge(lab).to_string().as_bytes())
        .status
        .success()
}

fn no_detection(lab: &Lab) -> bool {
    let config = with(
        &lab.bridge("net", &["fd88::/64"], json!({})),
        json!({"cniVersion": "1.0.0"}),
    );
    lab.add(&lab.container(), &config);
    !sh("ip -6 addr show dev br-net").contains("tentative")
}

fn missing_queue(lab: &Lab) -> bool {
    let c = lab.container();
    let result = lab.add(&c, &with(&bridge(lab), json!({"ipMasq": false})));
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 160_000});
    let config = chained("bandwidth", &result, limits);
    let shaped = parse(&lab.call("ADD", Some(&c), &config).success());
    let check = with(&config, json!({"prevResult": shaped}));
    lab.call("CHECK", Some(&c), &check).success();
    sh(&format!(
        "tc qdisc del dev {} root",
        result["interfaces"][1]["name"].as_str().unwrap()
    ));
    !lab.call("CHECK", Some(&c), &check).status.success()
}

fn newest_verbs(lab: &Lab) -> bool {
    let config = with(
        &bridge(lab),
        json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}),
    );
    ["STATUS", "GC"]
        .iter()
        .all(|verb| lab.call(verb, None, &config).status.success())
}

fn same_hardware_address(lab: &Lab) -> bool {
    let config = with(&bridge(lab), json!({"runtimeConfig": {"ips": ["10.88.0.9"]}}));
    let mac = |id: &str| {
        let c = lab.named(id);
        let result = lab.add(&c, &config);
        lab.del(&c, &config);
        result["interfaces"][2]["mac"].clone()
    };
    mac("first") == mac("second")
}

trait AnyFailure {
    /// The error object, whatever is in it.
    fn failure_of_any(self) -> Value;
}

impl AnyFailure for harness::Outcome {
    #[track_caller]
    fn failure_of_any(self) -> Value {
        assert!(
            !self.status.success(),
            "succeeded though it must not: {}",
            self.stdout
        );
        parse(&self.stdout)
    }
}

#[test]
fn what_is_better_than_with_the_reference() {
    need_root!();
    if !Path::new(REFERENCE).join("bridge").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    for (what, gain) in BETTER_HERE {
        let try_with = |dir: Option<&'static str>| {
            std::thread::spawn(move || {
                let lab = Lab::new();
                gain(&match dir {
                    Some(dir) => lab.with_plugins(dir),
                    None => lab,
                })
            })
            .join()
            .unwrap_or_else(|_| panic!("{what}: the test itself failed"))
        };
        assert!(try_with(None), "Berth's plugins: {what}");
        assert!(
            !try_with(Some(REFERENCE)),
            "the reference does it, too, now: take {what:?} off the list"
        );
    }
}

#[test]
fn what_is_refused_though_the_reference_has_it() {
    need_root!();
    let lab = Lab::new();
    let c = lab.container();
    let result = lab.add(&c, &bridge(&lab));
    for (kind, field, value) in NOT_HERE {
        let mut extra = published();
        extra[*field] = parse(value);
        let (code, msg) = lab
            .call("ADD", Some(&c), &chained(kind, &result, extra))
            .failure();
        assert_eq!(code, 2, "{msg}");
        assert!(msg.starts_with(field) && msg.contains("not supported: "), "{msg}");
    }
}
