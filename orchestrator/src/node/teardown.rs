//! The steps of taking a pod down. Each can be repeated, works on what an earlier `berthd` has left, and
//! treats what is gone as done.

use std::sync::Arc;
use std::time::Duration;

use berth_client::protocol::Call;
use berth_image::Rootfs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::execute::chain;
use super::observed::{State, Step};
use super::sandbox::SandboxError;
use super::worker::Worker;
use super::{blocking, monitor, sandbox};

/// How long a monitor may take to end.
const MONITOR_END: Duration = Duration::from_secs(5);

/// Does one step.
///
/// # Errors
/// What was attempted and why it failed, in one line.
pub(super) async fn step(worker: &mut Worker, step: Step) -> Result<(), String> {
    match step {
        Step::Containers => containers(worker).await,
        Step::Monitor => end_monitor(worker).await,
        Step::Cgroups => {
            let node = Arc::clone(&worker.node);
            let uid = worker.seen.uid.clone();
            run(move || sandbox::remove_cgroup(&node.layout, &node.config.cgroup_parent, &uid)).await
        }
        Step::Network => network(worker).await,
        Step::Mounts => {
            let paths = worker.paths.clone();
            run(move || {
                sandbox::unmount_below(&paths.run)?;
                sandbox::unmount_below(&paths.data)
            })
            .await
        }
        Step::Directories => {
            let paths = worker.paths.clone();
            let (node, uid) = (Arc::clone(&worker.node), worker.seen.uid.clone());
            run(move || {
                // Also what a set-up that was cut off has mounted since: a mount cannot be removed.
                sandbox::unmount_below(&paths.run)?;
                sandbox::unmount_below(&paths.data)?;
                sandbox::remove_dirs(&paths)?;
                // Last: as long as anything is left, nobody else may be the pod's users.
                node.ids.release(&uid).map_err(SandboxError::from)
            })
            .await
        }
    }
}

/// Blocking work whose error becomes one line.
async fn run<E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), String> {
    match blocking(work).await {
        Some(result) => result.map_err(|error| chain(&error)),
        None => Err("the work was cut off".to_owned()),
    }
}

async fn containers(worker: &mut Worker) -> Result<(), String> {
    let known: Vec<(String, String)> = worker
        .seen
        .containers
        .iter()
        .filter_map(|(name, seen)| Some((name.clone(), seen.id()?.to_owned())))
        .collect();
    for (name, id) in known {
        match worker.link.clone() {
            Some(link) => {
                let deleted = link.call(Call::Delete { container: id }).await;
                deleted.map_err(|error| chain(&error))?;
            }
            None => delete_directly(worker, id).await?,
        }
        match &mut worker.seen.seen_mut(&name).state {
            State::Ended(ended) => ended.removed = true,
            state => *state = State::Absent,
        }
    }
    let dir = worker.paths.data.join("containers");
    run(move || -> Result<(), berth_image::RootfsError> {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            Rootfs::remove(&entry.path())?;
        }
        Ok(())
    })
    .await
}

/// Deletes a container without a monitor.
pub(super) async fn delete_directly(worker: &Worker, id: String) -> Result<(), String> {
    let (program, root) = worker.runtime();
    let runtime = berth_client::Runtime::new(program)
        .with_root(root)
        .with_log_dir(&worker.paths.run);
    run(move || match runtime.delete(&id, true).run() {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    })
    .await
}

async fn end_monitor(worker: &mut Worker) -> Result<(), String> {
    let dir = worker.paths.run.clone();
    if worker.link.is_none() && monitor::pid(&dir).is_some() {
        // One that an earlier berthd has left.
        let _ = worker.connect().await;
    }
    let asked = match worker.link.take() {
        Some(link) => link.call(Call::Shutdown).await.is_ok(),
        None => false,
    };
    worker.seen.sandbox.monitor = false;
    let deadline = tokio::time::Instant::now() + MONITOR_END;
    let mut pause = Duration::from_millis(1);
    while let Some(pid) = monitor::pid(&dir) {
        if !asked || tokio::time::Instant::now() > deadline {
            // It holds nothing any more that could not be taken away without it. The pid is that of the
            // process that holds the lock.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if tokio::time::Instant::now() > deadline + MONITOR_END {
            return Err(format!("process {pid} does not end"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    Ok(())
}

async fn network(worker: &mut Worker) -> Result<(), String> {
    if worker.seen.sandbox.attached {
        let (node, member) = (Arc::clone(&worker.node), worker.member());
        run(move || node.network.detach(&member)).await?;
        worker.seen.sandbox.attached = false;
    }
    let paths = worker.paths.clone();
    run(move || sandbox::release_netns(&paths)).await
}
