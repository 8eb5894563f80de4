//! Jobs and CronJobs on the real node, with kubectl.

use crate::bench::{Bench, bench};
use crate::world::{PATIENCE, WAIT, script};
use harness::{kubectl_versions, repository_root, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;

impl Bench {
    /// Applies a Job with this specification and this program.
    #[track_caller]
    fn job(&self, name: &str, spec: &Value, program: &str) {
        let mut job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"template": {"spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [script(program)],
            }}},
        });
        for (field, value) in spec.as_object().expect("an object") {
            job["spec"][field] = value.clone();
        }
        self.world.apply(&job);
    }

    /// Waits until a Job satisfies the condition.
    #[track_caller]
    fn job_until(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{name}: {what}"), PATIENCE, || {
            let job = self.get(&["job", name]);
            if holds(&job) {
                Ok(job)
            } else {
                Err(job["status"].to_string())
            }
        })
    }

    /// Waits until a Job has failed for this reason.
    #[track_caller]
    fn fails(&self, name: &str, why: &str) -> Value {
        self.job_until(name, why, |job| reason(job, "Failed") == why)
    }

    #[track_caller]
    fn complete(&self, name: &str) {
        let name = format!("job/{name}");
        self.kube(&["wait", "--for=condition=complete", "--timeout=90s", &name]);
    }

    fn pods_of(&self, job: &str) -> Vec<Value> {
        self.items(&["pods", "-l", &format!("batch.kubernetes.io/job-name={job}")])
    }

    /// Waits until a Job has no pod.
    #[track_caller]
    fn no_pods(&self, job: &str) {
        wait_for(&format!("{job}: no pods"), PATIENCE, || {
            let pods = self.pods_of(job);
            if pods.is_empty() {
                Ok(())
            } else {
                Err(format!("{pods:?}"))
            }
        });
    }

    /// Says that a CronJob ran last two years ago.
    fn ran_long_ago(&self, name: &str) {
        let last = year(-2);
        let patch = json!({"status": {"lastScheduleTime": format!("{last}-06-01T00:00:00Z")}}).to_string();
        self.kube(&[
            "patch",
            "cronjob",
            name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ]);
    }
}

/// The year, some years from now.
fn year(difference: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = now.expect("a clock after 1970").as_secs() / 86_400;
    1970 + (days as f64 / 365.2425) as i64 + difference
}

