//! Names on a node: of Services, pods and others, as containers and the host itself ask for them.

use harness::{Node, NodeOptions, isolate, kubectl, need_root, run, wait_for};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::application;
use crate::resolver::{A, AAAA, PTR, Reply, SRV, Upstream, answer, asked, by_tcp, by_udp, question};

// A pod runs seven kubectl one after the other.
const PATIENCE: Duration = Duration::from_secs(180);
const DNS: &str = "10.96.0.10:53";
/// Neither a failure nor absent.
const FOUND: u8 = 0;
const FAILED: u8 = 2;
const ABSENT: u8 = 3;

fn dns() -> SocketAddr {
    DNS.parse().expect("an address")
}

/// A node whose host has a way out, and a resolv.conf of the test's own.
fn node(resolv_conf: &str, network: Option<Value>) -> Node {
    isolate();
    let uplink =
        "ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
        ip link set up1 up; ip route add default via 192.0.2.2";
    run(Command::new("sh").args(["-ec", uplink])).ok();
    let node_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(node_file.path(), resolv_conf).expect("write resolv.conf");
    // The file stays, in this mount namespace only.
    let (_, path) = node_file.keep().expect("keep the file");
    mount(
        Some(&path),
        "/etc/resolv.conf",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("mount");
    std::fs::remove_file(&path).ok();
    let node = Node::start(NodeOptions {
        network: network.map(|list| list.to_string()),
        ..NodeOptions::default()
    });
    let rootfs = node.path().join("busybox");
    std::fs::create_dir(&rootfs).expect("create the root folder");
    harness::busybox_rootfs(&rootfs);
    let rootfs = rootfs.to_str().expect("a path of text");
    node.ctl(&["image", "import", "--root", "--name", "busybox:1", rootfs])
        .ok();
    node
}

fn set_resolv_conf(text: &str) {
    std::fs::write("/etc/resolv.conf", text).expect("write resolv.conf");
}

#[track_caller]
fn apply(node: &Node, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    application::feed(node, &["apply", "-f", "-"], &list.to_string()).ok();
}

fn pod(name: &str, script: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "named"}},
        "spec": {"terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [
            {"name": "c", "image": "busybox:1", "command": ["sh", "-c", script]}]},
    });
    for (field, value) in spec.as_object().expect("an object") {
        pod["spec"][field] = value.clone();
    }
    pod
}

/// Runs a script in a pod of its own to its end; gives what it printed.
#[track_caller]
fn in_pod(node: &Node, name: &str, script: &str, spec: &Value) -> String {
    apply(node, &[pod(name, script, spec)]);
    wait_for(&format!("pod {name} to end"), PATIENCE, || {
        let status = &application::json(node, &["pod", name])["status"];
        match status["phase"].as_str() {
            Some("Succeeded") => Ok(()),
            Some("Failed") => panic!("{name}: {}{status}", node.ctl(&["logs", name]).stdout),
            _ => Err(status.to_string()),
        }
    });
    node.ctl(&["logs", name]).ok()
}

#[track_caller]
fn until(name: &str, kind: u16, wanted: impl Fn(&Reply) -> bool) -> Reply {
    wait_for(name, PATIENCE, || {
        let reply = by_udp(dns(), &question(name, kind, None))?;
        if wanted(&reply) {
            Ok(reply)
        } else {
            Err(format!("{reply:?}"))
        }
    })
}

fn headless(name: &str, publish: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "clusterIP": "None", "selector": {"app": "named"}, "publishNotReadyAddresses": publish,
        "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn address_of(node: &Node, pod: &str) -> String {
    let stored = application::json(node, &["pod", pod]);
    stored["status"]["podIP"].as_str().expect("an address").to_owned()
}

/// Listens, and is ready when the file is there.
const SERVE: &str = "trap exit TERM; httpd -p 8080 -h /; while :; do sleep 0.1; done";

