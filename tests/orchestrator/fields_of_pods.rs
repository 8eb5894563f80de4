//! Smaller fields of pods, each seen from inside the container.

use crate::world::{PATIENCE, WAIT, World, script, with};
use harness::{kubectl, need_root, run, skip, wait_for};
use serde_json::{Value, json};
use std::process::Command;
use tempfile::TempDir;

/// The log of a pod once it has said `end`.
#[track_caller]
fn said(world: &World, name: &str) -> String {
    wait_for(&format!("{name} to have said all"), PATIENCE, || {
        let text = world.node.ctl(&["logs", name]).stdout;
        if text.lines().any(|line| line == "end") {
            Ok(text)
        } else {
            Err(text)
        }
    })
}

#[test]
fn rules_signals_names_and_groups() {
    need_root!();
    let world = World::new();
    let volume = json!([{"name": "v", "emptyDir": {}}]);
    let ruled = |text: &str, policy: &str| {
        json!({"restartPolicy": "Never", "volumes": volume, "containers": [with(text, json!({
            "restartPolicy": policy, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
        }))]})
    };
    world.pod(
        "again",
        ruled("test -e /v/once && exit 7; touch /v/once; exit 42", "Never"),
    );
    world.pod(
        "still",
        ruled("test -e /v/once && exit 0; touch /v/once; exit 3", "OnFailure"),
    );
    let again = world.phase("again", "Failed");
    let container = &again["status"]["containerStatuses"][0];
    assert_eq!(
        (
            &container["restartCount"],
            &container["state"]["terminated"]["exitCode"]
        ),
        (&json!(1), &json!(7))
    );
    let still = world.phase("still", "Succeeded");
    assert_eq!(still["status"]["containerStatuses"][0]["restartCount"], 1);

    let mut asked = with(
        "trap 'echo usr1 > /out/said; exit 0' USR1; trap 'echo term > /out/said; exit 1' TERM; echo end; while :; do sleep 0.05; done",
        json!({"lifecycle": {"stopSignal": "SIGUSR1"}}),
    );
    let dir = TempDir::with_prefix("berth-signal-").expect("temporary directory");
    asked["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    world.pod("asked", json!({"volumes": [{"name": "out", "hostPath": {"path": dir.path()}}], "os": {"name": "linux"}, "containers": [asked]}));
    said(&world, "asked");
    world.delete("asked");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("said")).expect("its word"),
        "usr1\n"
    );

    let show = format!("hostname; id -G; echo end; {WAIT}");
    world.pod(
        "named",
        json!({"hostnameOverride": "my.own.name", "containers": [script(&show)]}),
    );
    world.pod("full", json!({"setHostnameAsFQDN": true, "hostname": "web", "subdomain": "site", "containers": [script(&show)]}));
    let groups = |policy: &str| {
        json!({"securityContext": {"runAsUser": 1000, "supplementalGroups": [4000], "supplementalGroupsPolicy": policy},
               "containers": [script(&show)]})
    };
    world.pod("merged", groups("Merge"));
    world.pod("strict", groups("Strict"));
    assert!(said(&world, "named").starts_with("my.own.name\n"));
    assert!(said(&world, "full").starts_with("web.site.default.svc.cluster.local\n"));
    // The image's /etc/group has alice, user 1000, in group 2000.
    assert!(
        said(&world, "merged").contains("\n1000 2000 4000\n")
            || said(&world, "merged").contains(" 2000 4000")
    );
    let strict = said(&world, "strict");
    assert!(strict.contains(" 4000\n") && !strict.contains("2000"), "{strict}");
    world.clean();
}

