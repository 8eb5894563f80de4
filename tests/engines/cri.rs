//! containerd's CRI plugin, as the kubelet drives it, with the configuration of examples/kubernetes.

use crate::table;
use harness::{Containerd, Release, repository_root};

harness::with_each_containerd!(a_pod_lives_through_cri_as_with_containerds_own_shim);

/// The configuration of the CRI plugin, with the example's table in it.
fn configuration(release: &Release) -> String {
    let (example, runtime, rest) = match release {
        Release::Packaged => (
            "containerd.toml",
            "io.containerd.grpc.v1.cri",
            "[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"localhost/pause:1\"\nstream_server_address = \
             \"127.0.0.1\"\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n",
        ),
        Release::Newer(_) => (
            "containerd-2.toml",
            "io.containerd.cri.v1.runtime",
            "[plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"localhost/pause:1\"\n\
             [plugins.\"io.containerd.cri.v1.runtime\"]\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n",
        ),
    };
    let example = repository_root().join("examples/kubernetes").join(example);
    let example = std::fs::read_to_string(example).expect("read the example");
    format!(
        "{rest}[plugins.\"{runtime}\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"/run/cni\"\n\
         [plugins.\"{runtime}\".containerd]\ndefault_runtime_name = \"runc\"\n\
         [plugins.\"{runtime}\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n{example}"
    )
}

fn pod(release: &Release, handler: &str) -> String {
    let dir_of = |containerd: &Containerd| containerd.lab.path().display().to_string();
    let mut containerd = Containerd::new(release, &configuration(release), "");
    table::prepare(&containerd.lab);
    containerd
        .lab
        .sh(&format!("namespace=k8s.io\n{}", table::ARCHIVES))
        .ok();
    containerd
        .lab
        .sh(r#"
mkdir -p /run/cni
cat >/run/cni/10-lab.conflist <<'X'
{"cniVersion": "0.4.0", "name": "lab", "plugins": [{"type": "bridge", "bridge": "lab0", "isGateway": true, "ipMasq": false,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.89.3.0/24"}]], "dataDir": "/run/cni-data"}}, {"type": "loopback"}]}
X
"#)
        .ok();
    let client = repository_root()
        .join("tests/engines/cri-client")
        .display()
        .to_string();
    let run = |containerd: &Containerd, phase: &str| {
        let dir = dir_of(containerd);
        containerd.lab.sh(&format!(
            "{client} $LAB/c.sock {phase} {handler} {dir}; pgrep -fc '[c]ontainerd-shim-[a-z]*-v2 -namespace'"
        ))
    };
    containerd
        .lab
        .sh("wait_until eval '[ -e /run/cni/10-lab.conflist ]'; sleep 1")
        .ok();
    let mut text = run(&containerd, "first").ok();
    containerd.kill();
    containerd.start();
    let second = run(&containerd, "second");
    assert_eq!(second.stderr, "", "{text}{}", second.stdout);
    text += &second.stdout;
    containerd
        .lab
        .sh("wait_until eval '! pgrep -f [c]ontainerd-shim- >/dev/null'")
        .ok();
    let cgroups: Vec<_> = containerd
        .lab
        .cgroups()
        .into_iter()
        .filter(|dir| !dir.ends_with(containerd.lab.name()))
        .collect();
    assert!(cgroups.is_empty(), "cgroups are left: {cgroups:#?}");
    text
}

fn a_pod_lives_through_cri_as_with_containerds_own_shim(release: &Release) {
    if !std::path::Path::new("/usr/lib/cni/bridge").exists() {
        harness::skip!("needs Debian's containernetworking-plugins");
    }
    let theirs = pod(release, "runc");
    assert_eq!(
        theirs,
        "states 1 1\nexec out|err|3\nstream streamed 4\nlog ['stderr F to the log too', 'stdout F to the log']\nstats True\n\
         update 67108864 100663296\nforward 80 page\n\
         terminal ['/dev/pts/0', 'there and back'] 5\nreopened True\n1\nfound 1 0\nexec again||0\nattached last words\nended 9\nstopped (2, 143)\npods 0\n0\n"
    );
    // The handler that pods of the example's RuntimeClass get.
    let class = repository_root().join("examples/kubernetes/runtimeclass.yaml");
    let class = std::fs::read_to_string(class).expect("read the example");
    let handler = class
        .lines()
        .find_map(|line| line.strip_prefix("handler: "))
        .expect("a handler");
    assert_eq!(pod(release, handler), theirs);
}
