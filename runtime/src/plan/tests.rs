use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_spec::Spec;
use serde_json::{Value, json};

use super::*;
use crate::host::tests::facts;

const DEFAULT: &str = include_str!("../spec/default.json");

fn bundle(edit: impl FnOnce(&mut Value)) -> Bundle {
    let mut config: Value = serde_json::from_str(DEFAULT).unwrap();
    config["process"]["terminal"] = json!(false);
    edit(&mut config);
    let spec: Spec = berth_spec::read(config.to_string().as_bytes()).unwrap().value;
    Bundle {
        path: PathBuf::from("/bundle"),
        rootfs: PathBuf::from("/bundle/rootfs"),
        spec,
        config: Vec::new(),
        warnings: Vec::new(),
    }
}

fn plan_of(edit: impl FnOnce(&mut Value), gate: Gate) -> Plan {
    let paths: BTreeMap<String, PathBuf> = [
        (String::new(), PathBuf::from("/sys/fs/cgroup/unified/box")),
        ("memory".to_owned(), PathBuf::from("/sys/fs/cgroup/memory/box")),
    ]
    .into();
    let options = CreateOptions {
        id: "box",
        cgroup_paths: &paths,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        console: true,
        gate,
        seccomp: None,
        network: false,
    };
    create(&bundle(edit), &facts(), &options).unwrap()
}

fn position(plan: &Plan, find: impl Fn(&InitStep) -> bool) -> usize {
    plan.init
        .iter()
        .position(find)
        .unwrap_or_else(|| panic!("no such step in\n{plan}"))
}

/// Compares with a file in tests/golden; `BERTH_BLESS=1` writes it.
fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(name);
    if std::env::var_os("BERTH_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; BERTH_BLESS=1 accepts:\n{text}",
        path.display()
    );
}

#[test]
fn the_default_configuration() {
    golden("plan-default.txt", &plan_of(|_| {}, Gate::Park).to_string());
}

#[test]
fn a_user_namespace() {
    let plan = plan_of(
        |config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "user"}));
            config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
            config["process"]["rlimits"] = json!([{"type": "RLIMIT_NPROC", "soft": 10, "hard": 20}]);
        },
        Gate::Park,
    );
    golden("plan-user-namespace.txt", &plan.to_string());
}

#[test]
fn everything_that_engines_write() {
    let plan = plan_of(
        |config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(
                json!({"destination": "/data", "type": "bind", "source": "/srv/data",
                "options": ["rbind", "ro", "rprivate"]}),
            );
            mounts.push(json!({"destination": "/cfg", "type": "bind", "source": "cfg",
                "options": ["bind", "rw", "rro"]}));
            mounts.push(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "tmpcopyup"]}));
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 25, "width": 80});
            config["process"]["user"] =
                json!({"uid": 1000, "gid": 1000, "additionalGids": [10, 11], "umask": 63});
            config["process"]["cwd"] = json!("/srv");
            config["process"]["noNewPrivileges"] = json!(false);
            config["process"]["apparmorProfile"] = json!("docker-default");
            config["process"]["oomScoreAdj"] = json!(100);
            config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0"});
            config["linux"]["namespaces"] = json!([
                {"type": "pid"}, {"type": "ipc", "path": "/proc/7/ns/ipc"}, {"type": "uts"}, {"type": "mount"},
                {"type": "network", "path": "/run/netns/pod"}, {"type": "cgroup"}
            ]);
            config["hooks"] = json!({
                "createRuntime": [{"path": "/hook", "args": ["hook", "one"]}],
                "createContainer": [{"path": "/hook", "timeout": 5}],
                "startContainer": [{"path": "/in", "env": ["A=b"]}],
            });
        },
        Gate::Direct,
    );
    golden("plan-engine.txt", &plan.to_string());
}

#[test]
fn time_offsets_are_written_by_the_helper_before_the_process_is_made() {
    let plan = plan_of(
        |config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "time"}));
            config["linux"]["timeOffsets"] =
                json!({"monotonic": {"secs": -5, "nanosecs": 7}, "boottime": {"secs": 9}});
        },
        Gate::Park,
    );
    assert!(matches!(&plan.host[0], HostStep::Clone(clone) if clone.helper_time && !clone.helper_user));
    assert_eq!(
        plan.host[1],
        HostStep::TimeOffsets {
            offsets: "boottime 9 0\nmonotonic -5 7\n".to_owned()
        }
    );
}

