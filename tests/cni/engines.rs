//! Containers of other engines get their network from Berth's plugins: Debian's containerd (`ctr run --cni`)
//! and Podman with its CNI backend. Each has daemons, directories and namespaces of its own.

use std::path::Path;
use std::process::Command;

use harness::{bin, busybox_rootfs, need_program, need_root, run};
use tempfile::TempDir;

/// Both scripts run with the test's directory as $1 and Berth's runtime as $2, in new network, mount and PID
/// namespaces. `outside` is a world beyond the host that knows no way back.
const LAB: &str = r#"
set -eu
cd "$1"; runtime=$2
ip link set lo up
for dir in /run /var/lib /opt /etc/cni; do mkdir -p $dir; mount -t tmpfs lab $dir; done
mkdir -p /run/lock /opt/cni
ln -s "$PWD/plugins" /opt/cni/bin
ip netns add outside
ip link add out0 type veth peer name out1 netns outside
ip addr add 192.0.2.1/24 dev out0; ip link set out0 up
ip -n outside addr add 192.0.2.2/24 dev out1; ip -n outside link set out1 up
mkdir www; echo "the world" >www/index.html
ip netns exec outside busybox httpd -p 192.0.2.2:80 -h www
ask() { curl -sS -m 5 "$@"; }
patiently() { tries=0; until "$@" >answer 2>&1; do tries=$((tries + 1)); [ $tries -lt 300 ] || { cat answer; return 1; }; sleep 0.1; done; cat answer; }
traces() { nft list ruleset | grep -cE 'comment ".* eth0"' || true; ls /sys/class/net | grep -c veth || true; find /var/lib/cni -name '10.*' -o -path '*results/?*'; }
"#;

fn in_lab(script: &str) -> String {
    let dir = TempDir::with_prefix("berth-engine-").expect("temporary directory");
    std::fs::create_dir(dir.path().join("rootfs")).expect("create rootfs");
    busybox_rootfs(&dir.path().join("rootfs"));
    link_plugins(&dir.path().join("plugins"));
    let unshare = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ];
    run(Command::new("timeout")
        .args(["--kill-after=5", "240"])
        .args(unshare)
        .args(["sh", "-c", &format!("{LAB}{script}"), "sh"])
        .arg(dir.path())
        .arg(bin("berth")))
    .ok()
}

fn link_plugins(dir: &Path) {
    std::fs::create_dir(dir).expect("plugin directory");
    for plugin in cni_plugins::PLUGINS {
        std::os::unix::fs::symlink(bin("cni-plugins"), dir.join(plugin.name)).expect("link");
    }
}

#[test]
fn containerds_containers_get_their_network() {
    need_root!();
    need_program!("containerd");
    need_program!("ctr");
    let seen = in_lab(
        r#"
cat >/run/containerd-lab.toml <<END
version = 2
root = "$PWD/root"
state = "/run/containerd-lab"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd-lab.sock"
END
mkdir -p /etc/cni/net.d
cat >/etc/cni/net.d/10-lab.conflist <<END
{"cniVersion": "1.0.0", "name": "lab", "plugins": [
  {"type": "bridge", "bridge": "lab0", "isDefaultGateway": true, "ipMasq": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/24"}]]}},
  {"type": "firewall"}, {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
containerd --config /run/containerd-lab.toml >containerd.log 2>&1 &
daemon=$!
ctr() { command ctr --address /run/containerd-lab.sock "$@"; }
patiently ctr version >/dev/null
ctr run --detach --cni --rootfs --runc-binary "$runtime" "$PWD/rootfs" one /bin/sh -c \
    'mkdir -p /tmp/www; echo "from the container" >/tmp/www/index.html; httpd -p 80 -h /tmp/www; while :; do sleep 1; done'
echo "rules and links: $(traces | head -n 2 | tr '\n' ' ')"
patiently ask http://10.66.0.2/
ctr tasks exec --exec-id world one /bin/wget -q -O - http://192.0.2.2/
ctr tasks exec --exec-id address one /bin/ip -4 addr show eth0 | grep -o '10.66.0.[0-9]*/24'
ctr tasks kill --signal 9 one
until ctr tasks ls | grep -q STOPPED; do sleep 0.05; done
ctr tasks rm one >/dev/null 2>&1 || true
ctr run --rm --cni --rootfs --runc-binary "$runtime" "$PWD/rootfs" two /bin/sh -c 'wget -q -O - http://192.0.2.2/'
echo "leases left: $(find /var/lib/cni/networks -name '10.66.0.3')."
ctr containers rm one
kill $daemon; wait $daemon || true
"#,
    );
    for part in [
        "from the container",
        "the world\n10.66.0.2/24\nthe world",
        "leases left: .",
    ] {
        assert!(seen.contains(part), "{part:?} is not in:\n{seen}");
    }
    assert!(!seen.contains("rules and links: 0"), "{seen}");
}

#[test]
fn podmans_containers_get_their_network() {
    need_root!();
    need_program!("podman");
    need_program!("conmon");
    let seen = in_lab(
        r#"
mkdir net.d tmp
cat >containers.conf <<END
[network]
network_backend = "cni"
cni_plugin_dirs = ["$PWD/plugins"]
network_config_dir = "$PWD/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
END
cat >storage.conf <<END
[storage]
driver = "vfs"
graphroot = "$PWD/graph"
runroot = "/run/podman-lab"
END
export CONTAINERS_CONF=$PWD/containers.conf CONTAINERS_STORAGE_CONF=$PWD/storage.conf TMPDIR=$PWD/tmp
parent=/$(basename "$PWD")
podman() { command podman --root "$PWD/graph" --runroot /run/podman-lab --tmpdir "$PWD/tmp" --runtime "$runtime" "$@"; }
podman network create --subnet 10.67.0.0/24 --subnet fd67::/64 lab >/dev/null
podman network create --subnet 10.68.0.0/24 --opt mtu=1400 other >/dev/null
podman run --detach --cgroup-parent $parent --name web --network lab --network other \
    --publish 8080:80/tcp --publish 192.0.2.1:8443:80/tcp --rootfs "$PWD/rootfs" /bin/sh -c \
    'mkdir -p /tmp/www; echo "from the container" >/tmp/www/index.html; httpd -p 80 -h /tmp/www; while :; do sleep 1; done' >/dev/null
echo "by 127.0.0.1: $(patiently ask http://127.0.0.1:8080/)"
echo "by address: $(ask http://192.0.2.1:8443/)"
echo "from outside: $(patiently ip netns exec outside curl -sS -m 5 http://192.0.2.1:8080/)"
podman exec web /bin/wget -q -O - http://192.0.2.2/
podman exec web /bin/ip addr | grep -oE '10.6[78].0.2/24|fd67::2/64|mtu 1400'
podman network reload web >/dev/null
echo "reloaded: $(patiently ask http://127.0.0.1:8080/)"
podman rm --force --time 0 web >/dev/null
echo "traces: $(traces | tr '\n' ' ')"
for dir in /sys/fs/cgroup$parent /sys/fs/cgroup/*$parent; do [ -d "$dir" ] && find "$dir" -depth -type d -exec rmdir {} ';'; done || true
"#,
    );
    for part in [
        "by 127.0.0.1: from the container",
        "by address: from the container",
        "from outside: from the container",
        "the world",
        "10.67.0.2/24",
        "fd67::2/64",
        "10.68.0.2/24",
        "mtu 1400",
        "reloaded: from the container",
        "traces: 0 0 ",
    ] {
        assert!(seen.contains(part), "{part:?} is not in:\n{seen}");
    }
}
