//! `berth-monitor` with real containers, under every runtime at hand.

use berth_client::Runtime;
use berth_client::protocol::{
    Answer, Call, Create, Decoder, Exec, ExecResult, LOCK, LogTarget, Message, RECORD, Record, Refusal,
    RefusalKind, Request, SOCKET, VERSION, encode,
};
use harness::{Bundle, bin, need_program, need_root, run, wait_for};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A monitor in a folder of its own, and a connection to it.
struct Pod {
    dir: TempDir,
    runtime: PathBuf,
    bundles: Vec<(String, Bundle)>,
    link: Link,
}

/// One connection.
struct Link {
    stream: UnixStream,
    decoder: Decoder,
    exits: VecDeque<Record>,
    next: u64,
}

impl Link {
    fn open(dir: &Path) -> Link {
        let stream = UnixStream::connect(dir.join(SOCKET)).expect("connect to the monitor");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("set the timeout");
        let mut link = Link {
            stream,
            decoder: Decoder::default(),
            exits: VecDeque::new(),
            next: 0,
        };
        let hello = link
            .call(Call::Hello { version: VERSION })
            .expect("the monitor greets");
        assert!(matches!(hello, Answer::Hello { version: VERSION, .. }));
        link
    }

    fn read(&mut self) -> Message {
        loop {
            if let Some(message) = self.decoder.next_frame().expect("a frame") {
                return message;
            }
            let mut buffer = [0; 4096];
            let length = self.stream.read(&mut buffer).expect("read from the monitor");
            assert!(length > 0, "the monitor closed the connection");
            self.decoder.push(&buffer[..length]);
        }
    }

    fn send(&mut self, call: Call) -> u64 {
        self.next += 1;
        let frame = encode(&Request { id: self.next, call }).expect("a frame");
        self.stream.write_all(&frame).expect("write to the monitor");
        self.next
    }

    fn answer(&mut self, want: u64) -> Result<Answer, Refusal> {
        loop {
            match self.read() {
                Message::Reply { id, result } => {
                    assert_eq!(id, want);
                    return result;
                }
                Message::Exited(record) => self.exits.push_back(record),
                Message::Ended { .. } => panic!("an end of what was not opened"),
            }
        }
    }

    fn call(&mut self, call: Call) -> Result<Answer, Refusal> {
        let id = self.send(call);
        self.answer(id)
    }

    fn exit(&mut self) -> Record {
        if let Some(record) = self.exits.pop_front() {
            return record;
        }
        match self.read() {
            Message::Exited(record) => record,
            Message::Reply { .. } | Message::Ended { .. } => panic!("a reply that nobody waits for"),
        }
    }
}

/// Starts `berth-monitor`; it has gone to the background when this returns.
fn launch(dir: &Path, runtime: &Path) -> harness::Outcome {
    run(Command::new(bin("berth-monitor"))
        .arg("--dir")
        .arg(dir)
        .arg("--runtime")
        .arg(runtime)
        .arg("--runtime-root")
        .arg(dir.join("runtime")))
}

impl Pod {
    fn new(runtime: &Path) -> Pod {
        let dir = TempDir::with_prefix("berth-monitor-").expect("temporary directory");
        launch(dir.path(), runtime).ok();
        let link = Link::open(dir.path());
        Pod {
            dir,
            runtime: runtime.to_owned(),
            bundles: Vec::new(),
            link,
        }
    }

    fn marker(&self) -> String {
        self.dir
            .path()
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned()
    }

    fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    fn cgroup(&self, id: &str) -> String {
        format!("/{}/{id}", self.marker())
    }

