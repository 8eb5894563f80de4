//! Services balance connections over their backends, for whoever may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener};

use cni_plugins::services::{Balancer, Frontend, Protocol, Service, Services};
use harness::need_root;
use serde_json::json;

use crate::lab::{Container, HOST, Lab, OUTSIDE, UdpClient, at, inside, ip_of, sh, tcp_ask, udp_server};

const ADDRESS: &str = "10.96.0.40";

/// Answers each connection with a name and the client's address.
fn server(container: &Container, name: &'static str, address: Ipv4Addr) {
    let listener = inside(&container.netns, move || {
        TcpListener::bind(at(address, 8080)).unwrap()
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip();
            let _ = write!(stream, "{name} {peer}");
        }
    });
}

struct Stage {
    lab: Lab,
    client: Container,
    outside: Container,
    backends: Vec<SocketAddrV4>,
    client_address: IpAddr,
}

fn stage() -> Stage {
    let lab = Lab::new();
    let outside = lab.outside();
    let config = lab.bridge("net", &["10.88.0.0/24"], json!({"hairpinMode": true}));
    let client = lab.container();
    let client_address = ip_of(&lab.add(&client, &config), true);
    let mut backends = Vec::new();
    for name in ["one", "two", "three"] {
        let container = lab.container();
        let IpAddr::V4(address) = ip_of(&lab.add(&container, &config), true) else {
            unreachable!()
        };
        server(&container, name, address);
        udp_server(&container.netns, at(address, 5353), name);
        backends.push(SocketAddrV4::new(address, 8080));
    }
    // Services' addresses are reached by whatever route leads out.
    sh(&format!("ip route add default via {OUTSIDE}"));
    Stage {
        lab,
        client,
        outside,
        backends,
        client_address,
    }
}

fn frontend(address: Option<&str>, protocol: Protocol, port: u16) -> Frontend {
    Frontend {
        address: address.map(|text| text.parse().unwrap()),
        protocol,
        port,
    }
}

fn services(list: &[(&str, Service)]) -> Services {
    Services {
        services: list
            .iter()
            .map(|(name, service)| ((*name).to_owned(), service.clone()))
            .collect(),
        addresses: "10.96.0.0/16".parse().unwrap(),
        direct: BTreeSet::from(["10.88.0.0/24".parse().unwrap()]),
    }
}

fn web(backends: &[SocketAddrV4]) -> Service {
    Service {
        frontends: BTreeSet::from([
            frontend(Some(ADDRESS), Protocol::Tcp, 80),
            frontend(None, Protocol::Tcp, 30080),
        ]),
        backends: backends.to_vec(),
        sticky: false,
    }
}

/// Who answers how often.
fn asked(from: Option<&Container>, to: &str, port: u16, times: usize) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        let answer = tcp_ask(from.map(|c| c.netns.as_path()), at(to, port)).unwrap();
        *seen
            .entry(answer.split(' ').next().unwrap().to_owned())
            .or_default() += 1;
    }
    seen
}

fn evenly(names: &[&str], times: usize) -> BTreeMap<String, usize> {
    names.iter().map(|name| ((*name).to_owned(), times)).collect()
}

#[test]
fn connections_are_spread_evenly_wherever_they_come_from() {
    need_root!();
    let stage = stage();
    let mut balancer = Balancer::open().unwrap();
    balancer
        .apply(&services(&[("default/web:http", web(&stage.backends))]))
        .unwrap();
    let all = evenly(&["one", "two", "three"], 3);
    assert_eq!(
        asked(Some(&stage.client), ADDRESS, 80, 9),
        all,
        "from a container"
    );
    assert_eq!(asked(None, ADDRESS, 80, 9), all, "from the host");
    assert_eq!(
        asked(Some(&stage.outside), HOST, 30080, 9),
        all,
        "from outside, by a port of the host"
    );
    assert_eq!(asked(None, HOST, 30080, 9), all, "from the host by its address");
    assert_eq!(
        asked(None, "127.0.0.1", 30080, 9),
        all,
        "from the host by 127.0.0.1"
    );
    // A client outside is seen as itself; one beside the backend as the host, or answers would not come back.
    let seen = tcp_ask(Some(&stage.outside.netns), at(HOST, 30080)).unwrap();
    assert!(seen.ends_with(OUTSIDE), "{seen}");
    let seen = tcp_ask(Some(&stage.client.netns), at(ADDRESS, 80)).unwrap();
    assert!(!seen.ends_with(&stage.client_address.to_string()), "{seen}");
    // A backend may be its own client.
    let own = services(&[("default/web:http", web(&stage.backends[..1]))]);
    balancer.apply(&own).unwrap();
    let one = Container {
        id: "c1".to_owned(),
        netns: "/run/netns/c1".into(),
    };
    assert_eq!(
        asked(Some(&one), ADDRESS, 80, 2),
        evenly(&["one"], 2),
        "from itself"
    );
}

