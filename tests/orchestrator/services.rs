//! Services on a node: an address and a port of the host that lead to the pods that are ready, and to no others.

use harness::{Node, NodeOptions, isolate, kubectl, need_root, run, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::application;

const PATIENCE: Duration = Duration::from_secs(60);

fn service(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n")
}

/// The first line that somebody answers at an address, by a new connection.
fn ask(address: &str) -> Result<String, String> {
    let inner = || -> std::io::Result<String> {
        let address = address.parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok(body.trim().to_owned())
    };
    inner().map_err(|error| error.to_string())
}

/// The pods that answer at an address, asked often enough to hear each.
fn heard(address: &str, times: usize) -> Result<BTreeSet<String>, String> {
    (0..times)
        .map(|_| ask(address).map(|answer| answer.rsplit(' ').next().unwrap_or_default().to_owned()))
        .collect()
}

fn names(node: &Node) -> BTreeSet<String> {
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    application::pods(node).iter().map(name).collect()
}

#[track_caller]
fn answers_at(node: &Node, address: &str) {
    wait_for(&format!("all pods at {address}"), PATIENCE, || {
        let (heard, pods) = (heard(address, 8)?, names(node));
        if heard == pods {
            Ok(())
        } else {
            Err(format!("{heard:?} of {pods:?}"))
        }
    });
}

fn node() -> Node {
    isolate();
    // A way out, as a host has one: Services' addresses go where everything unknown goes.
    let uplink =
        "ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
        ip link set up1 up; ip route add default via 192.0.2.2";
    run(Command::new("sh").args(["-ec", uplink])).ok();
    Node::start(NodeOptions::default())
}

#[test]
fn a_service_leads_to_the_pods_that_are_ready() {
    need_root!();
    let mut node = node();
    application::import(&node, "v1.0.0");
    application::apply(&node, "v1.0.0", 3);
    node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
    let spec = "{type: NodePort, selector: {app: user-service}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}";
    application::feed(&node, &["apply", "-f", "-"], &service(spec)).ok();
    let stored = application::json(&node, &["service", "web"]);
    let address = stored["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    answers_at(&node, &format!("{address}:80"));
    answers_at(&node, "127.0.0.1:30080");
    let gateway = "10.90.0.1:30080";
    answers_at(&node, gateway);

    // Fewer pods, then more; nobody who left is asked.
    for replicas in ["1", "4"] {
        node.ctl(&["scale", "deployment/user-service", "--replicas", replicas])
            .ok();
        node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
        answers_at(&node, &format!("{address}:80"));
    }

    // Without berthd everything goes on.
    node.kill_daemon();
    assert_eq!(heard(gateway, 8).expect("answers").len(), 4);
    node.spawn();
    assert_eq!(heard(gateway, 8).expect("answers").len(), 4);
    answers_at(&node, gateway);

    // What is gone is refused at once, not left hanging.
    node.ctl(&["scale", "deployment/user-service", "--replicas", "0"])
        .ok();
    let refused = |address: String| {
        wait_for(&format!("{address} to be refused"), PATIENCE, || {
            match ask(&address) {
                Err(error) if error.contains("refused") || error.contains("unreachable") => Ok(()),
                other => Err(other),
            }
        });
    };
    refused(format!("{address}:80"));
    refused("10.90.0.1:30080".to_owned());
    node.ctl(&["delete", "service", "web"]).ok();
    wait_for("its slices and Endpoints to go", PATIENCE, || {
        let left = node.ctl(&["get", "endpointslices,endpoints", "-o", "name"]).ok();
        if left.contains("/web") { Err(left) } else { Ok(()) }
    });
}

#[test]
fn a_rollout_under_requests_by_the_services_address_loses_none() {
    need_root!();
    let node = node();
    application::import(&node, "v1.0.0");
    application::import(&node, "v2.0.0");
    application::apply(&node, "v1.0.0", 3);
    node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
    let spec = "{type: NodePort, selector: {app: user-service}, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}";
    application::feed(&node, &["apply", "-f", "-"], &service(spec)).ok();
    answers_at(&node, "10.90.0.1:30081");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (asked, failed) = std::thread::scope(|scope| {
        // The namespace is the thread's that starts another.
        let client = scope.spawn(|| {
            let (mut asked, mut failed) = (0u32, Vec::new());
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                asked += 1;
                failed.extend(ask("10.90.0.1:30081").err());
            }
            (asked, failed)
        });
        application::apply(&node, "v2.0.0", 3);
        node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
        wait_for("the old pods to be gone", PATIENCE, || {
            let pods = node.ctl(&["get", "pods", "-o", "name"]).ok();
            if pods.lines().count() == 3 {
                Ok(())
            } else {
                Err(pods)
            }
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        client.join().expect("the client")
    });
    assert!(asked > 20, "{asked} requests");
    assert!(
        failed.is_empty(),
        "{} of {asked} requests failed: {failed:?}",
        failed.len()
    );
    assert!(ask("10.90.0.1:30081").expect("an answer").contains("v2.0.0"));
}

/// A program that knows nothing of a polite end: the first signal kills it, in the middle of an answer.
const RUDE: &str =
    "trap exit TERM; while :; do nc -l -p 8080 -e sh -c 'sleep 0.5; echo late' & wait $!; done";

#[test]
fn a_program_that_dies_by_its_first_signal_still_ends_its_answers() {
    need_root!();
    let node = node();
    busybox(&node);
    let labels = json!({"app": "rude"});
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"terminationGracePeriodSeconds": 10, "containers": [{
                "name": "c", "image": "busybox:1", "args": ["-c", RUDE],
            }]},
        })
    };
    application::feed(&node, &["apply", "-f", "-"], &pod("one").to_string()).ok();
    let spec =
        "{type: NodePort, selector: {app: rude}, ports: [{port: 80, targetPort: 8080, nodePort: 30082}]}";
    application::feed(&node, &["apply", "-f", "-"], &service(spec)).ok();
    let late = || -> Result<String, String> {
        let inner = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect("10.90.0.1:30082")?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        match inner() {
            Ok(answer) if answer.trim() == "late" => Ok(answer),
            other => Err(format!("{other:?}")),
        }
    };
    wait_for("the first answer", PATIENCE, late);
    // Between two answers nobody listens.
    let asked = std::thread::spawn(move || {
        wait_for("the second answer", PATIENCE, || match late() {
            Err(error) if error.contains("refused") => Err(error),
            other => Ok(other),
        })
    });
    // In the middle of the answer.
    wait_for("the connection", PATIENCE, || {
        let tracked = run(Command::new("conntrack").args(["-L", "-p", "tcp", "--dport", "30082"])).stdout;
        if tracked.contains("ESTABLISHED") {
            Ok(())
        } else {
            Err(tracked)
        }
    });
    node.ctl(&["delete", "pod", "one"]).ok();
    asked.join().expect("the client").expect("the whole answer");
}

