//! `cni_plugins::exec`: lists of plugins, Berth's and the reference's, with cache and locks.

use std::{collections::BTreeMap, fs, path::Path};

use cni_plugins::exec::{Attachment, ExecError, Network, Runtime};
use harness::{need_root, repository_root, skip};
use serde_json::{Value, json};

use crate::lab::{HOST, Lab, OUTSIDE, at, sh, tcp_ask, tcp_server, traces};

fn runtime(lab: &Lab) -> Runtime {
    Runtime::new([lab.plugins().to_owned()], lab.path().join("cache"))
}

/// A conflist of the whole chain.
fn chain(lab: &Lab) -> Value {
    json!({"cniVersion": "1.1.0", "name": "chain", "plugins": [
        {"type": "bridge", "bridge": "br-chain", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": lab.leases(), "ranges": [[{"subnet": "10.88.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "firewall"},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]})
}

fn write(dir: &Path, name: &str, value: &Value) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), value.to_string()).unwrap();
}

#[test]
fn a_chain_works_and_del_needs_no_arguments() {
    need_root!();
    let lab = Lab::new();
    let outside = lab.outside();
    let runtime = runtime(&lab);
    let network = Network::from_bytes(chain(&lab).to_string().as_bytes()).unwrap();
    let c = lab.container();
    let mut attachment = Attachment::new(&c.id, &c.netns, "eth0");
    attachment.capabilities = BTreeMap::from([
        (
            "portMappings".to_owned(),
            json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]),
        ),
        (
            "bandwidth".to_owned(),
            json!({"ingressRate": 800_000_000, "ingressBurst": 8_000_000}),
        ),
    ]);
    runtime.status(&network).unwrap();
    let result = runtime.add(&network, &attachment).unwrap();
    let ip = result.decode().unwrap().ips[0].address.addr();
    tcp_server(&c.netns, at(ip, 80));
    assert_eq!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).unwrap(), OUTSIDE);
    // What was told at ADD is remembered for CHECK and DEL.
    let bare = Attachment {
        netns: None,
        ..Attachment::new(&c.id, "", "eth0")
    };
    runtime.check(&network, &bare).unwrap();
    sh("nft flush table inet berth");
    let error = runtime.check(&network, &bare).unwrap_err();
    assert!(
        matches!(&error, ExecError::Plugin { plugin, verb: "CHECK", code: 101, .. } if plugin == "bridge"),
        "{error}"
    );
    assert_eq!(runtime.attachments().len(), 1);
    runtime.del(&network, &bare).unwrap();
    runtime.del(&network, &bare).unwrap();
    assert_eq!(runtime.attachments().len(), 0);
    assert!(tcp_ask(Some(&outside.netns), at(HOST, 8080)).is_err());
    assert!(!sh("nft list ruleset").contains(&c.id));
    let error = runtime.check(&network, &bare).unwrap_err();
    assert!(matches!(error, ExecError::NotAttached { .. }), "{error}");
}

#[test]
fn gc_detaches_what_is_not_live_and_works_without_a_cache() {
    need_root!();
    let lab = Lab::new();
    let runtime = runtime(&lab);
    let network = Network::from_bytes(chain(&lab).to_string().as_bytes()).unwrap();
    let (live, dead, forgotten) = (lab.container(), lab.container(), lab.container());
    for c in [&dead, &forgotten] {
        runtime
            .add(&network, &Attachment::new(&c.id, &c.netns, "eth0"))
            .unwrap();
    }
    runtime.gc(&network, &[]).unwrap();
    let attach = |c: &crate::lab::Container| {
        runtime
            .add(&network, &Attachment::new(&c.id, &c.netns, "eth0"))
            .unwrap()
    };
    attach(&live);
    let wanted = traces();
    attach(&dead);
    attach(&forgotten);
    sh(&format!(
        "ip netns del {}; ip netns del {}",
        dead.id, forgotten.id
    ));
    fs::remove_file(
        lab.path()
            .join(format!("cache/results/chain-{}-eth0", forgotten.id)),
    )
    .unwrap();
    runtime.gc(&network, &[(live.id.clone(), "eth0".into())]).unwrap();
    harness::wait_for("the dead to go", std::time::Duration::from_secs(5), || {
        if traces() == wanted { Ok(()) } else { Err(traces()) }
    });
    assert_eq!(lab.leased("chain").len(), 1);
    runtime
        .check(&network, &Attachment::new(&live.id, &live.netns, "eth0"))
        .unwrap();
    let kept = Network {
        disable_gc: true,
        ..network
    };
    runtime.gc(&kept, &[]).unwrap();
    assert_eq!(lab.leased("chain").len(), 1);
}

