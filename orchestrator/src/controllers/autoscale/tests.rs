#![allow(clippy::needless_pass_by_value)] // so that cases are written with json!(..)

use std::collections::BTreeMap;

use jiff::SignedDuration;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::replicas::{Amounts, Sample};
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// An autoscaler from 1 to 10, at half of the requested processor time.
fn hpa(spec: Value) -> Value {
    let mut hpa = json!({
        "metadata": {"name": "h", "namespace": "d", "generation": 1},
        "spec": {"minReplicas": 1, "maxReplicas": 10, "metrics": [cpu(json!({"type": "Utilization", "averageUtilization": 50}))]},
    });
    for (field, value) in spec.as_object().unwrap() {
        hpa["spec"][field] = value.clone();
    }
    hpa
}

fn cpu(target: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

/// A pod that has been ready for long and requests a whole processor and a gibibyte.
fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]},
        "status": {
            "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
        },
    })
}

fn sample(cpu: i64, second: i64) -> Sample {
    Sample {
        at: at(second),
        window: SignedDuration::from_secs(15),
        containers: BTreeMap::from([("c".to_owned(), Amounts { cpu, memory: 0 })]),
    }
}

/// Pods p0, p1, … of which the first ones use these thousandths of a processor; the others have no sample.
fn target(replicas: i64, uses: &[i64]) -> (Target, Samples) {
    let pods = (0..replicas).map(|n| pod(&format!("p{n}"))).collect();
    let samples = uses.iter().enumerate();
    let samples = samples
        .map(|(n, cpu)| (format!("p{n}"), sample(*cpu, 0)))
        .collect();
    let target = Target {
        replicas,
        pods,
        rivals: Vec::new(),
        selects: true,
    };
    (target, samples)
}

fn look(hpa: &Value, (target, samples): &(Target, Samples)) -> Plan {
    plan(hpa, target, samples, &mut Memory::default(), at(0))
}

fn to(plan: &Plan) -> Option<i64> {
    plan.rescale.as_ref().map(|(to, _)| *to)
}

fn reason<'a>(plan: &'a Plan, kind: &str) -> (&'a str, bool) {
    let condition = condition(&plan.status, kind).unwrap();
    (
        condition["reason"].as_str().unwrap(),
        condition["status"] == "True",
    )
}

#[test]
fn replicas_follow_what_is_used() {
    let usual = hpa(json!({}));
    for (replicas, uses, wanted) in [
        (1, vec![1000], Some(2)),
        // Two are four at most at once where nothing else is said.
        (1, vec![9000], Some(4)),
        (3, vec![500, 500, 500], None),
        // A tenth off is near enough.
        (3, vec![550, 550, 540], None),
        (3, vec![560, 560, 560], Some(4)),
        (4, vec![0, 0, 0, 0], None),
        (12, vec![], Some(10)),
        (0, vec![], None),
    ] {
        let found = look(&usual, &target(replicas, &uses));
        assert_eq!(to(&found), wanted, "{replicas} {uses:?}: {:?}", found.status);
    }
    // Down at once only without a window, and at least one is left.
    let eager = hpa(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}));
    assert_eq!(to(&look(&eager, &target(4, &[0, 0, 0, 0]))), Some(1));
    assert_eq!(to(&look(&eager, &target(4, &[250, 250, 250, 250]))), Some(2));
    let average = hpa(json!({"metrics": [cpu(json!({"type": "AverageValue", "averageValue": "250m"}))]}));
    assert_eq!(to(&look(&average, &target(2, &[500, 500]))), Some(4));
    let seen = look(&average, &target(2, &[260, 260]));
    assert_eq!(to(&seen), None);
    assert_eq!(
        seen.status["currentMetrics"][0]["resource"]["current"]["averageValue"],
        "260m"
    );
}