fn reason(job: &Value, condition: &str) -> String {
    let conditions = job["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == condition && c["status"] == "True");
    found.map_or(String::new(), |c| {
        c["reason"].as_str().unwrap_or_default().to_owned()
    })
}

#[test]
fn a_job_completes_for_every_kubectl() {
    let bench = bench!();
    for (number, kubectl) in kubectl_versions().iter().enumerate() {
        let name = format!("hello-{number}");
        let title = format!("job/{name}");
        let kube = |arguments: &[&str]| bench.world.node.kubectl(kubectl, arguments).ok();
        let made = kube(&[
            "create",
            "job",
            &name,
            "--image=busybox:1",
            "--",
            "sh",
            "-c",
            "echo hi",
        ]);
        assert!(made.contains(&format!("{name} created")), "{made}");
        kube(&["wait", "--for=condition=complete", "--timeout=90s", &title]);
        let row = kube(&["get", "job", &name]);
        assert!(
            row.contains("COMPLETIONS") && row.contains("1/1") && row.contains("Complete"),
            "{row}"
        );
        assert_eq!(kube(&["logs", &title]), "hi\n");
        let shown = kube(&["describe", "job", &name]);
        for part in ["Completed", "SuccessfulCreate", "1 Succeeded"] {
            assert!(shown.contains(part), "{shown}");
        }
        let job = bench.get(&["job", &name]);
        assert_eq!(job["status"]["succeeded"], 1);
        assert_eq!(job["status"]["uncountedTerminatedPods"], json!({}));
        assert_eq!(reason(&job, "SuccessCriteriaMet"), "CompletionsReached");
        assert_eq!(
            job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
            job["metadata"]["uid"]
        );
        // Counted, so nothing holds the pod any more.
        let pods = bench.pods_of(&name);
        assert!(
            pods.len() == 1 && pods[0]["metadata"].get("finalizers").is_none(),
            "{pods:?}"
        );
        kube(&["delete", "job", &name]);
        bench.no_pods(&name);
    }
    bench.job("kept", &json!({}), "true");
    bench.complete("kept");
    bench.kube(&["delete", "job", "kept", "--cascade=orphan"]);
    assert_eq!(bench.pods_of("kept").len(), 1);
    bench.kube(&["delete", "pods", "--all"]);
    bench.world.clean();
}

#[test]
fn indexes_are_worked_on_in_parallel() {
    let bench = bench!();
    let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 2});
    bench.job(
        "indexed",
        &spec,
        "echo \"$JOB_COMPLETION_INDEX $(hostname)\"; sleep 0.3",
    );
    bench.complete("indexed");
    let job = bench.get(&["job", "indexed"]);
    assert_eq!(job["status"]["completedIndexes"], "0-4");
    assert_eq!(job["status"]["succeeded"], 5);
    let mut said: Vec<String> = bench
        .pods_of("indexed")
        .iter()
        .map(|pod| bench.kube(&["logs", pod["metadata"]["name"].as_str().unwrap_or_default()]))
        .collect();
    said.sort();
    let expected: Vec<String> = (0..5).map(|n| format!("{n} indexed-{n}\n")).collect();
    assert_eq!(said, expected);
    bench.kube(&["delete", "job", "indexed"]);

    // One index never succeeds: it is given up, the others are done.
    let spec =
        json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 0});
    bench.job("partly", &spec, "test $JOB_COMPLETION_INDEX != 1");
    let job = bench.fails("partly", "FailedIndexes");
    assert_eq!(job["status"]["failedIndexes"], "1");
    assert_eq!(job["status"]["completedIndexes"], "0,2");
    // One is enough.
    let rules = json!({"rules": [{"succeededIndexes": "0"}]});
    let spec =
        json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": rules});
    bench.job(
        "enough",
        &spec,
        &format!("test $JOB_COMPLETION_INDEX = 0 && exit 0; {WAIT}"),
    );
    bench.complete("enough");
    let job = bench.get(&["job", "enough"]);
    assert_eq!(reason(&job, "Complete"), "SuccessPolicy");
    bench.kube(&["delete", "jobs", "--all"]);
    bench.world.clean();
}

