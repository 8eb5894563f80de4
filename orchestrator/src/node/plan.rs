//! PURE: what is to be done next for a pod.
//!
//! Level-triggered: the plan looks at the whole pod each time and names the steps that are possible now;
//! the worker executes them, changes [`Observed`] and asks again, until nothing is left to do before the
//! time in [`Plan::wake`] or the next event. Removals come before additions, but files of former runs go last.

use jiff::Timestamp;

use super::backoff::after;
use super::observed::{Observed, Seen, State, Step, StopPhase};
use super::pod::{Definition, Pod, Role};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make cgroup, namespaces, network, files, volumes.
    SetUp,
    /// Start and connect the monitor.
    StartMonitor,
    /// Create and start a container.
    Create {
        /// Name of the container.
        container: String,
        /// Number of the run.
        attempt: u32,
    },
    /// Begin to stop a container: preStop hook or signal.
    Stop {
        /// Name of the container.
        container: String,
        /// Seconds until it is killed.
        grace: i64,
        /// Why.
        cause: String,
    },
    /// Send a signal to a container that is being stopped.
    Signal {
        /// Name of the container.
        container: String,
        /// SIGKILL, or the container's stop signal.
        kill: bool,
    },
    /// Let the runtime forget an ended container.
    Remove {
        /// Name of the container.
        container: String,
    },
    /// Remove what former runs of a container have left on the disk.
    Sweep {
        /// Name of the container.
        container: String,
    },
    /// Give running containers the resources that they are to have now.
    Resize,
    /// Mark the pod as failed as a whole.
    Fail {
        /// CamelCase word.
        reason: String,
        /// The text for it.
        message: String,
    },
    /// Do the next step of the teardown.
    TearDown(Step),
    /// Nothing is left of the pod: the object may go.
    Forget,
}

/// What to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps that are possible now, in order.
    pub actions: Vec<Action>,
    /// When to look again, if nothing happens before.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |other| other.min(time)));
    }
}

/// Plans for a pod that is stored.
pub fn plan(pod: &Pod, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if let Some(deletion) = pod.deletion {
        remove(Some(pod), seen, deletion.grace, now, &mut plan);
        return plan;
    }
    if seen.verdict.is_some() || is_over(pod, seen) {
        finish(pod, seen, now, &mut plan);
        return plan;
    }
    if let Some(seconds) = pod.active_deadline {
        let end = after(pod.started_at().unwrap_or(seen.accepted), seconds);
        if end <= now {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            plan.act(Action::Fail {
                reason: "DeadlineExceeded".to_owned(),
                message,
            });
            return plan;
        }
        plan.wake(end);
    }
    removals(pod, seen, now, &mut plan);
    if !seen.sandbox.ready {
        match retry(seen.failure.as_ref().map(|f| f.retry), now) {
            None => plan.act(Action::SetUp),
            Some(time) => plan.wake(time),
        }
    } else if !seen.sandbox.monitor {
        match retry(seen.failure.as_ref().map(|f| f.retry), now) {
            None => plan.act(Action::StartMonitor),
            Some(time) => plan.wake(time),
        }
    } else {
        resize(pod, seen, now, &mut plan);
        additions(pod, seen, now, &mut plan);
    }
    // The one removal that nothing waits for, least of all a container that has to come back.
    sweeps(seen, now, &mut plan);
    plan
}

/// Files of former runs.
fn sweeps(seen: &Observed, now: Timestamp, plan: &mut Plan) {
    for (name, one) in &seen.containers {
        if one.remains.is_empty() {
            continue;
        }
        match retry(seen.failure.as_ref().map(|f| f.retry), now) {
            None => plan.act(Action::Sweep {
                container: name.clone(),
            }),
            Some(time) => plan.wake(time),
        }
    }
}

/// A resize that could not be done is tried again when its time has come, or when another one is asked for.
fn resize(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let is_wanted = !super::resize::outdated(pod, seen).is_empty();
    match &seen.resize {
        // The old resources have been asked for again.
        Some(_) if !is_wanted => plan.act(Action::Resize),
        None if is_wanted => plan.act(Action::Resize),
        Some(pending) if pod.object.metadata.generation.unwrap_or(0) != pending.generation => {
            plan.act(Action::Resize);
        }
        Some(pending) => match pending.retry {
            Some(time) if time <= now => plan.act(Action::Resize),
            Some(time) => plan.wake(time),
            None => {}
        },
        None => {}
    }
}

/// Plans for a pod that is on the node, but no longer in the store (a forced deletion).
pub fn plan_orphan(seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    remove(None, seen, 0, now, &mut plan);
    plan
}

/// The time, if it is still to come.
fn retry(time: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    time.filter(|time| *time > now)
}

/// Whether no container will run again by itself.
pub fn is_over(pod: &Pod, seen: &Observed) -> bool {
    if pod.finished && !seen.sandbox.touched {
        return true;
    }
    let failed_init = pod.containers.iter().filter(|c| c.role == Role::Init).any(|c| {
        seen.seen(&c.spec.name)
            .ended()
            .is_some_and(|e| e.code != 0 && !c.restarts(e.code))
    });
    let mains: Vec<&Definition> = pod.containers.iter().filter(|c| c.role == Role::Main).collect();
    let all_ended = !mains.is_empty()
        && mains.iter().all(|c| {
            seen.seen(&c.spec.name)
                .ended()
                .is_some_and(|e| !c.restarts(e.code))
        });
    let main_runs = mains.iter().any(|c| seen.seen(&c.spec.name).running());
    all_ended || (failed_init && !main_runs)
}