#[test]
fn services_and_pods_have_names_that_follow_them() {
    need_root!();
    let node = node("nameserver 127.0.0.1\n", None);
    let flags = |ready: &[&str]| {
        let data: serde_json::Map<String, Value> = ready
            .iter()
            .map(|name| ((*name).to_owned(), json!("yes")))
            .collect();
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags"}, "data": data})
    };
    let named = |name: &str| {
        let mut pod = pod(
            name,
            SERVE,
            &json!({"hostname": name, "subdomain": "web", "volumes": [{"name": "flags", "configMap": {"name": "flags"}}]}),
        );
        let container = &mut pod["spec"]["containers"][0];
        container["volumeMounts"] = json!([{"name": "flags", "mountPath": "/flags"}]);
        container["readinessProbe"] =
            json!({"exec": {"command": ["test", "-e", format!("/flags/{name}")]}, "periodSeconds": 1});
        pod
    };
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let cluster = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"selector": {"app": "named"}, "ports": ports}});
    let alias = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "alias"},
        "spec": {"type": "ExternalName", "externalName": "front.default.svc.cluster.local"}});
    apply(
        &node,
        &[
            flags(&[]),
            headless("web", false),
            headless("all", true),
            cluster,
            alias,
            named("a-0"),
            named("a-1"),
        ],
    );

    // Nobody is ready: only the Service that publishes all of them has their addresses.
    until("all.default.svc.cluster.local", A, |reply| {
        reply.addresses.len() == 2
    });
    let web = "web.default.svc.cluster.local";
    assert_eq!(until(web, A, |_| true).code, ABSENT);
    apply(&node, &[flags(&["a-0"])]);
    let first = until(web, A, |reply| reply.addresses.len() == 1);
    assert_eq!(first.addresses[0].to_string(), address_of(&node, "a-0"));
    apply(&node, &[flags(&["a-0", "a-1"])]);
    until(web, A, |reply| reply.addresses.len() == 2);
    let begins: BTreeSet<_> = (0..4).map(|_| until(web, A, |_| true).addresses[0]).collect();
    assert_eq!(begins.len(), 2, "each address comes first in turn");

    // A pod by its host name, a Service by its address, both back; what is not there.
    let one = until("a-1.web.default.svc.cluster.local", A, |reply| {
        reply.code == FOUND
    });
    assert_eq!(one.addresses[0].to_string(), address_of(&node, "a-1"));
    let front = application::json(&node, &["service", "front"]);
    let front = front["spec"]["clusterIP"].as_str().expect("an address");
    for name in [
        "front.default.svc.cluster.local",
        "alias.default.svc.cluster.local",
    ] {
        assert_eq!(until(name, A, |_| true).addresses[0].to_string(), front);
    }
    let mut turned: Vec<&str> = front.split('.').collect();
    turned.reverse();
    assert_eq!(
        until(&format!("{}.in-addr.arpa", turned.join(".")), PTR, |_| true).count,
        1
    );
    assert_eq!(
        until("_http._tcp.web.default.svc.cluster.local", SRV, |_| true).count,
        2
    );
    let none = until("front.default.svc.cluster.local", AAAA, |_| true);
    assert_eq!((none.code, none.count, none.authority), (FOUND, 0, 1));
    let none = until("nobody.default.svc.cluster.local", A, |_| true);
    assert_eq!((none.code, none.count, none.authority), (ABSENT, 0, 1));

    // As a container asks: by short names, with the search domains.
    let told = in_pod(
        &node,
        "asks",
        "nslookup front; set -e; nslookup a-0.web.default.svc.cluster.local; nslookup kubernetes.default.svc.cluster.local; nslookup -type=srv _http._tcp.web.default.svc.cluster.local
         wget -q -O /dev/null http://a-1.web:8080/etc/passwd; wget -q -O /dev/null http://front/etc/passwd; echo fetched; cat /etc/resolv.conf",
        &json!({}),
    );
    for part in [
        front,
        "Server:\t\t10.96.0.10",
        &address_of(&node, "a-0"),
        "10.96.0.1",
        "a-1.web.default.svc",
        "fetched",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let search = "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
    assert!(told.ends_with(search), "{told}");

    // Whoever goes is forgotten, also by a berthd that was away.
    node.ctl(&["delete", "pod", "a-0"]).ok();
    until(web, A, |reply| reply.addresses.len() == 1);
    let mut node = node;
    node.kill_daemon();
    node.spawn();
    until(web, A, |reply| reply.addresses.len() == 1);
    node.ctl(&["delete", "pod", "a-1"]).ok();
    until(web, A, |reply| reply.code == ABSENT);
}