#[test]
fn jobs_fail_for_the_reason_that_they_name() {
    let bench = bench!();
    bench.job("limit", &json!({"backoffLimit": 1}), "exit 7");
    bench.job("late", &json!({"activeDeadlineSeconds": 2}), WAIT);
    let rules = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]});
    bench.job("policy", &json!({"podFailurePolicy": rules}), "exit 42");
    let job = bench.fails("policy", "PodFailurePolicy");
    assert_eq!(job["status"]["failed"], 1, "{job}");
    let message = job["status"]["conditions"].to_string();
    assert!(
        message.contains("Container c for pod default/policy-"),
        "{message}"
    );
    assert!(
        message.contains("failed with exit code 42 matching FailJob rule at index 0"),
        "{message}"
    );

    let job = bench.fails("late", "DeadlineExceeded");
    assert_eq!(job["status"]["active"], Value::Null);
    bench.no_pods("late");

    let job = bench.fails("limit", "BackoffLimitExceeded");
    assert_eq!(job["status"]["failed"], 2, "each failure is counted once");
    let made = |pod: &Value| {
        pod["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let mut times: Vec<String> = bench.pods_of("limit").iter().map(made).collect();
    times.sort();
    let second = |time: &str| -> u64 {
        let clock: Vec<u64> = time[11..19]
            .split(':')
            .map(|n| n.parse().expect("a number"))
            .collect();
        clock[0] * 3600 + clock[1] * 60 + clock[2]
    };
    let pause = (second(&times[1]) + 86_400 - second(&times[0])) % 86_400;
    assert!(
        (9..120).contains(&pause),
        "the second try waits ten seconds: {times:?}"
    );
    let shown = bench.kube(&["describe", "job", "limit"]);
    assert!(shown.contains("BackoffLimitExceeded"), "{shown}");

    bench.kube(&["delete", "jobs", "--all"]);
    // A Job goes by itself, and its pods with it.
    bench.job("brief", &json!({"ttlSecondsAfterFinished": 1}), "true");
    wait_for("brief to be gone", PATIENCE, || {
        let left = bench.kube(&["get", "jobs,pods", "-o", "name"]);
        let ran = bench.events("Completed");
        if left.is_empty() && !ran.is_empty() {
            Ok(())
        } else {
            Err(left)
        }
    });
    bench.world.clean();
}

#[test]
fn a_job_is_suspended_and_resumed() {
    let bench = bench!();
    bench.job(
        "pausing",
        &json!({"suspend": true, "parallelism": 2, "completions": 2}),
        WAIT,
    );
    bench.job_until("pausing", "suspended", |job| {
        reason(job, "Suspended") == "JobSuspended"
    });
    assert!(bench.pods_of("pausing").is_empty());
    let suspend = |on: bool| {
        let patch = json!({"spec": {"suspend": on}}).to_string();
        bench.kube(&["patch", "job", "pausing", "--type=merge", "-p", &patch]);
    };
    suspend(false);
    bench.job_until("pausing", "two ready", |job| job["status"]["ready"] == 2);
    suspend(true);
    bench.no_pods("pausing");
    let job = bench.job_until("pausing", "suspended", |job| {
        reason(job, "Suspended") == "JobSuspended"
    });
    // Pods that were taken away count neither as failed nor as done.
    assert_eq!(job["status"]["failed"], Value::Null, "{job}");
    assert_eq!(job["status"]["succeeded"], Value::Null, "{job}");
    suspend(false);
    bench.job_until("pausing", "two ready again", |job| job["status"]["ready"] == 2);
    // A pod that somebody deletes does count, and is replaced after the pause.
    let pods = bench.pods_of("pausing");
    bench.kube(&[
        "delete",
        "pod",
        pods[0]["metadata"]["name"].as_str().unwrap_or_default(),
    ]);
    bench.job_until("pausing", "the deleted pod counts", |job| {
        job["status"]["failed"] == 1
    });
    let wrong = bench
        .world
        .node
        .kubectl(
            &bench.kubectl,
            &["patch", "job", "pausing", "-p", r#"{"spec":{"completions":3}}"#],
        )
        .err();
    assert!(
        wrong.contains("spec.completions") && wrong.contains("field is immutable"),
        "{wrong}"
    );
    bench.kube(&["delete", "job", "pausing"]);
    bench.no_pods("pausing");
    bench.world.clean();
}

#[test]
fn a_cron_job_starts_what_it_missed() {
    let bench = bench!();
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "yearly"},
        "spec": {"schedule": "0 0 1 1 *", "timeZone": "Etc/UTC", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {
            "template": {"spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [script(WAIT)],
            }},
        }}},
    });
    bench.world.apply(&cron);
    bench.ran_long_ago("yearly");
    let first = wait_for("the missed run", PATIENCE, || match &bench.items(&["jobs"])[..] {
        [job] => Ok(job.clone()),
        jobs => Err(format!("{jobs:?}")),
    });
    let scheduled = &first["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    let scheduled = scheduled.as_str().unwrap_or_default();
    assert!(scheduled.ends_with("-01-01T00:00:00Z"), "{first}");
    let name = first["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    assert!(
        name.starts_with("yearly-2") && name.len() == "yearly-29454840".len(),
        "{name}"
    );
    bench.job_until(&name, "ready", |job| job["status"]["ready"] == 1);
    let cron = bench.get(&["cronjob", "yearly"]);
    assert_eq!(cron["status"]["lastScheduleTime"], scheduled);
    assert_eq!(cron["status"]["active"][0]["name"], name.as_str());
    let row = bench.kube(&["get", "cronjob", "yearly"]);
    assert!(
        row.contains("LAST SCHEDULE") && row.contains("0 0 1 1 *") && row.contains("Etc/UTC"),
        "{row}"
    );

    // Another run is due, and the first is still at work.
    bench.kube(&[
        "patch",
        "cronjob",
        "yearly",
        "-p",
        r#"{"spec":{"schedule":"0 0 2 1 *"}}"#,
    ]);
    wait_for("the second run to be held back", PATIENCE, || {
        let told = bench.events("JobAlreadyActive");
        if told.is_empty() { Err("no event") } else { Ok(()) }
    });
    assert_eq!(bench.items(&["jobs"]).len(), 1);
    bench.kube(&[
        "patch",
        "cronjob",
        "yearly",
        "-p",
        r#"{"spec":{"concurrencyPolicy":"Replace"}}"#,
    ]);
    let second = wait_for(
        "the second run in place of the first",
        PATIENCE,
        || match &bench.items(&["jobs"])[..] {
            [job] if job["metadata"]["name"] != name.as_str() => Ok(job.clone()),
            jobs => Err(format!("{jobs:?}")),
        },
    );
    assert_eq!(second["metadata"]["ownerReferences"][0]["kind"], "CronJob");
    bench.no_pods(&name);
    let shown = bench.kube(&["describe", "cronjob", "yearly"]);
    assert!(
        shown.contains("SuccessfulCreate") && shown.contains("Replace"),
        "{shown}"
    );
    bench.kube(&["delete", "cronjob", "yearly"]);
    wait_for("its Jobs and pods to go with it", PATIENCE, || {
        let left = bench.kube(&["get", "jobs,pods", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });

    // By hand.
    bench.kube(&[
        "create",
        "cronjob",
        "hand",
        "--image=busybox:1",
        "--schedule=@hourly",
        "--",
        "echo",
        "done",
    ]);
    bench.kube(&["create", "job", "now", "--from=cronjob/hand"]);
    bench.complete("now");
    assert_eq!(bench.kube(&["logs", "job/now"]), "done\n");
    // A run that succeeds is accounted for.
    bench.kube(&[
        "patch",
        "cronjob",
        "hand",
        "-p",
        r#"{"spec":{"schedule":"0 0 1 1 *","successfulJobsHistoryLimit":0}}"#,
    ]);
    bench.ran_long_ago("hand");
    wait_for("the run to be over", PATIENCE, || {
        let status = bench.get(&["cronjob", "hand"])["status"].clone();
        let last = status["lastScheduleTime"].as_str().unwrap_or_default();
        let over = last.contains("-01-01T")
            && status.get("active").is_none()
            && status.get("lastSuccessfulTime").is_some();
        if over && bench.items(&["jobs"]).len() <= 1 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    bench.kube(&["delete", "cronjobs,jobs", "--all"]);
    bench.world.clean();
}

#[test]
fn no_index_runs_twice_though_berthd_is_killed() {
    let mut bench = bench!();
    let file = bench.world.node.path().join("out");
    std::fs::create_dir(&file).expect("create the directory");
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
        "spec": {"completionMode": "Indexed", "completions": 8, "parallelism": 2, "template": {"spec": {
            "restartPolicy": "Never",
            "volumes": [{"name": "out", "hostPath": {"path": file}}],
            "containers": [{
                "name": "c", "image": "busybox:1", "volumeMounts": [{"name": "out", "mountPath": "/out"}],
                "command": ["sh", "-c", "echo $JOB_COMPLETION_INDEX >> /out/runs; sleep 0.5"],
            }],
        }}},
    });
    bench.world.apply(&job);
    let runs = || std::fs::read_to_string(file.join("runs")).unwrap_or_default();
    for kill in 1..=4 {
        wait_for("more runs", PATIENCE, || {
            let runs = runs();
            if runs.lines().count() >= kill * 2 - 1 {
                Ok(())
            } else {
                Err(runs)
            }
        });
        bench.world.node.kill_daemon();
        bench.world.node.spawn();
    }
    bench.complete("once");
    let runs = runs();
    let distinct: BTreeSet<&str> = runs.lines().collect();
    assert_eq!((runs.lines().count(), distinct.len()), (8, 8), "{runs}");
    let job = bench.get(&["job", "once"]);
    assert_eq!(
        (&job["status"]["succeeded"], &job["status"]["completedIndexes"]),
        (&json!(8), &json!("0-7"))
    );
    assert_eq!(job["status"]["failed"], Value::Null);
    bench.kube(&["delete", "job", "once"]);
    bench.no_pods("once");
    bench.world.clean();
}

#[test]
fn quotas_roles_and_bad_jobs() {
    let bench = bench!();
    bench.world.apply(
        &json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"count/jobs.batch": "1", "count/cronjobs.batch": "0"}}}),
    );
    let refused = |arguments: &[&str]| bench.world.node.kubectl(&bench.kubectl, arguments).err();
    bench.kube(&["create", "job", "one", "--image=busybox:1", "--", "true"]);
    let told = refused(&["create", "job", "two", "--image=busybox:1", "--", "true"]);
    assert!(told.contains("exceeded quota: q"), "{told}");
    let told = refused(&[
        "create",
        "cronjob",
        "c",
        "--image=busybox:1",
        "--schedule=@daily",
        "--",
        "true",
    ]);
    assert!(told.contains("exceeded quota: q"), "{told}");
    let told = refused(&[
        "create",
        "cronjob",
        "c",
        "--image=busybox:1",
        "--schedule=61 * * * *",
        "--",
        "true",
    ]);
    assert!(
        told.contains("spec.schedule") && told.contains("end of range (61) above maximum (59)"),
        "{told}"
    );
    bench.kube(&["create", "serviceaccount", "reader"]);
    bench.kube(&[
        "create",
        "rolebinding",
        "r",
        "--clusterrole=view",
        "--serviceaccount=default:reader",
    ]);
    let may = |verb: &str, kind: &str| {
        let who = "--as=system:serviceaccount:default:reader";
        let outcome = bench
            .world
            .node
            .kubectl(&bench.kubectl, &["auth", "can-i", verb, kind, who]);
        outcome.stdout.trim() == "yes"
    };
    assert!(may("list", "jobs.batch") && may("watch", "cronjobs.batch"));
    assert!(!may("create", "jobs.batch") && !may("delete", "cronjobs.batch"));
    let file = bench.world.node.path().join("bad.json");
    std::fs::write(
        &file,
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "bad"},
            "spec": {"completionMode": "Indexed", "parallelism": 1,
                     "template": {"spec": {"containers": [script("true")]}}},
        })
        .to_string(),
    )
    .expect("write the manifest");
    let told = refused(&["create", "-f", &file.to_string_lossy()]);
    for part in [
        "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        "spec.completions",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let explained = bench.kube(&["explain", "job.spec.podFailurePolicy.rules"]);
    assert!(explained.contains("onExitCodes"), "{explained}");
    bench.kube(&["delete", "quota", "q"]);
    bench.kube(&["delete", "jobs", "--all"]);
    bench.world.clean();
}

#[test]
fn the_examples_run() {
    let bench = bench!();
    let folder = repository_root().join("examples/manifests/batch");
    bench.kube(&["apply", "-f", &folder.to_string_lossy()]);
    bench.complete("digits");
    assert_eq!(bench.kube(&["logs", "job/digits"]), "123456789");
    bench.complete("pieces");
    assert_eq!(bench.get(&["job", "pieces"])["status"]["completedIndexes"], "0-4");
    bench.kube(&["create", "job", "today", "--from=cronjob/morning"]);
    bench.complete("today");
    assert!(
        bench
            .kube(&["logs", "job/today"])
            .starts_with("good morning from today-")
    );
    let again = bench.kube(&["apply", "-f", &folder.to_string_lossy()]);
    assert_eq!(again.matches("unchanged").count(), 3, "{again}");
    bench.kube(&["delete", "-f", &folder.to_string_lossy()]);
    bench.kube(&["delete", "jobs", "--all"]);
    bench.world.clean();
}
