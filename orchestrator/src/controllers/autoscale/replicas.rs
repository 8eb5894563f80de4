//! PURE: how many replicas bring a metric to its target (upstream `pkg/controller/podautoscaler/replica_calculator.go`).
//!
//! Amounts are in thousandths: of a processor, of a byte.

use std::collections::{BTreeMap, BTreeSet};

use berth_api::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::super::fields::{condition, is_deleting, name, text, time};

/// How long a pod may take to get going: until then its processor time counts only once it is ready.
const INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// A pod that became unready this soon after its start has never been ready.
const FIRST_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What the containers of a pod have used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Over how long processor time was measured.
    pub window: SignedDuration,
    /// Thousandths of a processor and of a byte, by container.
    pub containers: BTreeMap<String, Amounts>,
}

/// What one container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Thousandths of a processor.
    pub cpu: i64,
    /// Thousandths of a byte.
    pub memory: i64,
}

/// Samples by name of the pod.
pub type Samples = BTreeMap<String, Sample>;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Measure<'a> {
    /// `cpu` or `memory`.
    pub resource: &'a str,
    /// Of this container only.
    pub container: Option<&'a str>,
}

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// Percent of what the pods request.
    Utilization(i64),
    /// Thousandths a pod.
    Average(i64),
}

/// How far a metric may be off its target before anything is done, in thousandths of it.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Before replicas are taken away.
    pub down: i64,
    /// Before replicas are added.
    pub up: i64,
}

/// What is used over what is aimed at; exact, where upstream's floating point is nearly so.
#[derive(Debug, Clone, Copy)]
struct Ratio {
    used: i128,
    aim: i128,
}

impl Ratio {
    fn new(used: i64, aim: i64) -> Self {
        Self {
            used: used.into(),
            aim: aim.max(1).into(),
        }
    }

    fn is_over(self) -> bool {
        self.used > self.aim
    }

    fn is_under(self) -> bool {
        self.used < self.aim
    }

    fn is_within(self, tolerance: Tolerance) -> bool {
        let used = self.used * 1000;
        let bound = |thousandths: i64| i128::from(1000 + thousandths) * self.aim;
        (bound(-tolerance.down)..=bound(tolerance.up)).contains(&used)
    }

    /// As many times a number, rounded up.
    fn times(self, number: i64) -> i64 {
        let product = self.used * i128::from(number);
        i64::try_from((product + self.aim - 1) / self.aim).unwrap_or(i64::MAX)
    }
}

/// What a metric comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Replicas that it asks for.
    pub replicas: i64,
    /// Percent of the requests in use, where that is aimed at.
    pub utilization: Option<i64>,
    /// Thousandths in use a pod.
    pub average: i64,
}