    fn monitor_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.dir.path().join(LOCK)).expect("read the lock");
        text.trim().parse().expect("a pid")
    }

    fn record(&self, id: &str) -> Record {
        let (_, bundle) = self
            .bundles
            .iter()
            .find(|(name, _)| name == id)
            .expect("the bundle");
        let text = std::fs::read(bundle.path().join(RECORD)).expect("read the record");
        serde_json::from_slice(&text).expect("a record")
    }

    fn create_with(
        &mut self,
        id: &str,
        script: &str,
        limit: (u64, u32),
        edit: impl FnOnce(&mut Value),
    ) -> Result<Answer, Refusal> {
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        let cgroup = self.cgroup(id);
        bundle.edit(|config| {
            config["linux"]["cgroupsPath"] = json!(cgroup);
            edit(config);
        });
        let create = Create {
            container: id.to_owned(),
            bundle: bundle.path().to_owned(),
            log: LogTarget {
                path: self.log(id),
                max_bytes: limit.0,
                max_files: limit.1,
            },
            cgroup,
            stdin: false,
            stdin_once: false,
            terminal: false,
            owner: None,
        };
        self.bundles.push((id.to_owned(), bundle));
        self.link.call(Call::Create(create))
    }

    fn start(&mut self, id: &str, script: &str) -> Record {
        self.create_with(id, script, (u64::MAX, 1), |_| {})
            .expect("create");
        match self
            .link
            .call(Call::Start {
                container: id.to_owned(),
            })
            .expect("start")
        {
            Answer::Container(record) => record,
            other => panic!("not a container: {other:?}"),
        }
    }

    fn exec(
        &mut self,
        id: &str,
        script: &str,
        timeout_ms: u64,
        output_limit: usize,
    ) -> Result<ExecResult, Refusal> {
        let process = json!({
            "terminal": false, "cwd": "/", "args": ["sh", "-c", script],
            "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
        });
        let exec = Exec {
            container: id.to_owned(),
            process,
            timeout_ms,
            output_limit,
        };
        self.link.call(Call::Exec(exec)).map(|answer| match answer {
            Answer::Exec(result) => result,
            other => panic!("not an exec result: {other:?}"),
        })
    }

    fn delete(&mut self, id: &str) {
        self.link
            .call(Call::Delete {
                container: id.to_owned(),
            })
            .expect("delete");
    }

    /// stream, tag and content of each entry.
    fn entries(path: &Path) -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(path).expect("read the log");
        text.lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ').skip(1).map(str::to_owned);
                let mut next = || parts.next().expect("four parts");
                (next(), next(), next())
            })
            .collect()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Also after a failure of the test nothing may stay: containers, then the monitor.
        for (id, _) in &self.bundles {
            let runtime = Runtime::new(&self.runtime).with_root(self.dir.path().join("runtime"));
            let _ = runtime.delete(id, true).run();
        }
        let log = std::fs::read_to_string(self.dir.path().join("monitor.log")).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- monitor's log ---\n{log}");
        }
        let pid = nix::unistd::Pid::from_raw(self.monitor_pid());
        if std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == b"berth-monitor\n") {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(self.marker()));
        }
    }
}

#[test]
fn a_container_leaves_its_exit_code_and_its_log() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    let record = pod.start("one", "echo out; echo err >&2; printf unfinished; exit 3");
    assert!(record.pid > 0 && record.started_at.is_some());
    let exited = pod.link.exit();
    let exit = exited.exit.clone().expect("an exit");
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (3, None, false));
    assert!(exited.started_at.as_ref().expect("started") <= &exit.finished_at);
    assert_eq!(pod.record("one"), exited, "the file says the same as the event");
    let entries = Pod::entries(&pod.log("one"));
    let has = |stream: &str, tag: &str, text: &str| {
        entries.contains(&(stream.to_owned(), tag.to_owned(), text.to_owned()))
    };
    assert!(
        has("stdout", "F", "out") && has("stderr", "F", "err"),
        "{entries:?}"
    );
    assert!(has("stdout", "P", "unfinished"), "{entries:?}");
    pod.delete("one");
    pod.delete("one");
    assert!(matches!(pod.link.call(Call::List), Ok(Answer::List(list)) if list.is_empty()));
}

#[test]
fn signals_end_a_container_and_are_recorded() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    pod.start(
        "polite",
        "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done",
    );
    let log = pod.log("polite");
    wait_for("the trap", Duration::from_secs(20), || {
        if Pod::entries(&log).is_empty() {
            Err("no output")
        } else {
            Ok(())
        }
    });
    let kill = |id: &str, signal| Call::Kill {
        container: id.to_owned(),
        signal,
        all: false,
    };
    pod.link.call(kill("polite", 15)).expect("SIGTERM");
    assert_eq!(pod.link.exit().exit.expect("an exit").code, 7);
    assert_eq!(
        pod.link.call(kill("polite", 15)).expect_err("gone").kind,
        RefusalKind::NotRunning
    );
    assert_eq!(
        pod.link.call(kill("nobody", 15)).expect_err("unknown").kind,
        RefusalKind::NotFound
    );

    pod.start("stubborn", "trap '' TERM; while :; do sleep 0.02; done");
    pod.link.call(kill("stubborn", 9)).expect("SIGKILL");
    let exit = pod.link.exit().exit.expect("an exit");
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    pod.delete("polite");
    pod.delete("stubborn");
}

