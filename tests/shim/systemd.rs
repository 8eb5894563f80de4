//! Cgroups by systemd (the option SystemdCgroup). It needs systemd as PID 1, which a machine of `tests/vm` has.

use crate::direct::{Direct, SECONDS};
use containerd_shim_protos::api::{StatsRequest, UpdateTaskRequest};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::ttrpc::context::with_timeout;
use harness::{Lab, need_root};
use serde_json::json;

#[test]
fn a_containers_cgroup_is_a_scope_of_systemds() {
    need_root!();
    if !std::path::Path::new("/run/systemd/private").exists() {
        harness::skip!("needs systemd as PID 1");
    }
    let shim = Direct::in_lab(Lab::with_systemd(), &["sleep", "1000"]);
    let name = shim.lab.name().to_owned();
    shim.lab
        .sh(r#"
jq --arg path "system.slice:berth:$LAB_NAME" '.linux.cgroupsPath = $path | .linux.resources.memory = {"limit": 67108864}' \
    bundles/one/config.json >new; mv new bundles/one/config.json
"#)
        .ok();
    let created = shim.create(|request| {
        let any = request.options.as_mut().expect("options");
        let mut options = Options::parse_from_bytes(&any.value).expect("decode");
        options.systemd_cgroup = true;
        any.value = options.write_to_bytes().expect("encode");
    });
    let pid = created.expect("create").pid;
    shim.start("").expect("start");
    let show = |property: &str| {
        let call = format!("systemctl show --property {property} --value berth-{name}.scope");
        shim.lab.sh(&call).ok().trim().to_owned()
    };
    assert_eq!(show("ActiveState"), "active");
    assert_eq!(show("MemoryMax"), "67108864");
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("read the cgroup");
    assert!(
        own.contains(&format!("/system.slice/berth-{name}.scope")),
        "{own}"
    );

    let mut update = UpdateTaskRequest::new();
    update.id = "one".to_owned();
    let mut resources = Any::new();
    resources.value = json!({"memory": {"limit": 96 << 20}}).to_string().into_bytes();
    update.resources = MessageField::some(resources);
    let updated = shim.client.update(with_timeout(60 * SECONDS), &update);
    updated.expect("update");
    assert_eq!(show("MemoryMax"), (96 << 20).to_string());
    let mut request = StatsRequest::new();
    request.id = "one".to_owned();
    let stats = shim.client.stats(with_timeout(60 * SECONDS), &request);
    assert!(!stats.expect("stats").stats.unwrap().value.is_empty());

    shim.kill("", 9).expect("kill");
    assert_eq!(shim.wait("").expect("wait").exit_status, 137);
    shim.delete("").expect("delete");
    let gone = "wait_until eval '! systemctl is-active --quiet berth-'$LAB_NAME.scope";
    shim.lab.sh(gone).ok();
    shim.shut_down();
    assert!(shim.lab.cgroups().is_empty(), "{:?}", shim.lab.cgroups());
}