#[test]
fn changes_take_effect_at_once_and_what_is_no_service_is_refused() {
    need_root!();
    let stage = stage();
    let mut balancer = Balancer::open().unwrap();
    let apply = |balancer: &mut Balancer, backends: &[SocketAddrV4]| {
        balancer
            .apply(&services(&[("default/web:http", web(backends))]))
            .unwrap();
    };
    apply(&mut balancer, &stage.backends);
    apply(&mut balancer, &stage.backends[1..]);
    assert_eq!(
        asked(Some(&stage.client), ADDRESS, 80, 8),
        evenly(&["three", "two"], 4)
    );
    apply(&mut balancer, &stage.backends[..1]);
    assert_eq!(asked(Some(&stage.client), ADDRESS, 80, 4), evenly(&["one"], 4));
    let refused = |port| {
        for from in [Some(stage.client.netns.as_path()), None] {
            let error = tcp_ask(from, at(ADDRESS, port)).unwrap_err();
            assert!(
                error.contains("refused") || error.contains("unreachable"),
                "{error}"
            );
        }
    };
    refused(81);
    apply(&mut balancer, &[]);
    refused(80);
    apply(&mut balancer, &stage.backends);
    assert_eq!(
        asked(Some(&stage.client), ADDRESS, 80, 3),
        evenly(&["one", "two", "three"], 1)
    );
    balancer.apply(&services(&[])).unwrap();
    refused(80);
    let left = sh("nft list table inet berth-services");
    assert!(!left.contains("service-"), "{left}");
}

#[test]
fn a_client_may_stay_with_its_backend() {
    need_root!();
    let stage = stage();
    let mut balancer = Balancer::open().unwrap();
    let sticky = Service {
        sticky: true,
        ..web(&stage.backends)
    };
    balancer
        .apply(&services(&[("default/web:http", sticky.clone())]))
        .unwrap();
    let first = asked(Some(&stage.client), ADDRESS, 80, 10);
    assert_eq!(first.len(), 1, "{first:?}");
    // Also after a restart, which makes the rules anew.
    let mut balancer = Balancer::open().unwrap();
    balancer
        .apply(&services(&[("default/web:http", sticky)]))
        .unwrap();
    assert_eq!(asked(Some(&stage.client), ADDRESS, 80, 10), first);
}

#[test]
fn udp_clients_follow_when_their_backend_goes() {
    need_root!();
    let stage = stage();
    let mut balancer = Balancer::open().unwrap();
    let dns = |backends: &[SocketAddrV4]| {
        let ports = backends
            .iter()
            .map(|b| SocketAddrV4::new(*b.ip(), 5353))
            .collect();
        services(&[(
            "kube-system/dns:dns",
            Service {
                frontends: BTreeSet::from([frontend(Some(ADDRESS), Protocol::Udp, 53)]),
                backends: ports,
                sticky: false,
            },
        )])
    };
    balancer.apply(&dns(&stage.backends[..1])).unwrap();
    let client = UdpClient::new(&stage.client.netns, at(ADDRESS, 53));
    let answers = |name: &str| {
        harness::wait_for("an answer", std::time::Duration::from_secs(20), || {
            match client.ask() {
                Ok(answer) if answer.starts_with(name) => Ok(()),
                other => Err(other),
            }
        });
    };
    answers("one");
    balancer.apply(&dns(&stage.backends[1..2])).unwrap();
    answers("two");
}

#[test]
fn what_somebody_else_flushed_is_noticed_and_put_back() {
    need_root!();
    let stage = stage();
    let mut balancer = Balancer::open().unwrap();
    let wanted = services(&[("default/web:http", web(&stage.backends))]);
    for damage in [
        "nft flush ruleset",
        "nft flush chain inet berth-services prerouting",
        "nft flush map inet berth-services addresses",
        "nft delete table inet berth-services",
    ] {
        balancer.apply(&wanted).unwrap();
        assert!(balancer.verify().unwrap(), "before {damage}");
        sh(damage);
        assert!(!balancer.verify().unwrap(), "after {damage}");
        balancer.apply(&wanted).unwrap();
        assert!(balancer.verify().unwrap(), "repaired after {damage}");
        assert_eq!(asked(Some(&stage.client), ADDRESS, 80, 3).len(), 3, "{damage}");
    }
    // A change also finds a table that is not as it was.
    sh("nft delete table inet berth-services");
    balancer
        .apply(&services(&[("default/web:http", web(&stage.backends[..2]))]))
        .unwrap();
    assert_eq!(
        asked(Some(&stage.client), ADDRESS, 80, 4),
        evenly(&["one", "two"], 2)
    );
    // And the listing is what nft itself would make of it.
    let rules = sh("nft list ruleset");
    std::fs::write(stage.lab.path().join("rules"), &rules).unwrap();
    sh(&format!(
        "nft flush ruleset; nft -f {}",
        stage.lab.path().join("rules").display()
    ));
    assert_eq!(sh("nft list ruleset"), rules);
}

#[test]
fn a_thousand_services_are_one_transaction() {
    need_root!();
    let stage = stage();
    let mut balancer = Balancer::open().unwrap();
    let many: Vec<(String, Service)> = (0..1000u16)
        .map(|n| {
            let address = Ipv4Addr::from(0x0a60_0100 + u32::from(n));
            let service = Service {
                frontends: BTreeSet::from([Frontend {
                    address: Some(address),
                    protocol: Protocol::Tcp,
                    port: 80,
                }]),
                backends: stage.backends.clone(),
                sticky: false,
            };
            (format!("default/s{n}:http"), service)
        })
        .collect();
    let list: Vec<(&str, Service)> = many
        .iter()
        .map(|(name, service)| (name.as_str(), service.clone()))
        .collect();
    balancer.apply(&services(&list)).unwrap();
    assert!(balancer.verify().unwrap());
    assert_eq!(
        asked(Some(&stage.client), "10.96.4.231", 80, 3),
        evenly(&["one", "two", "three"], 1)
    );
    // One with a thousand backends, too.
    let large: Vec<SocketAddrV4> = (0..1000u16)
        .map(|n| SocketAddrV4::new(*stage.backends[0].ip(), 20000 + n))
        .collect();
    balancer
        .apply(&services(&[("default/large:http", web(&large))]))
        .unwrap();
    assert!(balancer.verify().unwrap());
}