/// The pods by what can be said of them.
#[derive(Debug, Default)]
struct Groups {
    ready: i64,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

/// How many replicas a metric asks for, while there are `current`.
///
/// # Errors
/// Why that cannot be told, in upstream's words.
pub fn wanted(
    measure: Measure<'_>,
    aim: Aim,
    current: i64,
    pods: &[Value],
    samples: &Samples,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Outcome, String> {
    let mut used = used(measure, samples)?;
    if used.is_empty() {
        let resource = measure.resource;
        return Err(format!(
            "unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        ));
    }
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(measure.resource, pods, samples, &used, now);
    used.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if used.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let requests = match aim {
        Aim::Utilization(_) => requests(measure, pods)?,
        Aim::Average(_) => BTreeMap::new(),
    };
    let (ratio, utilization, average) = ratio(&used, &requests, aim)?;
    let outcome = |replicas| Outcome {
        replicas,
        utilization,
        average,
    };
    let grows_over_unready = !groups.unready.is_empty() && ratio.is_over();
    if !grows_over_unready && groups.missing.is_empty() {
        if ratio.is_within(tolerance) {
            return Ok(outcome(current));
        }
        return Ok(outcome(ratio.times(groups.ready)));
    }
    let missing = groups.missing.iter();
    if ratio.is_over() {
        // The most careful guess: nothing in use where replicas would be added …
        used.extend(missing.map(|pod| (pod.clone(), 0)));
    } else if ratio.is_under() {
        // … and all of it where they would go.
        used.extend(missing.map(|pod| {
            let guess = match aim {
                Aim::Utilization(percent) => requests.get(pod).copied().unwrap_or(0) * percent.max(100) / 100,
                Aim::Average(amount) => amount,
            };
            (pod.clone(), guess)
        }));
    }
    if grows_over_unready {
        used.extend(groups.unready.iter().map(|pod| (pod.clone(), 0)));
    }
    let (guessed, ..) = self::ratio(&used, &requests, aim)?;
    let turned = (ratio.is_under() && guessed.is_over()) || (ratio.is_over() && guessed.is_under());
    if guessed.is_within(tolerance) || turned {
        return Ok(outcome(current));
    }
    let replicas = guessed.times(i64::try_from(used.len()).unwrap_or(i64::MAX));
    if (guessed.is_under() && replicas > current) || (guessed.is_over() && replicas < current) {
        return Ok(outcome(current));
    }
    Ok(outcome(replicas))
}

/// What each pod with a sample uses.
fn used(measure: Measure<'_>, samples: &Samples) -> Result<BTreeMap<String, i64>, String> {
    let amount = |amounts: &Amounts| {
        if measure.resource == "cpu" {
            amounts.cpu
        } else {
            amounts.memory
        }
    };
    samples
        .iter()
        .map(|(pod, sample)| match measure.container {
            None => Ok((pod.clone(), sample.containers.values().map(amount).sum())),
            Some(container) => match sample.containers.get(container) {
                Some(amounts) => Ok((pod.clone(), amount(amounts))),
                None => Err(format!(
                    "unable to get metrics for resource {}: container {container} not present in metrics for pod {pod}",
                    measure.resource
                )),
            },
        })
        .collect()
}

fn group(
    resource: &str,
    pods: &[Value],
    samples: &Samples,
    used: &BTreeMap<String, i64>,
    now: Timestamp,
) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let pod_name = name(pod).to_owned();
        let phase = text(pod, "/status/phase");
        if is_deleting(pod) || phase == "Failed" {
            groups.ignored.insert(pod_name);
        } else if phase == "Pending" {
            groups.unready.insert(pod_name);
        } else if let Some(sample) = samples.get(&pod_name).filter(|_| used.contains_key(&pod_name)) {
            if resource == "cpu" && is_unready(pod, sample, now) {
                groups.unready.insert(pod_name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(pod_name);
        }
    }
    groups
}

/// Whether a pod's processor time says nothing yet: it is not ready, or the sample reaches back before it was.
fn is_unready(pod: &Value, sample: &Sample, now: Timestamp) -> bool {
    let ready = condition(&pod["status"], "Ready");
    let (Some(ready), Some(start)) = (ready, time(pod, "/status/startTime")) else {
        return true;
    };
    let Some(since) = time(ready, "/lastTransitionTime") else {
        return true;
    };
    let unready = ready["status"] == "False";
    if start + INITIALIZATION > now {
        unready || sample.at < since + sample.window
    } else {
        unready && start + FIRST_READINESS > since
    }
}

/// What each pod requests.
fn requests(measure: Measure<'_>, pods: &[Value]) -> Result<BTreeMap<String, i64>, String> {
    let mut requests = BTreeMap::new();
    for pod in pods {
        let mut sum = 0;
        let list = |name: &str| pod.pointer(&format!("/spec/{name}")).and_then(Value::as_array);
        let sidecars = list("initContainers")
            .into_iter()
            .flatten()
            .filter(|c| c["restartPolicy"] == "Always");
        for container in list("containers").into_iter().flatten().chain(sidecars) {
            let own = text(container, "/name");
            if measure.container.is_some_and(|wanted| wanted != own) {
                continue;
            }
            let text = container.pointer(&format!("/resources/requests/{}", measure.resource));
            let amount: Option<Quantity> = text.and_then(Value::as_str).and_then(|t| t.parse().ok());
            let missing = || {
                let (resource, pod) = (measure.resource, name(pod));
                format!("missing request for {resource} in container {own} of Pod {pod}")
            };
            sum += amount.ok_or_else(missing)?.milli();
        }
        requests.insert(name(pod).to_owned(), sum);
    }
    Ok(requests)
}

/// What is used over what is aimed at, with percent of the requests and the average.
fn ratio(
    used: &BTreeMap<String, i64>,
    requests: &BTreeMap<String, i64>,
    aim: Aim,
) -> Result<(Ratio, Option<i64>, i64), String> {
    match aim {
        Aim::Average(amount) => {
            let average = used.values().sum::<i64>() / used.len().max(1) as i64;
            Ok((Ratio::new(average, amount), None, average))
        }
        Aim::Utilization(percent) => {
            let known = used
                .iter()
                .filter_map(|(pod, used)| Some((*used, *requests.get(pod)?)));
            let (sum, requested, count) =
                known.fold((0_i128, 0_i128, 0), |(sum, requested, count), (used, request)| {
                    (sum + i128::from(used), requested + i128::from(request), count + 1)
                });
            if requested == 0 {
                return Err("no metrics returned matched known pods".to_owned());
            }
            let utilization = i64::try_from(sum * 100 / requested).unwrap_or(i64::MAX);
            let average = i64::try_from(sum / count).unwrap_or(i64::MAX);
            Ok((Ratio::new(utilization, percent), Some(utilization), average))
        }
    }
}
