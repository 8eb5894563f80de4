//! What is about the process itself.

use serde_json::{Value, json};

use super::{accepted, refused};

#[test]
fn process_fields() {
    refused(&[("/process", Value::Null)], "process", "must not be empty");
    refused(
        &[("/process/args", json!([]))],
        "process.args",
        "args must not be empty",
    );
    refused(
        &[("/process/args", Value::Null)],
        "process.args",
        "args must not be empty",
    );
    refused(&[("/process/args", json!([""]))], "process.args[0]", "is empty");
    refused(
        &[("/process/args", json!(["a", "b\u{0}"]))],
        "process.args[1]",
        "null byte",
    );
    refused(&[("/process/cwd", json!(""))], "process.cwd", "must not be empty");
    refused(&[("/process/cwd", json!("home"))], "process.cwd", "absolute");
    refused(
        &[("/process/env", json!(["A=1", "B"]))],
        "process.env[1]",
        "missing '='",
    );
    refused(
        &[("/process/env", json!(["=1"]))],
        "process.env[0]",
        "name is empty",
    );
    refused(
        &[("/process/user/umask", json!(512))],
        "process.user.umask",
        "permission bits",
    );
    let size = json!({"height": 70000, "width": 80});
    refused(
        &[("/process/consoleSize", size)],
        "process.consoleSize.height",
        "too large",
    );
    refused(
        &[("/process/oomScoreAdj", json!(1001))],
        "process.oomScoreAdj",
        "out of range",
    );
    let twice =
        json!([{"type": "RLIMIT_CPU", "hard": 1, "soft": 1}, {"type": "RLIMIT_CPU", "hard": 2, "soft": 1}]);
    refused(
        &[("/process/rlimits", twice)],
        "process.rlimits[1].type",
        "RLIMIT_CPU is given twice",
    );
    let soft = json!([{"type": "RLIMIT_CPU", "hard": 1, "soft": 2}]);
    refused(
        &[("/process/rlimits", soft)],
        "process.rlimits[0].soft",
        "above the hard limit",
    );
    let set = json!({"effective": ["CAP_KILL"], "permitted": ["CAP_CHOWN"]});
    refused(
        &[("/process/capabilities", set)],
        "process.capabilities.effective",
        "CAP_KILL is not in",
    );
}

#[test]
fn scheduling_fields() {
    let scheduler = |value| [("/process/scheduler", value)];
    refused(
        &scheduler(json!({"policy": "SCHED_OTHER", "nice": 20})),
        "process.scheduler.nice",
        "-20 to 19",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_FIFO"})),
        "process.scheduler.priority",
        "1 to 99",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_BATCH", "priority": 1})),
        "process.scheduler.priority",
        "SCHED_FIFO",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_RR", "priority": 1, "period": 5})),
        "process.scheduler.period",
        "DEADLINE",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 8})),
        "process.scheduler.runtime",
        "<=",
    );
    accepted(&scheduler(
        json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000}),
    ));
    let io = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    refused(
        &[("/process/ioPriority", io)],
        "process.ioPriority.priority",
        "0 (highest) to 7",
    );
    let policy = json!({"mode": "MPOL_BIND"});
    refused(
        &[("/linux/memoryPolicy", policy)],
        "linux.memoryPolicy.nodes",
        "at least one node",
    );
    let policy = json!({"mode": "MPOL_LOCAL", "nodes": "0"});
    refused(
        &[("/linux/memoryPolicy", policy)],
        "linux.memoryPolicy.nodes",
        "requires 0 nodes but got 1: remove",
    );
    let policy = json!({"mode": "MPOL_BIND", "nodes": "3-1"});
    refused(
        &[("/linux/memoryPolicy", policy)],
        "linux.memoryPolicy.nodes",
        "not a list",
    );
}
