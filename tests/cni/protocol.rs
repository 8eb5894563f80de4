//! Every verb of every plugin in every version; whole chains under load, killed, and without a PATH.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use cni_plugins::exec::{Attachment, Network, Runtime};
use harness::{need_root, run_with_input, wait_for};
use serde_json::{Value, json};

use crate::lab::{
    Container, HOST, HOST6, Lab, Protocol as _, UdpClient, at, ip_of, parse, sh, traces, udp_server, with,
};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A configuration of each plugin; chained ones come after a bridge.
fn configurations(lab: &Lab) -> Vec<(bool, Value)> {
    let ipam = json!({"type": "host-local", "dataDir": lab.leases(), "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}]});
    let fixed =
        json!({"type": "static", "addresses": [{"address": "192.0.2.50/24", "gateway": "192.0.2.2"}]});
    let ports = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]});
    let rates = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 160_000, "egressRate": 8_000_000, "egressBurst": 160_000}});
    vec![
        (
            false,
            json!({"type": "bridge", "bridge": "br-all", "isGateway": true, "ipMasq": true, "ipam": ipam}),
        ),
        (false, json!({"type": "ptp", "ipMasq": true, "ipam": ipam})),
        (false, json!({"type": "macvlan", "master": "out0", "ipam": fixed})),
        (false, json!({"type": "loopback"})),
        (false, json!({"type": "host-local", "ipam": ipam})),
        (false, json!({"type": "static", "ipam": fixed})),
        (true, json!({"type": "portmap", "runtimeConfig": ports})),
        (true, json!({"type": "firewall", "ingressPolicy": "same-bridge"})),
        (true, json!({"type": "bandwidth", "runtimeConfig": rates})),
        (
            true,
            json!({"type": "tuning", "mtu": 1300, "sysctl": {"net.core.somaxconn": "99"}, "dataDir": lab.path().join("tuning")}),
        ),
    ]
}

/// What a version's result must have and must not have.
fn check_shape(result: &Value, version: &str, kind: &str) {
    assert_eq!(result["cniVersion"], version, "{kind}");
    let old = version.starts_with("0.");
    for ip in result["ips"].as_array().into_iter().flatten() {
        let family = if ip["address"].as_str().unwrap().contains(':') {
            "6"
        } else {
            "4"
        };
        let expected = if old { json!(family) } else { Value::Null };
        assert_eq!(ip["version"], expected, "{kind} {version}: {result}");
    }
    let newest = version == "1.1.0";
    for interface in result["interfaces"].as_array().into_iter().flatten() {
        assert!(interface["name"].is_string());
        assert!(
            newest || interface.get("mtu").is_none(),
            "{kind} {version}: {result}"
        );
    }
    for route in result["routes"].as_array().into_iter().flatten() {
        assert_eq!(route.get("mtu").is_some(), newest, "{kind} {version}: {result}");
    }
    assert!(result["dns"].is_object(), "{kind} {version}: {result}");
}

fn speaks(lab: &Lab, c: &Container, version: &str, chained: bool, plugin: &Value) {
    let kind = plugin["type"].as_str().unwrap();
    let name = json!({"cniVersion": version, "name": "net"});
    let bridge = with(&configurations(lab)[0].1, name.clone());
    let mut config = with(plugin, name);
    if chained {
        config["prevResult"] = lab.add(c, &bridge);
    }
    let mut command = Command::new(lab.plugins().join(kind));
    command.env("CNI_COMMAND", "VERSION");
    let answer = parse(
        &run_with_input(
            &mut command,
            format!("{{\"cniVersion\": \"{version}\"}}").as_bytes(),
        )
        .success(),
    );
    assert_eq!(answer["cniVersion"], version);
    for known in VERSIONS {
        assert!(
            answer["supportedVersions"]
                .as_array()
                .unwrap()
                .contains(&json!(known))
        );
    }
    let result = lab.add(c, &config);
    check_shape(&result, version, kind);
    let after = with(&config, json!({"prevResult": result}));
    let expect = |verb: &str, container: Option<&Container>, config: &Value, since: &str| {
        let outcome = lab.call(verb, container, config);
        if version >= since {
            assert_eq!(outcome.success(), "", "{kind} {verb} {version} prints nothing");
        } else {
            let (code, msg) = outcome.failure();
            assert!(code == 1 && msg.contains(verb), "{kind} {verb} {version}: {msg}");
        }
    };
    expect("CHECK", Some(c), &after, "0.4.0");
    expect("STATUS", None, &config, "1.1.0");
    let keep = json!({"cni.dev/valid-attachments": [{"containerID": c.id, "ifname": "eth0"}]});
    expect("GC", None, &with(&config, keep), "1.1.0");
    expect("CHECK", Some(c), &after, "0.4.0");
    for _ in 0..2 {
        expect("DEL", Some(c), &after, "0.3.1");
    }
    if chained {
        lab.del(c, &bridge);
    }
}