#[test]
fn many_endpoints_are_cut_by_udp_and_whole_by_tcp() {
    need_root!();
    let node = node("", None);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "many"},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    let addresses: Vec<Value> = (0..200)
        .map(|n| json!({"ip": format!("198.51.100.{n}")}))
        .collect();
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "many"},
        "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    apply(&node, &[service, endpoints]);
    // Rules are written when a pod needs them.
    in_pod(&node, "first", "true", &json!({}));
    let name = "many.default.svc.cluster.local";
    let small = until(name, A, |reply| reply.truncated);
    assert!((10..40).contains(&small.count), "{}", small.count);
    let more = by_udp(dns(), &question(name, A, Some(1232))).expect("an answer");
    assert!(more.truncated && more.count > small.count, "{more:?}");
    let whole = by_tcp(dns(), &question(name, A, None)).expect("an answer");
    assert_eq!((whole.count, whole.truncated), (200, false));
    // One connection after the other, and none that lasts.
    for _ in 0..50 {
        assert_eq!(
            by_tcp(dns(), &question(name, A, None)).expect("an answer").count,
            200
        );
    }
}

fn elsewhere(packet: &[u8], tcp: bool) -> Vec<u8> {
    let (name, kind) = asked(packet);
    match (name.as_str(), kind) {
        ("absent.example", _) => answer(packet, ABSENT, 0, false),
        ("large.example", A) => answer(packet, FOUND, 100, !tcp),
        (_, A) => answer(packet, FOUND, 1, false),
        _ => answer(packet, FOUND, 0, false),
    }
}

/// A forwarder that asks the node's DNS server, which asks it.
fn circle(packet: &[u8], _: bool) -> Vec<u8> {
    let reply = by_udp(dns(), packet);
    answer(packet, reply.map_or(FAILED, |reply| reply.code), 0, false)
}

