use super::*;
use hickory_proto::op::{Edns, Query};
use hickory_proto::rr::RData;
use serde_json::{Value, json};

struct Lab {
    _dir: tempfile::TempDir,
    store: Store,
    server: Server,
}

fn object(kind: &str, api: &str, name: &str, rest: &Value) -> Value {
    let mut value =
        json!({"apiVersion": api, "kind": kind, "metadata": {"namespace": "default", "name": name}});
    for (field, part) in rest.as_object().unwrap() {
        if field == "labels" {
            value["metadata"]["labels"] = part.clone();
        } else {
            value[field] = part.clone();
        }
    }
    value
}

fn service(name: &str, spec: &Value) -> Value {
    object("Service", "v1", name, &json!({"spec": spec}))
}

fn slice(name: &str, service: &str, endpoints: &Value) -> Value {
    let rest = json!({
        "labels": {"kubernetes.io/service-name": service}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    });
    object("EndpointSlice", "discovery.k8s.io/v1", name, &rest)
}

impl Lab {
    async fn new(resolv_conf: &str) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("objects.db")).unwrap();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}});
        store.create(namespace).await.unwrap();
        let file = dir.path().join("resolv.conf");
        std::fs::write(&file, resolv_conf).unwrap();
        let context = Context {
            store: store.clone(),
            addresses: "10.96.0.0/16".parse().unwrap(),
            service: "10.96.0.10".parse().unwrap(),
            guests: Guests::default(),
        };
        let own = vec!["10.96.0.10:53".parse().unwrap()];
        let server = Server::new(context, Upstream::new(file, own));
        Lab {
            _dir: dir,
            store,
            server,
        }
    }

    async fn with(objects: Vec<Value>) -> Lab {
        let lab = Lab::new("nameserver 10.96.0.10\n").await;
        for object in objects {
            lab.store.create(object).await.unwrap();
        }
        lab
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.set_edns(Edns::new());
        let packet = message.to_vec().unwrap();
        let client = IpAddr::from([127, 0, 0, 1]);
        let bytes = match self.server.decide(&packet, Transport::Udp) {
            Step::Drop => panic!("dropped"),
            Step::Reply(bytes) => bytes,
            Step::Ask(request, begun) => self.server.ask(&request, begun, client).await,
        };
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.id, message.id);
        reply
    }

    /// The code, and what the records say, in the answer's order.
    async fn told(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let reply = self.ask(name, kind).await;
        let empty = reply.answers.is_empty() && reply.authoritative;
        let soa = reply
            .authorities
            .iter()
            .any(|r| r.record_type() == RecordType::SOA);
        assert_eq!(
            empty, soa,
            "{name} {kind}: a SOA where there is nothing, and only there"
        );
        let said = reply
            .answers
            .iter()
            .map(|record| record.data.to_string())
            .collect();
        (reply.response_code, said)
    }

    async fn sorted(&self, name: &str, kind: RecordType) -> Vec<String> {
        let (code, mut said) = self.told(name, kind).await;
        assert_eq!(code, ResponseCode::NoError, "{name}");
        said.sort();
        said
    }
}