/// An image `busybox:1` that runs a shell.
fn busybox(node: &Node) {
    let rootfs = node.path().join("busybox");
    std::fs::create_dir(&rootfs).expect("create the root folder");
    harness::busybox_rootfs(&rootfs);
    let rootfs = rootfs.to_str().expect("a path of text");
    node.ctl(&[
        "image",
        "import",
        rootfs,
        "--name",
        "busybox:1",
        "--entrypoint",
        "/bin/sh",
    ])
    .ok();
}

#[test]
fn pods_reach_each_other_by_a_services_address() {
    need_root!();
    let node = node();
    application::import(&node, "v1.0.0");
    application::apply(&node, "v1.0.0", 2);
    node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
    let spec = "{selector: {app: user-service}, ports: [{name: http, port: 80, targetPort: 8080}]}";
    application::feed(&node, &["apply", "-f", "-"], &service(spec)).ok();
    let address = application::json(&node, &["service", "web"])["spec"]["clusterIP"]
        .as_str()
        .expect("an address")
        .to_owned();
    busybox(&node);
    let script = format!(
        "for n in 1 2 3 4; do printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 10 {address} 80 || exit 1; done"
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"},
        "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "busybox:1", "args": ["-c", script]}]},
    });
    application::feed(&node, &["apply", "-f", "-"], &pod.to_string()).ok();
    wait_for("the client to have its answers", PATIENCE, || {
        let pod = application::json(&node, &["pod", "client"]);
        let logs = node.ctl(&["logs", "client"]).stdout;
        if pod["status"]["phase"] == "Succeeded" {
            Ok(())
        } else {
            Err(format!("{logs}{}", pod["status"]))
        }
    });
    let heard: BTreeSet<String> = node
        .ctl(&["logs", "client"])
        .ok()
        .lines()
        .filter(|line| line.starts_with("user-service "))
        .filter_map(|line| line.rsplit(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(heard, names(&node));
}

#[test]
fn kubectl_shows_services_and_bad_ones_are_refused_by_field() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        harness::skip!("needs kubectl");
    };
    let node = node();
    application::import(&node, "v1.0.0");
    application::apply(&node, "v1.0.0", 1);
    node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
    let expose = [
        "expose",
        "deployment",
        "user-service",
        "--name",
        "web",
        "--port",
        "80",
        "--target-port",
        "8080",
    ];
    node.kubectl(&kubectl, &expose).ok();
    let table = node.kubectl(&kubectl, &["get", "services"]).ok();
    assert!(
        table.contains("CLUSTER-IP") && table.contains("80/TCP"),
        "{table}"
    );
    wait_for("the slice", PATIENCE, || {
        let table = node.kubectl(&kubectl, &["get", "endpointslices"]).ok();
        if table.contains("8080") && table.contains("10.90.") {
            Ok(())
        } else {
            Err(table)
        }
    });
    let told = node.kubectl(&kubectl, &["describe", "service", "web"]).ok();
    assert!(told.contains("Endpoints:") && told.contains(":8080"), "{told}");

    let taken = application::json(&node, &["service", "web"])["spec"]["clusterIP"].clone();
    let other =
        |spec: String| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: other}}\nspec: {spec}\n");
    let cases = [
        (
            format!("{{clusterIP: {taken}, ports: [{{port: 80}}]}}"),
            "spec.clusterIPs[0]",
            "already allocated",
        ),
        (
            "{clusterIP: 192.0.2.1, ports: [{port: 80}]}".to_owned(),
            "spec.clusterIPs[0]",
            "10.96.0.0/16",
        ),
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 80}]}".to_owned(),
            "spec.ports[0].nodePort",
            "30000-32767",
        ),
        (
            "{ports: [{port: 80, nodePort: 30000}]}".to_owned(),
            "spec.ports[0].nodePort",
            "ClusterIP",
        ),
        (
            "{ports: [{port: 80}, {port: 81}]}".to_owned(),
            "spec.ports[0].name",
            "Required",
        ),
        (
            "{ports: [{port: 0}]}".to_owned(),
            "spec.ports[0].port",
            "between 1 and 65535",
        ),
        ("{selector: {a: b}}".to_owned(), "spec.ports", "Required"),
        ("{type: ExternalName}".to_owned(), "spec.externalName", "Required"),
        (
            "{externalIPs: [127.0.0.1], ports: [{port: 80}]}".to_owned(),
            "spec.externalIPs[0]",
            "loopback",
        ),
        (
            "{externalIPs: [10.96.0.10], ports: [{port: 53}]}".to_owned(),
            "spec.externalIPs[0]",
            "address of Services",
        ),
        (
            "{type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24], ports: [{port: 80}]}".to_owned(),
            "spec.loadBalancerSourceRanges",
            "firewall",
        ),
        (
            "{loadBalancerClass: example.com/lb, ports: [{port: 80}]}".to_owned(),
            "spec.loadBalancerClass",
            "LoadBalancer",
        ),
        (
            "{ipFamilies: [IPv6], ports: [{port: 80}]}".to_owned(),
            "spec.ipFamilies[0]",
            "not configured",
        ),
    ];
    for (spec, field, why) in cases {
        let error = application::feed(&node, &["apply", "-f", "-"], &other(spec.clone())).err();
        assert!(error.contains(field) && error.contains(why), "{spec}: {error}");
    }
    let left = node.ctl(&["get", "services", "-o", "name"]).ok();
    assert_eq!(left.trim(), "service/kubernetes\nservice/web");
}