#[test]
fn missing_and_unready_pods_hold_back() {
    let eager = hpa(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}));
    // Up: the missing one is taken to use nothing.
    assert_eq!(to(&look(&eager, &target(2, &[1000]))), None);
    assert_eq!(to(&look(&eager, &target(2, &[2000]))), Some(4));
    // Down: the missing one is taken to use all that it requests.
    assert_eq!(to(&look(&eager, &target(4, &[100, 100, 100]))), Some(3));
    assert_eq!(to(&look(&eager, &target(2, &[400]))), None);
    // One that is not ready yet counts for nothing on the way up.
    let (mut fresh, samples) = target(3, &[1000, 1000, 3000]);
    fresh.pods[2]["status"]["startTime"] = json!(rfc3339(at(-20)));
    fresh.pods[2]["status"]["conditions"][0] =
        json!({"type": "Ready", "status": "True", "lastTransitionTime": rfc3339(at(-10))});
    assert_eq!(to(&look(&eager, &(fresh.clone(), samples.clone()))), Some(4));
    // Its sample counts once it does not reach back before it was ready.
    fresh.pods[2]["status"]["conditions"][0]["lastTransitionTime"] = json!(rfc3339(at(-16)));
    assert_eq!(to(&look(&eager, &(fresh.clone(), samples.clone()))), Some(10));
    for phase in ["Pending", "Failed"] {
        fresh.pods[2]["status"]["phase"] = json!(phase);
        assert_eq!(
            to(&look(&eager, &(fresh.clone(), samples.clone()))),
            Some(4),
            "{phase}"
        );
    }
}

#[test]
fn what_cannot_be_computed_is_told_once() {
    let usual = hpa(json!({}));
    let first = look(&usual, &target(2, &[]));
    assert_eq!(
        reason(&first, "ScalingActive"),
        ("FailedGetResourceMetric", false)
    );
    let reasons: Vec<&str> = first.told.iter().map(|told| told.reason).collect();
    assert_eq!(
        reasons,
        ["FailedGetResourceMetric", "FailedComputeMetricsReplicas"]
    );
    assert!(
        first.told[0]
            .message
            .starts_with("failed to get cpu utilization: unable to get metrics")
    );
    let mut again = usual.clone();
    again["status"] = first.status.clone();
    assert!(look(&again, &target(2, &[])).told.is_empty());
    let found = look(&again, &target(2, &[500, 500]));
    assert_eq!(reason(&found, "ScalingActive"), ("ValidMetricFound", true));

    let (mut open, samples) = target(1, &[900]);
    open.pods[0]["spec"]["containers"][0]["resources"] = json!({});
    let told = look(&usual, &(open, samples)).told[0].message.clone();
    assert!(
        told.ends_with("missing request for cpu in container c of Pod p0"),
        "{told}"
    );
    let other = hpa(
        json!({"metrics": [{"type": "ContainerResource", "containerResource": {
        "name": "cpu", "container": "x", "target": {"type": "Utilization", "averageUtilization": 50}}}]}),
    );
    let told = look(&other, &target(1, &[900])).told[0].message.clone();
    assert!(
        told.contains("container x not present in metrics for pod p0"),
        "{told}"
    );

    let lost = without_target(&usual, "deployments/scale.apps \"web\" not found", at(0));
    assert_eq!(reason(&lost, "AbleToScale"), ("FailedGetScale", false));
    assert_eq!(
        (lost.status["desiredReplicas"].as_i64(), lost.told.len()),
        (Some(0), 1)
    );
    let (mut rivals, samples) = target(1, &[900]);
    rivals.rivals = vec!["a".to_owned(), "h".to_owned()];
    assert_eq!(
        reason(&look(&usual, &(rivals, samples)), "ScalingActive").0,
        "AmbiguousSelector"
    );
    let (mut none, samples) = target(1, &[900]);
    none.selects = false;
    assert_eq!(
        reason(&look(&usual, &(none, samples)), "ScalingActive").0,
        "InvalidSelector"
    );
    assert_eq!(
        reason(&look(&usual, &target(0, &[])), "ScalingActive").0,
        "ScalingDisabled"
    );
}

