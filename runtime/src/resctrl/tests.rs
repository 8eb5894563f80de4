//! On a folder that looks like resctrl: whether the kernel takes what is written is for hardware that has it.

use super::*;
use std::collections::BTreeMap;
use tempfile::TempDir;

fn fake() -> (TempDir, Resctrl) {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("schemata", "    L3:0=7ff;1=7ff\n    MB:0=100;1=100\n"),
        ("tasks", ""),
        ("info/last_cmd_status", "ok\n"),
        ("info/L3/cbm_mask", "7ff\n"),
        ("info/L3/min_cbm_bits", "2\n"),
        ("info/L3/num_closids", "16\n"),
        ("info/MB/bandwidth_gran", "10\n"),
        ("info/MB/delay_linear", "1\n"),
        ("info/MB/min_bandwidth", "10\n"),
        ("info/MB/num_closids", "8\n"),
        (
            "info/L3_MON/mon_features",
            "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
        ),
    ];
    for (file, text) in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let resctrl = Resctrl::at(dir.path());
    (dir, resctrl)
}

/// The kernel fills a new group; here a test does.
fn group(dir: &TempDir, name: &str, schemata: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.join("mon_groups")).unwrap();
    fs::write(path.join("schemata"), schemata).unwrap();
    fs::write(path.join("tasks"), "").unwrap();
}

fn asked(json: &str) -> LinuxIntelRdt {
    berth_spec::read(json.as_bytes()).unwrap().value
}

fn read(dir: &TempDir, file: &str) -> String {
    fs::read_to_string(dir.path().join(file)).unwrap()
}