#[test]
fn other_names_are_asked_where_the_node_asks() {
    need_root!();
    let node = node("search corp.example\nnameserver 127.0.0.1\n", None);
    let upstream = Upstream::start(elsewhere);
    let alias = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "out"},
        "spec": {"type": "ExternalName", "externalName": "www.example"}});
    apply(&node, &[alias]);
    let told = in_pod(
        &node,
        "asks",
        "nslookup www.example.; nslookup absent.example. && exit 1; nslookup out; cat /etc/resolv.conf",
        &json!({}),
    );
    for answer in [
        "www.example\nAddress: 203.0.113.0",
        "canonical name = www.example\nName:\twww.example\nAddress: 203.0.113.0",
    ] {
        assert!(told.contains(answer), "{answer}: {told}");
    }
    assert!(
        told.contains("NXDOMAIN") && told.contains("cluster.local corp.example"),
        "{told}"
    );
    assert!(until("large.example", A, |_| true).truncated);
    let whole = by_tcp(dns(), &question("large.example", A, None)).expect("an answer");
    assert_eq!((whole.count, whole.truncated), (100, false));

    // Pods that want the node's own servers reach one on its loopback address all the same.
    let told = in_pod(
        &node,
        "default",
        "nslookup www.example.; cat /etc/resolv.conf",
        &json!({"dnsPolicy": "Default"}),
    );
    assert!(
        told.contains("203.0.113.0") && told.contains("nameserver 10.96.0.10"),
        "{told}"
    );
    // In the host's network both ways lead there.
    let host = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
    let told = in_pod(
        &node,
        "host",
        "nslookup out; nslookup kubernetes.default.svc.cluster.local",
        &host,
    );
    assert!(
        told.contains("203.0.113.0") && told.contains("10.96.0.1"),
        "{told}"
    );

    // A dead server, a dead one before one that lives, none at all but ourselves, and a circle.
    let within = |what: &str, bound: Duration, wanted: u8| {
        let begin = Instant::now();
        let reply = by_udp(dns(), &question("www.example", A, None)).expect(what);
        assert_eq!(reply.code, wanted, "{what}");
        assert!(begin.elapsed() < bound, "{what}: {:?}", begin.elapsed());
    };
    // Nobody answers from there, not even that there is nobody.
    set_resolv_conf("nameserver 192.0.2.99\nnameserver 127.0.0.1\n");
    within("the second server", Duration::from_secs(9), FOUND);
    set_resolv_conf("nameserver 192.0.2.99\nnameserver 192.0.2.98\nnameserver 192.0.2.97\n");
    within("dead servers", Duration::from_secs(9), FAILED);
    drop(upstream);
    set_resolv_conf("nameserver 127.0.0.1\n# nobody listens there\n");
    within("a refused server", Duration::from_secs(9), FAILED);
    set_resolv_conf("nameserver 10.96.0.10\n# ourselves, and nobody else\n");
    within("ourselves", Duration::from_secs(9), FAILED);
    let _circle = Upstream::start(circle);
    set_resolv_conf("nameserver 127.0.0.1\n# which asks us again\n");
    within("a circle", Duration::from_secs(9), FAILED);
    // The cluster's own names do not depend on any of them.
    assert_eq!(
        until("kubernetes.default.svc.cluster.local", A, |_| true).addresses[0].to_string(),
        "10.96.0.1"
    );
}

#[test]
fn pods_of_other_networks_find_names() {
    need_root!();
    let list = json!({"cniVersion": "1.0.0", "name": "routed", "plugins": [
        {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.91.0.0/24"}]]}}]});
    let mut list = list;
    let node = {
        let data = tempfile::tempdir().expect("a folder");
        list["plugins"][0]["ipam"]["dataDir"] = json!(data.keep());
        node("", Some(list))
    };
    apply(
        &node,
        &[
            headless("web", false),
            pod(
                "server",
                SERVE,
                &json!({"hostname": "server", "subdomain": "web"}),
            ),
        ],
    );
    until("server.web.default.svc.cluster.local", A, |reply| {
        reply.code == FOUND
    });
    let told = in_pod(
        &node,
        "asks",
        "nslookup server.web.default.svc.cluster.local; wget -q -O - http://server.web:8080/etc/hostname",
        &json!({}),
    );
    assert!(told.contains("10.91.0.") && told.contains("server"), "{told}");
}

#[test]
fn a_pods_own_names_and_variables() {
    need_root!();
    let node = node(
        "nameserver 192.0.2.53\nsearch corp.example\noptions rotate\n",
        None,
    );
    let show = "hostname; cat /etc/resolv.conf; grep $(hostname) /etc/hosts; env | sort";
    apply(
        &node,
        &[
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "my-db"},
        "spec": {"ports": [{"port": 5432}]}}),
        ],
    );
    let full = in_pod(
        &node,
        "full",
        show,
        &json!({"hostname": "h", "subdomain": "web", "setHostnameAsFQDN": true}),
    );
    let name = "h.web.default.svc.cluster.local";
    assert_eq!(full.lines().next(), Some(name), "{full}");
    assert!(
        full.contains(&format!("{}\t{name}\th\n", address_of(&node, "full"))),
        "{full}"
    );
    let address = application::json(&node, &["service", "my-db"])["spec"]["clusterIP"]
        .as_str()
        .expect("one")
        .to_owned();
    for line in [
        "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
        "KUBERNETES_SERVICE_PORT=443".to_owned(),
        format!("MY_DB_SERVICE_HOST={address}"),
        format!("MY_DB_PORT=tcp://{address}:5432"),
    ] {
        assert!(full.lines().any(|known| known == line), "{line}: {full}");
    }
    let plain = in_pod(
        &node,
        "plain",
        show,
        &json!({"dnsPolicy": "Default", "enableServiceLinks": false}),
    );
    assert!(
        plain.starts_with("plain\nsearch corp.example\nnameserver 192.0.2.53\noptions rotate\n"),
        "{plain}"
    );
    assert!(
        plain.contains("KUBERNETES_PORT=") && !plain.contains("MY_DB"),
        "{plain}"
    );
    let own = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.7"], "searches": ["a.example"],
        "options": [{"name": "ndots", "value": "2"}]}});
    let told = in_pod(&node, "own", show, &own);
    assert!(
        told.starts_with("own\nsearch a.example\nnameserver 192.0.2.7\noptions ndots:2\n"),
        "{told}"
    );

    // What Linux cannot do is said where people look.
    let long = json!({"subdomain": "d".repeat(50), "setHostnameAsFQDN": true});
    apply(&node, &[pod("long", "true", &long)]);
    wait_for("the event", PATIENCE, || {
        let events = node.ctl(&["get", "events", "-o", "json"]).ok();
        if events.contains("at most 64 characters") {
            Ok(())
        } else {
            Err(events)
        }
    });
}