fn cluster() -> Vec<Value> {
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    vec![
        service(
            "web",
            &json!({"type": "ClusterIP", "clusterIP": "10.96.0.40", "ports": ports}),
        ),
        service(
            "db",
            &json!({"type": "ClusterIP", "clusterIP": "None",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
        ),
        service("none", &json!({"type": "ClusterIP", "clusterIP": "None"})),
        service(
            "out",
            &json!({"type": "ExternalName", "externalName": "WWW.example.com"}),
        ),
        service(
            "in",
            &json!({"type": "ExternalName", "externalName": "db.default.svc.cluster.local"}),
        ),
        service(
            "loop",
            &json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}),
        ),
        slice(
            "db-1",
            "db",
            &json!([
                {"addresses": ["10.90.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.90.0.6"], "conditions": {}},
                {"addresses": ["10.90.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
            ]),
        ),
        slice("web-1", "web", &json!([{"addresses": ["10.90.0.8"]}])),
        object(
            "Pod",
            "v1",
            "p",
            &json!({"spec": {}, "status": {"podIP": "10.90.0.9", "phase": "Running"}}),
        ),
        object(
            "Pod",
            "v1",
            "old",
            &json!({"spec": {}, "status": {"podIP": "10.90.0.10", "phase": "Failed"}}),
        ),
        object(
            "Pod",
            "v1",
            "host",
            &json!({"spec": {"hostNetwork": true}, "status": {"podIP": "192.0.2.1"}}),
        ),
    ]
}

#[tokio::test]
async fn names_of_services_endpoints_and_pods() {
    let lab = Lab::with(cluster()).await;
    for (name, kind, wanted) in [
        (
            "web.default.svc.cluster.local.",
            RecordType::A,
            vec!["10.96.0.40"],
        ),
        (
            "WEB.Default.svc.CLUSTER.local.",
            RecordType::A,
            vec!["10.96.0.40"],
        ),
        ("web.default.svc.cluster.local.", RecordType::AAAA, vec![]),
        (
            "db.default.svc.cluster.local.",
            RecordType::A,
            vec!["10.90.0.5", "10.90.0.6"],
        ),
        (
            "db-0.db.default.svc.cluster.local.",
            RecordType::A,
            vec!["10.90.0.5"],
        ),
        (
            "10-90-0-6.db.default.svc.cluster.local.",
            RecordType::A,
            vec!["10.90.0.6"],
        ),
        (
            "10-90-0-9.default.pod.cluster.local.",
            RecordType::A,
            vec!["10.90.0.9"],
        ),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            RecordType::SRV,
            vec!["0 100 80 web.default.svc.cluster.local."],
        ),
        (
            "_dns._udp.web.default.svc.cluster.local.",
            RecordType::SRV,
            vec!["0 100 53 web.default.svc.cluster.local."],
        ),
        (
            "_http._tcp.db.default.svc.cluster.local.",
            RecordType::SRV,
            vec![
                "0 50 8080 10-90-0-6.db.default.svc.cluster.local.",
                "0 50 8080 db-0.db.default.svc.cluster.local.",
            ],
        ),
        ("_tcp.db.default.svc.cluster.local.", RecordType::A, vec![]),
        ("default.svc.cluster.local.", RecordType::A, vec![]),
        ("svc.cluster.local.", RecordType::A, vec![]),
        (
            "cluster.local.",
            RecordType::NS,
            vec!["kube-dns.kube-system.svc.cluster.local."],
        ),
        ("dns-version.cluster.local.", RecordType::TXT, vec!["1.1.0"]),
        (
            "in.default.svc.cluster.local.",
            RecordType::A,
            vec!["10.90.0.5", "10.90.0.6", "db.default.svc.cluster.local."],
        ),
        (
            "out.default.svc.cluster.local.",
            RecordType::CNAME,
            vec!["www.example.com."],
        ),
        (
            "40.0.96.10.in-addr.arpa.",
            RecordType::PTR,
            vec!["web.default.svc.cluster.local."],
        ),
        (
            "5.0.90.10.in-addr.arpa.",
            RecordType::PTR,
            vec!["db-0.db.default.svc.cluster.local."],
        ),
        (
            "9.0.90.10.in-addr.arpa.",
            RecordType::PTR,
            vec!["10-90-0-9.default.pod.cluster.local."],
        ),
        ("9.0.90.10.in-addr.arpa.", RecordType::A, vec![]),
    ] {
        assert_eq!(lab.sorted(name, kind).await, wanted, "{name} {kind}");
    }
    for (name, kind) in [
        ("absent.default.svc.cluster.local.", RecordType::A),
        ("web.absent.svc.cluster.local.", RecordType::A),
        ("absent.svc.cluster.local.", RecordType::A),
        ("none.default.svc.cluster.local.", RecordType::A),
        ("db-2.db.default.svc.cluster.local.", RecordType::A),
        ("_grpc._tcp.web.default.svc.cluster.local.", RecordType::SRV),
        ("_http._udp.web.default.svc.cluster.local.", RecordType::SRV),
        ("10-90-0-10.default.pod.cluster.local.", RecordType::A),
        ("192-0-2-1.default.pod.cluster.local.", RecordType::A),
        ("10-90-0-9.kube-system.pod.cluster.local.", RecordType::A),
        ("41.0.96.10.in-addr.arpa.", RecordType::PTR),
        ("web.cluster.local.", RecordType::A),
    ] {
        assert_eq!(
            lab.told(name, kind).await,
            (ResponseCode::NXDomain, vec![]),
            "{name} {kind}"
        );
    }
    // Somebody else's, and the only server that the node has is this one itself.
    for name in [
        "example.com.",
        "local.",
        "7.0.90.11.in-addr.arpa.",
        "out.default.svc.cluster.local.",
    ] {
        assert_eq!(
            lab.told(name, RecordType::A).await.0,
            ResponseCode::ServFail,
            "{name}"
        );
    }
    let circle = lab.ask("loop.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(circle.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn each_question_begins_with_another_address_and_ports_bring_theirs() {
    let lab = Lab::with(cluster()).await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..4 {
        first.insert(
            lab.told("db.default.svc.cluster.local.", RecordType::A)
                .await
                .1
                .remove(0),
        );
    }
    assert_eq!(first.len(), 2);
    let reply = lab
        .ask("_http._tcp.db.default.svc.cluster.local.", RecordType::SRV)
        .await;
    let more: Vec<String> = reply
        .additionals
        .iter()
        .map(|r| format!("{} {}", r.name, r.data))
        .collect();
    assert!(
        more.contains(&"db-0.db.default.svc.cluster.local. 10.90.0.5".to_owned()),
        "{more:?}"
    );
    assert!(reply.answers.iter().all(|r| r.ttl == 5) && reply.edns.is_some());
}

#[tokio::test]
async fn answers_follow_the_store_at_once_also_after_lost_events() {
    let lab = Lab::with(cluster()).await;
    let name = "db.default.svc.cluster.local.";
    assert_eq!(lab.sorted(name, RecordType::A).await.len(), 2);
    lab.store
        .update(slice("db-1", "db", &json!([{"addresses": ["10.90.0.6"]}])))
        .await
        .unwrap();
    assert_eq!(lab.sorted(name, RecordType::A).await, ["10.90.0.6"]);
    // The slice goes to another Service.
    lab.store
        .update(slice("db-1", "none", &json!([{"addresses": ["10.90.0.6"]}])))
        .await
        .unwrap();
    assert_eq!(lab.told(name, RecordType::A).await.0, ResponseCode::NXDomain);
    assert_eq!(
        lab.sorted("none.default.svc.cluster.local.", RecordType::A).await,
        ["10.90.0.6"]
    );
    // More bytes than the history holds.
    for n in 0..6 {
        let mut large = slice("db-1", "db", &json!([{"addresses": [format!("10.90.4.{n}")]}]));
        large["metadata"]["annotations"] = json!({"fill": "x".repeat(500_000)});
        lab.store.update(large).await.unwrap();
    }
    assert_eq!(lab.sorted(name, RecordType::A).await, ["10.90.4.5"]);
    let key = crate::store::Key::new(berth_api::kinds::SERVICE, "default", "db");
    lab.store
        .delete(&key, crate::store::Preconditions::default())
        .await
        .unwrap();
    assert_eq!(lab.told(name, RecordType::A).await.0, ResponseCode::NXDomain);
}

#[tokio::test]
async fn an_answer_is_whole_records_of_rdata() {
    let lab = Lab::with(cluster()).await;
    let reply = lab.ask("web.default.svc.cluster.local.", RecordType::ANY).await;
    let addresses = reply
        .answers
        .iter()
        .filter(|r| matches!(r.data, RData::A(_)))
        .count();
    let ports = reply
        .answers
        .iter()
        .filter(|r| matches!(r.data, RData::SRV(_)))
        .count();
    assert_eq!((addresses, ports), (1, 2));
}