/// Ends what still runs of a pod that is over (sidecars), then releases everything but the logs.
fn finish(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    if seen.released || !seen.sandbox.touched {
        return;
    }
    let cause = match &seen.verdict {
        Some((_, message)) => message.clone(),
        None => "The main containers have ended".to_owned(),
    };
    let grace = seen.grace.unwrap_or(pod.grace);
    if stop_all(Some(pod), seen, grace, &cause, now, plan) {
        tear_down(seen, now, plan);
    }
}

/// Ends and releases everything, then lets the object go.
fn remove(pod: Option<&Pod>, seen: &Observed, grace: i64, now: Timestamp, plan: &mut Plan) {
    if !stop_all(pod, seen, grace, "The pod is deleted", now, plan) {
        return;
    }
    if seen.released || !seen.sandbox.touched {
        plan.act(Action::Forget);
    } else {
        tear_down(seen, now, plan);
    }
}

/// Stops every container; true when none runs any more. Sidecars go after the main containers, in
/// reverse order.
fn stop_all(
    pod: Option<&Pod>,
    seen: &Observed,
    grace: i64,
    cause: &str,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let is_sidecar = |name: &str| {
        pod.and_then(|p| p.container(name))
            .is_some_and(|c| c.role == Role::Sidecar)
    };
    let mains_run = seen
        .containers
        .iter()
        .any(|(name, one)| one.running() && !is_sidecar(name));
    let mut none_runs = true;
    for (name, one) in &seen.containers {
        if !one.running() {
            continue;
        }
        none_runs = false;
        if is_sidecar(name) && mains_run && grace > 0 {
            continue;
        }
        stop(name, one, grace, cause, now, plan);
    }
    none_runs
}

/// The next step of stopping one running container.
fn stop(name: &str, one: &Seen, grace: i64, cause: &str, now: Timestamp, plan: &mut Plan) {
    let container = name.to_owned();
    let Some(stop) = &one.stop else {
        plan.act(Action::Stop {
            container,
            grace: grace.max(0),
            cause: cause.to_owned(),
        });
        return;
    };
    // A second request may be more urgent than the first.
    let deadline = if grace <= 0 { now } else { stop.deadline };
    match stop.phase {
        StopPhase::Killed => {}
        _ if deadline <= now => plan.act(Action::Signal {
            container,
            kill: true,
        }),
        StopPhase::Due => plan.act(Action::Signal {
            container,
            kill: false,
        }),
        StopPhase::Hook | StopPhase::Asked => plan.wake(deadline),
    }
}

fn tear_down(seen: &Observed, now: Timestamp, plan: &mut Plan) {
    match retry(seen.failure.as_ref().map(|f| f.retry), now) {
        None => plan.act(Action::TearDown(seen.teardown.unwrap_or(Step::Containers))),
        Some(time) => plan.wake(time),
    }
}

/// Stops that have begun go on; ended containers are forgotten by the runtime.
fn removals(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    for definition in &pod.containers {
        let name = &definition.spec.name;
        let Some(one) = seen.containers.get(name) else {
            continue;
        };
        if one.running() && (one.stop.is_some() || one.unhealthy.is_some()) {
            let cause = one.unhealthy.as_ref().map_or("", |u| u.cause.as_str());
            let grace = one.unhealthy.as_ref().and_then(|u| u.grace).unwrap_or(pod.grace);
            stop(name, one, grace.max(1), cause, now, plan);
        }
        if one.ended().is_some_and(|ended| !ended.removed) {
            match retry(seen.failure.as_ref().map(|f| f.retry), now) {
                None => plan.act(Action::Remove {
                    container: name.clone(),
                }),
                Some(time) => plan.wake(time),
            }
        }
    }
}

/// Init containers one after the other, then the main ones together.
fn additions(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let mains_begun = pod
        .containers
        .iter()
        .any(|c| c.role == Role::Main && !matches!(seen.seen(&c.spec.name).state, State::Absent));
    for definition in &pod.containers {
        let one = seen.seen(&definition.spec.name);
        match definition.role {
            Role::Init => {
                if mains_begun || one.ended().is_some_and(|ended| ended.code == 0) {
                    continue;
                }
                create(definition, &one, now, plan);
                return;
            }
            Role::Sidecar => {
                create(definition, &one, now, plan);
                let up = one.running() && one.started;
                if !up && !mains_begun {
                    return;
                }
            }
            Role::Main => create(definition, &one, now, plan),
            // Into a pod that has got going, and into the processes of a container that runs.
            Role::Ephemeral => {
                let target = definition.target.as_ref().is_none_or(|t| seen.seen(t).running());
                if mains_begun && target {
                    create(definition, &one, now, plan);
                }
            }
        }
    }
}

/// Creates the container if it is time.
fn create(definition: &Definition, one: &Seen, now: Timestamp, plan: &mut Plan) {
    let container = definition.spec.name.clone();
    match &one.state {
        State::Absent => plan.act(Action::Create {
            container,
            attempt: one.attempt,
        }),
        State::Refused(failure) => match retry(Some(failure.retry), now) {
            None => plan.act(Action::Create {
                container,
                attempt: one.attempt,
            }),
            Some(time) => plan.wake(time),
        },
        State::Pulling | State::Creating { .. } | State::Running { .. } => {}
        // It is removed first, and the plan made anew.
        State::Ended(ended) if !ended.removed => {}
        State::Ended(ended) => {
            if !definition.restarts(ended.code) {
                return;
            }
            match retry(one.backoff.until(ended.finished), now) {
                None => plan.act(Action::Create {
                    container,
                    attempt: one.attempt + 1,
                }),
                Some(time) => plan.wake(time),
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