#[test]
fn several_metrics_the_highest_wins_and_a_broken_one_forbids_to_shrink() {
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {
        "type": "AverageValue", "averageValue": "1Mi"}}});
    let both = json!([cpu(json!({"averageUtilization": 50})), memory]);
    let eager = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    let hpa = hpa(json!({"metrics": both, "behavior": eager}));
    let (target, mut samples) = target(2, &[100, 100]);
    for sample in samples.values_mut() {
        sample.containers.get_mut("c").unwrap().memory = (2 << 20) * 1000;
    }
    let found = look(&hpa, &(target.clone(), samples.clone()));
    assert_eq!(
        found.rescale,
        Some((4, "memory resource above target".to_owned()))
    );
    let current = &found.status["currentMetrics"];
    assert_eq!(
        current[0]["resource"]["current"],
        json!({"averageUtilization": 10, "averageValue": "100m"})
    );
    assert_eq!(
        current[1]["resource"]["current"],
        json!({"averageValue": "2097152"})
    );
    let mut broken = target;
    broken.pods[0]["spec"]["containers"][0]["resources"] = json!({});
    // The other still lets it grow …
    assert_eq!(to(&look(&hpa, &(broken.clone(), samples.clone()))), Some(4));
    for sample in samples.values_mut() {
        sample.containers.get_mut("c").unwrap().memory = 1000;
    }
    // … but not shrink.
    assert_eq!(to(&look(&hpa, &(broken, samples))), None);
}