#[test]
fn the_oom_killer_is_named() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    let script = "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'";
    pod.create_with("greedy", script, (u64::MAX, 1), |config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20});
    })
    .expect("create");
    pod.link
        .call(Call::Start {
            container: "greedy".to_owned(),
        })
        .expect("start");
    let exit = pod.link.exit().exit.expect("an exit");
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    pod.delete("greedy");
}

#[test]
fn exec_returns_output_within_its_limits() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    pod.start("host", "while :; do sleep 1; done");
    let result = pod
        .exec("host", "echo hello; echo there >&2; exit 5", 30_000, 1000)
        .expect("exec");
    assert_eq!(
        (result.exit_code, result.timed_out, result.truncated),
        (5, false, false)
    );
    assert!(
        result.output.contains("hello\n") && result.output.contains("there\n"),
        "{}",
        result.output
    );

    let result = pod.exec("host", "seq 1 100000", 30_000, 10).expect("exec");
    assert_eq!(result.output, "1\n2\n3\n4\n5\n");
    assert!(result.truncated && result.exit_code == 0);

    let begun = Instant::now();
    let result = pod
        .exec("host", "echo before; sleep 600", 700, 1000)
        .expect("exec");
    assert!(result.timed_out && begun.elapsed() < Duration::from_secs(20));
    assert_eq!((result.exit_code, result.output.as_str()), (137, "before\n"));

    let unknown = pod
        .exec("nobody", "true", 30_000, 10)
        .expect_err("no such container");
    assert_eq!(unknown.kind, RefusalKind::NotFound, "{unknown}");
    let left: Vec<_> = std::fs::read_dir(pod.dir.path())
        .expect("read the folder")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("exec-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    pod.delete("host");
}

#[test]
fn containers_outlive_their_starter_and_exits_meanwhile_are_kept() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    pod.start("one", "while [ ! -e /end ]; do sleep 0.02; done; exit 9");
    // The monitor is nobody's child and has a session of its own.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pod.monitor_pid())).expect("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    assert_ne!(fields[1].parse::<u32>().expect("ppid"), std::process::id());
    assert_eq!(fields[3], pod.monitor_pid().to_string(), "session");
    // The connection breaks, the container ends while nobody listens.
    let dir = pod.dir.path().to_owned();
    pod.link
        .stream
        .shutdown(std::net::Shutdown::Both)
        .expect("break the connection");
    std::fs::write(pod.bundles[0].1.rootfs().join("end"), "").expect("end the container");
    let record = wait_for("the record", Duration::from_secs(20), || {
        let record = pod.record("one");
        if record.exit.is_some() {
            Ok(record)
        } else {
            Err(record)
        }
    });
    assert_eq!(record.exit.as_ref().expect("an exit").code, 9);
    pod.link = Link::open(&dir);
    match pod.link.call(Call::List).expect("list") {
        Answer::List(list) => assert_eq!(list, [record]),
        other => panic!("{other:?}"),
    }
    pod.delete("one");
}

#[test]
fn long_lines_and_rotation() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    let script = "yes x | head -c 40000 | tr -d '\\n'; echo; seq 1 20000";
    pod.create_with("loud", script, (50_000, 3), |_| {})
        .expect("create");
    pod.link
        .call(Call::Start {
            container: "loud".to_owned(),
        })
        .expect("start");
    assert_eq!(pod.link.exit().exit.expect("an exit").code, 0);
    let last = Pod::entries(&pod.log("loud")).pop().expect("an entry");
    assert_eq!(last, ("stdout".to_owned(), "F".to_owned(), "20000".to_owned()));
    let files: Vec<PathBuf> = std::fs::read_dir(pod.dir.path())
        .expect("read the folder")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("loud.log"))
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in &files {
        let size = std::fs::metadata(file).expect("metadata").len();
        assert!(size <= 50_000 + (1 << 20), "{} has {size} bytes", file.display());
    }
    pod.delete("loud");

    let script = "yes x | tr -d '\\n' | head -c 40000; echo; echo short";
    pod.start("long", script);
    assert_eq!(pod.link.exit().exit.expect("an exit").code, 0);
    let shape: Vec<(String, usize)> = Pod::entries(&pod.log("long"))
        .into_iter()
        .map(|(_, tag, text)| (tag, text.len()))
        .collect();
    let want = [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384), ("F", 5)];
    assert_eq!(shape, want.map(|(tag, length)| (tag.to_owned(), length)));
    pod.delete("long");
}