#[test]
fn shares_are_written_in_the_specifications_order_and_the_process_is_put_in() {
    let (dir, resctrl) = fake();
    // Named after the container, and there already: only its contents are the container's.
    group(&dir, "c1", "");
    let asked =
        asked(r#"{"schemata": ["L2:0=f", "L2:1=3"], "memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=7f0"}"#);
    let group = Group::create(&resctrl, &asked, "c1").unwrap();
    assert_eq!(read(&dir, "c1/schemata"), "L3:0=7f0\nMB:0=20\nL2:0=f\nL2:1=3\n");
    group.add(77).unwrap();
    assert_eq!(read(&dir, "c1/tasks"), "77");
    group.delete().unwrap();
    assert!(
        dir.path().join("c1").exists(),
        "it was not made for the container"
    );
}

#[test]
fn a_group_of_its_own_is_made_and_removed() {
    let (dir, resctrl) = fake();
    let group = Group::create(&resctrl, &asked("{}"), "c1").unwrap();
    assert!(dir.path().join("c1").is_dir());
    // The record brings it back.
    let text = serde_json::to_string(&group).unwrap();
    let again: Group = serde_json::from_str(&text).unwrap();
    assert_eq!(again, group);
    again.delete().unwrap();
    assert!(!dir.path().join("c1").exists());
    again.delete().unwrap();
    again.add_if_there(1).unwrap();
}

#[test]
fn a_refused_share_leaves_nothing_behind() {
    let (dir, resctrl) = fake();
    fs::write(dir.path().join("info/last_cmd_status"), "Mask out of range\n").unwrap();
    // A folder that was just made has no schemata file here, which serves as a kernel that refuses.
    let error = Group::create(&resctrl, &asked(r#"{"l3CacheSchema": "L3:0=fffff"}"#), "c1").unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("linux.intelRdt: cannot write"), "{text}");
    assert!(text.ends_with("(last_cmd_status: Mask out of range)"), "{text}");
    assert!(!dir.path().join("c1").exists());
}

#[test]
fn a_named_group_must_be_there_or_be_described() {
    let (dir, resctrl) = fake();
    let error = Group::create(&resctrl, &asked(r#"{"closID": "gold"}"#), "c1").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("linux.intelRdt.closID: there is no group"),
        "{error}"
    );
    group(&dir, "gold", "    L3:0=0f0;1=00f\n    MB:0= 20;1= 70\n");
    let joined = Group::create(&resctrl, &asked(r#"{"closID": "gold"}"#), "c1").unwrap();
    joined.delete().unwrap();
    assert!(dir.path().join("gold").is_dir(), "it is somebody else's");
    // The same shares in other words.
    let same = asked(r#"{"closID": "gold", "l3CacheSchema": "L3:1=f;0=f0", "memBwSchema": "MB:1=70"}"#);
    Group::create(&resctrl, &same, "c1").unwrap();
    assert!(
        read(&dir, "gold/schemata").contains("0f0"),
        "and they are not written again"
    );
    let other = asked(r#"{"closID": "gold", "schemata": ["L3:0=f1"]}"#);
    let error = Group::create(&resctrl, &other, "c1").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("linux.intelRdt.schemata: \"L3:0=f1\" does not match"),
        "{error}"
    );
    let default = Group::create(&resctrl, &asked(r#"{"closID": "/"}"#), "c1").unwrap();
    default.add(5).unwrap();
    assert_eq!(read(&dir, "tasks"), "5");
    default.delete().unwrap();
    assert!(dir.path().is_dir());
}

#[test]
fn a_monitoring_group_is_the_containers_alone() {
    let (dir, resctrl) = fake();
    group(&dir, "gold", "");
    let asked = asked(r#"{"closID": "gold", "enableMonitoring": true}"#);
    let group = Group::create(&resctrl, &asked, "c1").unwrap();
    let monitor = dir.path().join("gold/mon_groups/c1");
    assert!(monitor.is_dir());
    fs::write(monitor.join("tasks"), "").unwrap();
    group.add(9).unwrap();
    assert_eq!(read(&dir, "gold/mon_groups/c1/tasks"), "9");
    assert_eq!(read(&dir, "gold/tasks"), "9");
    fs::remove_file(monitor.join("tasks")).unwrap();
    group.delete().unwrap();
    assert!(!monitor.exists() && dir.path().join("gold").is_dir());
}

#[test]
fn statistics_have_runcs_words() {
    let (dir, resctrl) = fake();
    group(&dir, "gold", "    L3:0=0f0;1=00f\n    MB:0=20;1=70\n");
    let group = Group::create(&resctrl, &asked(r#"{"closID": "gold"}"#), "c1").unwrap();
    for (node, bytes) in [("mon_L3_00", 5), ("mon_L3_01", 6)] {
        let node = dir.path().join("gold/mon_data").join(node);
        fs::create_dir_all(&node).unwrap();
        let counters = BTreeMap::from([
            ("llc_occupancy", bytes),
            ("mbm_total_bytes", bytes * 10),
            ("mbm_local_bytes", bytes * 2),
        ]);
        for (name, value) in counters {
            fs::write(node.join(name), format!("{value}\n")).unwrap();
        }
    }
    let json = serde_json::to_string(&group.stats().unwrap()).unwrap();
    assert_eq!(
        json,
        concat!(
            r#"{"l3_cache_info":{"cbm_mask":"7ff","min_cbm_bits":2,"num_closids":16},"#,
            r#""l3_cache_schema_root":"L3:0=7ff;1=7ff","l3_cache_schema":"L3:0=0f0;1=00f","#,
            r#""mem_bw_info":{"bandwidth_gran":10,"delay_linear":1,"min_bandwidth":10,"num_closids":8},"#,
            r#""mem_bw_schema_root":"MB:0=100;1=100","mem_bw_schema":"MB:0=20;1=70","#,
            r#""schemata":["L3:0=0f0;1=00f","    MB:0=20;1=70"],"#,
            r#""mbm_stats":[{"mbm_total_bytes":50,"mbm_local_bytes":10},{"mbm_total_bytes":60,"mbm_local_bytes":12}],"#,
            r#""cmt_stats":[{"llc_occupancy":5},{"llc_occupancy":6}]}"#,
        )
    );
}

#[test]
fn an_update_changes_the_groups_shares() {
    let (dir, resctrl) = fake();
    group(&dir, "c1", "");
    let group = Group::create(&resctrl, &asked(r#"{"l3CacheSchema": "L3:0=f"}"#), "c1").unwrap();
    group.update(None, Some("MB:0=50")).unwrap();
    assert_eq!(read(&dir, "c1/schemata"), "MB:0=50\n");
}

#[test]
fn it_is_found_where_it_is_mounted() {
    let mounts =
        "30 20 0:26 / /sys rw - sysfs sysfs rw\n31 20 0:27 / /mnt/rdt rw shared:1 - resctrl none rw\n";
    assert_eq!(mounted(mounts), Some(PathBuf::from("/mnt/rdt")));
    assert_eq!(mounted("30 20 0:26 / /resctrl rw - sysfs sysfs rw\n"), None);
}