#[test]
fn a_filter_is_last_with_no_new_privs_and_before_the_capabilities_without() {
    let program = Program {
        filter: vec![[6, 0, 0, 0, 0, 0, 255, 127]],
        ..Program::default()
    };
    for (locked, order) in [(true, [0, 2, 1]), (false, [2, 0, 1])] {
        let bundle = bundle(|config| config["process"]["noNewPrivileges"] = json!(locked));
        let options = CreateOptions {
            id: "box",
            cgroup_paths: &BTreeMap::new(),
            no_pivot: false,
            no_new_keyring: true,
            preserve_fds: 0,
            listen_fds: 0,
            console: false,
            gate: Gate::Park,
            seccomp: Some(&program),
            network: false,
        };
        let plan = create(&bundle, &facts(), &options).unwrap();
        let capabilities = position(&plan, |step| matches!(step, InitStep::Capabilities { .. }));
        let park = position(&plan, |step| matches!(step, InitStep::Park { .. }));
        let filter = position(&plan, |step| matches!(step, InitStep::Seccomp { .. }));
        let execute = position(&plan, |step| matches!(step, InitStep::Execute { .. }));
        let mut sorted = [capabilities, park, filter];
        sorted.sort_unstable();
        // Nothing but what must be is done under the filter.
        assert!(execute - filter <= 2, "{plan}");
        assert_eq!(sorted[order[0]], capabilities, "{plan}");
    }
}

#[test]
fn the_root_is_read_only_after_devices_and_the_working_directory_are_made() {
    let plan = plan_of(|config| config["process"]["cwd"] = json!("/srv/app"), Gate::Park);
    let device = position(&plan, |step| matches!(step, InitStep::Device { .. }));
    let folder = position(&plan, |step| matches!(step, InitStep::Folder { .. }));
    let pivot = position(&plan, |step| matches!(step, InitStep::PivotRoot {}));
    let read_only = position(
        &plan,
        |step| matches!(step, InitStep::Attributes { target, .. } if target.as_c_str() == c"/"),
    );
    assert!(device < folder && folder < pivot && pivot < read_only, "{plan}");
}

#[test]
fn without_a_mount_namespace_nothing_of_the_hosts_is_changed() {
    let bundle = bundle(|config| {
        config["linux"]["namespaces"] = json!([{"type": "pid"}]);
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
    });
    let options = CreateOptions {
        id: "box",
        cgroup_paths: &BTreeMap::new(),
        no_pivot: false,
        no_new_keyring: true,
        preserve_fds: 0,
        listen_fds: 0,
        console: false,
        gate: Gate::Park,
        seccomp: None,
        network: false,
    };
    let plan = create(&bundle, &facts(), &options).unwrap();
    let text = plan.to_string();
    for absent in ["Propagation", "PivotRoot", "ReadOnly", "Mask"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    assert!(
        text.contains("mount=false") && text.contains("ChangeRoot"),
        "{text}"
    );
    let mut masked = bundle;
    masked.spec.linux.as_mut().unwrap().masked_paths = Some(vec!["/proc/kcore".to_owned()]);
    let error = create(&masked, &facts(), &options).unwrap_err();
    assert_eq!(
        error,
        PlanError::NeedsMountNamespace {
            field: "linux.maskedPaths"
        }
    );
}

#[test]
fn exec_joins_what_the_container_has() {
    let bundle = bundle(|_| {});
    let paths = BTreeMap::from([(String::new(), PathBuf::from("/sys/fs/cgroup/unified/box"))]);
    let options = ExecOptions {
        id: "box",
        init_pid: 4711,
        cgroup_paths: &paths,
        no_new_keyring: true,
        preserve_fds: 2,
        listen_fds: 0,
        console: false,
        seccomp: None,
    };
    let process = bundle.spec.process().clone().unwrap();
    let plan = exec(&process, &bundle.spec, &facts(), &options).unwrap();
    assert_eq!(plan.first_private, 5);
    golden("plan-exec.txt", &plan.to_string());
}

#[test]
fn a_network_made_beside_is_entered_and_not_made_again() {
    let bundle = bundle(|_| {});
    assert!(network_beside(&bundle.spec));
    let paths = BTreeMap::from([(String::new(), PathBuf::from("/sys/fs/cgroup/unified/box"))]);
    let options = |network| CreateOptions {
        id: "box",
        cgroup_paths: &paths,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        console: false,
        gate: Gate::Direct,
        seccomp: None,
        network,
    };
    for beside in [false, true] {
        let plan = create(&bundle, &facts(), &options(beside)).unwrap();
        let clone = plan.host.iter().find_map(|step| match step {
            HostStep::Clone(clone) => Some(clone),
            _ => None,
        });
        let clone = clone.unwrap();
        assert_eq!(clone.network, beside);
        assert_eq!(clone.namespaces & libc::CLONE_NEWNET as u64 == 0, beside);
        assert_eq!(plan.init.contains(&InitStep::Loopback {}), !beside);
    }
}

#[test]
fn a_network_is_made_beside_only_where_nothing_else_must_come_first() {
    let of = |edit: fn(&mut Value)| network_beside(&bundle(edit).spec);
    assert!(of(|_| {}));
    let edits: [fn(&mut Value); 5] = [
        |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user"}));
        },
        |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user", "path": "/proc/1/ns/user"}));
        },
        |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "network");
        },
        |config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            let network = namespaces
                .iter_mut()
                .find(|namespace| namespace["type"] == "network");
            network.unwrap()["path"] = json!("/proc/1/ns/net");
        },
        |config| config["linux"]["netDevices"] = json!({"eth0": {}}),
    ];
    for edit in edits {
        assert!(!of(edit));
    }
}
