//! Monitors that are killed, and a pod whose state is lost.

use super::{Random, Stage, list, named, uid};
use crate::world::{PATIENCE, WAIT, World};
use harness::{HostSnapshot, need_root, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::Duration;

fn monitor(world: &World, uid: &str) -> Option<Pid> {
    let lock = world.node.path().join("run/pods").join(uid).join("monitor.lock");
    let pid: i32 = std::fs::read_to_string(lock).ok()?.trim().parse().ok()?;
    Some(Pid::from_raw(pid))
}

#[test]
fn monitors_killed_at_any_time_leave_one_container_each() {
    need_root!();
    let stage = Stage::new();
    let mut random = Random::seeded();
    let spec = stage.spec(WAIT, "Always");
    for batch in 0..5 {
        let names: Vec<String> = (0..10).map(|n| format!("p{batch}-{n}")).collect();
        let list: Vec<Value> = names.iter().map(|name| named(name, &spec)).collect();
        stage
            .world
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": list}));
        let mut killed = Vec::new();
        for name in &names {
            let uid = wait_for("the pod", PATIENCE, || {
                stage.world.get(name).map(|pod| uid(&pod).to_owned())
            });
            let pid = wait_for("its monitor", PATIENCE, || {
                monitor(&stage.world, &uid).ok_or("no monitor")
            });
            // Any moment of the start will do: this is the chance, not a wait for something.
            let moment = u64::try_from(random.below(60)).expect("small");
            std::thread::sleep(Duration::from_millis(moment));
            kill(pid, Signal::SIGKILL).expect("kill the monitor");
            killed.push((name, uid, pid));
        }
        wait_for("one container and one monitor for each pod", PATIENCE, || {
            for (name, uid, dead) in &killed {
                let pod = stage.world.get(name)?;
                let status = &pod["status"]["containerStatuses"][0];
                let is_new = monitor(&stage.world, uid).is_some_and(|pid| pid != *dead);
                let restarts = status["restartCount"].as_u64().unwrap_or(0);
                let starts = stage.started().get(uid).copied().unwrap_or(0);
                assert!(restarts <= 1 && starts <= 2, "{starts} starts: {pod}");
                if !(is_new && status["ready"] == true) {
                    return Err(pod.to_string());
                }
            }
            let (living, monitors) = (live_shells(&stage), stage.monitors());
            if living == 10 && monitors == 10 {
                Ok(())
            } else {
                Err(format!("{living} containers, {monitors} monitors"))
            }
        });
        stage.world.clean();
    }
}

#[test]
fn a_pod_whose_state_file_is_lost_comes_back_and_goes() {
    need_root!();
    let mut stage = Stage::new();
    let spec = stage.spec(WAIT, "Always");
    stage.world.apply(&named("p", &spec));
    stage.world.phase("p", "Running");
    let pod = list(&stage, &["pod", "p"]).expect("the pod");
    let dir = stage.world.node.path().join("run/pods").join(uid(&pod));
    stage.world.node.kill_daemon();
    std::fs::remove_file(dir.join("pod.json")).expect("lose the state file");
    stage.world.node.spawn();
    wait_for("the pod's second run", PATIENCE, || {
        match stage.started()[uid(&pod)] {
            2 => Ok(()),
            starts => Err(starts),
        }
    });
    stage.world.phase("p", "Running");
    stage.world.node.ctl(&["delete", "pod", "p"]).ok();
    wait_for("the pod's directory to go", PATIENCE, || {
        if dir.exists() { Err(dir.clone()) } else { Ok(()) }
    });
    stage.world.clean();
}

/// First processes of the stage's containers, from their arguments.
fn live_shells(stage: &Stage) -> usize {
    let cgroup = stage.world.cgroup.as_str();
    HostSnapshot::take("echo $UID >>/starts/log", &[])
        .processes
        .iter()
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(&format!("/{cgroup}/")))
        })
        .count()
}