/// Whether somebody shows a certificate at an address.
fn speaks(address: &str) -> bool {
    let client = ["10", "openssl", "s_client", "-connect", address, "-brief"];
    let shown = run(Command::new("timeout").args(client));
    shown.stderr.contains("Peer certificate")
}

/// Whether a connection to an address is accepted.
fn accepts(address: &str) -> bool {
    let address: SocketAddr = address.parse().expect("an address");
    TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok()
}

#[test]
fn nobody_outside_reaches_the_api_or_the_names_by_the_services_addresses() {
    need_root!();
    let node = node("", None);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"},
        "spec": {"selector": {"app": "named"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    apply(&node, &[service, pod("server", SERVE, &json!({}))]);
    let front = application::json(&node, &["service", "front"]);
    let front = format!("{}:80", front["spec"]["clusterIP"].as_str().expect("an address"));
    wait_for("the Service", PATIENCE, || {
        if accepts(&front) { Ok(()) } else { Err("refused") }
    });
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward");
    assert!(speaks("10.96.0.1:443"), "the host itself is answered");
    // The other end of the uplink, in a network of its own, sends what is for Services to this host.
    let (moved, wait) = std::sync::mpsc::channel();
    let (tell, thread) = std::sync::mpsc::channel();
    let outside = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
        tell.send(nix::unistd::gettid()).expect("tell");
        let () = wait.recv().expect("the link");
        let setup = "ip addr add 192.0.2.2/24 dev up1; ip link set up1 up; ip link set lo up
            ip route add 10.96.0.0/16 via 192.0.2.1";
        run(Command::new("sh").args(["-ec", setup])).ok();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("a time-out");
        socket
            .send_to(&question("kubernetes.default.svc.cluster.local", A, None), DNS)
            .expect("send");
        let named = socket.recv(&mut [0; 512]).is_ok();
        let by_tcp = by_tcp(dns(), &question("kubernetes.default.svc.cluster.local", A, None)).is_ok();
        // The way is open: what pods serve is reached.
        wait_for("the Service from outside", PATIENCE, || {
            if accepts(&front) { Ok(()) } else { Err("refused") }
        });
        (named, by_tcp, speaks("10.96.0.1:443"))
    });
    let thread = thread.recv().expect("the thread");
    run(Command::new("ip").args(["link", "set", "up1", "netns", &thread.to_string()])).ok();
    moved.send(()).expect("tell");
    let (named, named_by_tcp, api) = outside.join().expect("outside");
    assert!(!named && !named_by_tcp, "names are told outside");
    assert!(!api, "the API is served outside");
    // Inside everything goes on, also without the way out, which ended with the other end.
    let told = in_pod(
        &node,
        "second",
        "nslookup kubernetes.default.svc.cluster.local",
        &json!({}),
    );
    assert!(told.contains("10.96.0.1"), "{told}");
}

