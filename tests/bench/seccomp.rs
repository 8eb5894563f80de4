//! Compiling and loading an engine's seccomp profile: Berth's compiler beside libseccomp's, whose filters most runtimes
//! load. `cargo bench --package berth-tests --bench seccomp` prints the table of runtime/DESIGN.md.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_spec::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

/// The best of so many tries counts: the machine may be busy with other work.
const TRIES: usize = 100;
const FLAG_SPEC_ALLOW: u32 = 4;

/// The profile of the bundle that the benchmark runs.
fn profile() -> LinuxSeccomp {
    let script = "import json, sys; sys.path.insert(0, sys.argv[1]); import seccomp; print(json.dumps(seccomp.profile()))";
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let output = Command::new("python3")
        .args(["-B", "-c", script])
        .arg(bench)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    berth_spec::read(&output.stdout).unwrap().value
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.unwrap_or(1) as i32),
        other => panic!("the profile has no {other}"),
    }
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (operator, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
        other => panic!("the profile has no {other}"),
    };
    ScmpArgCompare::new(arg.index() as u32, operator, value)
}

/// libseccomp's program; `optimize` is 1 for a chain of comparisons, 2 for a tree.
fn reference(seccomp: &LinuxSeccomp, optimize: u32) -> Vec<u8> {
    let mut filter =
        ScmpFilterContext::new(action(seccomp.default_action(), seccomp.default_errno_ret())).unwrap();
    filter.set_ctl_optimize(optimize).unwrap();
    for arch in [ScmpArch::X86, ScmpArch::X32] {
        filter.add_arch(arch).unwrap();
    }
    for call in seccomp.syscalls().iter().flatten() {
        let conditions: Vec<_> = call.args().iter().flatten().map(condition).collect();
        for name in call.names() {
            let Ok(number) = ScmpSyscall::from_name(name) else {
                continue;
            };
            let action = action(call.action(), call.errno_ret());
            filter.add_rule_conditional(action, number, &conditions).unwrap();
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    filter.export_bpf(&file).unwrap();
    let mut program = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut program).unwrap();
    program
}

fn best(mut work: impl FnMut() -> Duration) -> Duration {
    (0..TRIES).map(|_| work()).min().unwrap()
}

/// Loading is measured in threads of their own, which take their filters with them.
fn loaded(filter: &[u8]) -> Duration {
    best(|| {
        let filter = filter.to_vec();
        let load = move || {
            nix::sys::prctl::set_no_new_privs().unwrap();
            let start = Instant::now();
            assert!(berth_sys::raw::seccomp(&filter, FLAG_SPEC_ALLOW).is_ok());
            start.elapsed()
        };
        std::thread::spawn(load).join().unwrap()
    })
}

fn row(name: &str, mut compile: impl FnMut() -> Vec<u8>) {
    let mut filter = Vec::new();
    let compiled = best(|| {
        let start = Instant::now();
        filter = compile();
        start.elapsed()
    });
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "| {name} | {} | {:.2} ms | {:.2} ms |",
        filter.len() / 8,
        ms(compiled),
        ms(loaded(&filter))
    );
}

fn main() {
    // Cargo's own test call of all targets measures nothing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let seccomp = profile();
    println!("| | instructions | compiled in | loaded in |\n| --- | --- | --- | --- |");
    row("this compiler", || {
        berth::seccomp::compile(&seccomp).unwrap().filter.concat()
    });
    row("libseccomp, chain", || reference(&seccomp, 1));
    row("libseccomp, tree", || reference(&seccomp, 2));
}
