//! What people are told of a container that has ended badly: how it ended, and what there is to see of the cause.

use berth_cgroups::{Cgroup, CgroupPath, Layout};

use super::logs;
use super::observed::Ended;
use super::worker::Worker;

/// Lines, and bytes, of a log's end that an event repeats; an event's message has at most 1024 letters upstream.
const WORDS: (usize, usize) = (5, 500);
/// The reason of a container that the kernel has killed for its memory, as kubelet writes it.
const OOM_KILLED: &str = "OOMKilled";
/// Beyond that a limit of memory is none: cgroup v1 says so by a number near the largest one.
const BOUNDLESS: u64 = 1 << 60;

/// Most memory that a container's cgroup had, and its limit, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Memory {
    /// None on cgroup v2 before Linux 5.19.
    peak: Option<u64>,
    limit: Option<u64>,
}

/// Reads it while the cgroup is there, which is until the runtime forgets the container. Blocks.
fn memory(layout: &Layout, cgroup: &str) -> Memory {
    let stats = CgroupPath::parse(cgroup)
        .ok()
        .and_then(|path| Cgroup::open(layout, &path).ok())
        .and_then(|cgroup| cgroup.stats().ok());
    stats
        .and_then(|stats| stats.memory)
        .map_or_else(Memory::default, |found| Memory {
            peak: Some(found.memory.peak).filter(|peak| *peak > 0),
            limit: Some(found.memory.limit).filter(|limit| (1..BOUNDLESS).contains(limit)),
        })
}

/// Bytes as people read them, to a tenth of a MiB.
fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10 + (1 << 19)) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// PURE: the event's text.
fn text(container: &str, ended: &Ended, memory: Memory, words: &str) -> String {
    let mut text = match (ended.reason.as_str(), ended.signal) {
        (OOM_KILLED, _) => {
            let peak = memory.peak.map_or_else(|| "unknown".to_owned(), mebibytes);
            let limit = memory
                .limit
                .map_or_else(|| "none of its own".to_owned(), mebibytes);
            format!(
                "Container {container} was killed by the kernel for want of memory (exit code {}): memory.peak {peak}, limit {limit}",
                ended.code
            )
        }
        (_, Some(signal)) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| String::new(), |signal| format!(", {}", signal.as_str()));
            format!(
                "Container {container} was ended by signal {signal}{name} (exit code {})",
                ended.code
            )
        }
        (_, None) => format!("Container {container} ended with exit code {}", ended.code),
    };
    let lines: Vec<&str> = words
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    if lines.is_empty() {
        text.push_str("; it has logged nothing");
    } else {
        text.push_str("; last lines of its log: ");
        text.push_str(&lines.join(" | "));
    }
    text
}

impl Worker {
    /// Tells of a container that has failed though it was not asked to end, and of the pause before it runs again. Its
    /// cgroup and its log are still there.
    pub(super) fn tell_death(&self, name: &str, ended: &Ended, was_asked: bool) {
        if ended.code != 0 && !was_asked {
            let seen = self.seen.seen(name);
            let (reason, memory) = if ended.reason == OOM_KILLED {
                (OOM_KILLED, memory(&self.node.layout, &self.cgroup(name)))
            } else {
                ("Exited", Memory::default())
            };
            let words = logs::last_words(&self.paths.log(name, seen.attempt), WORDS.0, WORDS.1);
            self.event(Some(name), true, reason, &text(name, ended, memory, &words));
        }
        let Some(pod) = self.pod.as_ref().filter(|pod| pod.deletion.is_none()) else {
            return;
        };
        let again = pod
            .container(name)
            .is_some_and(|definition| definition.restarts(ended.code));
        let pause = self.seen.seen(name).backoff.until(ended.finished);
        if again && pause.is_some_and(|until| until > jiff::Timestamp::now()) {
            let message = format!(
                "Back-off restarting failed container {name} in pod {}_{}({})",
                pod.name, pod.namespace, pod.uid
            );
            self.event(Some(name), true, "BackOff", &message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, signal: Option<i32>, reason: &str) -> Ended {
        Ended {
            id: "id".to_owned(),
            code,
            signal,
            reason: reason.to_owned(),
            message: String::new(),
            started: None,
            finished: jiff::Timestamp::UNIX_EPOCH,
            start_failed: false,
            removed: false,
        }
    }

    #[test]
    fn every_end_has_its_evidence() {
        let memory = Memory {
            peak: Some(64 << 20),
            limit: Some((64 << 20) + (1 << 17)),
        };
        for (ended, memory, words, want) in [
            (
                ended(3, None, "Error"),
                Memory::default(),
                "one\n\ntwo\n",
                "Container c ended with exit code 3; last lines of its log: one | two",
            ),
            (
                ended(137, Some(9), "Error"),
                Memory::default(),
                "",
                "Container c was ended by signal 9, SIGKILL (exit code 137); it has logged nothing",
            ),
            (
                ended(162, Some(34), "Error"),
                Memory::default(),
                "x",
                "Container c was ended by signal 34 (exit code 162); last lines of its log: x",
            ),
            (
                ended(137, Some(9), OOM_KILLED),
                memory,
                "",
                "Container c was killed by the kernel for want of memory (exit code 137): memory.peak 64.0 MiB, limit 64.1 MiB; it has logged nothing",
            ),
            (
                ended(137, Some(9), OOM_KILLED),
                Memory::default(),
                "",
                "Container c was killed by the kernel for want of memory (exit code 137): memory.peak unknown, limit none of its own; it has logged nothing",
            ),
        ] {
            assert_eq!(text("c", &ended, memory, words), want);
        }
    }
}