#[test]
fn a_pod_uses_the_api_with_its_account() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        harness::skip!("needs kubectl");
    };
    let node = node("", None);
    let root = node.path().join("kubectl-root");
    std::fs::create_dir(&root).expect("create the root folder");
    harness::busybox_rootfs(&root);
    std::fs::copy(&kubectl, root.join("bin/kubectl")).expect("copy kubectl");
    let path = root.to_str().expect("a path of text");
    node.ctl(&["image", "import", "--root", "--name", "kubectl:1", path])
        .ok();
    std::fs::remove_dir_all(&root).ok();
    apply(
        &node,
        &[
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader"}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
                "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}]}),
        ],
    );
    // By the variables and the mounted token and certificate, as every client library does it; and by each name.
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let script = format!(
        "set -e; kubectl get pods -o name; kubectl get secrets && exit 1
         for host in kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local 10.96.0.1; do
           kubectl --server https://$host --certificate-authority {token}/ca.crt --token $(cat {token}/token) \
             get pod $HOSTNAME -o name | sed \"s/^/$host /\"
         done; kubectl auth whoami -o jsonpath='{{.status.userInfo.username}}'"
    );
    for (name, network) in [
        ("inside", json!({})),
        (
            "host",
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
        ),
    ] {
        let mut spec = network;
        spec["serviceAccountName"] = json!("reader");
        spec["containers"] = json!([{"name": "c", "image": "kubectl:1", "command": ["sh", "-c", &script],
            "env": [{"name": "HOSTNAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]);
        let told = in_pod(&node, name, "", &spec);
        assert_eq!(told.matches(&format!("pod/{name}")).count(), 6, "{told}");
        assert!(
            told.contains(&format!("kubernetes.default.svc.cluster.local pod/{name}")),
            "{told}"
        );
        assert!(told.ends_with("system:serviceaccount:default:reader"), "{told}");
    }
    // The Services cannot be lost.
    node.ctl(&["delete", "service", "kubernetes"]).ok();
    wait_for("the Service to be there again", PATIENCE, || {
        let stored = node.ctl(&["get", "service", "kubernetes", "-o", "json"]);
        if stored.stdout.contains("10.96.0.1") {
            Ok(())
        } else {
            Err(stored)
        }
    });
}

#[test]
fn the_examples_of_services_run() {
    need_root!();
    let node = node("", None);
    let folder = harness::repository_root().join("examples/manifests/services");
    node.ctl(&["apply", "-f", &folder.to_string_lossy()]).ok();
    wait_for("the Job to be complete", PATIENCE, || {
        let status = &application::json(&node, &["job", "ask"])["status"];
        if status["succeeded"] == 1 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    let told = node.ctl(&["logs", "job/ask"]);
    let told = if told.status.success() {
        told.stdout
    } else {
        let pods = application::json(&node, &["pods", "-l", "job-name=ask"]);
        let names = pods["items"].as_array().into_iter().flatten();
        let names = names.filter_map(|pod| pod["metadata"]["name"].as_str());
        names.map(|name| node.ctl(&["logs", name]).stdout).collect()
    };
    assert!(told.matches("web-").count() >= 3, "{told}");
    for member in ["member-0", "member-1.members.default.svc.cluster.local"] {
        assert!(told.contains(member), "{member}: {told}");
    }
    assert!(told.contains("7946"), "{told}");
    wait_for("the load balancer", PATIENCE, || {
        let table = node.ctl(&["get", "service", "web-outside"]).ok();
        if table.contains("192.0.2.1") {
            Ok(())
        } else {
            Err(table)
        }
    });
    let again = node.ctl(&["apply", "-f", &folder.to_string_lossy()]).ok();
    assert!(!again.contains("configured"), "{again}");
}
