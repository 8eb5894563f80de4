//! `linux.netDevices`: devices move into the container. Each test works in a network namespace of its own.

use std::process::Command;

use harness::{Bundle, isolate, need_root, run};
use serde_json::{Value, json};

use crate::driver::Runtime;

fn ip(args: &[&str]) -> String {
    run(Command::new("ip").args(args)).ok()
}

/// A device with an end that stays here: pairs are what every kernel for containers can make.
fn device(name: &str) {
    let end = format!("{name}-end");
    ip(&["link", "add", "name", name, "type", "veth", "peer", "name", &end]);
    ip(&["link", "set", "dev", &end, "up"]);
}

fn bundle(script: &str, devices: &Value) -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|config| config["linux"]["netDevices"] = devices.clone());
    bundle
}

#[test]
fn a_device_moves_with_its_addresses_and_attributes() {
    need_root!();
    isolate();
    device("one");
    ip(&[
        "link",
        "set",
        "one",
        "mtu",
        "1337",
        "address",
        "02:00:00:00:00:05",
        "up",
    ]);
    for address in ["10.9.0.1/24", "10.9.1.1/32"] {
        ip(&["address", "add", address, "dev", "one"]);
    }
    ip(&["address", "add", "fd09::1/64", "dev", "one", "nodad"]);
    ip(&["address", "add", "169.254.7.7/16", "scope", "link", "dev", "one"]);
    let mut bundle = bundle("ip address show dev one; ip link", &json!({"one": {}}));
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    for expected in [
        "mtu 1337",
        "02:00:00:00:00:05",
        "inet 10.9.0.1/24",
        "inet 10.9.1.1/32",
        "inet6 fd09::1/64",
        "UP",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("169.254.7.7"), "only what is global moves: {text}");
    assert!(
        !ip(&["link"]).contains("one:"),
        "it is no longer here, and ended with the container"
    );
}

#[test]
fn a_device_is_renamed_on_the_way() {
    need_root!();
    isolate();
    ip(&["link", "add", "left", "type", "veth", "peer", "name", "right"]);
    ip(&["address", "add", "10.8.0.1/24", "dev", "left"]);
    ip(&["address", "add", "10.8.0.2/24", "dev", "right"]);
    ip(&["link", "set", "right", "up"]);
    // Its parameters can be set under the new name, and packets pass.
    let script = "cat /proc/sys/net/ipv4/conf/eth0/forwarding; ip -o -4 address show dev eth0; ping -c 1 -W 5 10.8.0.2";
    let mut bundle = bundle(script, &json!({"left": {"name": "eth0"}}));
    bundle.edit(|config| {
        config["linux"]["sysctl"] = json!({"net.ipv4.conf.eth0.forwarding": "1"});
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_NET_RAW"]);
        }
    });
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    assert!(text.starts_with("1\n"), "{text}");
    assert!(
        text.contains("10.8.0.1/24") && text.contains("1 packets received"),
        "{text}"
    );
}

#[test]
fn the_kernel_makes_a_name_of_a_template() {
    need_root!();
    isolate();
    device("first");
    device("second");
    let templates = json!({"first": {"name": "net%d"}, "second": {"name": "net%d"}});
    let mut bundle = bundle("ip -o link", &templates);
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    assert!(text.contains("net0") && text.contains("net1"), "{text}");
}

#[test]
fn a_joined_network_gets_the_device_and_keeps_it() {
    need_root!();
    isolate();
    let holder = Holder::new();
    device("one");
    ip(&["address", "add", "10.7.0.1/24", "dev", "one"]);
    let mut first = bundle("ip -o -4 address show dev two", &json!({"one": {"name": "two"}}));
    let join = |bundle: &mut Bundle| {
        bundle.edit(|config| {
            for entry in config["linux"]["namespaces"].as_array_mut().unwrap() {
                if entry["type"] == "network" {
                    entry["path"] = json!(holder.path());
                }
            }
        });
    };
    join(&mut first);
    let runtime = Runtime::berth();
    assert!(runtime.run_bundle(&mut first).ok().contains("10.7.0.1/24"));
    // A name that is taken there is an error, and the device stays here.
    device("three");
    let mut second = bundle("true", &json!({"three": {"name": "two"}}));
    join(&mut second);
    let error = runtime.run_bundle(&mut second).err();
    assert!(
        error.contains(
            "linux.netDevices.three: cannot move it into the container's network namespace: file exists"
        ),
        "{error}"
    );
    assert!(ip(&["link"]).contains("three"));
    assert!(ip(&["link"]).contains("lo"));
}

/// A process that holds a network namespace.
struct Holder(std::process::Child);

impl Holder {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .spawn()
            .unwrap();
        let holder = Self(child);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        harness::wait_for(
            "the namespace",
            crate::driver::PATIENCE,
            || match std::fs::read_link(holder.path()) {
                Ok(link) if link != own => Ok(()),
                other => Err(other),
            },
        );
        holder
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_device_that_is_not_there_is_named() {
    need_root!();
    isolate();
    let runtime = Runtime::berth();
    let mut absent = bundle("true", &json!({"nosuch": {}}));
    let error = runtime.run_bundle(&mut absent).err();
    assert!(
        error.contains(
            "linux.netDevices.nosuch: cannot find it in the runtime's network namespace: no such device"
        ),
        "{error}"
    );
    let mut shared = bundle("true", &json!({"lo": {}}));
    shared.edit(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|entry| entry["type"] != "network");
    });
    let error = runtime.run_bundle(&mut shared).err();
    assert!(
        error.contains("unable to move network devices without a NET namespace"),
        "{error}"
    );
}