#[test]
fn mounts_inside_a_read_only_volume_and_all_of_proc() {
    need_root!();
    let world = World::new();
    let host = TempDir::with_prefix("berth-recursive-").expect("temporary directory");
    let inner = host.path().join("inner");
    std::fs::create_dir(&inner).expect("create a directory");
    run(Command::new("mount").args(["-t", "tmpfs", "inner"]).arg(&inner)).ok();
    let volumes = json!([{"name": "v", "hostPath": {"path": host.path()}}]);
    let pod = |recursive: &str| {
        let mount =
            json!([{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": recursive}]);
        let text = format!(
            "touch /v/x 2>/dev/null && echo outer; touch /v/inner/x 2>/dev/null && echo inner; echo end; {WAIT}"
        );
        json!({"volumes": volumes, "containers": [with(&text, json!({"volumeMounts": mount}))]})
    };
    world.pod("shallow", pod("Disabled"));
    assert_eq!(said(&world, "shallow"), "inner\nend\n");
    world.pod("deep", pod("Enabled"));
    assert_eq!(said(&world, "deep"), "end\n");

    // Only a pod with users of its own may see all of /proc.
    let all = |host: Value| {
        let text = format!("grep -c ' /proc/' /proc/self/mountinfo; echo end; {WAIT}");
        json!({"hostUsers": host, "containers": [with(&text, json!({"securityContext": {"procMount": "Unmasked"}}))]})
    };
    world.pod("unmasked", all(json!(false)));
    assert!(said(&world, "unmasked").starts_with("0\n"));
    let file = world.node.path().join("bad.json");
    let bad =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": all(json!(true))});
    std::fs::write(&file, bad.to_string()).expect("write the manifest");
    let told = world.node.ctl(&["apply", "-f", &file.to_string_lossy()]).err();
    assert!(
        told.contains("`hostUsers` must be false to use `Unmasked`"),
        "{told}"
    );
    world.delete("deep");
    world.delete("shallow");
    run(Command::new("umount").arg(&inner)).ok();
    world.clean();
}

#[test]
fn memory_asked_for_and_huge_pages_reach_the_cgroup() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    let resources = json!({"requests": {"memory": "32Mi", "cpu": "100m"}, "limits": {"memory": "64Mi"}});
    world.pod(
        "p",
        json!({"containers": [with(WAIT, json!({"resources": resources}))]}),
    );
    let uid = world.ready("p")["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let file = |names: &[&str]| -> String {
        let below = format!("{}/pod{uid}/c", world.cgroup);
        let found = names.iter().find_map(|name| {
            let (root, file) = name.rsplit_once('/').expect("a path");
            std::fs::read_to_string(format!("/sys/fs/cgroup/{root}/{below}/{file}")).ok()
        });
        found
            .unwrap_or_else(|| panic!("none of {names:?}"))
            .trim()
            .to_owned()
    };
    assert_eq!(
        file(&["memory/memory.soft_limit_in_bytes", "./memory.min"]),
        (32 << 20).to_string()
    );
    let weight = file(&["cpu/cpu.shares", "./cpu.weight"]);
    assert!(weight == "102" || weight == "17", "{weight}");

    // Without limits there is nothing to mount; more than there is waits.
    let node = world.node.kubectl(&kubectl, &["get", "nodes", "-o", "json"]).ok();
    let node: Value = serde_json::from_str(&node).expect("JSON");
    assert!(
        node["items"][0]["status"]["capacity"]["hugepages-2Mi"].is_string(),
        "{node}"
    );
    let pages = json!({"limits": {"memory": "64Mi", "hugepages-2Mi": "9000Gi"}});
    world.pod(
        "huge",
        json!({"containers": [with(WAIT, json!({"resources": pages}))]}),
    );
    world.told("huge", "1 Insufficient hugepages-2Mi");
    for (resources, told) in [
        (
            json!({"limits": {"hugepages-2Mi": "2Mi"}}),
            "HugePages require cpu or memory",
        ),
        (
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "3Mi"}}),
            "must be a multiple of the page size",
        ),
        (
            json!({"requests": {"cpu": "1", "hugepages-2Mi": "2Mi"}}),
            "Limit must be set for non overcommitable resources",
        ),
    ] {
        let file = world.node.path().join("bad.json");
        let bad = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"},
            "spec": {"containers": [with(WAIT, json!({"resources": resources}))]}});
        std::fs::write(&file, bad.to_string()).expect("write the manifest");
        let error = world.node.ctl(&["apply", "-f", &file.to_string_lossy()]).err();
        assert!(error.contains(told), "{error}");
    }
    world.clean();
}