#[test]
fn load_balancers_and_external_addresses_lead_to_pods() {
    need_root!();
    let node = node();
    application::import(&node, "v1.0.0");
    application::apply(&node, "v1.0.0", 2);
    node.ctl(&["rollout", "status", "deployment/user-service"]).ok();
    // A program of the host has a port already.
    let _listener = std::net::TcpListener::bind("0.0.0.0:8088").expect("a port of the test's own network");
    let named = |name: &str, spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    let balanced = |port: u16| {
        format!(
            "{{type: LoadBalancer, selector: {{app: user-service}}, ports: [{{port: {port}, targetPort: 8080}}]}}"
        )
    };
    let address = |name: &str| {
        let stored = application::json(&node, &["service", name]);
        stored["status"]["loadBalancer"]["ingress"][0]["ip"]
            .as_str()
            .map(str::to_owned)
    };
    let gets = |name: &str| {
        wait_for(&format!("{name} to have an address"), PATIENCE, || {
            address(name).ok_or("pending")
        })
    };
    application::feed(&node, &["apply", "-f", "-"], &named("first", &balanced(80))).ok();
    assert_eq!(gets("first"), "192.0.2.1");
    answers_at(&node, "192.0.2.1:80");
    let outside =
        "{externalIPs: [198.51.100.9], selector: {app: user-service}, ports: [{port: 81, targetPort: 8080}]}";
    let more = [
        named("second", &balanced(80)),
        named("third", &balanced(8088)),
        named("outside", outside),
    ];
    application::feed(&node, &["apply", "-f", "-"], &more.concat()).ok();
    answers_at(&node, "198.51.100.9:81");
    for (name, owner) in [
        ("second", "Service default/first"),
        ("third", "a program of the host"),
    ] {
        wait_for(&format!("the event of {name}"), PATIENCE, || {
            let events = node.ctl(&["get", "events", "-o", "json"]).ok();
            let list: Value = serde_json::from_str(&events).expect("JSON");
            let found = list["items"].as_array().into_iter().flatten().any(|event| {
                let message = event["message"].as_str().unwrap_or_default();
                event["involvedObject"]["name"] == name && message.contains(owner)
            });
            if found { Ok(()) } else { Err(events) }
        });
        assert_eq!(address(name), None);
    }
    let table = node.ctl(&["get", "services"]).ok();
    let row = |name: &str| {
        table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        row("first").contains("192.0.2.1") && row("second").contains("<pending>"),
        "{table}"
    );
    assert!(row("outside").contains("198.51.100.9"), "{table}");

    // Who waits gets the port that is given up; who is no load balancer any more gives up its own.
    node.ctl(&["delete", "service", "first"]).ok();
    assert_eq!(gets("second"), "192.0.2.1");
    answers_at(&node, "192.0.2.1:80");
    let service = named(
        "second",
        "{type: ClusterIP, selector: {app: user-service}, ports: [{port: 80, targetPort: 8080}]}",
    );
    application::feed(&node, &["apply", "-f", "-"], &service).ok();
    wait_for("the address to be given up", PATIENCE, || {
        match address("second") {
            None => Ok(()),
            Some(address) => Err(address),
        }
    });
    wait_for("the node's port to be free", PATIENCE, || {
        match ask("192.0.2.1:80") {
            Err(error) if error.contains("refused") => Ok(()),
            other => Err(other),
        }
    });
}

