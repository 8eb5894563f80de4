//! README's examples run as they stand there.

use harness::{bin, busybox_rootfs, need_program, need_root, repository_root, run, wait_for};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// The lines of the one console block that has a text in it.
fn block(text: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(repository_root().join("README.md")).expect("read README.md");
    let blocks: Vec<&str> = readme
        .split("```console\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .filter(|block| block.contains(text))
        .collect();
    assert_eq!(blocks.len(), 1, "one block has {text:?}");
    blocks[0].lines().map(str::to_owned).collect()
}

fn programs() -> String {
    let berth = bin("berth");
    let own = berth.parent().expect("a program is in a directory").display();
    format!("{own}:{}", std::env::var("PATH").unwrap_or_default())
}

#[test]
fn a_bundle_runs_as_readme_says() {
    need_root!();
    need_program!("script");
    let dir = TempDir::with_prefix("berth-readme-").expect("temporary directory");
    std::fs::create_dir(dir.path().join("ROOTFS")).expect("create the root folder");
    busybox_rootfs(&dir.path().join("ROOTFS"));
    let id = format!("hello-{}", std::process::id());
    let lines = block("berth run").join("\n").replace(" hello", &format!(" {id}"));
    std::fs::write(dir.path().join("block"), format!("set -e\n{lines}\n")).expect("write the block");
    // `berth spec` asks for a terminal, which script(1) is.
    let shown = run(Command::new("sh")
        .args([
            "-c",
            "printf 'hostname; exit 7\\n' | script -qec 'bash block' /dev/null; echo \"code $?\"",
        ])
        .current_dir(dir.path())
        .env("PATH", programs()))
    .ok();
    assert!(shown.contains("berth") && shown.contains("code 7"), "{shown}");
}

/// Gives the calling thread directories of its own where an installed node has its own.
fn a_host(dir: &Path) {
    harness::isolate();
    let script = format!(
        "set -e
        mkdir -p {0}/upper {0}/work /opt
        mount -t overlay overlay -o lowerdir=/etc,upperdir={0}/upper,workdir={0}/work /etc
        rm -rf /etc/cni; for dir in /var/lib /run /opt; do mount -t tmpfs private $dir; done
        mkdir -p /opt/cni/bin; for plugin in bridge host-local loopback portmap firewall; do
            ln -s {1} /opt/cni/bin/$plugin; done",
        dir.display(),
        bin("cni-plugins").display()
    );
    run(Command::new("sh").args(["-c", &script])).ok();
}

#[test]
fn a_node_runs_as_readme_says() {
    need_root!();
    let Some(kubectl) = harness::kubectl() else {
        harness::skip!("needs kubectl");
    };
    let dir = TempDir::with_prefix("berth-readme-").expect("temporary directory");
    a_host(dir.path());
    let root = repository_root();
    let place = dir.path().join("place");
    std::fs::create_dir_all(place.join("rootfs")).expect("create the root folder");
    std::fs::copy(bin("user-service"), place.join("rootfs/user-service")).expect("copy the application");
    std::fs::create_dir(place.join("bin")).expect("create a directory");
    std::os::unix::fs::symlink(kubectl, place.join("bin/kubectl")).expect("link kubectl");
    std::os::unix::fs::symlink(root.join("examples"), place.join("examples")).expect("link the examples");
    let mut lines = block("berthd &");
    assert!(lines[0].starts_with("berthd &"), "{lines:?}");
    // Somebody who types has given it the moment that it needs.
    lines.insert(1, "until berthctl --kubeconfig /var/lib/berth/admin.kubeconfig get nodes >/dev/null 2>&1; do sleep 0.1; done".to_owned());
    lines.insert(0, "set -e; export HOME=$PWD".to_owned());
    lines.push("echo well".to_owned());
    lines.push("kubectl delete -f examples/manifests/ --grace-period 1".to_owned());
    lines.push(
        "while [ -n \"$(kubectl get pods -o name)\" ]; do sleep 0.1; done; kill $!; wait $! || true"
            .to_owned(),
    );
    std::fs::write(place.join("block"), lines.join("\n")).expect("write the block");
    let path = format!("{}:{}", place.join("bin").display(), programs());
    let shown = run(Command::new("timeout")
        .args(["120", "bash", "block"])
        .current_dir(&place)
        .env("PATH", path));
    assert!(shown.status.success(), "{}\n{}", shown.stdout, shown.stderr);
    assert!(
        shown.stdout.contains("successfully rolled out") && shown.stdout.contains("well"),
        "{}",
        shown.stdout
    );
    wait_for("the node to be gone", Duration::from_secs(30), || {
        let left = harness::HostSnapshot::take("/var/lib/berth/pods", &[]).processes;
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}