#[test]
fn windows_and_policies() {
    let rules = |up: Value, down: Value| hpa(json!({"behavior": {"scaleUp": up, "scaleDown": down}}));
    let fast = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]});
    // Down only what all recommendations of the window allow.
    let slow = rules(
        fast.clone(),
        json!({"stabilizationWindowSeconds": 60, "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}),
    );
    let mut memory = Memory::default();
    let mut step = |hpa: &Value, replicas: i64, used: i64, second: i64| {
        let (target, samples) = target(replicas, &vec![used; replicas as usize]);
        let plan = plan(hpa, &target, &samples, &mut memory, at(second));
        if let Some((to, _)) = &plan.rescale {
            memory.rescaled(at(second), replicas, *to);
        }
        plan
    };
    assert_eq!(to(&step(&slow, 2, 1000, 0)), Some(4));
    let held = step(&slow, 4, 100, 30);
    assert_eq!(
        (to(&held), reason(&held, "AbleToScale").0),
        (None, "ScaleDownStabilized")
    );
    assert_eq!(to(&step(&slow, 4, 100, 61)), Some(1));
    // One pod a minute, whichever policy is asked; two policies, the slower.
    let one = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
        {"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]});
    let gentle = rules(one.clone(), one);
    let found = step(&gentle, 2, 2000, 1000);
    assert_eq!(
        (to(&found), reason(&found, "ScalingLimited")),
        (Some(3), ("ScaleUpLimit", true))
    );
    let found = step(&gentle, 3, 2000, 1030);
    assert_eq!(
        (to(&found), reason(&found, "ScalingLimited")),
        (None, ("ScaleUpLimit", true))
    );
    assert_eq!(to(&step(&gentle, 3, 2000, 1061)), Some(4));
    let found = step(&gentle, 4, 0, 1200);
    assert_eq!(
        (to(&found), reason(&found, "ScalingLimited")),
        (Some(3), ("ScaleDownLimit", true))
    );
    assert_eq!(to(&step(&gentle, 3, 0, 1230)), None);
    // Not at all.
    let never = rules(
        fast,
        json!({"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0}),
    );
    assert_eq!(to(&step(&never, 3, 0, 5000)), None);
    let found = step(&never, 3, 9000, 5015);
    assert_eq!(
        (to(&found), reason(&found, "ScalingLimited")),
        (Some(10), ("TooManyReplicas", true))
    );
    // Wide tolerance.
    let wide = hpa(
        json!({"behavior": {"scaleUp": {"tolerance": "1"}, "scaleDown": {"tolerance": "500m", "stabilizationWindowSeconds": 0}}}),
    );
    assert_eq!(to(&look(&wide, &target(4, &[1000; 4]))), None);
    assert_eq!(to(&look(&wide, &target(4, &[250; 4]))), None);
    assert_eq!(to(&look(&wide, &target(4, &[240; 4]))), Some(2));
}

#[test]
fn only_what_matters_is_written() {
    let usual = hpa(json!({}));
    let status = |used: i64| look(&usual, &target(1, &[used])).status;
    assert!(!is_news(&status(500), &status(504)));
    assert!(is_news(&status(500), &status(520)));
    let mut other = status(500);
    other["desiredReplicas"] = json!(7);
    assert!(is_news(&status(500), &other));
    assert!(is_news(&json!({}), &status(500)));
    let failed = not_rescaled(&usual, &status(1000), "no", at(0));
    assert_eq!(
        condition(&failed, "AbleToScale").unwrap()["reason"],
        "FailedUpdateScale"
    );
    assert!(failed.get("lastScaleTime").is_none() && failed["desiredReplicas"] == 0);
}

/// Any load, any rules, over half an hour: replicas stay within their bounds, no policy's speed is exceeded in any of its
/// periods, and nothing shrinks below what a recommendation of the window asks for.
#[test]
fn no_load_breaks_the_rules() {
    for seed in 0..30 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (least, most) = (random.random_range(1..4), random.random_range(4..30));
        let (up, down) = (random.random_range(1..6), random.random_range(1..6));
        let (up_period, down_period) = (random.random_range(15..120), random.random_range(15..120));
        let window = random.random_range(0..200);
        let rules = |value: i64, period: i64, window: i64| {
            json!({"stabilizationWindowSeconds": window, "selectPolicy": "Max",
                   "policies": [{"type": "Pods", "value": value, "periodSeconds": period}]})
        };
        let hpa = hpa(json!({
            "minReplicas": least, "maxReplicas": most,
            "behavior": {"scaleUp": rules(up, up_period, 0), "scaleDown": rules(down, down_period, window)},
        }));
        let mut memory = Memory::default();
        let mut replicas: i64 = random.random_range(least..=most);
        let mut history = vec![(0, replicas)];
        let mut asked: Vec<(i64, i64)> = vec![(0, replicas)];
        let mut load = 500;
        for second in (15..1800).step_by(15) {
            if random.random_bool(0.2) {
                load = random.random_range(0..40_000);
            }
            let each: i64 = load / replicas;
            let known = random.random_range(0..=replicas) as usize;
            let uses = if random.random_bool(0.8) {
                vec![each; replicas as usize]
            } else {
                vec![each; known]
            };
            let (target, samples) = target(replicas, &uses);
            let plan = plan(&hpa, &target, &samples, &mut memory, at(second));
            let stated = condition(&plan.status, "ScalingActive").is_some_and(|c| c["status"] == "True");
            let to = to(&plan).unwrap_or(replicas);
            assert!((least..=most).contains(&to), "seed {seed}: {to}");
            if stated && uses.len() == replicas as usize {
                let percent = each * 100 / 1000;
                let wanted = (percent * replicas + 49) / 50;
                asked.push((
                    second,
                    if (45..=55).contains(&percent) {
                        replicas
                    } else {
                        wanted
                    },
                ));
            }
            if to < replicas {
                let highest = asked
                    .iter()
                    .filter(|(at, _)| *at > second - window)
                    .map(|(_, n)| *n)
                    .max();
                let highest = highest.unwrap_or(0).clamp(least, most);
                assert!(
                    to >= highest.min(replicas),
                    "seed {seed} at {second}: {to} < {highest}"
                );
            }
            let begin = |period: i64| {
                let before = history.iter().rev().find(|(at, _)| *at <= second - period);
                before.map_or(history[0].1, |(_, n)| *n)
            };
            // A dip within the period is made good at once: only its beginning counts.
            if to > replicas {
                assert!(
                    to - begin(up_period) <= up,
                    "seed {seed} at {second}: {to} {history:?}"
                );
            } else if to < replicas {
                assert!(
                    begin(down_period) - to <= down,
                    "seed {seed} at {second}: {to} {history:?}"
                );
            }
            if to != replicas {
                memory.rescaled(at(second), replicas, to);
                replicas = to;
                history.push((second, replicas));
            }
        }
    }
}