#[test]
fn what_is_not_enforced_is_kept_and_said() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        harness::skip!("needs kubectl");
    };
    let node = node();
    let manifest = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: web}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: front}
spec:
  rules:
  - host: a.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
";
    let file = node.path().join("network.yaml");
    std::fs::write(&file, manifest).expect("write the manifest");
    let file = file.to_str().expect("a path of text");
    let applied = node.kubectl(&kubectl, &["apply", "-f", file]);
    for kind in ["NetworkPolicy", "Ingress"] {
        let warning = format!("Warning: {kind} is stored but not enforced");
        assert!(applied.stderr.contains(&warning), "{}", applied.stderr);
    }
    applied.ok();
    let policies = node.kubectl(&kubectl, &["get", "netpol"]).ok();
    assert!(
        policies.contains("POD-SELECTOR") && policies.contains("app=web"),
        "{policies}"
    );
    let entrances = node.kubectl(&kubectl, &["get", "ing"]).ok();
    assert!(
        entrances.contains("HOSTS") && entrances.contains("a.example"),
        "{entrances}"
    );
    let stored = node
        .kubectl(
            &kubectl,
            &["get", "netpol", "deny", "-o", "jsonpath={.spec.policyTypes}"],
        )
        .ok();
    assert_eq!(stored, r#"["Ingress"]"#);
    wait_for("the events", PATIENCE, || {
        let events = node.kubectl(&kubectl, &["get", "events"]).ok();
        if events.matches("NotEnforced").count() == 2 {
            Ok(())
        } else {
            Err(events)
        }
    });
    let told = node.kubectl(&kubectl, &["describe", "ingress", "front"]).ok();
    assert!(told.contains("NotEnforced"), "{told}");
    let bad = manifest
        .replace("Prefix", "Like")
        .replace("{podSelector", "{policyTypes: [All], podSelector");
    let error = application::feed(&node, &["apply", "-f", "-"], &bad).err();
    assert!(error.contains("spec.policyTypes[0]"), "{error}");
    node.kubectl(&kubectl, &["delete", "-f", file]).ok();
}