#[test]
fn a_program_that_is_not_there_is_refused_with_the_runtimes_words() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    let refusal = pod
        .create_with("broken", "", (u64::MAX, 1), |config| {
            config["process"]["args"] = json!(["/no/such/program"]);
        })
        .expect_err("nothing to run");
    assert_eq!(refusal.kind, RefusalKind::Program, "{refusal}");
    assert!(refusal.message.contains("/no/such/program"), "{refusal}");
    assert!(matches!(pod.link.call(Call::List), Ok(Answer::List(list)) if list.is_empty()));
    let refusal = pod
        .link
        .call(Call::Start {
            container: "broken".to_owned(),
        })
        .expect_err("unknown");
    assert_eq!(refusal.kind, RefusalKind::NotFound);
}

#[test]
fn the_end_of_a_monitor() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    pod.start("one", "while :; do sleep 1; done");
    assert!(
        launch(pod.dir.path(), &runc)
            .err()
            .contains("another monitor serves this pod")
    );
    let busy = pod.link.call(Call::Shutdown).expect_err("not empty");
    assert_eq!(busy.kind, RefusalKind::Busy);
    assert!(busy.message.contains("one"), "{busy}");
    // Asked politely it stays, for a service manager asks that of everybody.
    let pid = pod.monitor_pid();
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
    ] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signal");
    }
    pod.delete("one");
    pod.link.call(Call::Shutdown).expect("shut down");
    wait_for("the monitor's end", Duration::from_secs(20), || {
        if Path::new(&format!("/proc/{pid}")).exists() && pod.dir.path().join(SOCKET).exists() {
            Err("it is there")
        } else {
            Ok(())
        }
    });
}

#[test]
fn a_killed_monitor_leaves_a_container_that_can_be_taken_away() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    let record = pod.start("orphan", "while :; do sleep 1; done");
    let monitor = nix::unistd::Pid::from_raw(pod.monitor_pid());
    nix::sys::signal::kill(monitor, nix::sys::signal::Signal::SIGKILL).expect("kill the monitor");
    let mut rest = Vec::new();
    pod.link
        .stream
        .read_to_end(&mut rest)
        .expect("the connection ends");
    // The lock is free again, a new monitor takes the pod over and deletes what it does not know.
    wait_for("the lock", Duration::from_secs(20), || {
        let outcome = launch(pod.dir.path(), &runc);
        if outcome.status.success() {
            Ok(())
        } else {
            Err(outcome)
        }
    });
    pod.link = Link::open(pod.dir.path());
    pod.delete("orphan");
    wait_for("the container's end", Duration::from_secs(20), || {
        if Path::new(&format!("/proc/{}", record.pid)).exists() {
            Err("alive")
        } else {
            Ok(())
        }
    });
}

#[test]
fn a_monitor_has_less_than_a_mebibyte() {
    need_root!();
    let runc = need_program!("runc");
    let mut pod = Pod::new(&runc);
    pod.start("one", "seq 1 20000; while :; do sleep 1; done");
    let log = pod.log("one");
    wait_for("the output", Duration::from_secs(20), || {
        if Pod::entries(&log).len() == 20_000 {
            Ok(())
        } else {
            Err("not all")
        }
    });
    pod.exec("one", "seq 1 20000", 30_000, 10_000).expect("exec");
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.monitor_pid())).expect("smaps");
    let pss = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .expect("a Pss line");
    let pss: u64 = pss
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .expect("a number");
    eprintln!("PSS of the monitor: {pss} KiB");
    // A debug build has more code, but no more state.
    let limit = if cfg!(debug_assertions) { 4096 } else { 1024 };
    assert!(pss <= limit, "PSS is {pss} KiB");
    pod.delete("one");
}
