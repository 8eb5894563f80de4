//! A network of the test's own: a "host" (the test's private namespace), containers, and an outside
//! world that knows no way back to the containers.

use std::{
    cell::Cell,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    time::Duration,
};

use harness::{Outcome, run, run_with_input};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
};
use serde_json::{Value, json};

/// The outside world's address, and the host's address there.
pub const OUTSIDE: &str = "192.0.2.2";
/// The host's address towards the outside world.
pub const HOST: &str = "192.0.2.1";
/// The same in IPv6.
pub const OUTSIDE6: &str = "2001:db8::2";
/// The host's IPv6 address towards the outside world.
pub const HOST6: &str = "2001:db8::1";

/// The test's network; everything in it ends with the test's thread.
pub struct Lab {
    dir: tempfile::TempDir,
    plugins: PathBuf,
    next: Cell<u32>,
}

/// A container: a network namespace with a name.
#[derive(Debug, Clone)]
pub struct Container {
    /// CNI_CONTAINERID.
    pub id: String,
    /// CNI_NETNS.
    pub netns: PathBuf,
}

/// Runs a program and expects success.
#[track_caller]
pub fn sh(line: &str) -> String {
    run(Command::new("sh").args(["-c", line])).ok()
}

impl Lab {
    /// Moves the thread into namespaces of its own and links Berth's plugins.
    pub fn new() -> Self {
        harness::isolate();
        for private in ["/run", "/var/lib"] {
            mount(
                Some("lab"),
                private,
                Some("tmpfs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .expect("private directory");
        }
        let dir = tempfile::tempdir().expect("directory");
        let plugins = dir.path().join("bin");
        std::fs::create_dir(&plugins).expect("plugin directory");
        let program = harness::bin("cni-plugins");
        for plugin in cni_plugins::PLUGINS {
            std::os::unix::fs::symlink(&program, plugins.join(plugin.name)).expect("link");
        }
        Self {
            dir,
            plugins,
            next: Cell::new(0),
        }
    }

    /// The same with the reference plugins.
    pub fn with_plugins(mut self, dir: &str) -> Self {
        self.plugins = PathBuf::from(dir);
        self
    }

    /// A directory of the test's own.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// CNI_PATH.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// A new container.
    pub fn container(&self) -> Container {
        let n = self.next.get();
        self.next.set(n + 1);
        self.named(&format!("c{n}"))
    }

    /// A new container of that name.
    pub fn named(&self, id: &str) -> Container {
        sh(&format!("ip netns add {id}"));
        Container {
            id: id.to_owned(),
            netns: PathBuf::from(format!("/run/netns/{id}")),
        }
    }

    /// The outside world: reachable from the host, with no route to the containers.
    pub fn outside(&self) -> Container {
        let world = self.named("outside");
        sh(&format!(
            "ip link add out0 type veth peer name out1 netns outside
             sysctl -qw net.ipv6.conf.out0.accept_dad=0
             ip netns exec outside sysctl -qw net.ipv6.conf.out1.accept_dad=0
             ip addr add {HOST}/24 dev out0; ip addr add {HOST6}/64 dev out0 nodad; ip link set out0 up
             ip -n outside addr add {OUTSIDE}/24 dev out1; ip -n outside addr add {OUTSIDE6}/64 dev out1 nodad
             ip -n outside link set out1 up; ip -n outside link set lo up"
        ));
        // A fresh IPv6 link takes a second; that one is not what the tests look at.
        harness::wait_for("the outside world", Duration::from_secs(10), || {
            match tcp_ask(None, at(OUTSIDE6, 9)) {
                Err(e) if e.contains("refused") => Ok(()),
                other => Err(other),
            }
        });
        world
    }

    /// A bridge configuration with a lease directory of the test's own; `extra` is merged in.
    pub fn bridge(&self, name: &str, subnets: &[&str], extra: Value) -> Value {
        let ranges: Vec<Value> = subnets.iter().map(|s| json!([{"subnet": s}])).collect();
        let mut config = json!({
            "cniVersion": "1.1.0", "name": name, "type": "bridge", "bridge": format!("br-{name}"),
            "isDefaultGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "dataDir": self.leases(), "ranges": ranges},
        });
        merge(&mut config, extra);
        config
    }

    /// The lease directory.
    pub fn leases(&self) -> PathBuf {
        self.dir.path().join("leases")
    }

    /// Names of the leases of a network.
    pub fn leased(&self, network: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.leases().join(network))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|n| n.parse::<IpAddr>().is_ok())
            .collect();
        names.sort();
        names
    }

    /// Runs one verb of the plugin that the configuration names.
    pub fn call(&self, verb: &str, container: Option<&Container>, config: &Value) -> Outcome {
        let netns = container
            .map(|c| c.netns.display().to_string())
            .unwrap_or_default();
        self.call_in(verb, container.map_or("", |c| &c.id), &netns, "eth0", config)
    }

    /// The same with everything said.
    pub fn call_in(&self, verb: &str, id: &str, netns: &str, ifname: &str, config: &Value) -> Outcome {
        let kind = config["type"].as_str().expect("type");
        let mut command = Command::new(self.plugins.join(kind));
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", ifname)
            .env("CNI_PATH", &self.plugins);
        run_with_input(&mut command, config.to_string().as_bytes())
    }

