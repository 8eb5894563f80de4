//! `process.scheduler` beyond the ordinary policies: deadlines, and the flags of sched_setattr(2).

use std::process::Command;

use harness::{Bundle, need_program, need_root, run, skip};
use serde_json::{Value, json};

use crate::driver::{Runtime, cgroup_file};

/// `struct sched_attr` of a process, as sched_getattr(2) tells it: policy, flags, nice, runtime, deadline, period, and the
/// two bounds of utilization.
const LOOK: &str = "\
import ctypes, platform, struct, sys
number = {'x86_64': 315, 'aarch64': 275}[platform.machine()]
found = ctypes.create_string_buffer(56)
failed = ctypes.CDLL(None).syscall(number, int(sys.argv[1]), found, 56, 0)
size, policy, flags, nice, priority, runtime, deadline, period, low, high = struct.unpack('IIQiIQQQII', found.raw)
print(failed, policy, flags, nice, runtime, deadline, period, low, high)";

fn sleeper(scheduler: &Value) -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| config["process"]["scheduler"] = scheduler.clone());
    bundle
}

/// The attributes of the first process of a container with this scheduler. `by` is how the runtime is started.
fn attributes(by: &[&str], scheduler: &Value) -> Vec<i64> {
    let runtime = Runtime::berth();
    let mut bundle = sleeper(scheduler);
    let container = runtime.container(&mut bundle);
    let inner = container.command("run", &["--detach"]);
    let mut command = match by {
        [] => Command::new("env"),
        [program, ..] => Command::new(program),
    };
    command
        .args(by.iter().skip(1))
        .arg(inner.get_program())
        .args(inner.get_args());
    run(&mut command).ok();
    let pid = container.pid().to_string();
    let text = run(Command::new("python3").args(["-c", LOOK, &pid])).ok();
    text.split_whitespace()
        .map(|number| number.parse().unwrap())
        .collect()
}

#[test]
fn a_deadline_has_its_runtime_and_period() {
    need_root!();
    need_program!("python3");
    let chrt = need_program!("chrt");
    let possible = Command::new(chrt)
        .args([
            "-d", "-T", "2000000", "-D", "20000000", "-P", "40000000", "0", "true",
        ])
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        skip!("this host lets nobody have deadlines");
    }
    let with = |flags: &[&str]| json!({"policy": "SCHED_DEADLINE", "runtime": 2_000_000, "deadline": 20_000_000, "period": 40_000_000, "flags": flags});
    // 6 is SCHED_DEADLINE; the flags are those of linux/sched.h.
    let seen = |flags| [0, 6, flags, 0, 2_000_000, 20_000_000, 40_000_000];
    for (flags, number) in [
        (&[][..], 0),
        (&["SCHED_FLAG_RESET_ON_FORK"], 1),
        (&["SCHED_FLAG_RECLAIM"], 2),
        (&["SCHED_FLAG_DL_OVERRUN"], 4),
        (&["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"], 6),
    ] {
        assert_eq!(attributes(&[], &with(flags))[..7], seen(number), "{flags:?}");
    }
    // Without a period it is the deadline (sched(7)).
    let short = json!({"policy": "SCHED_DEADLINE", "runtime": 2_000_000, "deadline": 20_000_000});
    assert_eq!(attributes(&[], &short)[4..7], [2_000_000, 20_000_000, 20_000_000]);
    // A deadline and a set of processors: both hold.
    let runtime = Runtime::berth();
    let mut bundle = sleeper(&with(&[]));
    bundle.edit(|config| config["linux"]["resources"]["cpu"] = json!({"cpus": "0"}));
    let container = runtime.container(&mut bundle);
    let outcome = container.verb("run", &["--detach"]);
    if !outcome.status.success() {
        // The kernel wants such a process to be free to run on all processors of its domain (sched(7)).
        let error = outcome.err();
        assert!(
            error.contains("process.scheduler: SCHED_DEADLINE needs"),
            "{error}"
        );
        return;
    }
    let cpus = std::fs::read_to_string(cgroup_file(&container.id, &["cpuset.cpus"])).unwrap();
    assert_eq!(cpus.trim(), "0");
}

/// What a caller has stays where a flag says so: 3 is SCHED_BATCH.
#[test]
fn policy_and_parameters_of_the_caller_are_kept_if_asked() {
    need_root!();
    need_program!("python3");
    need_program!("chrt");
    let batch = ["chrt", "--batch", "0"];
    let other = json!({"policy": "SCHED_OTHER", "nice": 4});
    assert_eq!(attributes(&batch, &other)[1..4], [0, 0, 4]);
    let policy = json!({"policy": "SCHED_OTHER", "nice": 4, "flags": ["SCHED_FLAG_KEEP_POLICY"]});
    assert_eq!(attributes(&batch, &policy)[1..4], [3, 0, 4]);
    let nice = ["nice", "-n", "6"];
    let changed = json!({"policy": "SCHED_BATCH", "nice": 2});
    assert_eq!(attributes(&nice, &changed)[1..4], [3, 0, 2]);
    let kept = json!({"policy": "SCHED_BATCH", "nice": 2, "flags": ["SCHED_FLAG_KEEP_PARAMS"]});
    // The kernel counts the policy among them.
    assert_eq!(attributes(&nice, &kept)[1..4], [0, 0, 6]);
}

/// The specification has the flags and no values for them: the bounds are 0, as with runc. Kernels without this say so.
#[test]
fn bounds_of_utilization_are_set_or_refused_by_name() {
    need_root!();
    need_program!("python3");
    for (flag, wanted) in [
        ("SCHED_FLAG_UTIL_CLAMP_MIN", [0, 1024]),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", [0, 0]),
    ] {
        let scheduler = json!({"policy": "SCHED_OTHER", "nice": 1, "flags": [flag]});
        let outcome = Runtime::berth().run_bundle(Bundle::new(&["true"]).edit(|config| {
            config["process"]["scheduler"] = scheduler.clone();
        }));
        if outcome.status.success() {
            assert_eq!(attributes(&[], &scheduler)[7..], wanted, "{flag}");
        } else {
            let error = outcome.err();
            assert!(
                error.contains("process.scheduler.flags: SCHED_FLAG_UTIL_CLAMP_MIN and _MAX need a kernel with CONFIG_UCLAMP_TASK"),
                "{flag}: {error}"
            );
        }
    }
}