#[test]
fn every_plugin_speaks_every_version() {
    need_root!();
    let lab = Lab::new();
    lab.outside();
    let mut clean = BTreeMap::new();
    for version in VERSIONS {
        for (number, (chained, plugin)) in configurations(&lab).iter().enumerate() {
            let c = lab.container();
            speaks(&lab, &c, version, *chained, plugin);
            assert_eq!(lab.leased("net"), Vec::<String>::new(), "{version} {plugin}");
            // The first round leaves the table; nothing more comes.
            let now = traces();
            if version != VERSIONS[0] {
                assert_eq!(
                    Some(&now),
                    clean.get(&configurations(&lab).len()),
                    "{version} {number}"
                );
            }
            clean.insert(configurations(&lab).len(), now);
        }
    }
    assert_eq!(
        fs::read_dir(lab.path().join("tuning")).map_or(0, Iterator::count),
        0
    );
}

/// The whole chain; each container has a port of its own.
fn chain(lab: &Lab) -> Network {
    let list = json!({"cniVersion": "1.1.0", "name": "chain", "plugins": [
        {"type": "bridge", "bridge": "br-chain", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": lab.leases(), "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall", "ingressPolicy": "same-bridge"},
        {"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 1_600_000, "egressRate": 80_000_000, "egressBurst": 1_600_000}]});
    Network::from_bytes(list.to_string().as_bytes()).unwrap()
}

fn attachment(c: &Container, port: usize) -> Attachment {
    let mut attachment = Attachment::new(&c.id, &c.netns, "eth0");
    let ports = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}, {"hostPort": port, "containerPort": 53, "protocol": "udp"}]);
    attachment.capabilities.insert("portMappings".into(), ports);
    attachment
}

#[test]
fn fifty_whole_chains_at_once_also_the_first_on_a_host() {
    need_root!();
    let lab = Lab::new();
    let runtime = Runtime::new([lab.plugins().to_owned()], lab.path().join("cache"));
    let network = chain(&lab);
    let containers: Vec<Container> = (0..50).map(|_| lab.container()).collect();
    let each = |work: &(dyn Fn(usize, &Container) + Sync)| {
        std::thread::scope(|scope| {
            for (n, c) in containers.iter().enumerate() {
                scope.spawn(move || work(n, c));
            }
        });
    };
    each(&|n, c| {
        runtime
            .add(&network, &attachment(c, 9000 + n))
            .unwrap_or_else(|e| panic!("{e}"));
    });
    assert_eq!(lab.leased("chain").len(), 100, "no address twice");
    let mut bridges: Vec<String> = runtime
        .attachments()
        .iter()
        .map(|a| parse(a.result.as_ref().unwrap().get())["interfaces"][0].to_string())
        .collect();
    bridges.dedup();
    assert_eq!(bridges.len(), 1, "{bridges:?}");
    each(&|n, c| {
        runtime
            .check(&network, &attachment(c, 9000 + n))
            .unwrap_or_else(|e| panic!("{e}"))
    });
    each(&|_, c| {
        runtime
            .del(&network, &Attachment::new(&c.id, &c.netns, "eth0"))
            .unwrap_or_else(|e| panic!("{e}"))
    });
    assert_eq!(lab.leased("chain").len(), 0);
    let left = traces();
    assert!(
        !left.contains("eth0") && !left.contains("veth") && !left.contains("bwp"),
        "{left}"
    );
}

/// Numbers that look random and are the same in each run.
fn numbers() -> impl FnMut(u64) -> u64 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Starts a verb of a plugin and kills it after some time; gives its output if it was faster.
fn killed(lab: &Lab, verb: &str, c: &Container, config: &Value, after: Duration) -> Option<String> {
    let input = lab.path().join("input");
    fs::write(&input, config.to_string()).unwrap();
    let mut child = Command::new(lab.plugins().join(config["type"].as_str().unwrap()))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", &c.id)
        .env("CNI_NETNS", &c.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", lab.plugins())
        .stdin(fs::File::open(&input).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    output
        .status
        .success()
        .then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn whole_chains_killed_at_any_moment_are_collected() {
    need_root!();
    let lab = Lab::new();
    let list = chain(&lab);
    let plugins: Vec<Value> = list
        .plugins
        .iter()
        .map(|p| {
            with(
                &parse(&p.object.to_json()),
                json!({"cniVersion": "1.1.0", "name": "chain", "capabilities": null}),
            )
        })
        .collect();
    let gc = || {
        for plugin in &plugins {
            lab.call(
                "GC",
                None,
                &with(plugin, json!({"cni.dev/valid-attachments": []})),
            )
            .success();
        }
    };
    let runtime = Runtime::new([lab.plugins().to_owned()], lab.path().join("cache"));
    let first = lab.container();
    runtime.add(&list, &attachment(&first, 9000)).unwrap();
    runtime.del(&list, &attachment(&first, 9000)).unwrap();
    let clean = traces();
    let mut below = numbers();
    for round in 0..30 {
        let c = lab.container();
        let mut result: Option<Value> = None;
        let victim = below(8) as usize;
        let steps = plugins.iter().enumerate().map(|(n, p)| (n, "ADD", p));
        let steps = steps.chain(plugins.iter().rev().enumerate().map(|(n, p)| (n + 4, "DEL", p)));
        for (number, verb, plugin) in steps {
            let ports = json!({"portMappings": [{"hostPort": 9000 + round, "containerPort": 80}]});
            let mut config = with(plugin, json!({"runtimeConfig": ports}));
            if let Some(result) = &result {
                config["prevResult"] = result.clone();
            }
            if number == victim {
                killed(&lab, verb, &c, &config, Duration::from_micros(below(6000)));
                break;
            }
            let output = lab.call(verb, Some(&c), &config).success();
            if verb == "ADD" {
                result = Some(parse(&output));
            }
        }
        if round % 3 == 0 {
            gc();
            wait_for("all traces to go", Duration::from_secs(20), || {
                if traces() == clean { Ok(()) } else { Err(traces()) }
            });
            assert_eq!(lab.leased("chain").len(), 0);
        }
    }
    gc();
    wait_for("all traces to go", Duration::from_secs(20), || {
        if traces() == clean { Ok(()) } else { Err(traces()) }
    });
    // And the network still works.
    runtime.add(&list, &attachment(&first, 9000)).unwrap();
    runtime.check(&list, &attachment(&first, 9000)).unwrap();
}

#[test]
fn every_verb_of_a_chain_works_without_a_path() {
    need_root!();
    let lab = Lab::new();
    let c = lab.container();
    let call = |verb: &str, config: &Value| {
        let mut command = Command::new(lab.plugins().join(config["type"].as_str().unwrap()));
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &c.id)
            .env("CNI_NETNS", &c.netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", lab.plugins());
        run_with_input(&mut command, config.to_string().as_bytes()).success()
    };
    let mut result = Value::Null;
    let plugins: Vec<Value> = chain(&lab)
        .plugins
        .iter()
        .map(|p| {
            let extra = json!({"cniVersion": "1.1.0", "name": "chain", "capabilities": null,
                "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}, "cni.dev/valid-attachments": []});
            with(&parse(&p.object.to_json()), extra)
        })
        .collect();
    for plugin in &plugins {
        call("STATUS", plugin);
        result = parse(&call("ADD", &with(plugin, json!({"prevResult": result}))));
    }
    for verb in ["CHECK", "DEL", "GC"] {
        for plugin in &plugins {
            call(verb, &with(plugin, json!({"prevResult": result})));
        }
    }
    assert!(!traces().contains("eth0") && !traces().contains("veth"));
}

#[test]
fn udp_ports_are_reached_from_everywhere() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let bridge = lab.bridge(
        "net",
        &["10.88.0.0/24", "fd88::/64"],
        json!({"hairpinMode": true}),
    );
    let (a, b) = (lab.container(), lab.container());
    let (ra, _) = (lab.add(&a, &bridge), lab.add(&b, &bridge));
    for v4 in [true, false] {
        udp_server(&a.netns, at(ip_of(&ra, v4), 53), "a ");
    }
    let ports = json!({"portMappings": [{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]});
    let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "portmap", "prevResult": ra, "runtimeConfig": ports});
    lab.call("ADD", Some(&a), &config).success();
    let host = Path::new("/proc/thread-self/ns/net");
    for (from, to, seen) in [
        (&*outside.netns, HOST, "a 192.0.2.2"),
        (&*outside.netns, HOST6, "a 2001:db8::2"),
        (host, HOST, "a 192.0.2.1"),
        (host, "127.0.0.1", "a 10.88.0.1"),
        (host, HOST6, "a 2001:db8::1"),
        (&*b.netns, HOST, "a 10.88.0.1"),
        (&*b.netns, "10.88.0.1", "a 10.88.0.1"),
        (&*a.netns, HOST, "a 10.88.0.1"),
        (&*a.netns, HOST6, "a fd88::1"),
    ] {
        let client = UdpClient::new(from, at(to, 5353));
        let answer = wait_for("an answer", Duration::from_secs(10), || client.ask());
        assert_eq!(answer, seen, "from {} to {to}", from.display());
    }
    lab.call_in("DEL", &a.id, "", "eth0", &config).success();
    assert!(UdpClient::new(&outside.netns, at(HOST, 5353)).ask().is_err());
    assert!(!sh("nft list ruleset").contains("5353"));
}

/// A plugin of somebody else's that writes down when it begins and ends.
fn slow_plugin(lab: &Lab) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = lab.path().join("slow");
    fs::create_dir(&dir).unwrap();
    let log = lab.path().join("log");
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\necho begin $CNI_COMMAND $CNI_CONTAINERID >>{log}\nsleep 0.05\necho end $CNI_COMMAND $CNI_CONTAINERID >>{log}\n\
         [ $CNI_COMMAND != ADD ] || echo '{{\"cniVersion\": \"1.1.0\"}}'\n",
        log = log.display()
    );
    fs::write(dir.join("slow"), script).unwrap();
    fs::set_permissions(dir.join("slow"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&log, "").unwrap();
    dir
}

#[test]
fn one_operation_a_container_and_none_during_gc() {
    need_root!();
    let lab = Lab::new();
    let list = json!({"cniVersion": "1.1.0", "name": "slow", "plugins": [{"type": "slow"}]});
    let network = Network::from_bytes(list.to_string().as_bytes()).unwrap();
    let runtime = Runtime::new([slow_plugin(&lab)], lab.path().join("cache"));
    std::thread::scope(|scope| {
        for n in 0..12 {
            let (runtime, network) = (&runtime, &network);
            scope.spawn(move || {
                let attachment = Attachment::new(format!("c{}", n % 3), "/x", "eth0");
                for _ in 0..3 {
                    match n % 4 {
                        0 => drop(runtime.add(network, &attachment).unwrap()),
                        // Whether it is attached depends on the others.
                        1 => drop(runtime.check(network, &attachment)),
                        2 => runtime.del(network, &attachment).unwrap(),
                        _ => runtime.gc(network, &[("c0".into(), "eth0".into())]).unwrap(),
                    }
                }
            });
        }
    });
    let log = fs::read_to_string(lab.path().join("log")).unwrap();
    let mut running: Vec<(&str, &str)> = Vec::new();
    let mut together = false;
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (verb, container) = (words[1], words.get(2).copied().unwrap_or_default());
        if words[0] == "end" {
            running.retain(|r| *r != (verb, container));
            continue;
        }
        assert!(
            !running.iter().any(|(_, c)| *c == container),
            "{line:?} during {running:?}:\n{log}"
        );
        assert!(
            !running.iter().any(|(v, _)| *v == "GC"),
            "{line:?} during GC:\n{log}"
        );
        assert!(
            verb != "GC" || running.is_empty(),
            "{line:?} during {running:?}:\n{log}"
        );
        together |= !running.is_empty();
        running.push((verb, container));
    }
    assert!(
        together,
        "different containers do not wait for each other:\n{log}"
    );
    assert!(log.contains("GC"));
}

#[test]
fn a_cache_that_cannot_be_written_fails_before_any_plugin() {
    need_root!();
    let lab = Lab::new();
    let list = json!({"cniVersion": "1.1.0", "name": "slow", "plugins": [{"type": "slow"}]});
    let network = Network::from_bytes(list.to_string().as_bytes()).unwrap();
    fs::create_dir_all(lab.path().join("cache")).unwrap();
    fs::write(lab.path().join("cache/results"), "in the way").unwrap();
    let runtime = Runtime::new([slow_plugin(&lab)], lab.path().join("cache"));
    let error = runtime
        .add(&network, &Attachment::new("c", "/x", "eth0"))
        .unwrap_err();
    assert!(error.to_string().contains("result cache"), "{error}");
    assert_eq!(fs::read_to_string(lab.path().join("log")).unwrap(), "");
}
