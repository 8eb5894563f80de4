//! A reboot.

use super::{Stage, list, named, uid};
use crate::world::{PATIENCE, WAIT, World};
use harness::{HostSnapshot, need_root, run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

/// What a reboot takes: every process, namespace, mount and cgroup of the node, and what lies in memory.
pub(crate) fn pull_the_plug(world: &mut World) {
    world.node.kill_daemon();
    let node = world.node.path().to_string_lossy().into_owned();
    let cgroup = format!("/{}/", world.cgroup);
    let doomed = || -> Vec<i32> {
        let mut pids: Vec<i32> = HostSnapshot::take(&node, &[]).processes.into_iter().collect();
        for entry in std::fs::read_dir("/proc").expect("read /proc").flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok())
                && std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|t| t.contains(&cgroup))
                && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
            {
                pids.push(pid);
            }
        }
        pids
    };
    wait_for("all processes to be dead", PATIENCE, || {
        let left = doomed();
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let mut mounts = HostSnapshot::take(&node, &[]).mounts;
    mounts.retain(|place| place.starts_with(&node));
    for place in mounts.iter().rev() {
        nix::mount::umount2(place.as_str(), nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    }
    wait_for("the cgroups to be gone", PATIENCE, || {
        let mut left: Vec<String> = HostSnapshot::take(&world.cgroup, &[])
            .cgroups
            .into_iter()
            .collect();
        left.sort_by_key(|path| std::cmp::Reverse(path.len()));
        left.retain(|path| std::fs::remove_dir(path).is_err());
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    std::fs::remove_dir_all(world.node.path().join("run")).expect("wipe the run directory");
    run(Command::new("nft").args(["flush", "ruleset"])).ok();
    run(Command::new("sh").args([
        "-c",
        "ip -o link show type bridge | cut -d: -f2 | xargs -r -n1 ip link del",
    ]))
    .ok();
}

#[test]
fn a_reboot_brings_everything_back() {
    need_root!();
    let mut stage = Stage::new();
    // Whoever asks for a Service needs a way to anywhere; rules turn it on the way.
    let uplink =
        "ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
        ip link set up1 up; ip route add default via 192.0.2.2";
    run(Command::new("sh").args(["-ec", uplink])).ok();
    let serve = format!("mkdir -p /www; echo served >/www/index.html; httpd -p 8080 -h /www; {WAIT}");
    let template = stage.spec(&serve, "Always");
    stage.world.apply(
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": template}}}),
    );
    stage.world.apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    let ends = stage.spec("exit 5", "Never");
    stage.world.apply(&named("ends", &ends));
    stage.world.phase("ends", "Failed");
    let ready = |stage: &Stage| {
        wait_for("the replicas", PATIENCE, || {
            let web = list(stage, &["deployment", "web"])?;
            if web["status"]["availableReplicas"] == 2 {
                Ok(())
            } else {
                Err(web["status"].to_string())
            }
        });
    };
    ready(&stage);
    let pods = |stage: &Stage| -> BTreeMap<String, Value> {
        let list = list(stage, &["pods"]).expect("the pods");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(|pod| (uid(&pod).to_owned(), pod)).collect()
    };
    let before = pods(&stage);
    pull_the_plug(&mut stage.world);
    stage.world.node.spawn();
    // The same pods, each with a container of its own once more; what had ended has not run again.
    wait_for("the containers to be back", PATIENCE, || {
        let starts = stage.started();
        let due = |pod: &Value| if pod["metadata"]["name"] == "ends" { 1 } else { 2 };
        let seen: Vec<(usize, usize)> = before.iter().map(|(uid, pod)| (starts[uid], due(pod))).collect();
        if seen.iter().all(|(is, due)| is == due) {
            Ok(())
        } else {
            Err(seen)
        }
    });
    ready(&stage);
    let after = pods(&stage);
    assert!(after.keys().eq(before.keys()), "{after:?}");
    for pod in after.values() {
        let status = &pod["status"]["containerStatuses"][0];
        if pod["metadata"]["name"] == "ends" {
            assert_eq!(status["state"]["terminated"]["exitCode"], 5, "{pod}");
            assert_eq!(status["restartCount"], 0, "{pod}");
        } else {
            assert_eq!(status["restartCount"], 1, "{pod}");
        }
    }
    let service = list(&stage, &["service", "web"]).expect("the service");
    let url = format!(
        "http://{}/",
        service["spec"]["clusterIP"].as_str().expect("an address")
    );
    wait_for("the service", PATIENCE, || {
        let page = run(Command::new("timeout").args(["5", "busybox", "wget", "-q", "-O", "-", &url]));
        if page.stdout == "served\n" {
            Ok(())
        } else {
            Err(page)
        }
    });
    stage.world.clean();
}
