//! The task service's methods, one by one.

use crate::direct::{Direct, SECONDS, code};
use containerd_shim_protos::api::*;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::ttrpc::{Code, context::with_timeout};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use harness::{Lab, need_root};
use serde_json::json;

#[test]
fn the_whole_service_answers_to_version_three() {
    need_root!();
    let shim = Direct::new(&["sleep", "1000"]);
    let pid = shim.create(|_| ()).expect("create").pid;
    assert_eq!(shim.state().status.unwrap(), Status::CREATED);
    shim.start("").expect("start");
    assert_eq!(
        (shim.state().status.unwrap(), shim.state().pid),
        (Status::RUNNING, pid)
    );

    // Update, and the limit in the cgroup of that process.
    let mut update = UpdateTaskRequest::new();
    update.id = "one".to_owned();
    let mut resources = Any::new();
    resources.value = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 77}})
        .to_string()
        .into_bytes();
    update.resources = MessageField::some(resources);
    shim.client
        .update(with_timeout(30 * SECONDS), &update)
        .expect("update");
    let limits = shim.lab.sh(&format!(
        "cat /sys/fs/cgroup/{{,pids/}}{0}/one/pids.max /sys/fs/cgroup/memory/{0}/one/memory.limit_in_bytes \
         /sys/fs/cgroup/{0}/one/memory.max 2>/dev/null",
        shim.lab.name()
    ));
    assert_eq!(
        limits.stdout.split_whitespace().collect::<Vec<_>>(),
        ["77", "67108864"]
    );

    // Stats have that limit, in the form of the host's cgroups.
    let mut request = StatsRequest::new();
    request.id = "one".to_owned();
    let stats = shim
        .client
        .stats(with_timeout(30 * SECONDS), &request)
        .expect("stats");
    let stats = stats.stats.unwrap();
    let (pids, memory) = if stats.type_url == "io.containerd.cgroups.v1.Metrics" {
        let all =
            containerd_shim_protos::cgroups::metrics::Metrics::parse_from_bytes(&stats.value).expect("v1");
        (all.pids.limit, all.memory.usage.limit)
    } else {
        let all =
            containerd_shim_protos::cgroups_v2::metrics::Metrics::parse_from_bytes(&stats.value).expect("v2");
        (all.pids.limit, all.memory.usage_limit)
    };
    assert_eq!((pids, memory), (77, 64 << 20));

    // An exec with a terminal that is resized, and found among the processes.
    shim.add("term", true, &["sleep", "2000"]).expect("exec");
    let exec = shim.start("term").expect("start").pid;
    let mut resize = ResizePtyRequest::new();
    resize.id = "one".to_owned();
    resize.exec_id = "term".to_owned();
    (resize.width, resize.height) = (123, 45);
    shim.client
        .resize_pty(with_timeout(30 * SECONDS), &resize)
        .expect("resize");
    let size = shim.lab.sh(&format!("stty size </proc/{exec}/fd/0")).ok();
    assert_eq!(size.trim(), "45 123");
    let mut request = PidsRequest::new();
    request.id = "one".to_owned();
    let found = shim
        .client
        .pids(with_timeout(30 * SECONDS), &request)
        .expect("pids")
        .processes;
    // The cgroup shows the numbers of the reader's pid namespace, which is the lab's.
    assert_eq!(found.len(), 2, "{found:?}");
    let details = found
        .iter()
        .find(|p| p.pid == exec)
        .expect("the exec")
        .info
        .clone()
        .unwrap();
    assert_eq!(
        ProcessDetails::parse_from_bytes(&details.value)
            .expect("details")
            .exec_id,
        "term"
    );
    shim.kill("term", 34).expect("a real-time signal");
    assert_eq!(shim.wait("term").expect("wait").exit_status, 128 + 34);
    assert_eq!(shim.delete("term").expect("delete").exit_status, 128 + 34);

    // Refusals have codes that containerd's clients tell apart.
    assert_eq!(code(shim.delete("")).0, Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.wait("nope")).0, Code::NOT_FOUND);
    assert_eq!(code(shim.add("../x", false, &["true"])).0, Code::INVALID_ARGUMENT);
    assert_eq!(code(shim.create(|_| ())).0, Code::ALREADY_EXISTS);
    assert_eq!(code(shim.start("")).0, Code::FAILED_PRECONDITION);
    let mut request = CheckpointTaskRequest::new();
    request.id = "one".to_owned();
    assert_eq!(
        code(shim.client.checkpoint(with_timeout(30 * SECONDS), &request)).0,
        Code::INVALID_ARGUMENT
    );

    shim.kill("", 9).expect("kill");
    assert_eq!(shim.wait("").expect("wait").exit_status, 137);
    assert_eq!(
        code(shim.kill("", 9)),
        (Code::NOT_FOUND, "process already finished: not found".to_owned())
    );
    assert_eq!(shim.delete("").expect("delete").exit_status, 137);
    shim.shut_down();
    let published = std::fs::read_to_string(shim.lab.path().join("published")).expect("read");
    let topics: Vec<&str> = published
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let expected = [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "exit",
        "delete",
    ];
    assert_eq!(
        topics,
        expected.map(|kind| format!("/tasks/{kind}")),
        "{published}"
    );
}