#[test]
fn one_process_attaches_many_at_once() {
    need_root!();
    let lab = Lab::new();
    let runtime = runtime(&lab);
    let network = Network::from_bytes(chain(&lab).to_string().as_bytes()).unwrap();
    let containers: Vec<_> = (0..16).map(|_| lab.container()).collect();
    let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    std::thread::scope(|scope| {
        for c in &containers {
            let (runtime, network) = (&runtime, &network);
            // New threads inherit the namespaces of the one that starts them.
            scope.spawn(move || {
                runtime
                    .add(network, &Attachment::new(&c.id, &c.netns, "eth0"))
                    .unwrap()
            });
        }
    });
    let open = files();
    std::thread::scope(|scope| {
        for c in &containers {
            let (runtime, network) = (&runtime, &network);
            scope.spawn(move || {
                runtime
                    .del(network, &Attachment::new(&c.id, &c.netns, "eth0"))
                    .unwrap()
            });
        }
    });
    assert!(
        files() <= open + 8,
        "descriptors do not pile up (other tests of this process run, too)"
    );
    assert_eq!(
        fs::read_link("/proc/thread-self/ns/net").unwrap(),
        before,
        "the runtime enters no namespace"
    );
    assert_eq!(lab.leased("chain").len(), 0);
}

#[test]
fn configurations_are_found_as_libcni_finds_them() {
    need_root!();
    let lab = Lab::new();
    let dir = lab.path().join("net.d");
    let error = Network::load_first(&dir).unwrap_err();
    assert!(error.to_string().contains("net.d"), "{error}");
    write(
        &dir,
        "50-b.conf",
        &json!({"cniVersion": "0.4.0", "name": "single", "type": "loopback", "big": 9_007_199_254_740_993_u64}),
    );
    write(&dir, "20-a.conflist", &chain(&lab));
    write(
        &dir,
        "10-broken.conflist",
        &json!({"cniVersion": "1.0.0", "name": "broken", "plugins": []}),
    );
    write(
        &dir,
        "30-many.conflist",
        &json!({"cniVersion": "0.4.0", "cniVersions": ["1.0.0", "2.0.0"], "name": "many", "disableCheck": "true", "plugins": [{"type": "loopback"}]}),
    );
    write(&dir.join("many"), "10-x.conf", &json!({"type": "tuning"}));
    assert_eq!(Network::load(&dir, "chain").unwrap().plugins.len(), 4);
    let many = Network::load(&dir, "many").unwrap();
    assert_eq!(
        (many.version.as_str(), many.plugins.len(), many.disable_check),
        ("1.0.0", 2, true)
    );
    let single = Network::load(&dir, "single").unwrap();
    assert_eq!(single.plugins[0].object.raw("big"), Some("9007199254740993"));
    let error = Network::load(&dir, "broken").unwrap_err();
    assert!(
        error.to_string().contains("10-broken.conflist: plugins: "),
        "{error}"
    );
    assert!(matches!(
        Network::load(&dir, "nothere"),
        Err(ExecError::NoNetwork { .. })
    ));
    let missing =
        Network::from_bytes(br#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"nothere"}]}"#).unwrap();
    let error = runtime(&lab)
        .add(&missing, &Attachment::new("c", "/x", "eth0"))
        .unwrap_err();
    assert!(
        error.to_string().contains("nothere") && error.to_string().contains("bin"),
        "{error}"
    );
    let error = runtime(&lab)
        .add(&missing, &Attachment::new("a/b", "/x", "eth0"))
        .unwrap_err();
    assert!(error.to_string().starts_with("container ID"), "{error}");
}

#[test]
fn the_reference_plugins_run_too() {
    need_root!();
    if !Path::new("/usr/lib/cni/bridge").exists() {
        skip!("needs the reference CNI plugins in /usr/lib/cni");
    }
    let lab = Lab::new().with_plugins("/usr/lib/cni");
    let runtime = runtime(&lab);
    let mut list = chain(&lab);
    list["cniVersion"] = json!("1.0.0");
    let network = Network::from_bytes(list.to_string().as_bytes()).unwrap();
    let c = lab.container();
    let mut attachment = Attachment::new(&c.id, &c.netns, "eth0");
    let limits = json!({"ingressRate": 8_000_000, "ingressBurst": 160_000});
    attachment.capabilities.insert("bandwidth".into(), limits);
    runtime.add(&network, &attachment).unwrap();
    runtime.check(&network, &attachment).unwrap();
    runtime.del(&network, &attachment).unwrap();
    assert_eq!(lab.leased("chain").len(), 0);
}

#[test]
fn every_example_works() {
    need_root!();
    let lab = Lab::new();
    lab.outside();
    let runtime = runtime(&lab);
    let mut count = 0;
    for entry in fs::read_dir(repository_root().join("examples/cni"))
        .unwrap()
        .flatten()
    {
        let network = Network::from_file(&entry.path()).unwrap_or_else(|e| panic!("{e}"));
        let c = lab.named(&format!("example-{count}"));
        let attachment = Attachment::new(&c.id, &c.netns, "eth0");
        runtime
            .status(&network)
            .unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        runtime
            .add(&network, &attachment)
            .unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        runtime
            .check(&network, &attachment)
            .unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        runtime
            .del(&network, &attachment)
            .unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        runtime
            .gc(&network, &[])
            .unwrap_or_else(|e| panic!("{}: {e}", entry.path().display()));
        count += 1;
    }
    assert!(count >= 5, "{count}");
}