    /// ADD that must work; gives the result.
    #[track_caller]
    pub fn add(&self, container: &Container, config: &Value) -> Value {
        parse(&self.call("ADD", Some(container), config).success())
    }

    /// DEL that must work.
    #[track_caller]
    pub fn del(&self, container: &Container, config: &Value) {
        self.call("DEL", Some(container), config).success();
    }

    /// CHECK with a result.
    pub fn check(&self, container: &Container, config: &Value, result: &Value) -> Outcome {
        self.call(
            "CHECK",
            Some(container),
            &with(config, json!({"prevResult": result})),
        )
    }
}

/// What the protocol says about an outcome.
pub trait Protocol {
    /// Success; gives stdout.
    fn success(self) -> String;
    /// Failure; gives code and message.
    fn failure(self) -> (u64, String);
}

impl Protocol for Outcome {
    #[track_caller]
    fn success(self) -> String {
        assert!(self.status.success(), "failed: {} {}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    fn failure(self) -> (u64, String) {
        assert!(
            !self.status.success(),
            "succeeded though it must not: {}",
            self.stdout
        );
        let error = parse(&self.stdout);
        assert!(error["cniVersion"].is_string(), "{error}");
        (
            error["code"].as_u64().expect("code"),
            error["msg"].as_str().expect("msg").to_owned(),
        )
    }
}

/// JSON of a plugin.
#[track_caller]
pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text:?}"))
}

/// Merges objects; null removes.
pub fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(into), Value::Object(extra)) => {
            for (key, value) in extra {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, extra) => *into = extra,
    }
}

/// A configuration with more in it.
pub fn with(config: &Value, extra: Value) -> Value {
    let mut config = config.clone();
    merge(&mut config, extra);
    config
}

/// The address of a family in a result.
#[track_caller]
pub fn ip_of(result: &Value, v4: bool) -> IpAddr {
    result["ips"]
        .as_array()
        .expect("ips")
        .iter()
        .filter_map(|i| i["address"].as_str()?.split('/').next()?.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv4() == v4)
        .expect("an address of the family")
}

/// Runs something on a thread that is in another network namespace.
pub fn inside<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(netns).expect("namespace");
    std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        work()
    })
    .join()
    .expect("the work in the namespace")
}

/// A TCP server in a namespace that answers each connection with the peer's address, until dropped with the test.
pub fn tcp_server(netns: &Path, address: SocketAddr) {
    let listener = inside(netns, move || TcpListener::bind(address).expect("listen"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|p| p.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// A UDP server that answers each packet with the sender's address.
pub fn udp_server(netns: &Path, address: SocketAddr, tag: &'static str) {
    let socket = inside(netns, move || UdpSocket::bind(address).expect("bind"));
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{tag}{}", from.ip()).as_bytes(), from);
        }
    });
}

/// Connects from a namespace (None: the host) and gives what the server says, or why not. The kernel repeats a lost
/// first packet after one second, which a loaded machine may need.
pub fn tcp_ask(netns: Option<&Path>, to: SocketAddr) -> Result<String, String> {
    let ask = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(2500))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    match netns {
        Some(netns) => inside(netns, ask),
        None => ask(),
    }
    .map_err(|e| e.to_string())
}

/// A UDP client in a namespace that keeps its port, so that connection tracking sees one connection.
pub struct UdpClient {
    ask: mpsc::Sender<()>,
    answer: mpsc::Receiver<Result<String, String>>,
}

impl UdpClient {
    /// In a namespace, towards a server.
    pub fn new(netns: &Path, to: SocketAddr) -> Self {
        let (ask, asked) = mpsc::channel::<()>();
        let (send, answer) = mpsc::channel();
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
            .parse()
            .expect("address");
        let socket = inside(netns, move || UdpSocket::bind(any).expect("bind"));
        std::thread::spawn(move || {
            socket
                .set_read_timeout(Some(Duration::from_millis(500)))
                .expect("timeout");
            while asked.recv().is_ok() {
                let mut buffer = [0; 64];
                let got = socket.send_to(b"?", to).and_then(|_| socket.recv(&mut buffer));
                let got = got
                    .map(|n| String::from_utf8_lossy(&buffer[..n]).into_owned())
                    .map_err(|e| e.to_string());
                if send.send(got).is_err() {
                    return;
                }
            }
        });
        Self { ask, answer }
    }

    /// Sends one packet and waits shortly for the answer.
    pub fn ask(&self) -> Result<String, String> {
        self.ask.send(()).expect("client thread");
        self.answer.recv().expect("client thread")
    }
}

/// A socket address.
pub fn at(ip: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(ip.to_string().parse().expect("address"), port)
}

/// Everything that plugins may leave on a host: links, rules, addresses, routes.
pub fn traces() -> String {
    sh(
        "ip -o link | sed 's/^[0-9]*: //; s/@[^:]*//' | cut -d: -f1 | sort | grep -v '^br-' ; nft list ruleset",
    )
}
