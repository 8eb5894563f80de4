//! `process.apparmorProfile` where AppArmor is: Debian's kernel in the machine of `tests/vm`.

use std::path::Path;

use harness::{Bundle, need_program, need_root, run_with_input};
use serde_json::json;

use crate::driver::{Runtime, unique};

/// Loads a profile with apparmor_parser(8), and takes it away with the value.
struct Profile(String);

impl Profile {
    fn call(&self, option: &str) {
        let text = format!(
            "profile {} flags=(attach_disconnected,mediate_deleted) {{ file, capability, signal, ptrace, mount, unix, \
             deny /forbidden rw, deny capability chown, }}\n",
            self.0
        );
        let mut parser = std::process::Command::new("apparmor_parser");
        run_with_input(parser.args([option, "--skip-cache", "--quiet"]), text.as_bytes()).ok();
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.call("--remove");
    }
}

#[test]
fn a_profile_confines_the_container_and_what_joins_it() {
    need_root!();
    let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|value| value.starts_with(b"Y")) {
        harness::skip!("needs AppArmor");
    }
    need_program!("apparmor_parser");
    if !Path::new("/sys/kernel/security/apparmor").exists() {
        let none = None::<&str>;
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("securityfs"),
            "/sys/kernel/security",
            Some("securityfs"),
            flags,
            none,
        )
        .unwrap();
    }
    let profile = Profile(unique());
    profile.call("--replace");
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        std::fs::write(bundle.rootfs().join("forbidden"), "secret").unwrap();
        bundle.edit(|config| config["process"]["apparmorProfile"] = json!(profile.0));
        let container = runtime.container(&mut bundle);
        container.start();
        let label = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).unwrap();
        assert_eq!(
            label(container.pid()),
            format!("{} (enforce)\n", profile.0),
            "{}",
            runtime.name
        );
        // A process that joins is under it, too, unless another is named.
        let script = "cat /proc/self/attr/apparmor/current; cat /forbidden";
        let outcome = container.exec(&["sh", "-c", script]);
        assert_eq!(
            outcome.stdout,
            format!("{} (enforce)\n", profile.0),
            "{}",
            runtime.name
        );
        assert!(outcome.stderr.contains("Permission denied"), "{}", outcome.stderr);
        let free = runtime.call(&[
            "exec",
            "--apparmor",
            "unconfined",
            &container.id,
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(free.ok(), "unconfined\nsecret", "{}", runtime.name);
    }
    // What is not loaded is named, and nothing is left.
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["true"]);
    bundle.edit(|config| config["process"]["apparmorProfile"] = json!("berth-nosuch"));
    let container = runtime.container(&mut bundle);
    let error = container.verb("create", &[]).err();
    assert!(
        error.contains("berth-nosuch") && error.contains("process.apparmorProfile"),
        "{error}"
    );
    assert!(!runtime.root().join(&container.id).exists());
}