#[test]
fn no_end_is_lost_between_exit_and_wait() {
    need_root!();
    let shim = Direct::new(&["sleep", "1000"]);
    shim.create(|_| ()).expect("create");
    shim.start("").expect("start");
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let shim = &shim;
            scope.spawn(move || {
                for round in 0..25 {
                    let exec = format!("e{worker}-{round}");
                    let status = worker * 25 + round + 1;
                    shim.add(&exec, false, &["sh", "-c", &format!("exit {status}")])
                        .expect("exec");
                    shim.start(&exec).expect("start");
                    // Before, at or after the end, as it happens.
                    assert_eq!(shim.wait(&exec).expect("wait").exit_status, status, "{exec}");
                    assert_eq!(shim.delete(&exec).expect("delete").exit_status, status);
                }
            });
        }
    });
    shim.kill("", 9).expect("kill");
    shim.wait("").expect("wait");
    shim.delete("").expect("delete");
    shim.shut_down();
}

/// On a host with cgroup v2 alone the notice comes by memory.events, elsewhere by v1's eventfd.
#[test]
fn lack_of_memory_is_told_before_the_end() {
    need_root!();
    let shim = Direct::new(&[
        "sh",
        "-c",
        "read go </go; exec dd if=/dev/zero of=/dev/null bs=100M count=1",
    ]);
    shim.lab
        .sh(r#"
mkfifo rootfs/go
jq '.linux.resources.memory = {"limit": 20971520, "swap": 20971520}' bundles/one/config.json >new; mv new bundles/one/config.json
"#)
        .ok();
    shim.create(|_| ()).expect("create");
    shim.start("").expect("start");
    shim.lab.sh("echo now >rootfs/go").ok();
    assert_eq!(shim.wait("").expect("wait").exit_status, 137);
    assert_eq!(shim.delete("").expect("delete").exit_status, 137);
    shim.shut_down();
    let published = std::fs::read_to_string(shim.lab.path().join("published")).expect("read");
    let topics: Vec<&str> = published
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let expected = ["create", "start", "oom", "exit", "delete"];
    assert_eq!(
        topics,
        expected.map(|kind| format!("/tasks/{kind}")),
        "{published}"
    );
}

#[test]
fn mistakes_in_a_request_are_named_and_leave_nothing() {
    need_root!();
    let shim = Direct::new(&["true"]);
    let overlay = |shim: &Direct, lower: &str| {
        let mut mount = Mount::new();
        mount.type_ = "overlay".to_owned();
        mount.source = "overlay".to_owned();
        mount.options = vec![format!("lowerdir={}/{lower}", shim.lab.path().display())];
        mount
    };
    let refused = |change: &dyn Fn(&mut CreateTaskRequest)| code(shim.create(|request| change(request)));
    let (kind, text) = refused(&|r| r.bundle = "relative".to_owned());
    assert!(
        kind == Code::INVALID_ARGUMENT && text.contains("bundle"),
        "{text}"
    );
    let (kind, text) = refused(&|r| r.options.as_mut().unwrap().type_url = "a.B".to_owned());
    assert!(kind == Code::INVALID_ARGUMENT && text.contains("a.B"), "{text}");
    let (_, text) = refused(&|r| r.stdout = "/nowhere/fifo".to_owned());
    assert!(
        text.contains("stdout") && text.contains("/nowhere/fifo"),
        "{text}"
    );
    let (_, text) = refused(&|r| r.rootfs = vec![overlay(&shim, "missing")]);
    assert!(text.contains("rootfs[0]: mount overlay"), "{text}");
    let (_, text) = refused(&|r| {
        // Mounted, then refused for another reason: it must be gone again.
        r.rootfs = vec![overlay(&shim, "rootfs:/usr")];
        r.stdin = "binary:///x".to_owned();
    });
    assert!(text.contains("stdin"), "{text}");
    assert_eq!(shim.lab.mounts(), Vec::<String>::new());
    // A program that is missing is the runtime's own word.
    shim.lab
        .sh("sed -i 's/\"true\"/\"\\/nosuch\"/' bundles/one/config.json")
        .ok();
    let (kind, text) = code(shim.create(|_| ()));
    assert!(
        kind == Code::UNKNOWN && text.contains("OCI runtime create failed") && text.contains("/nosuch"),
        "{text}"
    );
    std::fs::write(shim.lab.path().join("bundles/one/init.pid"), "").expect("write");
    shim.shut_down();
}

#[test]
fn information_names_the_runtime_and_its_features() {
    need_root!();
    let lab = Lab::new();
    lab.sh("containerd-shim-berth-v2 -info </dev/null >info; containerd-shim-berth-v2 -v >version")
        .ok();
    let info = std::fs::read(lab.path().join("info")).expect("read");
    let info = RuntimeInfo::parse_from_bytes(&info).expect("a RuntimeInfo");
    assert_eq!(info.name, "io.containerd.berth.v2");
    let features: serde_json::Value = serde_json::from_slice(&info.features.value).expect("JSON");
    assert!(features["ociVersionMax"].is_string(), "{features}");
    let version = std::fs::read_to_string(lab.path().join("version")).expect("read");
    assert!(
        version.starts_with("containerd-shim-berth-v2:\n  Version:"),
        "{version}"
    );
    let error = lab.sh("containerd-shim-berth-v2 -id x start </dev/null").err();
    assert_eq!(
        error,
        "containerd-shim-berth-v2: -namespace is missing: containerd gives it to every shim\n"
    );
}
