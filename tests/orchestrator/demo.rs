//! The demo, as `make demo`, `make up` and `make down` run it.

use harness::{Outcome, bin, need_root, repository_root, run, wait_for};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

fn demo(verb: &str, dir: &Path) -> Command {
    let mut command = Command::new(bin("berth-demo"));
    command.arg(verb).arg("--dir").arg(dir);
    if verb != "down" {
        let programs = bin("berth-demo");
        command
            .arg("--bin-dir")
            .arg(programs.parent().expect("a directory"));
        command
            .arg("--manifests")
            .arg(repository_root().join("examples/manifests"));
    }
    command
}

/// Processes that have the folder among their arguments, and cgroups named after the demo.
fn left_behind(dir: &Path) -> Vec<String> {
    let marker = dir.to_string_lossy().into_owned();
    let seen = harness::HostSnapshot::take(&marker, &[]);
    let processes = seen.processes.into_iter().map(|pid| format!("process {pid}"));
    let mounts = seen
        .mounts
        .into_iter()
        .filter(|m| m.contains(&marker))
        .map(|m| format!("mount {m}"));
    processes.chain(mounts).collect()
}

fn check_table(outcome: Outcome) {
    let table = outcome.ok();
    for row in [
        "apply to Available, 3 replicas",
        "pods that answered with the Secret's value",
        "container killed to pod Ready again",
        "requests, roll v1.0.0 to v2.0.0",
        "requests, roll back to v1.0.0",
        "berthd killed to API ready again",
        "containers restarted by that",
        "berthd, PSS",
        "berth-monitor 3, PSS",
        "delete to nothing left",
    ] {
        assert!(table.contains(row), "the table has no row `{row}`:\n{table}");
    }
}

/// Gives the calling thread an /etc of its own in which another program, as Podman's package does, has configured a
/// network whose plugins are not Berth's.
fn foreign_network(dir: &Path) {
    harness::isolate();
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    for dir in [&upper, &work] {
        std::fs::create_dir(dir).expect("create an overlay's directory");
    }
    let options = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    nix::mount::mount(
        Some("overlay"),
        "/etc",
        Some("overlay"),
        nix::mount::MsFlags::empty(),
        Some(options.as_str()),
    )
    .expect("mount an overlay on /etc");
    std::fs::create_dir_all("/etc/cni/net.d").expect("create the configuration directory");
    let list = r#"{"cniVersion": "0.4.0", "name": "foreign", "plugins": [{"type": "nobody-has-this"}]}"#;
    std::fs::write("/etc/cni/net.d/00-foreign.conflist", list).expect("configure a network");
}

#[test]
fn the_demo_succeeds_and_leaves_nothing_also_after_being_killed() {
    need_root!();
    let parent = TempDir::with_prefix("berth-demo-").expect("temporary directory");
    let dir = parent.path().join("demo");
    foreign_network(parent.path());

    let log = std::fs::File::create(parent.path().join("log")).expect("log");
    let mut first = demo("run", &dir)
        .stdout(log)
        .stdin(Stdio::null())
        .spawn()
        .expect("start the demo");
    wait_for("the first demo to have pods", Duration::from_secs(120), || {
        let log = std::fs::read_to_string(parent.path().join("log")).unwrap_or_default();
        if log.contains("killing one container") {
            Ok(())
        } else {
            Err(log)
        }
    });
    first.kill().expect("kill the demo");
    first.wait().expect("reap the demo");
    wait_for(
        "everything of the killed demo to be gone",
        Duration::from_secs(30),
        || {
            let left = left_behind(&dir);
            if left.is_empty() { Ok(()) } else { Err(left) }
        },
    );

    check_table(run(&mut demo("run", &dir)));
    assert!(!dir.exists(), "the demo removes its folder");
    assert_eq!(left_behind(&dir), Vec::<String>::new());
}

/// Takes the node away also when the test fails half-way.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if self.0.exists() {
            run(&mut demo("down", self.0));
        }
    }
}

#[test]
fn up_leaves_a_node_whose_api_is_on_the_loopback_and_down_takes_it_away() {
    need_root!();
    let parent = TempDir::with_prefix("berth-up-").expect("temporary directory");
    let dir = parent.path().join("node");
    let _down = Down(&dir);
    let told = run(&mut demo("up", &dir)).ok();
    let ctl = |arguments: &[&str]| {
        run(Command::new(bin("berthctl"))
            .env("KUBECONFIG", dir.join("kubeconfig"))
            .args(arguments))
    };

    // The commands that it proposes work as printed.
    let proposed: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("berthctl "))
        .filter(|l| !l.contains("kubectl takes"))
        .collect();
    assert_eq!(proposed.len(), 5, "five commands to try:\n{told}");
    for line in proposed {
        run(Command::new("sh")
            .args(["-c", line])
            .env("KUBECONFIG", dir.join("kubeconfig")))
        .ok();
    }
    ctl(&["rollout", "status", "deployment/user-service"]).ok();
    wait_for("five pods, the old ones gone", Duration::from_secs(60), || {
        let pods = ctl(&["get", "pods", "-o", "name"]).ok();
        if pods.lines().count() == 5 {
            Ok(())
        } else {
            Err(pods)
        }
    });

    let second = run(&mut demo("up", &dir)).err();
    assert!(
        second.contains("make down"),
        "a second node in the folder is refused: {second}"
    );

    run(&mut demo("down", &dir)).ok();
    assert!(!dir.exists());
    assert_eq!(left_behind(&dir), Vec::<String>::new());
    let again = run(&mut demo("down", &dir)).ok();
    assert!(again.contains("no node is running"));
}
